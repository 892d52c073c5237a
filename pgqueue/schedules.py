"""app.schedules: schedules as rows, looked at and edited from Python."""

import json
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, NamedTuple, TypeVar

from pgqueue.client import Client
from pgqueue.codec import decode_args, decode_kwargs
from pgqueue.config import Conf
from pgqueue.definitions import Definitions, checked
from pgqueue.enrolment import Participant, aenlist, enlist
from pgqueue.errors import UnknownSchedule, UnknownTask, ValidationError
from pgqueue.option_values import instant
from pgqueue.recurrence import Timing, crontab, schedule, solar, timing_of
from pgqueue.results import AsyncResult
from pgqueue.store.database import Database
from pgqueue.store.schedules import (
    ScheduleRow,
    TickRow,
    fire_ticks,
    list_schedules,
    noted_ticks,
    pause_schedule,
    remove_schedule,
    resume_schedule,
    run_schedule,
    schedule_history,
    upsert_schedule,
)
from pgqueue.store.statement import Queries, Statement
from pgqueue.task import Task
from pgqueue.zones import zone_of

__all__ = ["Backfill", "Schedule", "Schedules", "crontab", "schedule", "solar", "timing_of"]

R = TypeVar("R")
_MICROSECOND = timedelta(microseconds=1)

BACKFILL_BATCH = 1_000
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


class Schedules:
    """The schedules of a database, for one application.

    Args:
        conf: the settings.
        client: checks calls.
        tasks: the registry.
        database: returns the pooled connections.
    """

    def __init__(
        self, conf: Conf, client: Client, tasks: Mapping[str, Task[..., Any]], database: Callable[[], Database]
    ) -> None:
        self._client = client
        self._database = database
        self.definitions = Definitions(conf, client, tasks)

    # edits

    def upsert(
        self,
        name: str,
        *,
        task: str | Task[..., Any],
        schedule: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        connection: Any = None,
        **details: Any,
    ) -> None:
        """Create a schedule, or replace what it says. It takes effect at once, with the transaction it takes part in.

        Args:
            name: of the schedule, 1 to 255 characters.
            task: or its name.
            schedule: cron text, seconds or timedelta, datetime (one tick), crontab(), schedule() or solar().
            args, kwargs: of each call.
            options: of apply_async, but for those that name a single job; kept as they are now, routes included.
            connection: of a transaction to take part in; default as in apply_async.
            **details: timezone (default: the setting), start_at, end_at (datetimes), jitter (0 s), catch_up ("skip",
                "one" or "all"; default "one"), catch_up_limit (100), starting_deadline (seconds, None), overlap
                ("allow", "skip" or "queue"; default "allow"), enabled (None: as it is, at first True), check_task
                (True).

        Raises:
            ValidationError: a value is wrong; the message begins with the field.
            UnknownTask: the task is registered neither here nor by any worker, and check_task is not False.
        """
        statement = self._upsert(name, task, schedule, args, kwargs, options, details)
        self._run(statement, self._client.participant(connection))

    async def aupsert(
        self,
        name: str,
        *,
        task: str | Task[..., Any],
        schedule: Any,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        connection: Any = None,
        **details: Any,
    ) -> None:
        """upsert() for async code."""
        statement = self._upsert(name, task, schedule, args, kwargs, options, details)
        await self._arun(statement, self._client.participant(connection))

    def pause(self, name: str) -> None:
        """Let a schedule tick no more until resume(); deployments do not resume it. UnknownSchedule: there is none."""
        self._edit(name, self._run(pause_schedule(self._queries, name), self._client.participant()))

    async def apause(self, name: str) -> None:
        """pause() for async code."""
        self._edit(name, await self._arun(pause_schedule(self._queries, name), self._client.participant()))

    def resume(self, name: str) -> None:
        """Let a schedule tick again, from now on. UnknownSchedule: there is none."""
        self._edit(name, self._run(resume_schedule(self._queries, name), self._client.participant()))

    async def aresume(self, name: str) -> None:
        """resume() for async code."""
        self._edit(name, await self._arun(resume_schedule(self._queries, name), self._client.participant()))

    def remove(self, name: str) -> None:
        """Delete a schedule; its jobs stay. One that code declares comes back with the next worker's start."""
        self._edit(name, self._run(remove_schedule(self._queries, name), self._client.participant()))

    async def aremove(self, name: str) -> None:
        """remove() for async code."""
        self._edit(name, await self._arun(remove_schedule(self._queries, name), self._client.participant()))

    def run(self, name: str) -> AsyncResult[Any]:
        """Enqueue a schedule's job now, beside its ticks. UnknownSchedule: there is none."""
        participant = self._client.participant()
        return self._ran(name, self._run(run_schedule(self._queries, name), participant), participant)

    async def arun(self, name: str) -> AsyncResult[Any]:
        """run() for async code."""
        participant = self._client.participant()
        return self._ran(name, await self._arun(run_schedule(self._queries, name), participant), participant)

    # looks

    def get(self, name: str) -> Schedule:
        """Return a schedule. UnknownSchedule: there is none of this name."""
        return _only(name, self._run(list_schedules(self._queries, name)))

    async def aget(self, name: str) -> Schedule:
        """get() for async code."""
        return _only(name, await self._arun(list_schedules(self._queries, name)))

    def list(self, owner: str | None = None) -> Sequence[Schedule]:
        """Return all schedules in the order of their names, or those that one application declares."""
        return _all_shown(self._run(list_schedules(self._queries, None, owner)))

    async def alist(self, owner: str | None = None) -> Sequence[Schedule]:
        """list() for async code."""
        return _all_shown(await self._arun(list_schedules(self._queries, None, owner)))

    def history(self, name: str, limit: int = 20) -> Sequence[TickRow]:
        """Return the newest ticks of a schedule that were dealt with, and what became of their jobs."""
        row = self._row(name)
        return self._run(schedule_history(self._queries, row.id, limit))

    async def ahistory(self, name: str, limit: int = 20) -> Sequence[TickRow]:
        """history() for async code."""
        row = await self._arow(name)
        return await self._arun(schedule_history(self._queries, row.id, limit))

    # backfill

    def backfill(
        self,
        name: str,
        begin: datetime,
        end: datetime,
        *,
        dry_run: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> Backfill:
        """Enqueue the jobs of past ticks that were not dealt with, each once, however often this is called.

        Args:
            name: of the schedule; its timing is taken as it is now.
            begin, end: the stretch, both included; naive instants are in the schedule's time zone. The future is left
            out. dry_run: only count.
            on_progress: called after each batch with the ticks looked at and the jobs enqueued so far.

        Raises:
            UnknownSchedule: there is none of this name.
            ValidationError: end is before begin, or there are more than 100,000 ticks.
        """
        row = self._row(name)
        ticks = self._past_ticks(row, begin, end)
        enqueued = 0
        for start in range(0, len(ticks), BACKFILL_BATCH):
            batch = ticks[start : start + BACKFILL_BATCH]
            if dry_run:
                enqueued += len(batch) - len(self._run(noted_ticks(self._queries, row.id, batch)))
            else:
                enqueued += self._run(fire_ticks(self._queries, row.id, batch))
            if on_progress is not None:
                on_progress(start + len(batch), enqueued)
        return Backfill(len(ticks), enqueued)

    async def abackfill(
        self,
        name: str,
        begin: datetime,
        end: datetime,
        *,
        dry_run: bool = False,
        on_progress: Callable[[int, int], object] | None = None,
    ) -> Backfill:
        """backfill() for async code."""
        row = await self._arow(name)
        ticks = self._past_ticks(row, begin, end)
        enqueued = 0
        for start in range(0, len(ticks), BACKFILL_BATCH):
            batch = ticks[start : start + BACKFILL_BATCH]
            if dry_run:
                noted = await self._arun(noted_ticks(self._queries, row.id, batch))
                enqueued += len(batch) - len(noted)
            else:
                enqueued += await self._arun(fire_ticks(self._queries, row.id, batch))
            if on_progress is not None:
                on_progress(start + len(batch), enqueued)
        return Backfill(len(ticks), enqueued)

    def _past_ticks(self, row: ScheduleRow, begin: datetime, end: datetime) -> Sequence[datetime]:
        zone = checked("timezone", zone_of, row.timezone)
        begin, end = checked("from", instant, begin, zone), checked("to", instant, end, zone)
        if begin > row.now:
            raise ValidationError("from: it is in the future; ticks that come are enqueued by themselves")
        if end < begin:
            raise ValidationError("to: it is before from")
        if row.timing.every is not None and row.timing.start_at is None and row.anchor_at == row.created_at:
            begin = max(begin, row.created_at + _MICROSECOND)  # the first tick is one interval later
        found = []
        for tick in row.timing.ticks(begin - _MICROSECOND, min(end, row.now)):
            found.append(tick)
            if len(found) > BACKFILL_LIMIT:
                raise ValidationError(f"from, to: there are more than {BACKFILL_LIMIT:,} ticks; take shorter stretches")
        return found

    # making statements

    def _upsert(
        self,
        name: str,
        task: str | Task[..., Any],
        every: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any] | None,
        details: Mapping[str, Any],
    ) -> Statement[int]:
        definition = self.definitions.definition(name, task, every, args, kwargs, options, details)
        return upsert_schedule(self._queries, definition)

    # running statements

    @property
    def _queries(self) -> Queries:
        return self._database().queries

    def _row(self, name: str) -> ScheduleRow:
        rows = self._run(list_schedules(self._queries, name))
        _only(name, rows)
        return rows[0]

    async def _arow(self, name: str) -> ScheduleRow:
        rows = await self._arun(list_schedules(self._queries, name))
        _only(name, rows)
        return rows[0]

    def _run(self, statement: Statement[R], participant: Participant | None = None) -> R:
        try:
            if participant is not None:
                return enlist(participant, self._queries, statement)
            return self._database().run(statement)
        except Exception as error:
            raise _refused(error) from error

    async def _arun(self, statement: Statement[R], participant: Participant | None = None) -> R:
        waiting: Awaitable[R]
        try:
            if participant is not None:
                waiting = aenlist(participant, self._queries, statement)
            else:
                waiting = self._database().arun(statement)
            return await waiting
        except Exception as error:
            raise _refused(error) from error

    def _edit(self, name: str, found: bool) -> None:
        if not found:
            raise UnknownSchedule(f"there is no schedule {name!r}")

    def _ran(self, name: str, job_id: str | None, participant: Participant | None) -> AsyncResult[Any]:
        if job_id is None:
            raise UnknownSchedule(f"there is no schedule {name!r}")
        return AsyncResult.of_enqueued(job_id, job_id, self._client.results, participant)


def _all_shown(rows: list[ScheduleRow]) -> list[Schedule]:
    return [_shown(row) for row in rows]


def _only(name: str, rows: list[ScheduleRow]) -> Schedule:
    if not rows:
        raise UnknownSchedule(f"there is no schedule {name!r}")
    return _shown(rows[0])


def _shown(row: ScheduleRow) -> Schedule:
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


def _refused(error: Exception) -> Exception:
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
