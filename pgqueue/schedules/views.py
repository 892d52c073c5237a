"""Schedules as users see them: made of rows, asked for by names, and what the database refuses in the user's words."""

import json
from datetime import datetime
from typing import Any, NamedTuple

from pgqueue.codec import decode_args, decode_kwargs
from pgqueue.errors import UnknownSchedule, UnknownTask, ValidationError
from pgqueue.options.values import short
from pgqueue.store.schedules import ScheduleRow
from pgqueue.timing.recurrence import Timing

__all__ = ["BACKFILL_LIMIT", "Backfill", "Schedule", "all_shown", "known_text", "limit_of", "only", "refused", "shown"]

BACKFILL_LIMIT = 100_000


class Schedule(NamedTuple):
    """A schedule as it is kept.

    Attributes:
        name, task, args, kwargs, options: what is enqueued.
        timing: when; str(timing.described()) for people.
        catch_up, catch_up_limit, starting_deadline, overlap: policies; seconds.
        jitter: seconds.
        enabled, pause_reason, problem: whether it ticks, and why not.
        owner: the application whose code declares it.
        next_run_at, last_run_at: ticks, in UTC.
        last_job_id: of the newest job.
    """

    name: str
    task: str
    args: list[Any]
    kwargs: dict[str, Any]
    options: dict[str, Any]
    timing: Timing
    catch_up: str
    catch_up_limit: int
    starting_deadline: float | None
    overlap: str
    jitter: float
    enabled: bool
    pause_reason: str | None
    problem: str | None
    owner: str | None
    next_run_at: datetime | None
    last_run_at: datetime | None
    last_job_id: str | None
    created_at: datetime
    updated_at: datetime


class Backfill(NamedTuple):
    """What a backfill did: how many ticks lie in the stretch, and how many of them got a job."""

    ticks: int
    enqueued: int


def known_text(name: object) -> str:
    """A name that can be looked for: ValidationError when it is no text, UnknownSchedule when none can be called so."""
    if not isinstance(name, str):
        raise ValidationError(f"name: expected a text, got {short(name)}")
    if "\0" in name or any("\ud800" <= character <= "\udfff" for character in name):
        raise UnknownSchedule(f"there is no schedule {short(name)}")
    return name


def limit_of(value: Any) -> int:
    """How many ticks are asked for; ValueError unless 1 to 100,000."""
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= BACKFILL_LIMIT:
        raise ValueError(f"expected a whole number from 1 to {BACKFILL_LIMIT:,}, got {short(value)}")
    return value


def all_shown(rows: list[ScheduleRow]) -> list[Schedule]:
    """Rows as users see them."""
    return [shown(row) for row in rows]


def only(name: str, rows: list[ScheduleRow]) -> Schedule:
    """The one row that was asked for by a name; UnknownSchedule when there is none."""
    if not rows:
        raise UnknownSchedule(f"there is no schedule {short(name)}")
    return shown(rows[0])


def shown(row: ScheduleRow) -> Schedule:
    """A row as users see it."""
    next_run_at = row.next_run_at
    if next_run_at is None and row.enabled and row.problem is None:
        # No scheduler has looked at it since its last edit.
        try:
            next_run_at = row.timing.next_after(max(row.plan_from, row.last_run_at or row.plan_from))
        except (ValueError, KeyError, OSError, ImportError):
            next_run_at = None
    return Schedule(
        row.name,
        row.task,
        decode_args(row.args),
        decode_kwargs(row.kwargs),
        json.loads(row.options),
        row.timing,
        row.catch_up,
        row.catch_up_limit,
        row.starting_deadline,
        row.overlap,
        row.jitter,
        row.enabled,
        row.pause_reason,
        row.problem,
        row.owner,
        next_run_at,
        row.last_run_at,
        row.last_job_id,
        row.created_at,
        row.updated_at,
    )


def refused(error: Exception) -> Exception:
    """What the database's refusal of a value means here; another error as it is."""
    cause: Any = getattr(error, "orig", None) or error
    if (getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)) not in ("22023", "22P02", "22007", "22008"):
        return error
    diagnostics = getattr(cause, "diag", None)
    message = str(getattr(diagnostics, "message_primary", None) or cause).splitlines()[0]
    if message.startswith("task: "):
        return UnknownTask(
            f"{message}; check its spelling, start its worker first, or pass check_task=False (--unchecked)"
        )
    return ValidationError(message.replace("once_at: ", "schedule: ", 1) if message.startswith("once_at") else message)
