"""Fixtures of the tests of named graphs: an application with a worker in this process."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from typing import Any

import pytest

from pgqueue import PgQueue


@pytest.fixture
def app(dsn: str) -> Iterator[PgQueue]:
    """An application that looks often and waits little."""
    queue = PgQueue("graphs", dsn=dsn)
    queue.conf.update(worker_poll_interval=0.05)
    yield queue
    queue.close()


@pytest.fixture
def start(app: PgQueue) -> Iterator[Callable[[], None]]:
    """start(): a worker that knows the tasks declared until then, to the end of the test."""
    with ExitStack() as workers:
        yield lambda: workers.enter_context(app.worker(pool="threads", concurrency=2))


@pytest.fixture
def log() -> list[Any]:
    """What tasks did, in order."""
    return []


@pytest.fixture
def say(app: PgQueue, log: list[Any]) -> Any:
    """say.s(name, *args): a task that notes its arguments, and returns the last one that it was given itself."""

    @app.task(name="say")
    def say(*args: Any) -> Any:
        log.append(args)
        return args[-1] if args else None

    return say


@pytest.fixture
def fail(app: PgQueue, log: list[Any]) -> Any:
    """fail.s(…): a task that notes its arguments, and fails until fail.mend() is called."""

    @app.task(name="fail")
    def fail(*args: Any) -> Any:
        log.append(("fail", *args))
        if broken:
            raise ValueError("boom")
        return "mended"

    broken = [True]
    fail.mend = broken.clear
    return fail
