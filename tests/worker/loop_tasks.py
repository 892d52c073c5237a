"""The tasks of tests/worker/tasks.py, and those that need a loop or threads: children of their own."""

import asyncio
import itertools
import os
from typing import Any

from pgqueue import SoftTimeLimitExceeded, current_connection
from tests.worker.gate import avisit, call_at
from tests.worker.tasks import app, described, echo, left_behind, place


@app.task(name="tests.worker.tasks.where_on_loop")
async def where_on_loop() -> dict[str, Any]:
    return place()


@app.task(name="tests.worker.tasks.where_in_threads", pool="threads")
def where_in_threads() -> dict[str, Any]:
    return place()


@app.task(name="tests.worker.tasks.describe_on_loop", bind=True)
async def describe_on_loop(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    await asyncio.sleep(0)
    return described(self.request)


@app.task(name="tests.worker.tasks.leave_behind_on_loop")
async def leave_behind_on_loop(value: str) -> str:
    found = left_behind.get()
    left_behind.set(value)
    return found


@app.task(name="tests.worker.tasks.hold_on_loop")
async def hold_on_loop(address: str, says: str = "") -> str:
    return await avisit(address, says)


@app.task(name="tests.worker.tasks.spin_on_loop")
async def spin_on_loop(address: str, says: str = "") -> str:
    call_at(address, says)
    try:
        for _ in itertools.count():
            await asyncio.sleep(0.001)
    except SoftTimeLimitExceeded:
        pass
    return f"cleaned up {says}"


@app.task(name="tests.worker.tasks.deaf_on_loop")
async def deaf_on_loop(address: str) -> str:
    """Takes every cancellation for a disturbance."""
    call_at(address)
    while True:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            continue


@app.task(name="tests.worker.tasks.deposit_on_loop", transactional=True)
async def deposit_on_loop(amount: int) -> int:
    await current_connection().execute("insert into ledger (amount, pid) values (%s, %s)", [amount, os.getpid()])
    await echo.adelay(amount)
    return amount
