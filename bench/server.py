"""The private server of a run: on a real disk, durable, gone afterwards."""

import os
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, LiteralString

import psutil
import psycopg
from psycopg.types.string import TextLoader

from pgqueue.job import new_job_id
from pgqueue.store.schema import migrate
from pgqueue.store.statement import Queries
from tests.support.cluster import Cluster, binaries

__all__ = ["SETTINGS", "Server"]

# Not PostgreSQL's defaults: memory and WAL for more than a toy, so that no checkpoint falls into one run and not into
# the other; commit timestamps tell when a job's end became visible.
SETTINGS: dict[str, str | int] = {
    "fsync": "on",
    "synchronous_commit": "on",
    "shared_buffers": "512MB",
    "max_wal_size": "6GB",
    "checkpoint_timeout": "30min",
    "autovacuum_naptime": "60s",
    "track_commit_timestamp": "on",
    "log_checkpoints": "off",
}
SHOWN = ("server_version", *SETTINGS)
CHUNK = 10_000


class Server:
    """A cluster with one migrated database.

    Args:
        major: of PostgreSQL.
    """

    def __init__(self, major: int) -> None:
        self.cluster = Cluster(binaries(major), settings=SETTINGS, parent=_disk())
        self.cluster.start()
        self.dsn = self.cluster.create_database("bench")
        migrate(self.dsn)
        self.queries = Queries("pgqueue")

    def close(self) -> None:
        """Stop the server and delete its files."""
        self.cluster.destroy()

    def settings(self) -> dict[str, str]:
        """Return the server's settings as it tells them, and where its files are."""
        with self.connect() as connection:
            shown = {name: str(_one(connection, "select current_setting(%s)", name)) for name in SHOWN}
        shown["data directory"] = f"{self.cluster.data} ({_file_system(self.cluster.data)})"
        return shown

    @contextmanager
    def connect(self, **options: Any) -> Iterator[psycopg.Connection[Any]]:
        """Open a bare autocommit connection: prepared statements from the first use on, texts left as they come."""
        connection = open_bare(self.dsn, **options)
        try:
            yield connection
        finally:
            connection.close()

    def one(self, statement: LiteralString, *params: Any) -> Any:
        """Return the single value of a query."""
        with self.connect() as connection:
            return _one(connection, statement, *params)

    def clear(self) -> None:
        """Empty the tables; places in line go on, so that running workers' marks stay true."""
        with self.connect() as connection:
            connection.execute(
                "truncate pgqueue.live_jobs, pgqueue.finished_jobs, pgqueue.attempts, pgqueue.workflows,"
                " pgqueue.workflow_edges, pgqueue.workflow_joins, pgqueue.workflow_results"
            )

    def row_widths(self) -> tuple[int, int]:
        """Return the bytes of a row as it is stored: of a job that waits, of one that finished."""
        with self.connect() as connection:
            finished = _one(
                connection, "select pg_column_size(f.*)::int from pgqueue.finished_jobs f order by f.seq desc limit 1"
            )
            with connection.transaction(force_rollback=True):
                connection.execute(
                    self.queries["insert_jobs"], bulk_parameters([new_job_id()], "bench.coroutine", "default")
                )
                live = _one(
                    connection, "select pg_column_size(j.*)::int from pgqueue.live_jobs j order by seq desc limit 1"
                )
        return live or 0, finished or 0

    def commit_and_wait(
        self, connection: psycopg.Connection[Any], last_id: str, queue: str, timeout: float = 60.0
    ) -> None:
        """Commit a transaction that enqueued jobs, and wait until none is left on their queue."""
        connection.execute(self.queries["mark_waited_for"], {"id": last_id})
        with self.connect() as watcher:
            watcher.execute('listen "pgqueue/results"')
            connection.commit()
            # The end of the last job notifies, so that nobody asks while the others run.
            next(watcher.notifies(timeout=timeout, stop_after=1), None)
            deadline = time.monotonic() + timeout
            time.sleep(0.1)  # those that ran beside it; the question is dear where a held snapshot keeps what is dead
            while _one(watcher, "select exists (select from pgqueue.live_jobs where queue = %s)", queue):
                if time.monotonic() > deadline:
                    raise TimeoutError(f"jobs are left on queue {queue} after {timeout:g} s")
                time.sleep(0.005)

    def preload(self, count: int, task: str, queue: str) -> "Preloaded":
        """Insert jobs in one transaction; they become visible together, when `release` is called."""
        return Preloaded(self, count, task, queue)


class Preloaded:
    """Jobs in a transaction that is still open."""

    def __init__(self, server: Server, count: int, task: str, queue: str) -> None:
        self._server = server
        self._connection = psycopg.connect(server.dsn)
        self.count = count
        self.queue = queue
        row = self._connection.execute("select last_value - (not is_called)::integer from pgqueue.job_seq").fetchone()
        assert row is not None
        self.after = int(row[0])
        ids: list[str] = []
        for start in range(0, count, CHUNK):
            ids = [new_job_id() for _ in range(min(CHUNK, count - start))]
            self._connection.execute(server.queries["insert_jobs"], bulk_parameters(ids, task, queue))
        self._last = ids[-1]

    def release(self) -> float:
        """Commit; returns the seconds that it took."""
        started = time.perf_counter()
        self._connection.commit()
        self._connection.close()
        return time.perf_counter() - started

    def release_and_wait(self) -> float:
        """Commit, wait until all jobs are finished, and return their rate."""
        self._server.commit_and_wait(self._connection, self._last, self.queue)
        self._connection.close()
        return self.rate()

    def rate(self) -> float:
        """Return jobs per second from the first claim to the last finish, as the rows tell it."""
        with self._server.connect() as connection:
            row = connection.execute(
                "select count(*), extract(epoch from max(finished_at) - min(started_at))::float8,"
                " count(*) filter (where state <> 'succeeded')"
                " from pgqueue.finished_jobs where queue = %s and seq > %s",
                [self.queue, self.after],
            ).fetchone()
        assert row is not None
        if row[0] != self.count or row[2]:
            raise RuntimeError(f"{row[0]} of {self.count} jobs finished, {row[2]} of them not well")
        return self.count / float(row[1])


def bulk_parameters(ids: list[str], task: str, queue: str) -> dict[str, Any]:
    """Return the parameters of insert_jobs for jobs with the arguments [1]."""
    count = len(ids)
    return {
        "ids": "{" + ",".join(ids) + "}",
        "tasks": "\x1f".join([task] * count),
        "queues": "\x1f".join([queue] * count),
        "priorities": "{" + ",".join(["0"] * count) + "}",
        "args": "\x1f".join(["[1]"] * count),
        **dict.fromkeys(("kwargs", "headers", "options", "delays", "etas", "expires_in", "expires_at"), None),
        "root_id": None,
        "parent_id": None,
    }


def open_bare(dsn: str, **options: Any) -> psycopg.Connection[Any]:
    """Open a bare autocommit connection."""
    connection = psycopg.connect(dsn, autocommit=True, **options)
    for name in ("uuid", "json", "timestamptz"):
        connection.adapters.register_loader(name, TextLoader)
    connection.prepare_threshold = 0
    return connection


def _one(connection: psycopg.Connection[Any], statement: LiteralString, *params: Any) -> Any:
    row = connection.execute(statement, params).fetchone()
    return None if row is None else row[0]


def _disk() -> Path:
    """Return a directory that is not kept in memory and that another account can enter."""
    for place in (tempfile.gettempdir(), "/var/tmp"):
        if _file_system(Path(place)) not in ("tmpfs", "ramfs") and os.access(place, os.W_OK):
            return Path(place)
    raise RuntimeError("no directory on a disk for the server's files: point TMPDIR to one")


def _file_system(path: Path) -> str:
    mounts = {part.mountpoint: part.fstype for part in psutil.disk_partitions(all=True)}
    for parent in (path.resolve(), *path.resolve().parents):
        if str(parent) in mounts:
            return mounts[str(parent)]
    return "?"
