"""The worker's row and lease; predecessors; and that a stopped worker leaves nothing behind."""

import asyncio
import gc
import itertools
import os
import signal
import threading
from typing import Any

import psutil
import psycopg
import pytest

from pgqueue import ConfigurationError, PgQueue, current_connection
from pgqueue.worker.plan import make_plan
from pgqueue.worker.worker import Worker
from tests.support.process import wait_until
from tests.worker.conftest import Rows, Send, StartWorker
from tests.worker.gate import Gate, avisit, visit


def test_a_worker_registers_renews_its_lease_and_signs_off(app: PgQueue, rows: Rows, gate: Gate) -> None:
    @app.task(acks_late=False)
    def wait(address: str) -> str:
        return visit(address)

    with app.worker(pool="threads", concurrency=3, name="one@%h", queues=["default", "mail"]):
        row = rows.worker("one@" + os.uname().nodename)
        assert (row["pid"], row["app"], row["queues"]) == (os.getpid(), "test", ["default", "mail"])
        assert (row["tasks"], row["at_most_once"]) == ([wait.name], [wait.name])
        assert row["pools"] == {"threads": 3}
        assert row["lease_expires_at"] > row["heartbeat_at"]
        assert row["stopped_at"] is None
        result = wait.delay(gate.address)
        visitor = gate.next()
        wait_until(lambda: rows.worker()["running"] == 1, what="a heartbeat tells what runs")
        assert rows.worker()["heartbeat_at"] > row["heartbeat_at"]
        assert rows.job(result.id)["worker_id"] == row["id"]
        visitor.let_go("done")
        result.get(timeout=30)
    row = rows.worker()
    assert row["stopped_at"] is not None
    assert (row["running"], row["finished"], row["lost_at"]) == (0, 1, None)


def test_the_jobs_of_a_dead_predecessor_on_this_host_are_rescued_at_once(
    start_worker: StartWorker, send: Send, gate: Gate, rows: Rows
) -> None:
    conf = {"worker_lease": 3600, "worker_heartbeat": 1000}
    first = start_worker("-P", "processes", "-c", "1", conf=conf)
    held, once = send("hold", gate.address), send("hold_once", gate.address)
    visitor = gate.next()
    rows.until_recorded(held.id)
    os.kill(first.pid, signal.SIGKILL)
    first.process.wait()
    visitor.await_death()
    start_worker("-P", "processes", "-c", "2", conf=conf)
    for visitor in gate.take(2):
        visitor.let_go("after all")
    assert held.get(timeout=30) == "after all"
    assert (rows.job(held.id)["attempt"], rows.job(held.id)["lost"]) == (2, 1)
    assert once.get(timeout=30) == "after all", "it had not started"
    dead = rows.execute("select lost_at, rescued_at from pgqueue.workers order by id limit 1")[0]
    assert dead["lost_at"] is not None
    assert dead["rescued_at"] is not None


@pytest.mark.parametrize("lease", [60, 1])
def test_a_worker_that_was_cut_off_gives_others_a_lease_to_come_back(
    app: PgQueue, rows: Rows, dsn: str, lease: int
) -> None:
    app.conf.update(worker_heartbeat=0.1, worker_lease=lease)
    with app.worker(pool="threads", concurrency=1), psycopg.connect(dsn) as network:
        own = rows.worker()["id"]
        network.execute("select 1 from pgqueue.workers for update")
        blocked = """select clock_timestamp() - query_start > '0.3 s' as yes from pg_stat_activity
                     where query ~ 'renew_lease\\(' and wait_event_type = 'Lock'"""
        wait_until(lambda: [row for row in rows.execute(blocked) if row["yes"]], what="it has missed its heartbeats")
        (other,) = rows.execute(
            """insert into pgqueue.workers (name, hostname, pid, instance, app, version, queues, tasks, at_most_once,
                                            pools, heartbeat_at, lease_expires_at)
               values ('cut off, too', 'h', 1, 'i', '', '', '{}', '{}', '{}', '{}', '2026-01-01', '2026-01-01')
               returning id"""
        )
        network.commit()
        heard = "select heartbeat_at as at, clock_timestamp() as now from pgqueue.workers where id = %s"
        (since,) = rows.execute(heard, [own])
        wait_until(lambda: rows.execute(heard, [own])[0]["at"] > since["now"], what="it renews its lease again")
        lost = "select lost_at is not null as yes from pgqueue.workers where id = %s"
        if lease == 1:
            wait_until(lambda: rows.execute(lost, [other["id"]])[0]["yes"], what="who does not come back is lost")
        else:
            assert not rows.execute(lost, [other["id"]])[0]["yes"]


def test_progress_is_written_while_the_task_runs_and_gone_after_it(app: PgQueue, rows: Rows, gate: Gate) -> None:
    @app.task(bind=True)
    async def count(self: Any, address: str) -> str:
        for n in range(3):
            self.update_state(state="COUNTING", meta={"n": n})
        return await avisit(address)

    with app.worker(concurrency=1):
        result = count.delay(gate.address)
        visitor = gate.next()
        wait_until(lambda: result.info == {"n": 2}, what="the last report is seen")
        assert result.state == "COUNTING"
        visitor.let_go("done")
        assert result.get(timeout=30) == "done"
    assert result.state == "SUCCESS"


def test_a_worker_that_cannot_start_leaves_no_trace_of_itself(app: PgQueue, rows: Rows) -> None:
    threads = threading.active_count()
    worker = Worker(app, make_plan(app, pool="processes", concurrency=1))  # its children could import nothing
    with pytest.raises(ConfigurationError):
        worker.start()
    assert rows.worker()["stopped_at"] is not None
    assert threading.active_count() == threads
    assert worker.wait(0)


def test_a_worker_that_fails_while_it_registers_leaves_no_lease(app: PgQueue, rows: Rows) -> None:
    rows.execute(
        """create or replace function pgqueue.rescue_jobs(p_lost_limit integer, p_limit integer, p_keep interval)
           returns table (worker text, id uuid, outcome text) language plpgsql as $$
           begin raise exception 'no rescue'; end $$"""
    )
    with pytest.raises(psycopg.Error, match="no rescue"):
        Worker(app, make_plan(app, pool="solo")).start()
    assert rows.worker()["stopped_at"] is not None


def test_an_error_in_the_program_stops_the_worker_too(app: PgQueue, rows: Rows) -> None:
    with pytest.raises(RuntimeError, match="mine"), app.worker(pool="threads", concurrency=1):
        raise RuntimeError("mine")
    assert rows.worker()["stopped_at"] is not None


def test_twenty_starts_and_stops_leave_no_thread_descriptor_or_connection(app: PgQueue, rows: Rows) -> None:
    @app.task(transactional=True)
    def plain(n: int) -> int:
        current_connection().execute("select 1")
        return n

    @app.task(transactional=True, soft_time_limit=60)
    async def coroutine(n: int) -> int:
        await current_connection().execute("select 1")
        return n

    sessions = """select count(*) as n from pg_stat_activity
                  where datname = current_database() and application_name ~ 'pgqueue/|worker'"""

    def once() -> tuple[int, int, int]:
        with app.worker(pool="threads:2,solo"):
            assert [plain.delay(1).get(timeout=30), coroutine.delay(2).get(timeout=30)] == [1, 2]
        gc.collect()
        wait_until(lambda: rows.execute(sessions)[0]["n"] == 0, what="the worker's sessions have ended")
        return threading.active_count(), psutil.Process().num_fds(), len(psutil.Process().children(recursive=True))

    once()
    before = once()
    for _ in range(18):
        after = once()
    assert after == before


@pytest.mark.asyncio
async def test_a_worker_inside_an_event_loop(app: PgQueue) -> None:
    @app.task
    async def double(n: int) -> int:
        await asyncio.sleep(0)
        return 2 * n

    @app.task
    def triple(n: int) -> int:
        return 3 * n

    ticks = 0

    async def tick() -> None:
        nonlocal ticks
        for ticks in itertools.count(1):  # noqa: B007 - looked at below
            await asyncio.sleep(0)

    beside = asyncio.create_task(tick())
    async with app.worker(pool="threads", concurrency=2):
        assert await (await double.adelay(4)).aget(timeout=30) == 8
        assert await (await triple.adelay(4)).aget(timeout=30) == 12
    assert ticks > 0
    beside.cancel()


def test_a_worker_that_was_stopped_releases_its_claims_with_their_attempt_unspent(
    app: PgQueue, rows: Rows, gate: Gate
) -> None:
    @app.task
    def wait(address: str) -> str:
        return visit(address)

    @app.task
    def note(n: int) -> int:
        return n

    with app.worker(pool="threads", concurrency=1) as worker:
        for n in range(30):
            note.delay(n)
        note.delay(30).get(timeout=30)
        held = wait.delay(gate.address)
        visitor = gate.next()
        waiting = app.enqueue_many([note.s(n) for n in range(10)])
        rows.until(waiting[-1].id, "running")
        worker.request_stop()
        for result in waiting:
            assert rows.until(result.id, "available")["attempt"] == 0
        visitor.let_go("done")
        assert worker.wait(30)
    assert held.get(timeout=30) == "done"
