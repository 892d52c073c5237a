"""app.schedules: schedules as rows, looked at and edited from Python."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, TypeVar

from pgqueue.config.conf import Conf
from pgqueue.enqueueing.client import Client
from pgqueue.enqueueing.enrolment import Participant, aenlist, enlist
from pgqueue.errors import UnknownSchedule, ValidationError
from pgqueue.options.values import instant, short
from pgqueue.results.result import AsyncResult
from pgqueue.schedules.definitions import Definitions, checked
from pgqueue.schedules.views import BACKFILL_LIMIT, Backfill, Schedule, all_shown, known_text, limit_of, only, refused
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
from pgqueue.tasks.task import Task
from pgqueue.timing.zones import zone_of

__all__ = ["Schedules"]

R = TypeVar("R")
_MICROSECOND = timedelta(microseconds=1)

BACKFILL_BATCH = 1_000


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
        self._edit(name, self._run(pause_schedule(self._queries, known_text(name)), self._client.participant()))

    async def apause(self, name: str) -> None:
        """pause() for async code."""
        self._edit(name, await self._arun(pause_schedule(self._queries, known_text(name)), self._client.participant()))

    def resume(self, name: str) -> None:
        """Let a schedule tick again, from now on. UnknownSchedule: there is none."""
        self._edit(name, self._run(resume_schedule(self._queries, known_text(name)), self._client.participant()))

    async def aresume(self, name: str) -> None:
        """resume() for async code."""
        self._edit(name, await self._arun(resume_schedule(self._queries, known_text(name)), self._client.participant()))

    def remove(self, name: str) -> None:
        """Delete a schedule; its jobs stay. One that code declares comes back with the next worker's start."""
        self._edit(name, self._run(remove_schedule(self._queries, known_text(name)), self._client.participant()))

    async def aremove(self, name: str) -> None:
        """remove() for async code."""
        self._edit(name, await self._arun(remove_schedule(self._queries, known_text(name)), self._client.participant()))

    def run(self, name: str) -> AsyncResult[Any]:
        """Enqueue a schedule's job now, beside its ticks. UnknownSchedule: there is none."""
        participant = self._client.participant()
        return self._ran(name, self._run(run_schedule(self._queries, known_text(name)), participant), participant)

    async def arun(self, name: str) -> AsyncResult[Any]:
        """run() for async code."""
        participant = self._client.participant()
        return self._ran(
            name, await self._arun(run_schedule(self._queries, known_text(name)), participant), participant
        )

    # looks

    def get(self, name: str) -> Schedule:
        """Return a schedule. UnknownSchedule: there is none of this name."""
        return only(name, self._run(list_schedules(self._queries, known_text(name))))

    async def aget(self, name: str) -> Schedule:
        """get() for async code."""
        return only(name, await self._arun(list_schedules(self._queries, known_text(name))))

    def list(self, owner: str | None = None) -> Sequence[Schedule]:
        """Return all schedules in the order of their names, or those that one application declares."""
        return all_shown(self._run(list_schedules(self._queries, None, owner)))

    async def alist(self, owner: str | None = None) -> Sequence[Schedule]:
        """list() for async code."""
        return all_shown(await self._arun(list_schedules(self._queries, None, owner)))

    def history(self, name: str, limit: int = 20) -> Sequence[TickRow]:
        """Return the newest ticks of a schedule that were dealt with, and what became of their jobs.

        Raises:
            UnknownSchedule: there is none of this name.
            ValidationError: limit is not 1 to 100,000.
        """
        limit = checked("limit", limit_of, limit)
        row = self._row(name)
        return self._run(schedule_history(self._queries, row.id, limit))

    async def ahistory(self, name: str, limit: int = 20) -> Sequence[TickRow]:
        """history() for async code."""
        limit = checked("limit", limit_of, limit)
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
        rows = self._run(list_schedules(self._queries, known_text(name)))
        only(name, rows)
        return rows[0]

    async def _arow(self, name: str) -> ScheduleRow:
        rows = await self._arun(list_schedules(self._queries, known_text(name)))
        only(name, rows)
        return rows[0]

    def _run(self, statement: Statement[R], participant: Participant | None = None) -> R:
        try:
            if participant is not None:
                return enlist(participant, self._queries, statement)
            return self._database().run(statement)
        except Exception as error:
            raise refused(error) from error

    async def _arun(self, statement: Statement[R], participant: Participant | None = None) -> R:
        waiting: Awaitable[R]
        try:
            if participant is not None:
                waiting = aenlist(participant, self._queries, statement)
            else:
                waiting = self._database().arun(statement)
            return await waiting
        except Exception as error:
            raise refused(error) from error

    def _edit(self, name: str, found: bool) -> None:
        if not found:
            raise UnknownSchedule(f"there is no schedule {short(name)}")

    def _ran(self, name: str, job_id: str | None, participant: Participant | None) -> AsyncResult[Any]:
        if job_id is None:
            raise UnknownSchedule(f"there is no schedule {short(name)}")
        return AsyncResult.of_enqueued(job_id, job_id, self._client.results, participant)
