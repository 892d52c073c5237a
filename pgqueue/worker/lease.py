"""The lease of a worker on the database's clock, renewed by a thread that runs no task; rescue of dead workers."""

import logging
import os
import random
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from pgqueue.store.claims import rescue_jobs
from pgqueue.store.statement import Queries, run
from pgqueue.store.workers import expire_leases, live_predecessors, renew_lease, stop_worker
from pgqueue.worker.logs import first_line

__all__ = ["Lease", "process_instance"]

logger = logging.getLogger("pgqueue.worker")

RESCUE_BATCH = 1_000
# Workers of this very process: their pid is ours, and they are no predecessors.
_own_workers: set[int] = set()
_own_lock = threading.Lock()


def process_instance() -> str:
    """Return machine and pid namespace: what must agree before one process may judge by a pid whether another lives."""
    parts = []
    for path in ("/proc/sys/kernel/random/boot_id", "/proc/self/ns/pid"):
        try:
            if path.endswith("pid"):
                parts.append(os.readlink(path))
            else:
                with open(path, encoding="ascii") as file:
                    parts.append(file.read().strip())
        except OSError:
            parts.append("")
    return "/".join(parts) if all(parts) else f"unknown/{os.getpid()}/{time.time_ns()}"


class Lease:
    """A thread that renews the lease, learns which jobs were asked to stop, and rescues.

    Args:
        connect: opens its connection, which it alone uses: a heartbeat never waits behind work.
        queries: of the schema.
        register: inserts the worker's row and returns its id.
        lease_seconds: how long the worker counts as alive after a heartbeat.
        heartbeat_seconds: between heartbeats.
        lost_limit: lost attempts after which a job fails.
        keep_seconds: retention of jobs that fail by it.
        figures: returns (jobs running, jobs finished).
        on_cancel: called with the ids of jobs that were asked to stop.
        on_evicted: called after the lease was lost, before the worker registers again.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], psycopg.Connection[Any]],
        queries: Queries,
        register: Callable[[psycopg.Connection[Any]], int],
        lease_seconds: float,
        heartbeat_seconds: float,
        lost_limit: int,
        keep_seconds: float | None,
        figures: Callable[[], tuple[int, int]],
        on_cancel: Callable[[set[str]], None],
        on_evicted: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._queries = queries
        self._register = register
        self._lease_seconds = lease_seconds
        self._heartbeat_seconds = heartbeat_seconds
        self._lost_limit = lost_limit
        self._keep_seconds = keep_seconds
        self._figures = figures
        self._on_cancel = on_cancel
        self._on_evicted = on_evicted
        self._connection: psycopg.Connection[Any] | None = None
        self._renewed_at = 0.0
        self._rescues_from = 0.0
        self._beat_now = threading.Event()
        self._stopping = False
        self.worker_id: int | None = None
        self._thread = threading.Thread(target=self._work, name="pgqueue-lease", daemon=True)

    def start(self, connection: psycopg.Connection[Any]) -> None:
        """Register, release a dead predecessor's jobs, and start the thread, which keeps the connection.

        Raises:
            psycopg.Error: the worker could not register.
        """
        self._connection = connection
        self._enter(connection)
        self._renewed_at = time.monotonic()
        self._expire_predecessors(connection)
        self._rescue(connection)
        self._thread.start()

    def stop(self) -> None:
        """End the thread and sign the worker off; what it still holds is given back by others."""
        self._stopping = True
        self._beat_now.set()
        if self._thread.ident is not None:
            self._thread.join()
        _own_workers.discard(self.worker_id or 0)
        try:
            if self.worker_id is not None:
                connection = self._connection = self._connection or self._connect()
                if not run(connection, stop_worker(self._queries, self.worker_id, self._figures()[1])):
                    logger.warning("signed off with jobs in hand; another worker gives them back")
        except psycopg.Error as error:
            logger.warning("could not sign off; the lease will run out: %s", first_line(error))
        finally:
            if self._connection is not None:
                self._connection.close()

    def _enter(self, connection: psycopg.Connection[Any]) -> None:
        with _own_lock:
            self.worker_id = self._register(connection)
            _own_workers.add(self.worker_id)

    def beat_now(self) -> None:
        """Renew at once: news may wait in the database. Safe from any thread."""
        self._beat_now.set()

    def _work(self) -> None:
        delay = 0.1
        while not self._stopping:
            self._beat_now.wait(self._heartbeat_seconds * random.uniform(0.9, 1.0))
            self._beat_now.clear()
            while not self._stopping:
                try:
                    self._beat()
                    delay = 0.1
                    break
                except psycopg.Error as error:
                    logger.warning("cannot renew the lease now: %s", first_line(error))
                    if self._connection is not None:
                        self._connection.close()
                        self._connection = None
                except Exception:
                    logger.exception("the lease thread failed; it goes on")
                self._beat_now.wait(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, self._heartbeat_seconds)

    def _beat(self) -> None:
        connection = self._connection
        if connection is None:
            connection = self._connection = self._connect()
        if self.worker_id is not None:
            running, finished = self._figures()
            beat = run(connection, renew_lease(self._queries, self.worker_id, self._lease_seconds, running, finished))
            if beat.asked is None:
                logger.error("this worker was declared lost (was it suspended?); its jobs are others' now")
                self.worker_id = None
                self._on_evicted()
            elif beat.asked:
                self._on_cancel(set(beat.asked))
            now = time.monotonic()
            if now - self._renewed_at > 2 * self._heartbeat_seconds:
                # It was cut off or suspended itself, and perhaps others with it: they get a lease's time to come back.
                self._rescues_from = now + self._lease_seconds
            self._renewed_at = now
            if beat.dead_wait and now >= self._rescues_from:
                self._rescue(connection)
        if self.worker_id is None:
            self._enter(connection)

    def _rescue(self, connection: psycopg.Connection[Any]) -> None:
        statement = rescue_jobs(self._queries, self._lost_limit, RESCUE_BATCH, self._keep_seconds)
        try:
            while rescued := run(connection, statement):
                for worker, job_id, outcome in rescued[:20]:
                    logger.warning("worker %s died: job %s is %s", worker, job_id, outcome)
                if len(rescued) > 20:
                    logger.warning("and %d more", len(rescued) - 20)
        except psycopg.errors.LockNotAvailable as error:
            # A workflow that somebody has locked: no reason to give up one's own lease.
            logger.warning("jobs of dead workers are given back later: %s", first_line(error))

    def _expire_predecessors(self, connection: psycopg.Connection[Any]) -> None:
        if self.worker_id is None:
            return
        asked = live_predecessors(self._queries, self.worker_id, socket.gethostname(), process_instance())
        with _own_lock:
            others = [(worker_id, pid) for worker_id, pid in run(connection, asked) if worker_id not in _own_workers]
        dead = [worker_id for worker_id, pid in others if pid == os.getpid() or not _alive(pid)]
        if dead:
            run(connection, expire_leases(self._queries, dead))


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return file.read().rsplit(b")", 1)[1].split()[0] != b"Z"
    except OSError:
        return True
