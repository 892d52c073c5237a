"""Jobs and workflows on their way into a transaction of their own.

Where a connection breaks in the middle, the same job is sent once more under its id, which the database takes once
only: nothing is lost, nothing doubled.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import psycopg
from psycopg import errors

from pgqueue.errors import DatabaseUnavailable, DuplicateJob, EnqueueError, GraphError, UnknownCommit
from pgqueue.graph import NewWorkflow
from pgqueue.job import NewJob
from pgqueue.store.database import Database, translate
from pgqueue.store.jobs import insert_job
from pgqueue.store.statement import Statement, arun, run

__all__ = ["adeliver", "adeliver_workflow", "deliver", "deliver_workflow", "refusals"]


def deliver(database: Database, job: NewJob) -> bool:
    """Insert a job in a transaction of its own; False when the caller's id is taken."""
    connection = database.take()
    try:
        cursor = connection.execute(database.queries["insert_job"], job)
        inserted = not job[14] or bool((cursor.fetchone() or (False,))[0])
    except psycopg.Error as error:
        lost = connection.closed
        database.pool.give_checked(connection)
        if not lost:
            raise (translate(error, database.queries.schema) or error) from error
        first = error
    except BaseException:
        database.pool.give_checked(connection)
        raise
    else:
        database.pool.give(connection)
        return inserted
    database.pool.drop_idle()
    try:
        inserted = database.run(insert_job(database.queries, job._replace(own_id=True)))
    except DatabaseUnavailable as error:
        raise _unknown(f"job {job.id}", f"; sent again with task_id={job.id!r} it is never doubled", first) from error
    return _settled(job, inserted, first)


async def adeliver(database: Database, job: NewJob) -> bool:
    """deliver() for async code."""
    pool, _ = database.loop_pools()
    connection = await database.atake()
    try:
        cursor = await connection.execute(database.queries["insert_job"], job)
        return not job[14] or bool((await cursor.fetchone() or (False,))[0])
    except psycopg.Error as error:
        if not connection.closed:
            raise (translate(error, database.queries.schema) or error) from error
        first = error
    finally:
        pool.give(connection)
    pool.drop_idle()
    try:
        inserted = await database.arun(insert_job(database.queries, job._replace(own_id=True)))
    except DatabaseUnavailable as error:
        raise _unknown(f"job {job.id}", f"; sent again with task_id={job.id!r} it is never doubled", first) from error
    return _settled(job, inserted, first)


def deliver_workflow(database: Database, workflow: NewWorkflow, statement: Statement[None]) -> None:
    """Insert a workflow, or more steps for one, in a transaction of its own."""
    connection = database.take()
    try:
        with refusals(workflow):
            run(connection, statement)
        return
    except psycopg.Error as error:
        if not connection.closed:
            raise (translate(error, database.queries.schema) or error) from error
        first = error
    finally:
        database.pool.give_checked(connection)
    database.pool.drop_idle()
    try:
        database.run(statement)
    except errors.UniqueViolation:
        return  # the first try had succeeded: ids are random
    except DatabaseUnavailable as error:
        raise _unknown(f"workflow {workflow.id}", "", first) from error


async def adeliver_workflow(database: Database, workflow: NewWorkflow, statement: Statement[None]) -> None:
    """deliver_workflow() for async code."""
    pool, _ = database.loop_pools()
    connection = await database.atake()
    try:
        with refusals(workflow):
            await arun(connection, statement)
        return
    except psycopg.Error as error:
        if not connection.closed:
            raise (translate(error, database.queries.schema) or error) from error
        first = error
    finally:
        pool.give(connection)
    pool.drop_idle()
    try:
        await database.arun(statement)
    except errors.UniqueViolation:
        return
    except DatabaseUnavailable as error:
        raise _unknown(f"workflow {workflow.id}", "", first) from error


@contextmanager
def refusals(workflow: NewWorkflow) -> Iterator[None]:
    """Say what the database's refusal of a workflow means."""
    try:
        yield
    except (psycopg.Error, EnqueueError) as error:
        cause = error if isinstance(error, psycopg.Error) else error.__cause__
        if isinstance(cause, errors.InvalidParameterValue):
            raise GraphError(cause.diag.message_primary or str(cause)) from error
        if isinstance(cause, errors.UniqueViolation) and cause.diag.constraint_name == "workflows_pkey":
            raise DuplicateJob(
                f"task_id: {workflow.id} is the id of a group or workflow that is kept already; nothing was enqueued",
                workflow.id,
            ) from error
        own = [step.job.id for step in workflow.steps if step.job.own_id]
        if isinstance(cause, errors.UniqueViolation) and own:
            raise DuplicateJob(
                f"task_id: one of {', '.join(own[:5])} is the id of a job that is kept already; nothing was enqueued",
                own[0],
            ) from error
        raise


def _unknown(what: str, way_out: str, first: BaseException) -> UnknownCommit:
    return UnknownCommit(
        f"the connection broke while {what} was being committed ({' '.join(str(first).split())}), and the"
        f" database cannot be reached: it may or may not exist{way_out}"
    )


def _settled(job: NewJob, inserted: bool, first: BaseException) -> bool:
    """After a second attempt under the same id: a job that is there was inserted by the first, if the id is ours."""
    if inserted or not job.own_id:
        return True
    raise UnknownCommit(
        f"the connection broke while job {job.id} was being committed ({' '.join(str(first).split())}): a job of this"
        " id exists now, and whether this call or an earlier one made it is unknown"
    )
