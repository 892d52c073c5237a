"""Whole canvases inline: by apply(), and where task_always_eager is set. No database is touched."""

from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue import ChordError, EagerResult, PgQueue, chain, chord, group
from tests.canvas.conftest import Calls, Tasks, declare


@pytest.fixture
def canvas() -> Iterator[PgQueue]:
    """An application that has no database."""
    app = declare(PgQueue("eager", dsn="postgresql://nobody@localhost:1/nothing", task_always_eager=True))
    yield app
    app.close()


def test_canvases(t: Tasks) -> None:
    add, mul, tsum, ident = t.add, t.mul, t.tsum, t.ident
    res = chain(add.s(2, 2), mul.s(4), add.s(1))()
    assert isinstance(res, EagerResult)
    assert (res.get(), res.parent.get(), res.parent.parent.get()) == (17, 16, 4)
    assert (add.s(4) | mul.s(8))(16).get() == 160
    assert group(add.s(i, i) for i in range(3))().get() == [0, 2, 4]
    assert chord((add.s(i, i) for i in range(3)), tsum.s())().get() == 6
    assert (add.s(1, 1) | group(add.s(1), add.s(2)) | tsum.s() | add.s(1)).delay().get() == 8
    assert (group(add.s(1, 1), add.s(2, 2)) | group(tsum.s(), ident.s()))().get() == [6, [2, 4]]
    assert chord([], tsum.s())().get() == 0
    assert chord([ident.s(1) | group(ident.s(), ident.s())], ident.s())().get() == [[1, 1]]
    assert ~tsum.map([[1], [1, 2]]) == [1, 3]
    assert add.chunks([(1, 1), (2, 2), (3, 3)], 2)().get() == [[2, 4], [6]]
    assert (add.si(1, 1) | add.si(5, 5)).apply().get() == 10
    assert group(add.s(1), add.s(2)).apply((10,)).get() == [11, 12]
    assert res.ready()
    assert res.children == []


def test_callbacks(t: Tasks, calls: Calls) -> None:
    res = t.add.apply_async((2, 2), link=[t.mul.s(16), t.note.si()])
    assert res.get() == 4
    assert [child.get() for child in res.children] == [64, []]
    assert list(res.collect())[1] == (res.children[0], 64)
    failed = t.fail.apply_async(link_error=[calls.old_style.s(), calls.new_style.s("x")])
    assert failed.failed()
    assert calls.old == [failed.id]
    assert [(call[0], call[1], type(call[3]), call[5]) for call in calls.new] == [
        (failed.id, "t.fail", ValueError, ("x",))
    ]


def test_failures(canvas: PgQueue, t: Tasks, calls: Calls) -> None:
    res = chain(t.add.s(1, 1), t.fail.s(), t.add.s(1)).on_error(calls.old_style.s())()
    with pytest.raises(ValueError, match="something"):
        res.get()
    assert (res.state, res.parent.state, res.parent.parent.state) == ("FAILURE", "FAILURE", "SUCCESS")
    assert calls.old == [res.parent.id]
    res = chord([t.add.s(1, 1), t.fail.s()], t.tsum.s()).on_error(calls.new_style.s())()
    with pytest.raises(ChordError, match="Dependency"):
        res.get()
    assert [type(call[3]) for call in calls.new] == [ChordError]
    assert res.parent.failed()


def test_errors_that_propagate() -> None:
    app = declare(PgQueue("raising", dsn="postgresql://nobody@localhost:1/nothing", task_always_eager=True))
    app.conf.task_eager_propagates = True
    with pytest.raises(ValueError, match="something"):
        chain(app.tasks["t.add"].s(1, 1), app.tasks["t.fail"].s())()
    with pytest.raises(ValueError, match="something"):
        group(app.tasks["t.fail"].s(), app.tasks["t.fail"].s())()


@pytest.mark.asyncio
async def test_async_code(canvas: PgQueue, t: Tasks) -> None:
    @canvas.task(name="t.later")
    async def later(x: int) -> int:
        return x + 1

    whole: Any = chain(later.s(1), group(later.s(), later.s()), t.tsum.s())
    assert await (await whole.aapply_async()).aget() == 6
    linked = await later.aapply_async((1,), link=later.s())
    assert [await child.aget() for child in linked.children] == [3]
    assert await (await later.map([1, 2]).adelay()).aget() == [2, 3]
