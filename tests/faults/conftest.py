"""The stage of a fault test: a database with a log of all state changes, real workers, a load, the final check."""

import os
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import psutil
import psycopg
import pytest

from pgqueue import PgQueue
from pgqueue.store.schema import migrate
from tests.faults import checker
from tests.faults.checker import Ended
from tests.faults.load import Load
from tests.support.cluster import Cluster
from tests.support.process import REPOSITORY, CommandLine, wait_until

Spawn = Callable[..., CommandLine]
# `make faults`: not only again and again, but each in its full width.
LONG = int(os.environ.get("PGQUEUE_FAULTS_REPEAT", "1")) > 1


class Stage:
    """Args:
    dsn: of a migrated database.
    spawn_cli: the fixture.
    gate: a file that holding jobs wait for.
    """

    def __init__(self, dsn: str, spawn_cli: Spawn, gate: Path) -> None:
        self.dsn = dsn
        self._spawn_cli = spawn_cli
        self._gate = gate
        self.app = PgQueue("stage", dsn=dsn)
        self.workers: list[CommandLine] = []
        self._connection: psycopg.Connection[tuple[Any, ...]] | None = None
        checker.install(dsn)

    # -- workers --------------------------------------------------------------------------------------------------

    def worker(
        self, *options: str, lease: float = 5.0, dsn: str | None = None, ready: bool = True, **settings: str
    ) -> CommandLine:
        """Start `pgqueue worker` and wait until it says that it is ready; settings are PGQUEUE_<NAME>."""
        environment = {f"PGQUEUE_{name.upper()}": value for name, value in settings.items()}
        program = self._spawn_cli(
            *("-A", "tests.faults.tasks:app", "worker", "-l", "WARNING", *(options or ("-c", "2"))),
            env={
                "PGQUEUE_DSN": dsn or self.dsn,
                "PGQUEUE_WORKER_LEASE": str(lease),
                "PGQUEUE_WORKER_HEARTBEAT": str(lease / 5),
                "PGQUEUE_WORKER_PROC_ALIVE_TIMEOUT": "30",
                **environment,
            },
            cwd=REPOSITORY,
        )
        self.workers.append(program)
        if ready:
            program.expect("is ready")
        return program

    def children(self, worker: CommandLine) -> list[psutil.Process]:
        """The processes in which a worker runs tasks."""
        return psutil.Process(worker.pid).children()

    def logs(self) -> str:
        """What all workers printed, for a message."""
        return "".join(f"\n--- worker {w.pid}\n{w.output[-6000:]}" for w in self.workers)

    # -- jobs -----------------------------------------------------------------------------------------------------

    def load(self, **options: Any) -> Load:
        """A load on this database; use it in a with statement."""
        return Load(self.dsn, **options)

    def send(self, task: str, *args: Any, **options: Any) -> str:
        """Enqueue one job; its id."""
        return str(self.app.send_task(task, args, **options).id)

    @property
    def gate(self) -> str:
        """What to pass to holding jobs."""
        return str(self._gate)

    def open_gate(self) -> None:
        """Let holding jobs go on."""
        self._gate.touch()

    def query(self, statement: str, *params: Any) -> list[tuple[Any, ...]]:
        """Run one statement and commit; its rows."""
        while True:
            if self._connection is None or self._connection.closed:
                self._connection = self._connect()
            try:
                cursor = self._connection.execute(statement.encode(), params or None)
            except psycopg.OperationalError:
                if not self._connection.closed:
                    raise
                continue  # the test has stopped the server in between
            return cursor.fetchall() if cursor.description else []

    def _connect(self) -> psycopg.Connection[tuple[Any, ...]]:
        """A connection, as soon as the server has one left: the workers of a test may hold them all for a moment."""
        made: list[psycopg.Connection[tuple[Any, ...]]] = []

        def connected() -> bool:
            try:
                made.append(psycopg.connect(self.dsn, autocommit=True, application_name="stage"))
            except psycopg.OperationalError as error:
                if "too many clients" not in str(error):
                    raise
            return bool(made)

        wait_until(connected, 30, what="the server has a connection left")
        return made[0]

    def close(self) -> None:
        """Close what it has open."""
        self.app.close()
        if self._connection is not None:
            self._connection.close()
        print(self.logs())

    def value(self, statement: str, *params: Any) -> Any:
        """The first column of the first row; None without a row."""
        rows = self.query(statement, *params)
        return rows[0][0] if rows else None

    def pid_of(self, job_id: str, attempt: int = 1) -> int:
        """Wait until an attempt of a job has left a trace; the process that runs it."""
        return int(
            self.wait(
                f"attempt {attempt} of {job_id} runs",
                lambda: self.value(
                    "select pid from faults.effects where job_id = %s and attempt = %s", job_id, attempt
                ),
            )
        )

    def wait_until_recorded(self, *job_ids: str) -> None:
        """Wait until the database knows that these jobs have begun: before, their worker's death costs no attempt."""
        query = "select count(*) from pgqueue.live_jobs where begun and id = any (%s::uuid[])"
        self.wait("their beginning is recorded", lambda: self.value(query, list(job_ids)) == len(job_ids))

    def wait(self, what: str, condition: Callable[[], Any], timeout: float = 30) -> Any:
        """wait_until() whose message shows what the workers said."""
        return wait_until(condition, timeout, what=lambda: what + self.logs())

    def state(self, job_id: str) -> str | None:
        """The job's state, as SQL has it."""
        state: str | None = self.value("select state from pgqueue.all_jobs where id = %s", job_id)
        return state

    def wait_for_success(self, job_id: str, timeout: float = 30) -> None:
        """Wait until a job has succeeded."""
        self.wait(f"job {job_id} succeeds", lambda: self.state(job_id) == "succeeded", timeout)

    # -- the end --------------------------------------------------------------------------------------------------

    def finish(
        self,
        load: Load | None = None,
        *,
        may_fail: Collection[str] = (),
        deleted: Collection[str] = (),
        timeout: float = 60,
    ) -> dict[str, Ended]:
        """Stop the load, wait until every job has ended, check the invariants; every finished job by its id."""
        if load is not None:
            load.stop()
        self.open_gate()
        left: list[tuple[Any, ...]] = []

        def none_left() -> bool:
            left[:] = self.query("select state, task, count(*) from pgqueue.live_jobs group by 1, 2")
            return not left

        wait_until(none_left, timeout, what=lambda: f"all jobs have ended; these have not: {left}{self.logs()}")
        for worker in self.workers:
            if worker.process.poll() is None:
                assert "Traceback" not in worker.output or may_fail, worker.output
        return checker.check(self.query, load, may_fail=may_fail, deleted=deleted)


@pytest.fixture
def stage(dsn: str, spawn_cli: Spawn, tmp_path: Path) -> Iterator[Stage]:
    """A stage on a fresh database of the session's server."""
    made = Stage(dsn, spawn_cli, tmp_path / "gate")
    yield made
    made.close()


@pytest.fixture
def private_stage(private_server: Cluster, spawn_cli: Spawn, tmp_path: Path) -> Iterator[Stage]:
    """A stage on a server of its own, which may be stopped and killed."""
    dsn = private_server.create_database("faults")
    migrate(dsn)
    made = Stage(dsn, spawn_cli, tmp_path / "gate")
    yield made
    made.close()
