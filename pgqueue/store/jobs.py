"""Statements of the enqueue side and of everybody who asks for one job: insert, look, wait, forget, cancel."""

from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pgqueue.job import NewJob
from pgqueue.store.columns import SEPARATOR, array, column, first, joined, nothing, texts
from pgqueue.store.statement import Queries, Statement

__all__ = [
    "JobRow",
    "OutcomeRow",
    "cancel_jobs",
    "find_schema",
    "forget_job",
    "get_job",
    "get_outcome",
    "insert_job",
    "insert_jobs",
    "insert_rows",
    "last_error",
    "live_worker_exists",
    "mark_waited_for",
    "revive_jobs",
    "take_back_jobs",
    "taken_ids",
    "update_progress",
]

_DIGITS = {number: str(number) for number in range(10)}  # half the price of str()

# task, queue, priority, headers, options, delay, eta, expires_in, expires_at: most jobs of a batch share one of these
Common = tuple[str, str, int, str | None, str | None, float | None, datetime | None, float | None, datetime | None]
Row = tuple[Common, str | None, str | None]  # what it shares with others, args, kwargs


class JobRow(NamedTuple):
    """Everything kept of one job, in the order of the query get_job; JSON columns are text."""

    state: str
    task: str
    queue: str
    priority: int
    args: str | None
    kwargs: str | None
    result: str | None
    error: str | None
    traceback: str | None
    attempt: int
    lost: int
    enqueued_at: datetime
    run_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    worker: str | None
    headers: str | None
    options: str | None
    progress: str | None
    root_id: Any
    parent_id: Any


class OutcomeRow(NamedTuple):
    """What a waiter reads of a job, in the order of the query get_outcome; JSON columns are text."""

    state: str
    result: str | None
    error: str | None
    traceback: str | None
    progress: str | None
    runs: int  # attempts begun, those lost with their worker not counted


def insert_job(queries: Queries, job: NewJob) -> Statement[bool]:
    """Insert one job; False when the caller's own id is taken."""
    return Statement(queries["insert_job"], job, first)


def insert_jobs(queries: Queries, jobs: Sequence[NewJob], root_id: str | None, parent_id: str | None) -> Statement[int]:
    """Insert many jobs in one statement; returns how many. Their own root_id and parent_id do not count."""
    return insert_rows(queries, [job.id for job in jobs], list(map(row_of, jobs)), root_id, parent_id)


def row_of(job: NewJob) -> Row:
    """Split a job into what it may share with others and what it has for itself."""
    return (job[1], job[2], job[3], job[6], job[7], job[8], job[9], job[10], job[11]), job[4], job[5]


def insert_rows(
    queries: Queries, ids: Sequence[str], rows: Sequence[Row], root_id: str | None, parent_id: str | None
) -> Statement[int]:
    """Insert many jobs in one statement; returns how many.

    Args:
        queries: of the schema.
        ids: of the jobs, none of them taken.
        rows: the rest of each job.
        root_id, parent_id: of all of them.
    """
    common = [row[0] for row in rows]
    columns: Iterable[tuple[Any, ...]]
    if common.count(common[0]) == len(common):
        columns = ((value,) * len(common) for value in common[0])
    else:
        columns = zip(*common, strict=True)
    tasks, queues, priorities, headers, options, delays, etas, expires_in, expires_at = columns
    return Statement(
        queries["insert_jobs"],
        {
            "ids": f"{{{','.join(ids)}}}",
            "tasks": SEPARATOR.join(tasks),
            "queues": SEPARATOR.join(queues),
            "priorities": f"{{{','.join([_DIGITS.get(priority) or str(priority) for priority in priorities])}}}",
            "args": joined([row[1] for row in rows]),
            "kwargs": joined([row[2] for row in rows]),
            "headers": joined(headers),
            "options": joined(options),
            "delays": column(delays, str),
            "etas": column(etas, datetime.isoformat),
            "expires_in": column(expires_in, str),
            "expires_at": column(expires_at, datetime.isoformat),
            "root_id": root_id,
            "parent_id": parent_id,
        },
        first,
    )


def taken_ids(queries: Queries, ids: Sequence[str]) -> Statement[list[str]]:
    """Return which of these ids belong to a kept job."""
    return Statement(queries["taken_ids"], {"ids": array(ids)}, texts)


def take_back_jobs(queries: Queries, ids: Sequence[str]) -> Statement[None]:
    """Delete jobs that were inserted earlier in the same transaction."""
    return Statement(queries["take_back_jobs"], {"ids": array(ids)}, nothing)


def find_schema(queries: Queries) -> Statement[bool]:
    """Return whether this database holds the schema; never fails, whatever the database."""
    return Statement(queries["find_schema"], (), first)


def get_job(queries: Queries, job_id: str, kept_after: str = "-infinity") -> Statement[JobRow | None]:
    """Return one job, or None.

    Args:
        queries: of the schema.
        job_id: a UUID.
        kept_after: an instant; partitions whose rows all expire before it are not looked into.
    """
    return Statement(
        queries["get_job"],
        {"id": job_id, "kept_after": kept_after},
        lambda rows: JobRow(*rows[0]) if rows else None,
    )


def get_outcome(queries: Queries, job_id: str, kept_after: str = "-infinity") -> Statement[OutcomeRow | None]:
    """Return the state and outcome of one job, or None; parameters as in get_job."""
    return Statement(
        queries["get_outcome"],
        {"id": job_id, "kept_after": kept_after},
        lambda rows: OutcomeRow(*rows[0]) if rows else None,
    )


def mark_waited_for(queries: Queries, job_id: str) -> Statement[None]:
    """Ask the end of a live job to notify."""
    return Statement(queries["mark_waited_for"], {"id": job_id}, nothing)


def last_error(queries: Queries, job_id: str) -> Statement[tuple[str | None, str | None]]:
    """Return error and traceback of the last attempt that did not succeed; (None, None) when there is none."""
    return Statement(
        queries["last_error"], {"id": job_id}, lambda rows: (rows[0][0], rows[0][1]) if rows else (None, None)
    )


def forget_job(queries: Queries, job_id: str) -> Statement[None]:
    """Delete a finished job and its result."""
    return Statement(queries["forget_job"], {"id": job_id}, nothing)


def update_progress(queries: Queries, job_id: str, token: int, progress: str) -> Statement[None]:
    """Record what a running attempt reports of itself; nothing happens when the attempt is over."""
    return Statement(queries["update_progress"], {"id": job_id, "token": token, "progress": progress}, nothing)


def cancel_jobs(
    queries: Queries, ids: Sequence[str], terminate: bool, keep_seconds: float | None
) -> Statement[dict[str, str]]:
    """Cancel queued jobs, and ask running ones to stop when `terminate`.

    Returns:
        id to "cancelled", "asked" or "running"; unknown and finished ids are absent.
    """
    keep = None if keep_seconds is None else f"{keep_seconds} seconds"
    return Statement(
        queries["cancel_jobs"],
        {"ids": array(ids), "terminate": terminate, "keep": keep},
        lambda rows: {str(row[0]): row[1] for row in rows},
    )


def revive_jobs(queries: Queries, ids: Sequence[str]) -> Statement[list[str]]:
    """Give failed, cancelled and expired jobs a new life; returns the ids that got one."""
    return Statement(queries["revive_jobs"], {"ids": array(ids)}, texts)


def live_worker_exists(queries: Queries, job_id: str) -> Statement[bool | None]:
    """Return whether a live worker serves the queue of a live job; None when the job is not live."""
    return Statement(queries["live_worker_exists"], {"id": job_id}, lambda rows: rows[0][0] if rows else None)
