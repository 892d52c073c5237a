"""What becomes of what follows a step that fails, is cancelled or expires, and which error callbacks are called."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncResult, ChordError, PgQueue, TaskRevokedError, chain, chord, group
from tests.canvas.conftest import Calls, Tasks
from tests.support.process import wait_until

SECONDS = 30.0


@pytest.fixture
def rest(dsn: str) -> Iterator[Any]:
    """rest() waits until no job is left that can run."""
    connection = psycopg.connect(dsn, autocommit=True)

    def nothing_left() -> bool:
        row = connection.execute("select count(*) from pgqueue.live_jobs").fetchone()
        return row is not None and row[0] == 0

    yield lambda: wait_until(nothing_left, what=lambda: "all jobs have ended")
    connection.close()


def test_both_styles_of_error_callbacks(working: PgQueue, t: Tasks, calls: Calls, rest: Any) -> None:
    found = t.fail.apply_async((1,), link_error=[calls.old_style.s(), calls.new_style.s("more"), t.note.si(3)])
    with pytest.raises(ValueError, match="something something"):
        found.get(timeout=SECONDS)
    rest()
    assert calls.old == [found.id]
    ((task_id, task, args, error, traceback, more),) = calls.new
    assert (task_id, task, args, more) == (found.id, "t.fail", [1], ("more",))
    assert isinstance(error, ValueError)
    assert "something something" in traceback
    assert sorted(str(child.name) for child in found.children) == ["t.new", "t.note", "t.old"]
    assert [child.result for child in found.children if child.name == "t.note"] == [[3]]


def test_what_an_error_callback_takes(working: PgQueue, t: Tasks, calls: Calls, rest: Any) -> None:
    found = t.fail.apply_async(link_error=[calls.bound.s(), calls.bound.s(verbose=True), calls.bound.s(True)])
    with pytest.raises(ValueError, match="something"):
        found.get(timeout=SECONDS)
    rest()
    assert sorted(calls.old) == [("t.bound", found.id, False), *[("t.bound", found.id, True)] * 2]


def test_an_error_callback_is_not_called_without_an_error(working: PgQueue, t: Tasks, calls: Calls, rest: Any) -> None:
    found = t.add.s(1, 1).on_error(calls.old_style.s()).delay()
    assert found.get(timeout=SECONDS) == 2
    rest()
    assert calls.old == []
    assert found.children == []


def test_a_chain_that_fails(working: PgQueue, t: Tasks, calls: Calls, rest: Any) -> None:
    found = chain(t.add.s(1, 1), t.fail.s(), t.add.s(1), t.add.s(2)).on_error(calls.old_style.s())()
    with pytest.raises(ValueError, match="something something"):
        found.get(timeout=SECONDS)
    rest()
    failing = found.parent.parent
    assert calls.old == [failing.id]
    assert [found.state, found.parent.state, failing.state, failing.parent.state] == [*["FAILURE"] * 3, "SUCCESS"]
    assert found.traceback is None


def test_callbacks_of_a_task_that_fails_are_not_called(working: PgQueue, t: Tasks, rest: Any) -> None:
    found = t.fail.apply_async(link=t.note.s())
    with pytest.raises(ValueError, match="something"):
        found.get(timeout=SECONDS)
    rest()
    assert [child.state for child in found.children] == ["FAILURE"]


@pytest.mark.parametrize("immutable", [False, True])
def test_a_chord_whose_header_fails(working: PgQueue, t: Tasks, calls: Calls, rest: Any, immutable: bool) -> None:
    body = t.note.si() if immutable else t.tsum.s()
    whole = chord([t.add.s(4, 4), t.fail.s(), t.add.s(8, 8)], body).on_error(calls.new_style.s())
    result = whole()
    with pytest.raises(ChordError, match=r"Dependency .* raised ValueError: something something") as caught:
        result.get(timeout=SECONDS)
    rest()
    assert result.parent[1].id in str(caught.value)
    assert [one.state for one in result.parent] == ["SUCCESS", "FAILURE", "SUCCESS"]
    assert [(call[0], type(call[3])) for call in calls.new] == [(result.id, ChordError)]


def test_several_failing_members_call_the_bodys_callback_once(
    working: PgQueue, t: Tasks, calls: Calls, rest: Any
) -> None:
    result = chord([t.fail.s() for _ in range(20)], t.tsum.s()).on_error(calls.old_style.s())()
    with pytest.raises(ChordError):
        result.get(timeout=SECONDS)
    rest()
    assert calls.old == [result.id]


def test_error_callbacks_on_headers(canvas: PgQueue, t: Tasks, calls: Calls, rest: Any) -> None:
    canvas.conf.task_allow_error_cb_on_chord_header = True
    with canvas.worker(pool="threads"):
        whole = chord([t.fail.s(), t.add.s(1, 1), t.fail.s()], t.tsum.s()).on_error(calls.old_style.s())
        result = whole()
        with pytest.raises(ChordError):
            result.get(timeout=SECONDS)
        rest()
    assert sorted(calls.old) == sorted([result.id, result.parent[0].id, result.parent[2].id])


def test_a_group_calls_its_error_callback_for_each_member(working: PgQueue, t: Tasks, calls: Calls, rest: Any) -> None:
    several: Any = group(t.fail.s(), t.add.s(1, 1), t.fail.s())
    several.link_error(calls.old_style.s())
    res = several()
    with pytest.raises(ValueError, match="something"):
        res.get(timeout=SECONDS)
    rest()
    assert sorted(calls.old) == sorted([res[0].id, res[2].id])
    assert res.failed()
    assert not res.successful()
    assert res.completed_count() == 1
    assert [type(value) for value in res.get(propagate=False)] == [ValueError, int, ValueError]


def test_group_bodies_of_failing_headers(working: PgQueue, t: Tasks, calls: Calls, rest: Any) -> None:
    body = group(t.tsum.s(), t.note.s()).on_error(calls.new_style.s())
    result: Any = chord([t.fail.s(), t.add.s(1, 1)], body)()
    with pytest.raises(ChordError):
        result.get(timeout=SECONDS)
    rest()
    assert [type(call[3]) for call in calls.new] == [ChordError, ChordError]


def test_errors_reach_the_outermost_body(working: PgQueue, t: Tasks, calls: Calls, rest: Any) -> None:
    inner = chord([t.fail.s() | t.add.s(1), t.add.s(2, 2)], t.tsum.s())
    result = chord([inner, t.add.s(1, 1) | t.add.s(1)], t.tsum.s()).on_error(calls.old_style.s())()
    with pytest.raises(ChordError, match=r"raised pgqueue\.errors\.ChordError: Dependency"):
        result.get(timeout=SECONDS)
    rest()
    assert calls.old == [result.id]


def test_a_member_that_is_revoked(canvas: PgQueue, t: Tasks, rest: Any) -> None:
    result = chord([t.add.s(1, 1), t.add.s(2, 2)], t.tsum.s())()
    follows = (t.add.s(1, 1) | t.add.s(2))()
    assert result.parent[0].revoke()
    assert follows.parent.revoke()
    with canvas.worker(pool="threads"):
        rest()
    with pytest.raises(ChordError, match="was cancelled"):
        result.get()
    with pytest.raises(TaskRevokedError):
        follows.get()
    assert [one.state for one in result.parent] == ["REVOKED", "SUCCESS"]


def test_members_that_retry(canvas: PgQueue, t: Tasks) -> None:
    @canvas.task(name="t.flaky", bind=True, max_retries=3)
    def flaky(self: Any, x: int) -> list[Any]:
        if self.request.retries < 2:
            raise self.retry(countdown=0.01, priority=3, time_limit=60)
        return [x, self.request.group_id, self.request.stamps]

    whole: Any = chord([flaky.s(1), t.ident.s(2)], t.note.s())
    whole.stamp(origin="test")
    with canvas.worker(pool="threads"):
        result = whole()
        herd = result.parent.id
        assert result.get(timeout=SECONDS) == [[[1, herd, {"origin": "test"}], 2]]


def test_an_unknown_callback_waits_for_a_worker_that_knows_it(working: PgQueue, t: Tasks) -> None:
    found = t.add.apply_async((1, 1), link=working.signature("t.nowhere"))
    assert found.get(timeout=SECONDS) == 2
    (child,) = found.children
    assert (child.name, child.state) == ("t.nowhere", "PENDING")


def test_all_or_nothing_in_the_callers_transaction(canvas: PgQueue, t: Tasks, conn: Any) -> None:
    for keep in (False, True):
        with canvas.using(conn):
            found: AsyncResult[Any] = chord([t.add.s(1, 1), t.add.s(2, 2)], t.tsum.s())()
            with pytest.raises(RuntimeError, match="transaction that is still open"):
                found.get(timeout=0)
        if keep:
            conn.commit()
        else:
            conn.rollback()
            assert not found.exists()
    with canvas.worker(pool="threads"):
        assert found.get(timeout=SECONDS) == 6
    again = chain(t.add.s(1, 1), t.add.s(1)).apply_async(connection=conn)
    conn.rollback()
    assert not again.exists()


@pytest.mark.parametrize("fails", [False, True])
def test_a_canvas_that_a_transactional_task_sends(canvas: PgQueue, t: Tasks, rest: Any, fails: bool) -> None:
    sent: list[Any] = []

    @canvas.task(name="t.send", transactional=True, max_retries=0)
    def send() -> None:
        sent.append(chord([t.add.s(1, 1), t.add.s(2, 2)], t.tsum.s())())
        if fails:
            raise ValueError("no")

    with canvas.worker(pool="threads"):
        found = send.delay()
        found.get(timeout=SECONDS, propagate=False)
        rest()
    (result,) = sent
    assert result.exists() is not fails
    assert found.failed() is fails
    if not fails:
        assert result.get() == 6
