"""Cancelling: queued jobs durably, running ones by raising inside them or ending their process."""

import asyncio
import time

import pytest

from pgqueue import PgQueue, TaskRevokedError
from tests.worker.conftest import Rows, Send, StartWorker
from tests.worker.gate import Gate, avisit, call_at, visit


def test_a_queued_job_never_runs(app: PgQueue, rows: Rows) -> None:
    ran: list[int] = []

    @app.task
    def note(n: int) -> None:
        ran.append(n)

    available, scheduled, kept = note.delay(1), note.apply_async([2], countdown=3600), note.delay(3)
    available.revoke()
    app.control.revoke(scheduled.id)
    with app.worker(pool="threads", concurrency=1):
        kept.get(timeout=30)
        with pytest.raises(TaskRevokedError):
            available.get(timeout=30)
    assert ran == [3]
    for result in (available, scheduled):
        row = rows.job(result.id)
        assert (row["state"], row["attempt"], row["worker_id"]) == ("cancelled", 0, None)
        assert result.state == "REVOKED"


def test_without_terminate_a_running_job_goes_on(app: PgQueue, gate: Gate) -> None:
    @app.task
    def wait(address: str) -> str:
        return visit(address)

    with app.worker(pool="threads", concurrency=1):
        result = wait.delay(gate.address)
        visitor = gate.next()
        result.revoke()
        visitor.let_go("done")
        assert result.get(timeout=30) == "done"


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_terminate_raises_inside_a_function(app: PgQueue, rows: Rows, gate: Gate, pool: str) -> None:
    cleaned: list[str] = []

    @app.task
    def compute(address: str) -> None:
        call_at(address)
        try:
            while True:
                time.sleep(0.001)
        finally:
            cleaned.append("up")

    @app.task
    def value(n: int) -> int:
        return n

    with app.worker(pool=pool, concurrency=1):
        result = compute.delay(gate.address)
        gate.next()
        app.control.revoke(result.id, terminate=True)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
        assert [value.delay(n).get(timeout=30) for n in range(5)] == list(range(5))
    assert cleaned == ["up"]
    assert rows.job(result.id)["state"] == "cancelled"


@pytest.mark.parametrize("limited", [False, True])
def test_terminate_cancels_a_coroutine(app: PgQueue, rows: Rows, gate: Gate, limited: bool) -> None:
    @app.task(time_limit=3600 if limited else None)
    async def wait(address: str) -> None:
        try:
            await avisit(address)
        except asyncio.CancelledError:
            call_at(address, "cancelled")
            raise

    with app.worker(concurrency=1):
        result = wait.delay(gate.address)
        gate.next()
        result.revoke(terminate=True)
        with pytest.raises(TaskRevokedError):
            result.get(timeout=30)
        assert gate.next().says == "cancelled"
    assert rows.job(result.id)["state"] == "cancelled"


def test_a_claimed_job_that_waits_in_the_worker_does_not_run(app: PgQueue, rows: Rows, gate: Gate) -> None:
    """Short jobs teach the worker to claim many; those behind a long one wait in its memory."""
    ran: list[int] = []

    @app.task
    def note(n: int) -> None:
        ran.append(n)

    @app.task
    def wait(address: str) -> str:
        return visit(address)

    with app.worker(pool="threads", concurrency=1):
        for n in range(30):
            note.delay(n)
        note.delay(30).get(timeout=30)
        held = wait.delay(gate.address)
        visitor = gate.next()
        waiting = app.enqueue_many([note.s(n) for n in range(100, 110)])
        for result in waiting:
            rows.until(result.id, "running")
        ids = [result.id for result in waiting[::2]]
        app.control.revoke(ids, terminate=True)
        for job_id in ids:
            assert rows.end_of(job_id)["state"] == "cancelled"
        visitor.let_go("done")
        held.get(timeout=30)
        waiting[-1].get(timeout=30)
    assert [n for n in ran if n >= 100] == [101, 103, 105, 107, 109]


def test_a_finished_job_stays_as_it_is(app: PgQueue, rows: Rows) -> None:
    @app.task
    def value() -> int:
        return 1

    with app.worker(pool="threads", concurrency=1):
        result = value.delay()
        assert result.get(timeout=30) == 1
        app.control.revoke(result.id, terminate=True)
    assert rows.job(result.id)["state"] == "succeeded"


def test_expired_jobs_do_not_run(app: PgQueue, rows: Rows) -> None:
    ran: list[str] = []

    @app.task
    def note(name: str) -> None:
        ran.append(name)

    @app.task(expires=0.001)
    def brief() -> None:
        ran.append("brief")

    late = note.apply_async(["late"], expires=0.001)
    by_task = brief.delay()
    cleared = brief.apply_async(expires=None)
    in_time = note.apply_async(["in time"], expires=3600)
    with app.worker(pool="threads", concurrency=1):
        in_time.get(timeout=30)
        cleared.get(timeout=30)
        for result in (late, by_task):
            assert rows.end_of(result.id)["state"] == "expired"
            assert result.state == "REVOKED"
            with pytest.raises(TaskRevokedError):
                result.get(timeout=30)
    assert sorted(ran) == ["brief", "in time"]


# in children of `pgqueue worker` -------------------------------------------------------------------------------------


def test_processes_the_child_is_ended_and_its_neighbour_goes_on(
    start_worker: StartWorker, send: Send, sender: PgQueue, gate: Gate, rows: Rows
) -> None:
    start_worker("-P", "processes", "-c", "2")
    beside, result = send("hold", gate.address, "beside"), send("deaf", gate.address)
    visitors = {visitor.says: visitor for visitor in gate.take(2)}
    sender.control.revoke(result.id, terminate=True)
    visitors[""].await_death()
    assert rows.end_of(result.id)["state"] == "cancelled"
    assert rows.job(result.id)["attempt"] == 1
    visitors["beside"].let_go("unharmed")
    assert beside.get(timeout=30) == "unharmed"
    assert len({send("where").get(timeout=30)["pid"] for _ in range(3)} - {visitors[""].pid}) > 0


def test_threads_and_coroutines_of_children_are_interrupted(
    start_worker: StartWorker, send: Send, sender: PgQueue, gate: Gate, rows: Rows
) -> None:
    start_worker("-P", "threads", "-c", "2", loop=True)
    beside, spin, coroutine = (
        send("hold", gate.address, "beside"),
        send("spin", gate.address, "spin"),
        send("hold_on_loop", gate.address, "coroutine"),
    )
    visitors = {visitor.says: visitor for visitor in gate.take(3)}
    sender.control.revoke([spin.id, coroutine.id], terminate=True)
    assert rows.end_of(spin.id)["state"] == "cancelled"
    assert rows.end_of(coroutine.id)["state"] == "cancelled"
    visitors["beside"].let_go("unharmed")
    assert beside.get(timeout=30) == "unharmed"


def test_a_job_that_waits_behind_a_long_one_in_a_child_is_cancelled_without_running(
    start_worker: StartWorker, send: Send, sender: PgQueue, gate: Gate, rows: Rows
) -> None:
    start_worker("-P", "processes", "-c", "1")
    for n in range(50):
        send("echo", n)
    assert send("echo", "learned").get(timeout=30) == "learned"
    held = send("hold", gate.address)
    visitor = gate.next()
    waiting = [send("hold", gate.address, f"must not run {n}") for n in range(5)]
    last = send("echo", "last")
    for result in waiting:
        rows.until(result.id, "running")
    sender.control.revoke([result.id for result in waiting], terminate=True)
    for result in waiting:
        assert rows.end_of(result.id)["state"] == "cancelled"
    visitor.let_go("done")
    assert (held.get(timeout=30), last.get(timeout=30)) == ("done", "last")
    assert gate.empty


def test_a_thread_that_does_not_hear_a_cancel_is_ended_at_its_hard_limit(
    start_worker: StartWorker, send: Send, sender: PgQueue, gate: Gate, rows: Rows
) -> None:
    start_worker("-P", "threads", "-c", "1", conf={"worker_heartbeat": 0.1})
    result = send("hold", gate.address, time_limit=1)
    visitor = gate.next()
    sender.control.revoke(result.id, terminate=True)
    visitor.await_death()
    row = rows.end_of(result.id)
    assert (row["state"], row["attempt"], row["lost"]) == ("cancelled", 1, 0)
