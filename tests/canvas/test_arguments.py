"""Arguments, options and ids on their way into canvases, as Celery's own integration tests expect them."""

from typing import Any

import pytest

from pgqueue import DuplicateJob, PgQueue, chain, chord, group
from tests.canvas.conftest import Tasks

SECONDS = 30.0


def _ids(found: Any) -> list[str]:
    (own, parent), members = found
    return [own, *(_ids(parent) if parent else []), *(one for member in members or [] for one in _ids(member))]


def test_arguments_of_the_call(working: PgQueue, t: Tasks) -> None:
    add, tsum, ident = t.add, t.tsum, t.ident
    for whole, args, kwargs, wanted in (
        (add.s(2, 2) | group(add.s(i) for i in range(3)) | tsum.s(), (), {"debug": True}, 15),
        (group(add.s(i) for i in range(3)) | tsum.s(), (4,), {"debug": True}, 15),
        (chain(chord([ident.s(), ident.s()], ident.s()), ident.s()), (1,), {}, [1, 1]),
        (chain(chain(ident.s(), ident.s())), (1,), {}, 1),
        (group(add.s(1), add.s(2) | add.s(3)), (10,), {}, [11, 15]),
        (group(group(add.s(1)), add.si(5, 5)), (10,), {}, [11, 10]),
        (chain(group(), add.s(10)), (5,), {}, 15),
        (chain(add.s(1)).clone((4,)), (), {}, 5),
        (group(add.s(1), add.s(2)).clone((4,)), (), {}, [5, 6]),
        (chord([add.s(1)], ident.s()).clone((4,)), (), {}, [5]),
    ):
        assert whole.apply_async(args, kwargs).get(timeout=SECONDS) == wanted, whole
        assert whole.apply(args, kwargs).get() == wanted, whole


def test_every_result_is_there_once(working: PgQueue, t: Tasks) -> None:
    add, tsum = t.add, t.tsum
    cases: list[dict[str, Any]] = [{}, {"task_id": "last of two groups"}]
    for options in cases:
        whole: Any = chain(
            add.si(1, 0), group(add.s(1), add.s(2)), group(tsum.s(), tsum.s()), tsum.s(), add.s(1), **options
        )
        res = whole.apply_async()
        found = _ids(res.as_tuple())
        assert len(found) == len(set(found)) == 9
        assert res.get(timeout=SECONDS) == 11
        assert options.get("task_id", res.id) == res.id
    body: Any = chain(add.si(1, 0), group(add.si(1, 1), add.si(1, 2)), add.si(2, 2) | add.si(3, 3), task_id="a body")
    frozen = chord([add.si(1, 1), add.si(1, 2)], body)
    before = frozen.freeze()
    res = frozen.apply_async()
    assert res == before
    assert res.id == "a body"
    found = _ids(res.as_tuple())
    assert len(found) == len(set(found))
    assert res.get(timeout=SECONDS) == 6
    res = chord(group(t.ident.si(1), t.ident.si(2)), group(t.ident.si(3), t.ident.si(4)))()
    assert len(set(_ids(res.as_tuple()))) == 6
    assert res.get(timeout=SECONDS) == [3, 4]


def test_priorities(canvas: PgQueue) -> None:
    @canvas.task(name="t.priority", bind=True)
    def priority(self: Any, *args: Any) -> int:
        return int(self.request.priority)

    with canvas.worker(pool="threads"):
        assert chain(priority.signature(priority=3))().get(timeout=SECONDS) == 3
        both = priority.signature(priority=3) | priority.signature(priority=5)
        assert both().get(timeout=SECONDS) == 5


def test_large_headers(working: PgQueue, t: Tasks) -> None:
    ident, tsum = t.ident, t.tsum
    assert (group(ident.si(i) for i in range(1000)) | tsum.s())().get(timeout=SECONDS) == 499500
    assert (ident.si(1) | group(ident.s() for _ in range(1000)) | tsum.s())().get(timeout=SECONDS) == 1000


def test_bodies_that_are_chains_of_chords(working: PgQueue, t: Tasks) -> None:
    ident, tsum, add = t.ident, t.tsum, t.add
    t1 = chain(tsum.s(), group(add.s(8), add.s(16)), tsum.s() | add.s(32))
    t2 = chord([tsum, tsum], t1)
    t3 = chord([add.s(0, 1)], t2)
    assert t3.apply_async().get(timeout=SECONDS) == 60
    nine: Any = chain(ident.s(1))
    for _ in range(9):
        nine = nine | group(ident.s(), ident.s()) | tsum.s()
    assert nine().get(timeout=SECONDS) == 2**9


def test_what_was_sent_already_is_not_sent_again(canvas: PgQueue, t: Tasks, dsn: str, conn: Any) -> None:
    named = group(t.ident.s(1), t.ident.s(2))
    frozen = chain(t.ident.s(1), t.ident.s())
    frozen.freeze()
    for send in (lambda: named.apply_async(task_id="my herd"), frozen.apply_async):
        send()
        with pytest.raises(DuplicateJob, match="nothing was enqueued"):
            send()
        with canvas.using(conn), pytest.raises(DuplicateJob, match="nothing was enqueued"):
            send()
        conn.rollback()
    counted = conn.execute("select count(*) from pgqueue.live_jobs").fetchone()
    assert counted == (4,)


def test_odd_canvases(working: PgQueue, t: Tasks) -> None:
    add, tsum, ident = t.add, t.tsum, t.ident
    fixed: Any = chain(add.s(1, 1), add.s(2)).set(immutable=True)
    fixed_header: Any = chord([add.s(1, 1)], tsum.s())
    fixed_header.set_immutable(True)
    nothing: Any = group()
    cases: list[tuple[Any, Any]] = [
        (ident.s(100) | fixed, 4),
        (ident.s(100) | fixed_header, 2),
        (ident.s([5]) | tsum.map([[1], [2]]), [1, 2]),
        (ident.s(1) | nothing, 1),
        (nothing | tsum.s(), 0),
        (nothing, []),
        (chord(nothing, ident.s()), []),
        (chord([chord([], ident.s()), ident.s(2)], ident.s()), [[], 2]),
        (group(chain(), ident.s(1)), [1]),
        (chord([add.s(1, 1)], group()), []),
        (ident.s(3) | group(ident.s(), group(ident.s(), add.s(1))) | tsum.s(), 10),
    ]
    for whole, wanted in cases:
        assert whole().get(timeout=SECONDS) == wanted, whole
        assert whole.apply().get() == wanted, whole


def test_canvases_as_callbacks(working: PgQueue, t: Tasks) -> None:
    add, tsum = t.add, t.tsum
    res = add.apply_async((1, 1), link=group(add.s(1), add.s(2)))
    assert res.get(timeout=SECONDS) == 2
    assert [child.get(timeout=SECONDS) for child in res.children] == [3, 4]
    res = add.apply_async((1, 1), link=chord([add.s(1), add.s(2)], tsum.s()))
    assert res.get(timeout=SECONDS) == 2
    (body,) = res.children[0].children
    assert body.get(timeout=SECONDS) == 7
    res = t.fail.apply_async(link_error=chain(t.note.si(1), t.note.s(2)))
    assert isinstance(res.get(timeout=SECONDS, propagate=False), ValueError)
    (callback,) = res.children
    assert callback.get(timeout=SECONDS) == [1]
    assert [child.get(timeout=SECONDS) for child in callback.children] == [[[1], 2]]
