"""What a worker that dies as a whole had begun, and what it had only claimed."""

import os
import signal
from typing import Any

import psutil
import pytest

from pgqueue import PgQueue
from tests.support.process import wait_until
from tests.worker.conftest import Rows, Send, StartWorker
from tests.worker.gate import Gate, avisit, visit


def test_a_killed_worker_takes_along_what_it_ran_and_nothing_that_it_had_only_claimed(
    start_worker: StartWorker, send: Send, gate: Gate, rows: Rows
) -> None:
    conf = {"worker_lease": 3600, "worker_heartbeat": 1000, "worker_lost_limit": 2}
    first = start_worker("-P", "threads", "-c", "2", conf=conf)
    for result in [send("echo", n) for n in range(50)]:
        result.get(timeout=30)  # now it claims ahead
    ran = [send("hold", gate.address), send("hold_once", gate.address)]
    gate.take(2)
    waiting = [send("hold_once", gate.address, "once"), send("hold", gate.address, "late")]
    for result in waiting:
        rows.until(result.id, "running")
    rows.until_recorded(*(result.id for result in ran))
    children = psutil.Process(first.pid).children()
    os.kill(first.pid, signal.SIGKILL)
    first.process.wait()
    assert not psutil.wait_procs(children, timeout=30)[1]
    start_worker("-P", "threads", "-c", "3", conf=conf)
    visitors = gate.take(3)
    assert {visitor.says for visitor in visitors} == {"", "once", "late"}
    for visitor in visitors:
        visitor.let_go(visitor.says)
    assert [result.get(timeout=30) for result in waiting] == ["once", "late"]
    assert {(rows.job(result.id)["attempt"], rows.job(result.id)["lost"]) for result in waiting} == {(1, 0)}
    ran[0].get(timeout=30)
    assert (rows.job(ran[0].id)["attempt"], rows.job(ran[0].id)["lost"]) == (2, 1)
    assert (rows.job(ran[1].id)["state"], rows.job(ran[1].id)["attempt"]) == ("failed", 1)


def test_a_job_that_kills_its_worker_at_once_is_found_out(dsn: str, start_worker: StartWorker, send: Send) -> None:
    conf = {"worker_lost_limit": 2, "worker_lease": 3600, "worker_heartbeat": 1000}
    poison = send("die")
    for _ in range(3):
        # In the very process of the worker: nobody is left to say what it ran.
        worker = start_worker("-P", "solo", conf=conf, wait=False)
        worker.process.wait(60)
    after = start_worker("-P", "solo", conf=conf)
    wait_until(lambda: poison.state == "FAILURE", what="it is given up")
    assert "lost 2 times" in str(poison.result)
    assert after.process.poll() is None


def test_what_must_not_run_twice_is_recorded_before_it_begins(app: PgQueue, rows: Rows, gate: Gate) -> None:
    @app.task(acks_late=False)
    def plain(address: str) -> Any:
        return visit(address)

    @app.task(acks_late=False)
    async def coroutine(address: str) -> Any:
        return await avisit(address)

    @app.task
    async def again(address: str) -> Any:
        return await avisit(address)

    with app.worker(pool="threads", concurrency=1):
        results = [plain.delay(gate.address), coroutine.delay(gate.address)]
        visitors = gate.take(2)
        for result in results:
            assert rows.execute("select begun from pgqueue.live_jobs where id = %s", [result.id]) == [{"begun": True}]
        results.append(again.delay(gate.address))
        visitors.append(gate.next())
        rows.until_recorded(results[-1].id)
        for visitor in visitors:
            visitor.let_go("done")
        assert [result.get(timeout=30) for result in results] == ["done"] * 3


def test_a_claim_that_is_no_longer_ours_is_not_begun(app: PgQueue, rows: Rows) -> None:
    ran: list[int] = []

    @app.task(acks_late=False)
    def once(n: int) -> None:
        ran.append(n)

    # Taken away in the very statement that records its beginning.
    rows.execute(
        """create function public.take_away() returns trigger language plpgsql as $$
           begin
               if new.args::text = '[1]' then new.claim_token := 0; new.state := 'scheduled'; end if;
               return new;
           end $$"""
    )
    rows.execute(
        """create trigger take_away before update on pgqueue.live_jobs for each row
           when (new.state = 'running' and old.state = 'available') execute function public.take_away()"""
    )
    with app.worker(pool="threads", concurrency=1) as worker:
        taken, other = once.delay(1), once.delay(2)
        other.get(timeout=30)
        assert worker.pools["threads"].load == 0
    assert ran == [2]
    assert not taken.ready()


def test_a_job_cancelled_while_it_waits_to_be_recorded_does_not_begin(app: PgQueue, rows: Rows, gate: Gate) -> None:
    @app.task(acks_late=False)
    def wait(address: str) -> str:
        return visit(address)

    @app.task
    def note(n: int) -> int:
        return n

    with app.worker(pool="threads", concurrency=1):
        for n in range(30):
            note.delay(n).get(timeout=30)
        first = wait.delay(gate.address)
        visitor = gate.next()
        second, third = wait.delay(gate.address), wait.delay(gate.address)
        rows.until(third.id, "running")
        second.revoke(terminate=True)
        assert rows.end_of(second.id)["state"] == "cancelled"
        visitor.let_go("one")
        gate.next().let_go("three")
        assert [first.get(timeout=30), third.get(timeout=30)] == ["one", "three"]


@pytest.mark.parametrize("kind", ["plain", "fails", "retries", "transactional", "coroutine"])
def test_an_attempt_began_when_it_ran_and_not_when_it_was_claimed(
    app: PgQueue, rows: Rows, gate: Gate, kind: str
) -> None:
    @app.task
    def note(n: int) -> int:
        return n

    @app.task
    def plain(address: str) -> Any:
        return visit(address)

    @app.task
    def fails(address: str) -> Any:
        raise ValueError(visit(address))

    @app.task(bind=True, autoretry_for=(ValueError,), max_retries=1, default_retry_delay=0)
    def retries(self: Any, address: str) -> None:
        if self.request.retries == 0:
            raise ValueError(visit(address))

    @app.task(transactional=True)
    def transactional(address: str) -> Any:
        return visit(address)

    @app.task
    async def coroutine(address: str) -> Any:
        return await avisit(address)

    @app.task
    async def note_on_loop(n: int) -> int:
        return n

    with app.worker(pool="threads:1,loop:1"):
        for n in range(30):
            (note_on_loop if kind == "coroutine" else note).delay(n).get(timeout=30)
        task = app.tasks[f"{__name__}.{kind}"]
        task.delay(gate.address)
        result = task.delay(gate.address)
        visitor = gate.next()
        rows.until(result.id, "running")
        claimed = rows.job(result.id)["started_at"]
        (free,) = rows.execute("select clock_timestamp() as at")
        visitor.let_go()
        gate.next().let_go()
        ended = rows.end_of(result.id)
        attempts = [attempt["started_at"] for attempt in rows.attempts(result.id)]
        began = attempts[0] if attempts else ended["started_at"]
        assert kind != "fails" or ended["started_at"] == began
        assert claimed < free["at"] < began
