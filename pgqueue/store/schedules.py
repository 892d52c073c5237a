"""Statements about schedules: edits, looks, ticks, and what code declares."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple

from pgqueue.store.statement import Queries, Statement
from pgqueue.timing.recurrence import Timing

__all__ = [
    "DueRow",
    "Move",
    "ScheduleRow",
    "TickRow",
    "declare_schedules",
    "due_schedules",
    "fire_schedules",
    "fire_ticks",
    "list_schedules",
    "listen_schedules",
    "next_wake",
    "noted_ticks",
    "pause_schedule",
    "prune_ticks",
    "remove_schedule",
    "resume_schedule",
    "run_schedule",
    "schedule_history",
    "take_duty",
    "upsert_schedule",
]


class DueRow(NamedTuple):
    """A schedule that is to be looked at, in the order of the query due_schedules."""

    id: int
    name: str
    cron: str | None
    every: float | None
    once_at: datetime | None
    solar: str | None
    match_both_days: bool
    timezone: str
    start_at: datetime | None
    end_at: datetime | None
    anchor_at: datetime
    catch_up: str
    catch_up_limit: int
    starting_deadline: float | None
    overlap: str
    plan_from: datetime
    next_run_at: datetime | None
    last_run_at: datetime | None
    queued_at: datetime | None
    busy: bool
    now: datetime

    @property
    def timing(self) -> Timing:
        """When it ticks; the cron expression is as the row has it."""
        return Timing(*self[2:11])


class ScheduleRow(NamedTuple):
    """Everything kept of a schedule, in the order of the query list_schedules; JSON columns are text."""

    id: int
    name: str
    task: str
    args: str
    kwargs: str
    options: str
    cron: str | None
    every: float | None
    once_at: datetime | None
    solar: str | None
    match_both_days: bool
    timezone: str
    start_at: datetime | None
    end_at: datetime | None
    anchor_at: datetime
    jitter: float
    catch_up: str
    catch_up_limit: int
    starting_deadline: float | None
    overlap: str
    enabled: bool
    pause_reason: str | None
    problem: str | None
    owner: str | None
    created_at: datetime
    updated_at: datetime
    plan_from: datetime
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_job_id: str | None
    queued_at: datetime | None
    now: datetime

    @property
    def timing(self) -> Timing:
        """When it ticks; the cron expression is as the row has it."""
        return Timing(*self[6:15])


class TickRow(NamedTuple):
    """A tick that was dealt with; `state` is its job's, "skipped", or None when the job is no longer kept."""

    tick: datetime
    fired_at: datetime
    job_id: str | None
    state: str | None


class Move(NamedTuple):
    """What becomes of one schedule: its next tick, and the ticks to note, each with whether a job is to be enqueued."""

    id: int
    next: datetime | None
    last: datetime | None
    queued: datetime | None
    wake: datetime | None
    problem: str | None
    ticks: Sequence[tuple[datetime, bool]] = ()


def _first(rows: Any) -> Any:
    return rows[0][0] if rows else None


def due_schedules(
    queries: Queries, limit: int, now: datetime | None = None, window: float | None = None
) -> Statement[list[DueRow]]:
    """Lock schedules that are to be looked at, until the transaction ends.

    Args:
        queries: of the schema.
        limit: at most so many.
        now: instead of the database's clock.
        window: how many seconds to look back; None: all the way.
    """
    return Statement(
        queries["due_schedules"],
        {"limit": limit, "now": now, "window": window},
        lambda rows: [DueRow._make(row) for row in rows],
    )


def fire_schedules(queries: Queries, moves: Sequence[Move]) -> Statement[int]:
    """Move schedules on and enqueue the jobs of their ticks; returns how many jobs."""
    return _fire(queries, moves, [(move.id, tick, run) for move in moves for tick, run in move.ticks])


def fire_ticks(queries: Queries, schedule_id: int, ticks: Sequence[datetime]) -> Statement[int]:
    """Enqueue the jobs of ticks that nobody dealt with yet, and leave the schedule as it is; returns how many."""
    return _fire(queries, (), [(schedule_id, tick, True) for tick in ticks])


def _fire(queries: Queries, moves: Sequence[Move], ticks: Sequence[tuple[int, datetime, bool]]) -> Statement[int]:
    columns = list(zip(*moves, strict=True)) if moves else [()] * 7
    names = ("ids", "next", "last", "queued", "wake", "problems")
    params: dict[str, Any] = {name: list(column) for name, column in zip(names, columns, strict=False)}
    for place, name in enumerate(("tick_ids", "ticks", "run")):
        params[name] = [tick[place] for tick in ticks]
    return Statement(queries["fire_schedules"], params, lambda rows: int(rows[0][0]))


def next_wake(queries: Queries, window: float | None = None) -> Statement[float]:
    """Return the seconds until a schedule is to be looked at, an hour at most; negative when it should have been."""
    return Statement(queries["next_wake"], {"window": window}, lambda rows: float(rows[0][0]))


def take_duty(queries: Queries) -> Statement[bool]:
    """Try to be the punctual one of several schedulers, for as long as the session lasts."""
    return Statement(queries["take_duty"], {}, lambda rows: bool(rows[0][0]))


def listen_schedules(queries: Queries) -> Statement[None]:
    """Ask to be told of edits."""
    return Statement(queries["listen_schedules"], {}, lambda rows: None)


def declare_schedules(
    queries: Queries, owner: str, fingerprint: str, worker_id: int | None, tasks: Sequence[str], entries: str
) -> Statement[list[tuple[str | None, str]]]:
    """Tell the database what an application's code declares; returns (schedule, what happened to it).

    A single (None, "older") says that newer code declared something else, and that nothing was changed.
    """
    return Statement(
        queries["declare_schedules"],
        {
            "owner": owner,
            "fingerprint": fingerprint,
            "worker_id": worker_id,
            "tasks": list(tasks),
            "entries": entries,
        },
        lambda rows: [(row[0], row[1]) for row in rows],
    )


def upsert_schedule(queries: Queries, definition: Mapping[str, Any]) -> Statement[int]:
    """Create a schedule or replace what it says; `definition` holds the parameters of the query upsert_schedule."""
    return Statement(queries["upsert_schedule"], dict(definition), lambda rows: int(rows[0][0]))


def pause_schedule(queries: Queries, name: str) -> Statement[bool]:
    """Pause a schedule; False: there is none of this name."""
    return Statement(queries["pause_schedule"], {"name": name}, _first)


def resume_schedule(queries: Queries, name: str) -> Statement[bool]:
    """Resume a schedule; False: there is none of this name."""
    return Statement(queries["resume_schedule"], {"name": name}, _first)


def remove_schedule(queries: Queries, name: str) -> Statement[bool]:
    """Remove a schedule; False: there is none of this name."""
    return Statement(queries["remove_schedule"], {"name": name}, _first)


def run_schedule(queries: Queries, name: str) -> Statement[str | None]:
    """Enqueue a schedule's job now; its id, None when there is no schedule of this name."""
    return Statement(queries["run_schedule"], {"name": name}, _first)


def list_schedules(queries: Queries, name: str | None = None, owner: str | None = None) -> Statement[list[ScheduleRow]]:
    """Return schedules in the order of their names: one, those of one application, or all."""
    return Statement(
        queries["list_schedules"],
        {"name": name, "owner": owner},
        lambda rows: [ScheduleRow._make(row) for row in rows],
    )


def schedule_history(queries: Queries, schedule_id: int, limit: int) -> Statement[list[TickRow]]:
    """Return the newest ticks of a schedule that were dealt with."""
    return Statement(
        queries["schedule_history"],
        {"id": schedule_id, "limit": limit},
        lambda rows: [TickRow._make(row) for row in rows],
    )


def noted_ticks(queries: Queries, schedule_id: int, ticks: Sequence[datetime]) -> Statement[set[datetime]]:
    """Return which of these ticks were dealt with."""
    return Statement(
        queries["noted_ticks"], {"id": schedule_id, "ticks": list(ticks)}, lambda rows: {row[0] for row in rows}
    )


def prune_ticks(queries: Queries, age_seconds: float) -> Statement[None]:
    """Forget ticks that were dealt with longer ago than `age_seconds`."""
    return Statement(queries["prune_ticks"], {"age": age_seconds}, lambda rows: None)
