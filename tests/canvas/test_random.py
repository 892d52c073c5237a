"""Random canvases: a worker and apply() make of them what a plain evaluation of the expression makes."""

import random
from typing import Any

import pytest

from pgqueue import PgQueue, chain, chord, group
from tests.canvas.conftest import Tasks

ROUNDS = 300


def drawn(choose: random.Random, depth: int = 0) -> Any:
    """A canvas as data: ("task", tag, immutable), or (kind, parts). Its tasks return [tag, what they were given]."""
    kind = choose.choice(("chain", "group", "chord", "task", "task")[: 5 if depth else 3])
    if kind == "task" or depth == 3:
        return ("task", choose.randrange(100), choose.random() < 0.3)
    parts = [drawn(choose, depth + 1) for _ in range(choose.randint(0 if kind == "chord" else 1, 3))]
    return (kind, parts, drawn(choose, depth + 1)) if kind == "chord" else (kind, parts)


NOTHING = object()


def value(found: Any, given: Any) -> Any:
    """What a canvas gives when it is called with a value, or with nothing."""
    kind = found[0]
    if kind == "task":
        _, tag, fixed = found
        return [tag, [] if fixed or given is NOTHING else [given]]
    if kind == "chain":
        for part in found[1]:
            part = _unrolled(part)
            given = value(part, given)
        return given
    if kind == "group":
        return _members(found[1], given)
    return value(found[2], _members(found[1], given))


def _members(parts: Any, given: Any) -> list[Any]:
    values = []
    for part in map(_unchained, parts):
        if part[0] == "group":
            values.extend(_members(part[1], given))
        else:
            values.append(value(part, given))
    return values


def _unchained(part: Any) -> Any:
    while part[0] == "chain" and len(part[1]) == 1:
        part = _unrolled(part[1][0])
    return part


def _unrolled(part: Any) -> Any:
    while part[0] == "group" and len(part[1]) == 1:
        part = part[1][0]
    return part


def made(found: Any, t: Tasks) -> Any:
    """The canvas itself."""
    if found[0] == "task":
        _, tag, fixed = found
        return t.tag.si(tag) if fixed else t.tag.s(tag)
    parts = [made(part, t) for part in found[1]]
    if found[0] == "chord":
        return chord(parts, made(found[2], t))
    return chain(parts) if found[0] == "chain" else group(parts)


def _lone(found: Any) -> bool:
    """A group whose only member ends in a group is that group, which a plain evaluation does not know."""
    if found[0] == "task":
        return False
    parts = [*found[1], *found[2:]]
    lone = found[0] == "group" and len(_flat(found[1])) == 1
    return lone or any(map(_lone, parts))


def _flat(parts: Any) -> list[Any]:
    return [one for part in map(_unchained, parts) for one in (_flat(part[1]) if part[0] == "group" else [part])]


@pytest.fixture
def tagging(canvas: PgQueue) -> Any:
    """The application and a worker, with a task that shows what it was given."""

    @canvas.task(name="t.tag")
    def tag(*args: Any) -> list[Any]:
        return [args[-1], list(args[:-1])]

    with canvas.worker(pool="threads", concurrency=4):
        yield canvas


@pytest.mark.slow
def test_random_canvases(tagging: PgQueue, t: Tasks) -> None:
    for seed in range(ROUNDS):
        found = drawn(random.Random(seed))
        if _lone(found):
            continue
        wanted = value(found, NOTHING)
        assert made(found, t).apply().get() == wanted, (seed, found)
        assert made(found, t)().get(timeout=30) == wanted, (seed, found)
