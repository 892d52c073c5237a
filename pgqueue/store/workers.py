"""Statements about worker processes: register, renew the lease, sign off, who else is there."""

from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pgqueue.store.statement import Queries, Statement

__all__ = [
    "Heartbeat",
    "WorkerRow",
    "expire_leases",
    "isolation_level",
    "list_workers",
    "live_predecessors",
    "prune_workers",
    "read_committed",
    "register_worker",
    "renew_lease",
    "stop_worker",
]


class WorkerRow(NamedTuple):
    """One worker, in the order of the query list_workers; `status` is live, silent, lost or stopped."""

    id: int
    name: str
    hostname: str
    pid: int
    app: str
    version: str
    queues: list[str]
    tasks: list[str]
    pools: dict[str, Any]
    started_at: datetime
    heartbeat_at: datetime
    lease_expires_at: datetime
    running: int
    finished: int
    status: str


class Heartbeat(NamedTuple):
    """What a worker learns when it renews its lease.

    Attributes:
        asked: ids of its jobs that were asked to stop; None: it was declared lost.
        dead_wait: whether jobs of a dead worker wait to be rescued.
    """

    asked: list[str] | None
    dead_wait: bool


def register_worker(
    queries: Queries,
    *,
    name: str,
    hostname: str,
    pid: int,
    instance: str,
    app: str,
    version: str,
    queues: Sequence[str],
    tasks: Sequence[str],
    at_most_once: Sequence[str],
    pools: str,
    lease_seconds: float,
) -> Statement[int]:
    """Insert a worker's row with a fresh lease; returns its id.

    Args:
        queries: of the schema.
        name: shown to people; need not be unique.
        hostname, pid, instance: where it runs; `instance` tells whether a pid can be looked up from here.
        app, version: the application's name and the release of pgqueue.
        queues, tasks: what it serves and knows.
        at_most_once: those of its tasks that must not run again when it is lost.
        pools: JSON text, pool to concurrency.
        lease_seconds: how long it counts as alive without a heartbeat.
    """
    return Statement(
        queries["register_worker"],
        {
            "name": name,
            "hostname": hostname,
            "pid": pid,
            "instance": instance,
            "app": app,
            "version": version,
            "queues": list(queues),
            "tasks": list(tasks),
            "at_most_once": list(at_most_once),
            "pools": pools,
            "lease": lease_seconds,
        },
        lambda rows: int(rows[0][0]),
    )


def renew_lease(
    queries: Queries, worker_id: int, lease_seconds: float, running: int, finished: int
) -> Statement[Heartbeat]:
    """Renew a lease, and learn what there is to know."""
    return Statement(
        queries["renew_lease"],
        {"worker_id": worker_id, "lease": lease_seconds, "running": running, "finished": finished},
        lambda rows: Heartbeat(None if rows[0][0] is None else [str(job_id) for job_id in rows[0][0]], rows[0][1]),
    )


def stop_worker(queries: Queries, worker_id: int, finished: int) -> Statement[bool]:
    """Sign a worker off; false when it still held jobs, which the next rescuer gives back."""
    params = {"worker_id": worker_id, "finished": finished}
    return Statement(queries["stop_worker"], params, lambda rows: bool(rows[0][0]))


def live_predecessors(
    queries: Queries, worker_id: int, hostname: str, instance: str
) -> Statement[list[tuple[int, int]]]:
    """Return (id, pid) of the other workers of this host and pid namespace that did not sign off."""
    return Statement(
        queries["live_predecessors"],
        {"worker_id": worker_id, "hostname": hostname, "instance": instance},
        lambda rows: [(row[0], row[1]) for row in rows],
    )


def expire_leases(queries: Queries, ids: Sequence[int]) -> Statement[None]:
    """End the leases of workers that are known to be dead."""
    return Statement(queries["expire_leases"], {"ids": list(ids)}, lambda rows: None)


def list_workers(queries: Queries, every: bool = False) -> Statement[list[WorkerRow]]:
    """Return the workers that did not end, or `every` one that is still kept."""
    return Statement(queries["list_workers"], {"all": every}, lambda rows: [WorkerRow._make(row) for row in rows])


def prune_workers(queries: Queries, age_seconds: float) -> Statement[None]:
    """Delete the rows of workers that ended longer ago than `age_seconds`."""
    return Statement(queries["prune_workers"], {"age": age_seconds}, lambda rows: None)


def isolation_level(queries: Queries) -> Statement[str]:
    """Return the isolation level in which a statement of this session runs."""
    return Statement(queries["isolation_level"], {}, lambda rows: str(rows[0][0]))


def read_committed(queries: Queries) -> Statement[None]:
    """Let each statement of this session see what was committed before it."""
    return Statement(queries["read_committed"], {}, lambda rows: None)
