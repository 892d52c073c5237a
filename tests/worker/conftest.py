"""Fixtures of the worker's tests: a gate for tasks, rows as SQL shows them, workers as processes."""

import json
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pgqueue import PgQueue
from tests.support.process import REPOSITORY, CommandLine, wait_until
from tests.worker.gate import Gate

TASKS = "tests.worker.tasks"
LOOP_TASKS = "tests.worker.loop_tasks"
ENDED = ("succeeded", "failed", "cancelled", "expired")


class Rows:
    """Jobs as a user's SQL sees them."""

    def __init__(self, dsn: str) -> None:
        self._connection = psycopg.connect(dsn, autocommit=True, row_factory=dict_row)

    def execute(self, statement: Any, params: Any = None) -> list[dict[str, Any]]:
        """The rows of any statement."""
        cursor = self._connection.execute(statement, params)
        return cursor.fetchall() if cursor.description else []

    def job(self, job_id: str) -> dict[str, Any]:
        """The one row of a job in all_jobs."""
        rows = self.execute("select * from pgqueue.all_jobs where id = %s", [job_id])
        assert len(rows) == 1, f"{len(rows)} rows of job {job_id}"
        return rows[0]

    def attempts(self, job_id: str) -> list[dict[str, Any]]:
        """The attempts that did not succeed, the first one first."""
        return self.execute("select * from pgqueue.attempts where job_id = %s order by ended_at", [job_id])

    def until(self, job_id: str, *states: str) -> dict[str, Any]:
        """Wait until a job is in one of these states, and return its row."""

        def found() -> dict[str, Any] | None:
            row = self.job(job_id)
            return row if row["state"] in states else None

        return wait_until(found, what=lambda: f"job {job_id} is {' or '.join(states)}: {self.job(job_id)}") or {}

    def until_recorded(self, *job_ids: str) -> None:
        """Wait until the database knows that these jobs have begun."""
        recorded = "select count(*) as n from pgqueue.live_jobs where begun and id = any (%s)"
        wait_until(lambda: self.execute(recorded, [list(job_ids)])[0]["n"] == len(job_ids), what="they are recorded")

    def end_of(self, job_id: str) -> dict[str, Any]:
        """Wait for a job's end, and return its row."""
        return self.until(job_id, *ENDED)

    def worker(self, name: str | None = None) -> dict[str, Any]:
        """The newest worker's row."""
        rows = self.execute(
            "select * from pgqueue.workers where %(name)s::text is null or name = %(name)s order by id desc limit 1",
            {"name": name},
        )
        assert rows, "no worker registered"
        return rows[0]

    def close(self) -> None:
        """End the session."""
        self._connection.close()


@pytest.fixture
def rows(dsn: str) -> Iterator[Rows]:
    found = Rows(dsn)
    yield found
    found.close()


@pytest.fixture
def gate() -> Iterator[Gate]:
    with Gate() as found:
        yield found


@pytest.fixture
def app(dsn: str) -> Iterator[PgQueue]:
    """An application that looks often and waits little, so that nothing here waits for seconds."""
    queue = PgQueue("test", dsn=dsn)
    queue.conf.update(worker_poll_interval=0.05, worker_heartbeat=0.5, worker_lease=60)
    yield queue
    queue.close()


@pytest.fixture
def sender(dsn: str) -> Iterator[PgQueue]:
    """An application that enqueues what workers in processes of their own run; it has no tasks itself."""
    queue = PgQueue("tests", dsn=dsn)
    yield queue
    queue.close()


Send = Callable[..., Any]


@pytest.fixture
def send(sender: PgQueue) -> Send:
    """send("name", *args, **options): enqueue a task of tests/worker/tasks.py; its AsyncResult."""

    def enqueue(name: str, *args: Any, **options: Any) -> Any:
        return sender.send_task(f"{TASKS}.{name}", args, **options)

    return enqueue


StartWorker = Callable[..., CommandLine]


@pytest.fixture
def start_worker(dsn: str, spawn_cli: Callable[..., CommandLine]) -> StartWorker:
    """start_worker(*options, loop=False, conf={...}, app="…", env={…}): `pgqueue worker`, ready.

    It has the tasks of tasks.py, with `loop` also those of loop_tasks.py.
    """

    def start(
        *options: str,
        conf: dict[str, Any] | None = None,
        app: str | None = None,
        loop: bool = False,
        env: dict[str, str] | None = None,
        wait: bool = True,
        **more: Any,
    ) -> CommandLine:
        settings = {"worker_poll_interval": 0.05, "worker_proc_alive_timeout": 60, **(conf or {})}
        everything = {"PGQUEUE_DSN": dsn, "TESTS_CONF": json.dumps(settings), **(env or {})}
        app = app or f"{LOOP_TASKS if loop else TASKS}:app"
        command = spawn_cli("-A", app, "worker", *options, env=everything, **{"cwd": REPOSITORY, **more})
        if wait:
            command.expect("is ready")
        return command

    return start
