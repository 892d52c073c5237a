"""What a person reads who declares a task, or calls one, in a way that is not meant."""

import traceback
from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue import ArgumentsError, ConfigurationError, DatabaseUnavailable, PgQueue, ValidationError

FUTURE = """
from __future__ import annotations

def add(x: int, y: list[str] | None = None) -> str: ...
"""


@pytest.fixture
def nowhere() -> Iterator[PgQueue]:
    """An application whose server does not listen."""
    with PgQueue("words", dsn="postgresql://127.0.0.1:1/nowhere") as app:
        app.task(name="t.add")(_add)
        yield app


def _add(x: int = 0) -> int:
    return x


def test_a_server_that_is_away_is_one_error(nowhere: PgQueue) -> None:
    with pytest.raises(DatabaseUnavailable, match="Connection refused") as caught:
        nowhere.tasks["t.add"].delay(1)
    told = "".join(traceback.format_exception(caught.value))
    assert "IndexError" not in told
    assert told.splitlines()[0].startswith(("Traceback", "psycopg."))


def test_expires(nowhere: PgQueue) -> None:
    with pytest.raises(
        ValidationError, match="expires: expected seconds, a timedelta, or a datetime or its ISO text, got '1h'"
    ):
        nowhere.tasks["t.add"].apply_async((1,), expires="1h")  # type: ignore[arg-type]  # that is what is tried


@pytest.mark.parametrize("option", ["link", "link_error"])
def test_what_is_linked(nowhere: PgQueue, option: str) -> None:
    for wrong in ("x", ["x"], [nowhere.signature("a"), 5]):
        given: Any = {option: wrong}
        with pytest.raises(ValidationError, match=rf"^{option}: expected a signature such as task.s\(1\), got "):
            nowhere.tasks["t.add"].apply_async((1,), **given)


def test_annotations_that_are_texts_are_shown_bare(nowhere: PgQueue) -> None:
    names: dict[str, Any] = {"__name__": "words"}
    exec(FUTURE, names)  # noqa: S102 - a module of its own, for its first line
    task = nowhere.task(names["add"])
    with pytest.raises(ArgumentsError, match=r"^words\.add\(x: int, y: list\[str\] \| None = None\) -> str: missing"):
        task.delay()


def test_generators_are_no_tasks(nowhere: PgQueue) -> None:
    def each() -> Iterator[int]:
        yield 1

    async def aeach() -> Any:
        yield 1

    for function in (each, aeach):
        with pytest.raises(
            ConfigurationError, match=r"^task '.*each': a generator has no result to keep: return a list"
        ):
            nowhere.task(function)
