"""Everything that may be done to a workflow, by several sessions at once, while workers run it: each one ends."""

import os
import random
import threading
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgqueue import PgQueue, Workflow, chord, group
from pgqueue.errors import PgQueueError
from pgqueue.graph import EdgePolicy
from pgqueue.workflows.result import WorkflowResult
from tests.support.process import wait_until

pytestmark = pytest.mark.faults

LONG = int(os.environ.get("PGQUEUE_FAULTS_REPEAT", "1")) > 1
OPERATIONS, SESSIONS, RECENT = (1_500 if LONG else 250), 4, 20
POLICIES: tuple[EdgePolicy, ...] = ("stop", "ignore", "value")


class Storm:
    """Tasks, and what is done to the workflows that are made of them.

    Args:
        app: with the database.
        random: what happens depends on its seed and on who is faster.
    """

    def __init__(self, app: PgQueue, random: random.Random) -> None:
        self.app = app
        self.random = random
        self.sent: list[tuple[WorkflowResult, list[str]]] = []
        self.unexpected: list[BaseException] = []
        choose = random.choice

        @app.task(max_retries=2, default_retry_delay=0, autoretry_for=(OSError,), retry_backoff=False)
        def step(*given: Any) -> int:
            if (drawn := random.random()) < 0.25:
                raise OSError("again") if drawn < 0.15 else ValueError("no")
            return 1

        @app.task(bind=True)
        def replaced(self: Any, *given: Any) -> Any:
            return self.replace(choose([group(step.si(), step.si()), step.si() | step.s()]))

        @app.task(bind=True)
        def grows(self: Any, *given: Any) -> int:
            self.add_to_chord(step.si())
            return 1

        @app.task
        def told(*about: Any) -> None:
            if random.random() < 0.2:
                raise ValueError("no")

        self.makers: list[Callable[[], Any]] = [
            lambda: step.si().on_error(told.s()),
            lambda: replaced.si().on_error(told.s()),
            lambda: chord([replaced.si(), grows.si(), step.si()], step.s()),
            lambda: group(step.si().on_error(told.s()), step.si()),
        ]
        self.step = step

    def send(self) -> None:
        """Send a workflow of random steps."""
        draw = self.random
        flow = Workflow(app=self.app, on_failure=draw.choice(POLICIES), deadline=draw.choice([None, None, 0.3, 3]))
        names: list[str] = []
        for number in range(draw.randint(2, 7)):
            name, after = f"n{number}", draw.sample(names, min(len(names), draw.randint(0, 2)))
            kind = draw.randrange(6)
            if kind == 0:
                flow.wait_for(name, timeout=draw.choice([0.05, 0.3]), after=after)
            elif kind == 1:
                flow.sleep(draw.choice([0, 0.05]), name, after)
            else:
                undo = self.step.si() if draw.random() < 0.4 else None
                flow.step(name, draw.choice(self.makers)(), after, compensate=undo)
            names.append(name)
        self.sent.append((flow.apply_async(), names))

    def add(self, result: WorkflowResult, names: list[str]) -> None:
        """Add a step, perhaps the first with a compensation."""
        more = self.app.workflow(result.id)
        undo = self.step.si() if self.random.random() < 0.5 else None
        more.step(f"a{self.random.getrandbits(60)}", self.step.si(), self.random.choice(names), compensate=undo)
        more.apply_async()

    def revoke(self, result: WorkflowResult, names: list[str]) -> None:
        """Revoke one step, whatever it is doing."""
        self.app.AsyncResult(self.random.choice(result.steps).job_id).revoke(terminate=True)

    def operate(self) -> None:
        """One session."""
        what: list[Callable[[WorkflowResult, list[str]], object]] = [
            self.add,
            self.revoke,
            lambda result, names: result.resolve(self.random.choice(names)),
            lambda result, names: result.cancel(),
            lambda result, names: result.retry(),
        ]
        for _ in range(OPERATIONS):
            try:
                if not self.sent or self.random.random() < 0.25:
                    self.send()
                else:
                    self.random.choice(what)(*self.random.choice(self.sent[-RECENT:]))
            except PgQueueError:
                pass  # it is over, or waits for no such event
            except BaseException as error:
                self.unexpected.append(error)
                return


def test_every_workflow_ends_whatever_is_done_to_it(app: PgQueue, conn: psycopg.Connection[Any]) -> None:
    app.conf.update(worker_poll_interval=0.05)
    storm = Storm(app, random.Random(random.getrandbits(32)))
    with app.worker(pool="threads", concurrency=4), app.worker(pool="threads", concurrency=4):
        sessions = [threading.Thread(target=storm.operate) for _ in range(SESSIONS)]
        for session in sessions:
            session.start()
        for session in sessions:
            session.join()
        assert storm.unexpected == []
        wait_until(lambda: not _live(conn), timeout=30, what=lambda: f"all workflows are over: {_live(conn)}")
    assert conn.execute("select count(*) from pgqueue.workflow_joins where remaining < 0").fetchone() == (0,)
    twice = "select count(*) from (select id from pgqueue.finished_jobs group by id having count(*) > 1) s"
    assert conn.execute(twice).fetchone() == (0,)
    assert conn.execute("select count(*) from pgqueue.workflow_steps where state = 'deleted'").fetchone() == (0,)
    assert {result.state for result, _ in storm.sent} <= {"succeeded", "failed", "cancelled"}


def _live(conn: psycopg.Connection[Any]) -> list[Any]:
    return conn.execute("select workflow_id::text, step, task, state from pgqueue.live_jobs").fetchall()
