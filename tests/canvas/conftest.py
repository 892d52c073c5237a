"""An application with the tasks of Celery's guide, and a worker of it in this process."""

from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue import PgQueue


def declare(app: PgQueue) -> PgQueue:
    """Register the tasks of these tests: t.add, t.mul and so on."""

    @app.task(name="t.add")
    def add(x: Any, y: Any, debug: bool = False) -> Any:
        return x + y

    @app.task(name="t.mul")
    def mul(x: Any, y: Any) -> Any:
        return x * y

    @app.task(name="t.tsum")
    def tsum(numbers: list[Any]) -> Any:
        return sum(numbers)

    @app.task(name="t.ident")
    def ident(x: Any) -> Any:
        return x

    @app.task(name="t.fail", max_retries=0)
    def fail(*args: Any) -> None:
        raise ValueError("something something")

    @app.task(name="t.note")
    def note(*args: Any) -> list[Any]:
        return list(args)

    return app


@pytest.fixture
def canvas(app: PgQueue) -> Iterator[PgQueue]:
    """The application, with its tasks."""
    yield declare(app)
    app.close()


class Calls:
    """What the error callbacks were called with."""

    def __init__(self, app: PgQueue) -> None:
        self.old: list[Any] = []
        self.new: list[Any] = []

        @app.task(name="t.old")
        def old(task_id: str) -> None:
            self.old.append(task_id)

        @app.task(name="t.new")
        def new(request: Any, exc: BaseException, traceback: str, *more: Any) -> None:
            self.new.append((request.id, request.task, request.args, exc, traceback, more))

        @app.task(name="t.bound", bind=True)
        def bound(task: Any, task_id: str, verbose: bool = False) -> None:
            self.old.append((task.name, task_id, verbose))

        self.old_style, self.new_style, self.bound = old, new, bound


@pytest.fixture
def calls(canvas: PgQueue) -> Calls:
    """What error callbacks in both styles were called with."""
    return Calls(canvas)


@pytest.fixture
def working(canvas: PgQueue, calls: Calls) -> Iterator[PgQueue]:
    """The application, and a worker of it, which runs until the end of the test and knows the tasks declared so far."""
    with canvas.worker(pool="threads", concurrency=4):
        yield canvas


class Tasks:
    """The tasks by their short names."""

    def __init__(self, app: PgQueue) -> None:
        self._app = app

    def __getattr__(self, name: str) -> Any:
        return self._app.tasks[f"t.{name}"]


@pytest.fixture
def t(canvas: PgQueue) -> Tasks:
    """t.add is the task of that name."""
    return Tasks(canvas)
