"""enqueue_many: many jobs in one statement, all or none."""

from collections.abc import Awaitable, Callable, Generator, Iterable
from contextlib import nullcontext
from functools import partial
from typing import Any, TypeVar, cast

import psycopg

from pgqueue.client import Client, Prepared
from pgqueue.enrolment import Participant, aenlist, enlist
from pgqueue.errors import (
    DatabaseUnavailable,
    DuplicateJob,
    LimitExceeded,
    PgQueueError,
    UnknownCommit,
    ValidationError,
)
from pgqueue.job import NewJob
from pgqueue.results import AsyncResult, Results
from pgqueue.signature import Signature
from pgqueue.store.claims import finished_attempts
from pgqueue.store.database import Database, translate
from pgqueue.store.jobs import insert_jobs, take_back_jobs, taken_ids
from pgqueue.store.statement import Queries, Statement, arun, run

__all__ = ["MAX_BYTES", "MAX_JOBS", "aenqueue_many", "enqueue_many"]

MAX_JOBS = 1_000_000
MAX_BYTES = 512 * 1024 * 1024

C = TypeVar("C")


class _Batch:
    """The jobs of one call, checked and encoded."""

    def __init__(self, client: Client, signatures: Iterable[Signature[Any]]) -> None:
        self.jobs: list[NewJob] = []
        self.task_ids: list[str] = []
        self.own_ids: list[str] = []
        size = 0
        for index, one in enumerate(signatures):
            try:
                prepared = _prepared(client, one)
            except PgQueueError as error:
                raise _at(index, error) from error
            job = prepared.job
            self.jobs.append(job)
            self.task_ids.append(prepared.task_id)
            if job[14]:
                self.own_ids.append(job.id)
            size += len(job[4] or "") + len(job[5] or "") + len(job[6] or "")
            if size > MAX_BYTES:
                raise LimitExceeded(
                    f"signature {index}: the arguments up to here take more than {MAX_BYTES >> 20} MiB;"
                    " enqueue fewer at a time, inside one transaction if they belong together"
                )
            if index >= MAX_JOBS:
                raise LimitExceeded(
                    f"signature {index}: more than {MAX_JOBS:,} jobs in one call;"
                    " enqueue fewer at a time, inside one transaction if they belong together"
                )
        if len(set(self.own_ids)) < len(self.own_ids):
            seen: set[str] = set()
            index = next(i for i, job in enumerate(self.jobs) if job.id in seen or seen.add(job.id))  # type: ignore[func-returns-value] # set.add gives None
            raise DuplicateJob(
                f"signature {index}: its task_id {self.task_ids[index]!r} is used twice", self.task_ids[index]
            )

    def results(self, source: Results, participant: Participant | None) -> list[AsyncResult[Any]]:
        of_enqueued = AsyncResult.of_enqueued
        return [
            of_enqueued(task_id, job[0], source, participant)
            for task_id, job in zip(self.task_ids, self.jobs, strict=True)
        ]

    def taken(self, ids: list[str]) -> DuplicateJob:
        index = next(i for i, job in enumerate(self.jobs) if job.id == ids[0])
        return DuplicateJob(
            f"signature {index}: a job {self.task_ids[index]!r} is kept already; nothing was enqueued",
            self.task_ids[index],
        )


def _prepared(client: Client, one: Any) -> Prepared:
    if not isinstance(one, Signature):
        raise ValidationError(f"expected a signature such as task.s(1), got {type(one).__name__}")
    if one.options:
        for name in ("connection", "on_duplicate"):
            if one.options.get(name) is not None:
                raise ValidationError(f"{name}: all jobs of one call share it; leave it out of the signature")
        return client.prepare(one.task, one.args, one.kwargs, one.options)
    return client.prepare_simple(one.task, one.args, one.kwargs)


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
    yield insert_jobs(queries, batch.jobs, batch.jobs[0].root_id, batch.jobs[0].parent_id)
    if checked:
        finished = yield finished_attempts(queries, checked)
        if finished:
            yield take_back_jobs(queries, [job.id for job in batch.jobs])
            raise batch.taken(list(finished))


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
    if not batch.jobs:
        return []
    participant = client.participant(connection)
    database = client.results.database
    if participant is None:
        _deliver(database, batch)
    else:
        steps = _steps(database.queries, batch, batch.own_ids)
        _walk(steps, lambda statement: enlist(participant, database.queries, statement))
    return batch.results(client.results, participant)


async def aenqueue_many(
    client: Client, signatures: Iterable[Signature[Any]], connection: Any
) -> list[AsyncResult[Any]]:
    """enqueue_many() for async code."""
    if client.is_eager():
        return [await one.aapply_async() for one in signatures]
    batch = _Batch(client, signatures)
    if not batch.jobs:
        return []
    participant = client.participant(connection)
    database = client.results.database
    if participant is None:
        await _adeliver(database, batch)
    else:
        steps = _steps(database.queries, batch, batch.own_ids)
        await _awalk(steps, lambda statement: aenlist(participant, database.queries, statement))
    return batch.results(client.results, participant)


def _deliver(database: Database, batch: _Batch) -> None:
    """Insert in a transaction of its own; after a lost connection once more, which finds what the first try did."""
    first: psycopg.Error | None = None
    while True:
        checked = batch.own_ids if first is None else [job.id for job in batch.jobs]
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
        checked = batch.own_ids if first is None else [job.id for job in batch.jobs]
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
