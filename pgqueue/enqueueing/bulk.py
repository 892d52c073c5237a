"""enqueue_many: many jobs in one statement, all or none."""

from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import psycopg

from pgqueue.canvas.signatures import Signature
from pgqueue.codec import encode_call
from pgqueue.enqueueing.client import Client
from pgqueue.enqueueing.enrolment import Participant, aenlist, enlist
from pgqueue.enqueueing.preparing import ancestry
from pgqueue.errors import (
    DatabaseUnavailable,
    DuplicateJob,
    LimitExceeded,
    PgQueueError,
    UnknownCommit,
    ValidationError,
)
from pgqueue.job import new_job_ids
from pgqueue.results.result import AsyncResult
from pgqueue.store.claims import finished_attempts
from pgqueue.store.database import Database, translate
from pgqueue.store.jobs import Common, Row, insert_rows, row_of, take_back_jobs, taken_ids
from pgqueue.store.statement import Queries, Statement, arun, run
from pgqueue.tasks.task import Task

__all__ = ["MAX_BYTES", "MAX_JOBS", "aenqueue_many", "enqueue_many"]

MAX_JOBS = 1_000_000
MAX_BYTES = 512 * 1024 * 1024

_TOO_MUCH = (
    f"more than {MAX_JOBS:,} jobs, or {MAX_BYTES >> 20} MiB of arguments, up to here in one call;"
    " enqueue fewer at a time, inside one transaction if they belong together"
)
C = TypeVar("C")


class _Batch:
    """The jobs of one call, checked and encoded."""

    def __init__(self, client: Client, signatures: Iterable[Signature[Any]]) -> None:
        self._client = client
        self.rows: list[Row] = []
        self.given: dict[int, tuple[str, str]] = {}  # place -> (task_id, job id) that the caller chose
        size = index = 0
        task: Task[..., Any] | None = None
        name, common = "", cast(Common, ())
        try:
            for index, one in enumerate(signatures):
                if type(one) is not Signature:
                    kind = type(one).__name__
                    way_out = "; send it by itself: its apply_async()" if isinstance(one, Signature) else ""
                    raise ValidationError(f"expected a signature such as task.s(1), got {kind}{way_out}")
                if one.task != name:
                    name, task = one.task, client.simple_task(one.task)
                    if task is not None:
                        plan = task.plan
                        common = (name, plan.queue, plan.priority, None, None, None, None, plan.expires_in, None)
                if task is None or one.options:
                    row = self._with_options(index, one)
                else:
                    task.fits(one.args, one.kwargs)
                    row = (common, *encode_call(one.args, one.kwargs))
                self.rows.append(row)
                size += len(row[1] or "") + len(row[2] or "") + len(row[0][3] or "")
                if size > MAX_BYTES or index >= MAX_JOBS:
                    raise LimitExceeded(_TOO_MUCH)
        except PgQueueError as error:
            raise _at(index, error) from error
        self.ids = new_job_ids(len(self.rows))
        for place, (_, job_id) in self.given.items():
            self.ids[place] = job_id
        self.own_ids = [job_id for _, job_id in self.given.values()]
        self._refuse_twins()

    def _with_options(self, index: int, one: Signature[Any]) -> Row:
        for name in ("connection", "on_duplicate"):
            if one.options.get(name) is not None:
                raise ValidationError(f"{name}: all jobs of one call share it; leave it out of the signature")
        if one.options.get("link") or one.options.get("link_error"):
            raise ValidationError("link: a call with callbacks is a workflow; send it by itself, or in a group")
        prepared = self._client.prepare(one.task, one.args, one.kwargs, one.options)
        if prepared.job.own_id:
            self.given[index] = (prepared.task_id, prepared.job.id)
        return row_of(prepared.job)

    def _refuse_twins(self) -> None:
        seen: set[str] = set()
        for place, (task_id, job_id) in self.given.items():
            if job_id in seen:
                raise DuplicateJob(f"signature {place}: its task_id {task_id!r} is used twice", task_id)
            seen.add(job_id)

    def results(self, participant: Participant | None) -> list[AsyncResult[Any]]:
        source, of_enqueued = self._client.results, AsyncResult.of_enqueued
        found: list[AsyncResult[Any]] = [of_enqueued(job_id, job_id, source, participant) for job_id in self.ids]
        for place, (task_id, job_id) in self.given.items():
            found[place] = of_enqueued(task_id, job_id, source, participant)
        return found

    def taken(self, ids: Iterable[str]) -> DuplicateJob:
        """The error for ids that are taken."""
        found = set(ids)
        for place, (task_id, job_id) in self.given.items():
            if job_id in found:
                return DuplicateJob(
                    f"signature {place}: a job {task_id!r} is kept already; nothing was enqueued", task_id
                )
        return DuplicateJob("these jobs are kept already")

    def insert(self, queries: Queries) -> Statement[int]:
        """The statement that inserts all of them."""
        return insert_rows(queries, self.ids, self.rows, *ancestry())


def _at(index: int, error: PgQueueError) -> PgQueueError:
    return type(error)(f"signature {index}: {error}")


Steps = Generator[Statement[Any], Any, None]


def _steps(queries: Queries, batch: _Batch, checked: list[str]) -> Steps:
    """The statements of one call: each is yielded to be run, and its answer sent back.

    Ids that the caller chose are looked up before and, among finished jobs, once more after the insert, which by then
    keeps everybody else from using them.
    """
    if checked:
        taken = yield taken_ids(queries, checked)
        if taken:
            raise batch.taken(taken)
    yield batch.insert(queries)
    if checked:
        finished = yield finished_attempts(queries, checked)
        if finished:
            yield take_back_jobs(queries, batch.ids)
            raise batch.taken(finished)


def _walk(steps: Steps, execute: Callable[[Statement[Any]], Any]) -> None:
    answer = None
    while True:
        try:
            statement = steps.send(answer)
        except StopIteration:
            return
        answer = execute(statement)


async def _awalk(steps: Steps, execute: Callable[[Statement[Any]], Awaitable[Any]]) -> None:
    answer = None
    while True:
        try:
            statement = steps.send(answer)
        except StopIteration:
            return
        answer = await execute(statement)


def enqueue_many(client: Client, signatures: Iterable[Signature[Any]], connection: Any) -> list[AsyncResult[Any]]:
    """Enqueue many jobs in one statement; see PgQueue.enqueue_many."""
    if client.is_eager():
        return [one.apply_async() for one in signatures]
    batch = _Batch(client, signatures)
    if not batch.rows:
        return []
    participant = client.participant(connection)
    database = client.results.database
    if participant is None:
        _deliver(database, batch)
    else:
        steps = _steps(database.queries, batch, batch.own_ids)
        _walk(steps, lambda statement: enlist(participant, database.queries, statement))
    return batch.results(participant)


async def aenqueue_many(
    client: Client, signatures: Iterable[Signature[Any]], connection: Any
) -> list[AsyncResult[Any]]:
    """enqueue_many() for async code."""
    if client.is_eager():
        return [await one.aapply_async() for one in signatures]
    batch = _Batch(client, signatures)
    if not batch.rows:
        return []
    participant = client.participant(connection)
    database = client.results.database
    if participant is None:
        await _adeliver(database, batch)
    else:
        steps = _steps(database.queries, batch, batch.own_ids)
        await _awalk(steps, lambda statement: aenlist(participant, database.queries, statement))
    return batch.results(participant)


def _deliver(database: Database, batch: _Batch) -> None:
    """Insert in a transaction of its own; after a lost connection once more, which finds what the first try did."""
    first: psycopg.Error | None = None
    while True:
        checked = batch.own_ids if first is None else batch.ids
        connection = _take(database.take, first)
        try:
            with connection.transaction() if checked else nullcontext():
                _walk(_steps(database.queries, batch, checked), partial(run, connection))
            return
        except (psycopg.Error, DuplicateJob) as error:
            if not _again(error, connection.closed, first, batch, database):
                return
            first = cast(psycopg.Error, error)
        finally:
            database.pool.give_checked(connection)
        database.pool.drop_idle()


async def _adeliver(database: Database, batch: _Batch) -> None:
    """_deliver() for async code."""
    pool, _ = database.loop_pools()
    first: psycopg.Error | None = None
    while True:
        checked = batch.own_ids if first is None else batch.ids
        try:
            connection = await database.atake()
        except DatabaseUnavailable as error:
            raise (error if first is None else _unknown(first)) from error
        try:
            async with connection.transaction() if checked else nullcontext():
                await _awalk(_steps(database.queries, batch, checked), partial(arun, connection))
            return
        except (psycopg.Error, DuplicateJob) as error:
            if not _again(error, connection.closed, first, batch, database):
                return
            first = cast(psycopg.Error, error)
        finally:
            pool.give(connection)
        pool.drop_idle()


def _take(take: Callable[[], C], first: psycopg.Error | None) -> C:
    try:
        return take()
    except DatabaseUnavailable as error:
        raise (error if first is None else _unknown(first)) from error


def _again(
    error: psycopg.Error | DuplicateJob, lost: bool, first: psycopg.Error | None, batch: _Batch, database: Database
) -> bool:
    """Whether to send a batch once more after an error; False: the first try had succeeded. Else raises."""
    taken = isinstance(error, DuplicateJob | psycopg.errors.UniqueViolation)
    if first is None:
        if lost:
            return True
        if isinstance(error, DuplicateJob):
            raise error
        if taken:
            raise DuplicateJob("one of the task_ids was taken meanwhile; nothing was enqueued") from error
    elif taken and not batch.own_ids:
        return False
    elif taken or lost:
        raise _unknown(first) from error
    assert isinstance(error, psycopg.Error)  # noqa: S101 - the other kind was dealt with
    raise (translate(error, database.queries.schema) or error) from error


def _unknown(first: BaseException) -> UnknownCommit:
    return UnknownCommit(
        f"the connection broke while the jobs were being committed ({' '.join(str(first).split())}): all of them exist,"
        " or none does"
    )
