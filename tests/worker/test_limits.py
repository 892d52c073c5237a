"""Time limits: the soft one raises inside the task, the hard one ends it, and neighbours do not suffer."""

import asyncio
import time

import pytest

from pgqueue import PgQueue, SoftTimeLimitExceeded, TimeLimitExceeded
from tests.worker.conftest import Rows, Send, StartWorker
from tests.worker.gate import Gate, avisit, call_at, visit

SOFT, HARD = 0.2, 0.4


def compute() -> None:
    """Runs until something is raised."""
    while True:
        time.sleep(0.001)


# in a worker inside this process -------------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_a_function_may_clean_up_after_its_soft_limit(app: PgQueue, rows: Rows, pool: str) -> None:
    @app.task(soft_time_limit=SOFT)
    def clean_up() -> str:
        try:
            compute()
        except SoftTimeLimitExceeded:
            pass
        return "cleaned up"

    @app.task(soft_time_limit=SOFT)
    def let_it_out() -> None:
        compute()

    @app.task
    def value(n: int) -> int:
        return n

    with app.worker(pool=pool, concurrency=1):
        first, second = clean_up.delay(), let_it_out.delay()
        assert first.get(timeout=30) == "cleaned up"
        with pytest.raises(SoftTimeLimitExceeded):
            second.get(timeout=30)
        assert [value.delay(n).get(timeout=30) for n in range(5)] == list(range(5)), "its thread goes on"
    assert rows.job(second.id)["error_type"] == "pgqueue.errors.SoftTimeLimitExceeded"


def test_a_coroutine_may_clean_up_after_its_soft_limit(app: PgQueue) -> None:
    @app.task(soft_time_limit=SOFT)
    async def clean_up() -> str:
        try:
            await asyncio.sleep(3600)
        except SoftTimeLimitExceeded:
            await asyncio.sleep(0)
        return "cleaned up"

    @app.task(soft_time_limit=SOFT)
    async def let_it_out() -> None:
        await asyncio.sleep(3600)

    with app.worker(concurrency=1):
        first, second = clean_up.delay(), let_it_out.delay()
        assert first.get(timeout=30) == "cleaned up"
        with pytest.raises(SoftTimeLimitExceeded):
            second.get(timeout=30)


def test_soft_limits_may_be_retried(app: PgQueue, rows: Rows) -> None:
    @app.task(soft_time_limit=SOFT, autoretry_for=(SoftTimeLimitExceeded,), max_retries=1, default_retry_delay=0)
    def slow() -> None:
        compute()

    with app.worker(pool="threads", concurrency=1):
        row = rows.end_of(slow.delay().id)
    assert (row["state"], row["attempt"]) == ("failed", 2)


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_the_hard_limit_ends_a_function_and_its_thread_goes_on(app: PgQueue, rows: Rows, pool: str) -> None:
    @app.task(time_limit=HARD)
    def endless() -> None:
        compute()

    @app.task
    def value(n: int) -> int:
        return n

    with app.worker(pool=pool, concurrency=1):
        result = endless.delay()
        with pytest.raises(TimeLimitExceeded, match=r"0\.4 s"):
            result.get(timeout=30)
        assert value.delay(1).get(timeout=30) == 1
    assert (rows.job(result.id)["state"], rows.job(result.id)["attempt"]) == ("failed", 1)


def test_the_hard_limit_ends_a_coroutine_and_no_other(app: PgQueue, gate: Gate) -> None:
    @app.task(time_limit=HARD)
    async def endless() -> None:
        await asyncio.sleep(3600)

    @app.task
    async def neighbour(address: str) -> str:
        return await avisit(address)

    with app.worker(concurrency=2):
        beside = neighbour.delay(gate.address)
        visitor = gate.next()
        with pytest.raises(TimeLimitExceeded):
            endless.delay().get(timeout=30)
        visitor.let_go("unharmed")
        assert beside.get(timeout=30) == "unharmed"


def test_a_call_overrides_the_limits_of_its_task(app: PgQueue, gate: Gate) -> None:
    @app.task(time_limit=3600, soft_time_limit=3500)
    def endless() -> None:
        compute()

    @app.task(time_limit=HARD)
    def patient(address: str) -> str:
        call_at(address)
        return visit(address)

    with app.worker(pool="threads", concurrency=2):
        with pytest.raises(SoftTimeLimitExceeded):
            endless.apply_async(soft_time_limit=SOFT).get(timeout=30)
        with pytest.raises(TimeLimitExceeded):
            endless.apply_async(time_limit=HARD, soft_time_limit=None).get(timeout=30)
        result = patient.apply_async([gate.address], time_limit=None)
        gate.next()
        with pytest.raises(TimeLimitExceeded):
            endless.apply_async(time_limit=2 * HARD, soft_time_limit=None).get(timeout=30)
        gate.next().let_go("in peace")
        assert result.get(timeout=30) == "in peace"


def test_jobs_that_end_in_time_are_not_interrupted_afterwards(app: PgQueue) -> None:
    @app.task(soft_time_limit=0.02)
    def short(n: int) -> int:
        return n

    @app.task
    def unlimited() -> str:
        for _ in range(100):
            time.sleep(0.001)
        return "whole"

    with app.worker(pool="threads", concurrency=1):
        results = [(short.delay(n), unlimited.delay()) for n in range(5)]
        assert [(a.get(timeout=30), b.get(timeout=30)) for a, b in results] == [(n, "whole") for n in range(5)]


# in children of `pgqueue worker` -------------------------------------------------------------------------------------


def test_processes_soft_raises_and_hard_kills_that_child_alone(
    start_worker: StartWorker, send: Send, gate: Gate, rows: Rows
) -> None:
    start_worker("-P", "processes", "-c", "2")
    beside = send("hold", gate.address)
    neighbour = gate.next()
    assert send("spin", gate.address, "soft", soft_time_limit=SOFT).get(timeout=30) == "cleaned up soft"
    gate.next()
    result = send("deaf", gate.address, time_limit=HARD)
    victim = gate.next()
    victim.await_death()
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=30)
    row = rows.job(result.id)
    assert (row["state"], row["attempt"], row["lost"]) == ("failed", 1, 0)
    assert send("where").get(timeout=30)["pid"] not in (victim.pid, neighbour.pid), "a new child took its place"
    neighbour.let_go("unharmed")
    assert beside.get(timeout=30) == "unharmed"
    assert rows.job(beside.id)["attempt"] == 1


def test_threads_hard_replaces_the_process_and_neighbours_run_again_unspent(
    start_worker: StartWorker, send: Send, gate: Gate, rows: Rows
) -> None:
    start_worker("-P", "threads", "-c", "2")
    assert send("spin", gate.address, "soft", soft_time_limit=SOFT).get(timeout=30) == "cleaned up soft"
    gate.next()
    beside = send("hold", gate.address, "neighbour")
    gate.next()
    result = send("deaf", gate.address, time_limit=HARD)
    gate.next().await_death()
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=30)
    gate.next().let_go("again")
    assert beside.get(timeout=30) == "again"
    row = rows.job(beside.id)
    assert (row["attempt"], row["lost"], rows.attempts(beside.id)) == (1, 0, [])


def test_the_loop_ends_coroutines_one_by_one_and_its_process_when_one_is_deaf(
    start_worker: StartWorker, send: Send, gate: Gate, rows: Rows
) -> None:
    start_worker("-P", "loop", "-c", "10", loop=True)
    assert send("spin_on_loop", gate.address, "soft", soft_time_limit=SOFT).get(timeout=30) == "cleaned up soft"
    gate.next()
    beside = send("hold_on_loop", gate.address, "neighbour")
    neighbour = gate.next()
    with pytest.raises(TimeLimitExceeded):
        send("spin_on_loop", gate.address, time_limit=HARD).get(timeout=30)
    gate.next()
    deaf = send("deaf_on_loop", gate.address, time_limit=HARD)
    gate.next()
    with pytest.raises(TimeLimitExceeded):
        deaf.get(timeout=30)
    neighbour.await_death()
    gate.next().let_go("again")
    assert beside.get(timeout=30) == "again"
    assert (rows.job(beside.id)["attempt"], rows.job(beside.id)["lost"]) == (1, 0)


def test_the_command_line_gives_every_task_its_limits(start_worker: StartWorker, send: Send, gate: Gate) -> None:
    start_worker("-P", "processes", "-c", "1", "--time-limit", "30", "--soft-time-limit", "0.3")
    assert send("describe").get(timeout=30)["timelimit"] == [30, 0.3]
    assert send("spin", gate.address, "soft").get(timeout=30) == "cleaned up soft"
