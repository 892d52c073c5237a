"""The tasks that are measured: they do nothing, or tell when they started."""

import asyncio
import time

from pgqueue import PgQueue

app = PgQueue("bench", pool_max_size=32)


@app.task(name="bench.coroutine")
async def coroutine(number: int) -> int:
    """Return the argument."""
    return number


@app.task(name="bench.function")
def function(number: int) -> int:
    """Return the argument."""
    return number


@app.task(name="bench.coroutine_started")
async def coroutine_started() -> int:
    """Return when it started, on the clock that all processes of the machine share."""
    return time.monotonic_ns()


@app.task(name="bench.function_started")
def function_started() -> int:
    """Return when it started, on the clock that all processes of the machine share."""
    return time.monotonic_ns()


@app.task(name="bench.length")
async def length(values: list[int]) -> int:
    """Return how many there are."""
    return len(values)


@app.task(name="bench.pause")
async def pause(seconds: float) -> None:
    """Sleep."""
    await asyncio.sleep(seconds)
