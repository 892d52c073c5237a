"""Statements for people who look: depths, rates, one job's story, and why it has not run. They read little, always."""

import time
from collections.abc import Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pgqueue.store.statement import Queries, Rows, Statement

__all__ = [
    "AHEAD_CAP",
    "DEPTH_CAP",
    "AttemptRow",
    "ListedJob",
    "Prospects",
    "QueueDepth",
    "ShownJob",
    "job_attempts",
    "job_prospects",
    "job_states",
    "list_jobs",
    "queue_depths",
    "show_job",
    "waiting_ids",
    "worker_rates",
]

DEPTH_CAP = 100_000
AHEAD_CAP = 10_000


class QueueDepth(NamedTuple):
    """One queue, in the order of the query queue_depths; counts of DEPTH_CAP mean that or more."""

    queue: str
    available: int
    scheduled: int
    running: int
    workers: int
    oldest: float | None  # seconds that the first in line has been due
    next_due: float | None  # seconds


class ListedJob(NamedTuple):
    """One line of a list, in the order of the query list_jobs."""

    id: str
    state: str
    task: str
    queue: str
    priority: int
    attempt: int
    enqueued_at: datetime
    run_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    worker_id: int | None
    error_type: str | None
    error: str | None
    now: datetime


class ShownJob(NamedTuple):
    """Everything about one job, in the order of the query show_job; JSON columns are text."""

    id: str
    state: str
    task: str
    queue: str
    priority: int
    args: str | None
    kwargs: str | None
    result: str | None
    error_type: str | None
    error: str | None
    traceback: str | None
    attempt: int
    lost: int
    enqueued_at: datetime
    run_at: datetime | None
    started_at: datetime | None
    finished_at: datetime | None
    expires_at: datetime | None
    delete_after: datetime | None
    worker_id: int | None
    worker: str | None
    headers: str | None
    options: str | None
    progress: str | None
    root_id: str | None
    parent_id: str | None
    now: datetime


class AttemptRow(NamedTuple):
    """An attempt that did not succeed, in the order of the query job_attempts."""

    attempt: int
    outcome: str
    worker: str | None
    started_at: datetime | None
    ended_at: datetime
    error_type: str | None
    error: str | None
    traceback: str | None


class Prospects(NamedTuple):
    """What stands between a live job and its run, in the order of the query job_prospects."""

    state: str
    cancel_asked: bool
    attempt: int
    expired: bool | None
    due_in: float | None  # seconds
    running_for: float | None  # seconds
    serving: int  # live workers on its queue
    knowing: int  # those of them that have its task
    ahead: int | None  # available jobs before it; AHEAD_CAP means that or more
    worker: str | None
    worker_gone: bool | None
    worker_silent: bool | None
    workflow_id: str | None
    remaining: int | None  # steps of its workflow that it still waits for
    waits_for: int | None
    run: str | None  # what the database does itself

    def reasons(self, queue: str, task: str) -> list[str]:
        """Say in whole phrases why the job has not run, or not ended."""
        if self.state == "running":
            return self._running()
        if self.state == "waiting" or (self.state == "scheduled" and self.run is not None):
            return [self._waiting()]
        found = []
        if self.expired:
            found.append("it has expired, and will be marked so when a worker takes it")
        if self.state == "scheduled" and self.due_in is not None:
            found.append("it is due now" if self.due_in <= 0 else f"it is due in {self.due_in:.0f} s")
        if not self.serving:
            found.append(f"no live worker serves queue {queue}: start one with -Q {queue}")
        elif not self.knowing:
            who = "the live worker" if self.serving == 1 else f"none of the {self.serving} live workers"
            verb = "does not know" if self.serving == 1 else "knows"
            found.append(f"{who} on queue {queue} {verb} task {task}")
        if self.ahead:
            capped = min(self.ahead, AHEAD_CAP)
            count = f"{capped:,}{'+' if self.ahead >= AHEAD_CAP else ''}"
            found.append(f"{count} {'job is' if self.ahead == 1 else 'jobs are'} ahead of it in queue {queue}")
        return found or ["it is next: a worker should take it any moment"]

    def _waiting(self) -> str:
        shown = f"pgqueue workflows show {self.workflow_id}"
        if self.remaining:
            return f"it waits for {self.remaining:,} of {self.waits_for:,} steps before it: {shown}"
        left = "" if self.due_in is None else f", for at most {max(self.due_in, 0):.0f} s more"
        if self.run == "sleep":
            return f"it sleeps{left}: {shown}"
        return f"it waits for its event{left}: {shown}"

    def _running(self) -> list[str]:
        since = "" if self.running_for is None else f" for {max(self.running_for, 0):.0f} s"
        found = [f"it is running on worker {self.worker or '?'}{since}"]
        if self.worker is None or self.worker_gone:
            found.append("that worker is gone; another one will give the job back")
        elif self.worker_silent:
            found.append("that worker has missed its heartbeats; another one will give the job back")
        if self.cancel_asked:
            found.append("it was asked to stop")
        return found


def queue_depths(queries: Queries, cap: int = DEPTH_CAP) -> Statement[list[QueueDepth]]:
    """Return the queues that hold jobs or have live workers."""
    return Statement(queries["queue_depths"], {"cap": cap}, lambda rows: [QueueDepth._make(row) for row in rows])


def worker_rates(queries: Queries) -> Statement[dict[int, tuple[int, float]]]:
    """Return of each live worker how many jobs it finished, and in how many seconds."""
    return Statement(queries["worker_rates"], (), lambda rows: {row[0]: (row[1], row[2]) for row in rows})


def list_jobs(
    queries: Queries,
    *,
    states: Sequence[str] | None = None,
    queues: Sequence[str] | None = None,
    task: str | None = None,
    worker_id: int | None = None,
    since_seconds: float | None = None,
    limit: int = 50,
) -> Statement[list[ListedJob]]:
    """Return jobs, live and finished, those that were enqueued last first.

    Args:
        queries: of the schema.
        states: as SQL spells them.
        queues: names.
        task: a name; * stands for anything.
        worker_id: who runs or ran them.
        since_seconds: enqueued at most so long ago.
        limit: at most so many.
    """
    escaped = None if task is None else task.replace("\\", r"\\").replace("%", r"\%").replace("_", r"\_")
    return Statement(
        queries["list_jobs"],
        {
            "states": None if states is None else list(states),
            "queues": None if queues is None else list(queues),
            "task": None if escaped is None else escaped.replace("*", "%"),
            "worker_id": worker_id,
            "since": since_seconds,
            "limit": limit,
            "oldest": _first_id(-400 * 86_400),
            "newest": _first_id(86_400),
        },
        lambda rows: [ListedJob(str(row[0]), *row[1:]) for row in rows],
    )


def _first_id(seconds: float) -> str:
    """The least UUIDv7 of so many seconds from now."""
    return f"{int((time.time() + seconds) * 1000):012x}{0:020x}"


def show_job(queries: Queries, job_id: str) -> Statement[ShownJob | None]:
    """Return everything about one job, or None."""
    return Statement(queries["show_job"], {"id": job_id}, _shown)


def _shown(rows: Rows) -> ShownJob | None:
    if not rows:
        return None
    row: list[Any] = list(rows[0])
    for place in (0, -3, -2):
        row[place] = None if row[place] is None else str(row[place])
    return ShownJob._make(row)


def job_attempts(queries: Queries, job_id: str) -> Statement[list[AttemptRow]]:
    """Return a job's attempts that did not succeed, oldest first."""
    return Statement(queries["job_attempts"], {"id": job_id}, lambda rows: [AttemptRow._make(row) for row in rows])


def job_prospects(queries: Queries, job_id: str) -> Statement[Prospects | None]:
    """Return what stands between a job and its run; None when it is not live."""
    return Statement(
        queries["job_prospects"],
        {"id": job_id, "cap": AHEAD_CAP},
        lambda rows: Prospects._make(rows[0]) if rows else None,
    )


def job_states(queries: Queries, ids: Sequence[str]) -> Statement[dict[str, str]]:
    """Return id to state of those jobs that exist."""
    return Statement(
        queries["job_states"],
        {"ids": "{" + ",".join(ids) + "}"},
        lambda rows: {str(row[0]): row[1] for row in rows},
    )


def waiting_ids(queries: Queries, queues: Sequence[str], limit: int) -> Statement[list[str]]:
    """Return ids of available and scheduled jobs of these queues, at most `limit`."""
    return Statement(
        queries["waiting_ids"],
        {"queues": list(queues), "limit": limit},
        lambda rows: [str(row[0]) for row in rows],
    )
