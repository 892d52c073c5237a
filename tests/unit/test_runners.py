"""The event loop's runner by itself: what it reports, whenever a job is cancelled or it is stopped."""

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import PgQueue
from pgqueue.worker.executor import Executor, JobToRun
from pgqueue.worker.interrupts import call_off
from pgqueue.worker.runners import LoopRunner
from pgqueue.worker.wire import RunBoard


def job(number: int, task: str) -> JobToRun:
    blank: dict[str, Any] = dict.fromkeys(JobToRun._fields)
    facts = JobToRun(**blank)
    return facts._replace(
        number=number, token=7, id=f"00000000-0000-7000-8000-{number:012}", task=task, queue="default", attempt=1
    )


async def turns_until(condition: Callable[[], bool]) -> None:
    """Let the loop turn, a step at a time."""
    for _ in range(10_000):
        if condition():
            return
        await asyncio.sleep(0)
    raise AssertionError("it does not come")


@pytest.mark.parametrize("limit", [None, 60])
def test_a_job_that_is_cancelled_in_the_instant_of_its_end_reports_one_outcome(limit: float | None) -> None:
    app = PgQueue("t", dsn="postgresql://127.0.0.1:1/none")
    gates: list[asyncio.Event] = []

    @app.task(name="waits", time_limit=limit)
    async def waits() -> str:
        gates.append(asyncio.Event())
        await gates[-1].wait()
        return "done"

    reported: list[tuple[Any, ...]] = []

    async def story() -> None:
        runner = LoopRunner(Executor(app, "h", "x"), 1, RunBoard(1), reported.append)
        runner.accept([job(1, "waits"), job(2, "waits")])
        await turns_until(lambda: len(gates) == 1)
        gates[0].set()
        runner.cancel(1)
        await turns_until(lambda: len(gates) == 2)
        gates[1].set()
        await turns_until(lambda: sum(len(message[2]) for message in reported) == 2)
        await runner.end()

    asyncio.run(story())
    outcomes = [outcome for message in reported for outcome in message[2]]
    assert [outcome[0] for outcome in outcomes] == [1, 2]
    assert outcomes[1][1:] == ("succeeded", '"done"')
    app.close()


def test_a_stopped_runner_starts_nothing_any_more() -> None:
    app = PgQueue("t", dsn="postgresql://127.0.0.1:1/none")
    ran: list[int] = []

    @app.task(name="notes")
    async def notes() -> None:
        ran.append(len(ran))

    async def story() -> None:
        runner = LoopRunner(Executor(app, "h", "x"), 1, RunBoard(1), lambda message: None)
        runner.accept([job(number, "notes") for number in (1, 2, 3)])
        await turns_until(lambda: bool(ran))
        runner.stop()  # while the end of the first one is still to be reported
        for _ in range(20):
            await asyncio.sleep(0)
        await runner.end()

    asyncio.run(story())
    assert ran == [0]
    app.close()


def test_a_coroutine_that_has_called_its_interruption_off_may_take_longer_than_its_soft_limit() -> None:
    app = PgQueue("t", dsn="postgresql://127.0.0.1:1/none")
    reported: asyncio.Queue[tuple[Any, ...]] = asyncio.Queue()

    @app.task(name="returns", soft_time_limit=0.01)
    async def returns() -> str:
        call_off.get()()
        await asyncio.sleep(0.05)
        return "done"

    async def story() -> Any:
        runner = LoopRunner(Executor(app, "h", "x"), 1, RunBoard(1), reported.put_nowait)
        runner.accept([job(1, "returns")])
        _, _, outcomes = await reported.get()
        await runner.end()
        return outcomes

    assert asyncio.run(story()) == [(1, "succeeded", '"done"')]
    app.close()
