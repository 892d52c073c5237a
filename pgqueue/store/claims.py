"""Statements of the run side: claim, finish, retry, release, lose, rescue. Each finish is fenced by its claim's token.

Arrays of ids, numbers and names that cannot need quoting travel as PostgreSQL array text: a batch of 500 is then one
string to send, and not 500 values to adapt.
"""

import functools
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from pgqueue.job import ClaimedJob, LookRow
from pgqueue.store.statement import Queries, Rows, Statement

__all__ = [
    "SEPARATOR",
    "available_tasks",
    "claim_jobs",
    "end_transactions",
    "fall_asleep",
    "finish_jobs",
    "finished_attempts",
    "first_places",
    "held_jobs",
    "locked_jobs",
    "lose_jobs",
    "record_jobs",
    "release_claims",
    "release_jobs",
    "rescue_jobs",
    "retry_jobs",
    "tell_others",
    "wake_up",
]

# JSON text never holds it raw, so that results need no quoting between them.
SEPARATOR = "\x1f"

Fence = Sequence[tuple[str, int]]  # (job id, claim token)
Micros = Sequence[int | str] | None  # as SQL has it: a number or null


def _array(values: Iterable[Any]) -> str:
    return "{" + ",".join(map(str, values)) + "}"


@functools.lru_cache(maxsize=64)
def _ranges(lanes: tuple[tuple[str, int, int, int], ...]) -> dict[str, str]:
    # Kept: looks of a quiet queue are alike.
    queues, priorities, after, before = zip(*lanes, strict=True) if lanes else ((),) * 4
    return {
        "queues": _array(queues),
        "priorities": _array(priorities),
        "after": _array(after),
        "before": _array(before),
    }


def _fence(fence: Fence) -> dict[str, Any]:
    return {"ids": _array(i for i, _ in fence), "tokens": _array(t for _, t in fence)}


def _ids(rows: Rows) -> list[str]:
    return [str(row[0]) for row in rows]


# No Python code runs for each row: as ClaimedJob._make(row[4:]).
_job_fields = operator.itemgetter(slice(4, None))
_as_claimed_job: Callable[[tuple[Any, ...]], ClaimedJob] = functools.partial(tuple.__new__, ClaimedJob)


def _claimed(rows: Rows) -> tuple[LookRow, list[ClaimedJob]]:
    return LookRow._make(rows[0][:4]), list(map(_as_claimed_job, map(_job_fields, rows[1:])))


def claim_jobs(
    queries: Queries,
    worker_id: int,
    token: int,
    lanes: Sequence[tuple[str, int, int, int]],
    limit: int,
    excluded: Sequence[str],
    due_window: float | None,
) -> Statement[tuple[LookRow, list[ClaimedJob]]]:
    """Claim up to `limit` jobs from lanes (queue, priority, after, before), in the order of the lanes.

    Due jobs are staged first: those that became due within `due_window` seconds, or ever (None).
    """
    return Statement(
        queries["claim_jobs"],
        {
            "worker_id": worker_id,
            "token": token,
            **_ranges(tuple(lanes)),
            "limit": limit,
            "excluded": list(excluded) or None,
            "due_window": due_window,
        },
        _claimed,
    )


def finish_jobs(
    queries: Queries,
    fence: Fence,
    state: str,
    results: Sequence[str | None],
    errors: Sequence[str | None] | None,
    tracebacks: Sequence[str | None] | None,
    keep_seconds: float | None,
    micros: Micros = None,
) -> Statement[list[str]]:
    """End running jobs in one state; returns the ids whose lease was lost.

    Each has run for so many microseconds; null or None: since its claim, for all that is known.
    """
    return Statement(
        queries["finish_jobs"],
        {
            **_fence(fence),
            "state": state,
            "results": SEPARATOR.join(result or "" for result in results),
            "errors": errors,
            "tracebacks": tracebacks,
            "keep": _interval(keep_seconds),
            "micros": None if micros is None else _array(micros),
        },
        _ids,
    )


def retry_jobs(
    queries: Queries,
    fence: Fence,
    delays: Sequence[float],
    errors: Sequence[str | None],
    tracebacks: Sequence[str | None],
    changes: Sequence[str | None],
    keep_seconds: float | None,
    micros: Micros = None,
) -> Statement[list[str]]:
    """Put running jobs back for another attempt; returns the ids whose lease was lost."""
    return Statement(
        queries["retry_jobs"],
        {
            **_fence(fence),
            "delays": _array(delays),
            "errors": list(errors),
            "tracebacks": list(tracebacks),
            "changes": list(changes),
            "keep": _interval(keep_seconds),
            "micros": None if micros is None else _array(micros),
        },
        _ids,
    )


def release_jobs(queries: Queries, fence: Fence, keep_seconds: float | None) -> Statement[list[str]]:
    """Give claimed jobs back as if never claimed; returns the ids whose lease was lost.

    Jobs that were asked to stop meanwhile are cancelled, and kept for `keep_seconds`.
    """
    return Statement(queries["release_jobs"], {**_fence(fence), "keep": _interval(keep_seconds)}, _ids)


def release_claims(
    queries: Queries, worker_id: int, tokens: Sequence[int], keep_seconds: float | None
) -> Statement[list[str]]:
    """Give back what these claims of a worker took, as release_jobs() does."""
    params = {"worker_id": worker_id, "tokens": _array(tokens), "keep": _interval(keep_seconds)}
    return Statement(queries["release_claims"], params, _ids)


def lose_jobs(
    queries: Queries,
    fence: Fence,
    lost_limit: int,
    at_most_once: Sequence[str],
    reason: str,
    keep_seconds: float | None,
) -> Statement[list[tuple[str, str]]]:
    """End attempts whose process died; returns (id, state it went to) of those that were still running."""
    return Statement(
        queries["lose_jobs"],
        {
            **_fence(fence),
            "lost_limit": lost_limit,
            "at_most_once": list(at_most_once),
            "reason": reason,
            "keep": _interval(keep_seconds),
        },
        lambda rows: [(str(row[0]), row[1]) for row in rows],
    )


def record_jobs(queries: Queries, fence: Fence) -> Statement[set[str]]:
    """Record that attempts begin, or have begun; returns the ids of those that are still this worker's."""
    return Statement(queries["record_jobs"], _fence(fence), lambda rows: set(_ids(rows)))


def rescue_jobs(
    queries: Queries, lost_limit: int, limit: int, keep_seconds: float | None
) -> Statement[list[tuple[str, str, str]]]:
    """Give back the jobs of workers whose lease ran out; returns (worker, id, state it went to)."""
    return Statement(
        queries["rescue_jobs"],
        {"lost_limit": lost_limit, "limit": limit, "keep": _interval(keep_seconds)},
        lambda rows: [(row[0], str(row[1]), row[2]) for row in rows],
    )


def end_transactions(queries: Queries, open_ones: Mapping[int, str]) -> Statement[int]:
    """End sessions (process id) that still have a transaction (its id) open; returns how many."""
    params = {"pids": _array(open_ones), "xids": _array(open_ones.values())}
    return Statement(queries["end_transactions"], params, len)


def first_places(
    queries: Queries, lanes: Sequence[tuple[str, int, int]], excluded: Sequence[str]
) -> Statement[list[int | None]]:
    """Return the first available place of each lane (queue, priority, after), whoever may be claiming it."""
    return Statement(
        queries["first_places"],
        {
            "queues": _array(lane[0] for lane in lanes),
            "priorities": _array(lane[1] for lane in lanes),
            "after": _array(lane[2] for lane in lanes),
            "excluded": list(excluded) or None,
        },
        lambda rows: list(rows[0][0]),
    )


def locked_jobs(queries: Queries, ids: Sequence[str]) -> Statement[set[str]]:
    """Return the ids of those jobs whose rows others have locked."""
    return Statement(queries["locked_jobs"], {"ids": _array(ids)}, lambda rows: set(_ids(rows)))


def available_tasks(queries: Queries, queues: Sequence[str], tasks: Sequence[str]) -> Statement[list[str]]:
    """Return those of these tasks that have available jobs in these queues."""
    return Statement(
        queries["available_tasks"],
        {"queues": list(queues), "tasks": list(tasks)},
        lambda rows: [row[0] for row in rows],
    )


def held_jobs(queries: Queries, fence: Fence) -> Statement[set[str]]:
    """Return the ids of these attempts that are still running under their token."""
    return Statement(queries["held_jobs"], _fence(fence), lambda rows: {str(row[0]) for row in rows})


def finished_attempts(queries: Queries, ids: Sequence[str]) -> Statement[set[str]]:
    """Return which of these jobs are finished."""
    return Statement(queries["finished_attempts"], {"ids": list(ids)}, lambda rows: {str(row[0]) for row in rows})


def fall_asleep(queries: Queries, queues: Sequence[str]) -> Statement[tuple[frozenset[int], frozenset[int], bool]]:
    """On the LISTEN session, take the wake locks of queues.

    Returns the keys for which this session answers, those for which another one does, and whether it may sleep.
    """
    return Statement(
        queries["fall_asleep"],
        {"queues": list(queues)},
        lambda rows: (frozenset(rows[0][0]), frozenset(rows[0][1]), rows[0][2]),
    )


def wake_up(queries: Queries, queues: Sequence[str], hand_over: bool) -> Statement[None]:
    """On the LISTEN session, give the wake locks back, and ask another idle worker to take them over."""
    return Statement(queries["wake_up"], {"queues": list(queues), "hand_over": hand_over}, lambda rows: None)


def tell_others(queries: Queries, queues: Sequence[str]) -> Statement[None]:
    """On the LISTEN session, ask other idle workers of these queues to look once."""
    return Statement(queries["tell_others"], {"queues": list(queues)}, lambda rows: None)


def _interval(seconds: float | None) -> str | None:
    return None if seconds is None else f"{seconds} seconds"
