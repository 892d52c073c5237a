"""Transactional jobs: the task's work, its result and whatever it enqueues commit together, fenced.

The task runs inside a transaction on a connection of this process; the same transaction ends with the job's own
finish. Should the attempt no longer be this worker's, the finish matches no row, and all is rolled back.
"""

import asyncio
import contextlib
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from typing import Any, NoReturn, TypeVar, cast

import psycopg
from psycopg.pq import TransactionStatus

from pgqueue.app.application import PgQueue
from pgqueue.codec import encode_result
from pgqueue.enqueueing.enrolment import aexecute_on, execute_on
from pgqueue.errors import LeaseLost, PgQueueError, Replaced, SoftTimeLimitExceeded, TaskRevokedError
from pgqueue.request import Request, transaction_connection
from pgqueue.store.claims import finish_jobs
from pgqueue.store.connecting import connect_waiting, connection_problem
from pgqueue.store.statement import Statement
from pgqueue.store.workflows import replace_job
from pgqueue.tasks.task import Task
from pgqueue.worker.connections import PATIENCE_SECONDS, end_statement, hung_up
from pgqueue.worker.django import django_connection
from pgqueue.worker.interrupts import call_off
from pgqueue.worker.orm import (
    OWN_TIMEOUTS,
    SessionLost,
    django_scope,
    driver_error,
    sqlalchemy_async_scope,
    sqlalchemy_scope,
)
from pgqueue.worker.session import amind_poolers, mind_poolers

__all__ = ["PartitionMissing", "Transactions", "is_conflict"]

R = TypeVar("R")
logger = logging.getLogger("pgqueue.worker")

IDLE_SECONDS = 5.0
# Serialization failure and deadlock: PostgreSQL asks for the whole transaction to be run again.
_CONFLICTS = frozenset({"40001", "40P01"})

_REFUSED = (
    "a transactional task may not {what} its connection: the worker commits its work and its result together;"
    " use connection.transaction() for savepoints, or raise to roll back"
)


class PartitionMissing(Exception):
    """There is no partition in which to end the job; nothing was kept."""


class _TaskConnection(psycopg.Connection[Any]):
    """The connection a task sees: its transaction is the worker's to end."""

    server_started = ""

    def wait(self, gen: Generator[Any, Any, R], *args: Any, **options: Any) -> R:
        """Run a dialogue with the server; an interruption ends the statement there as well."""
        try:
            return super().wait(gen, *args, **options)
        except (SoftTimeLimitExceeded, TaskRevokedError):
            end_statement(self)
            raise

    def commit(self) -> NoReturn:
        raise PgQueueError(_REFUSED.format(what="commit"))

    def rollback(self) -> NoReturn:
        raise PgQueueError(_REFUSED.format(what="roll back"))


class _AsyncTaskConnection(psycopg.AsyncConnection[Any]):
    """The connection a coroutine sees: its transaction is the worker's to end."""

    server_started = ""

    async def wait(self, gen: Generator[Any, Any, R], *args: Any, **options: Any) -> R:
        """Run a dialogue with the server; a soft limit ends the statement there as well, and the session with it."""
        try:
            return await super().wait(gen, *args, **options)
        except SoftTimeLimitExceeded:
            if self.pgconn.transaction_status == TransactionStatus.ACTIVE:
                with contextlib.suppress(psycopg.Error):
                    await self.cancel_safe(timeout=PATIENCE_SECONDS)
                await self.close()
            raise

    async def commit(self) -> NoReturn:
        raise PgQueueError(_REFUSED.format(what="commit"))

    async def rollback(self) -> NoReturn:
        raise PgQueueError(_REFUSED.format(what="roll back"))


class Transactions:
    """Runs transactional tasks, on one connection per thread and one per running coroutine.

    Attributes:
        on_begin: called with a job's id, the process id of its session and the transaction that it has begun.
        server_started: when the server of the last transaction did, as the worker's other sessions know it.

    Args:
        app: where to connect.
        application_name: of the sessions; a rescuer ends the sessions of a dead worker by it.
    """

    def __init__(self, app: PgQueue, application_name: str) -> None:
        self._app = app
        self._application_name = application_name
        self.on_begin: Callable[[str, int, str], None] = lambda job_id, pid, xid: None
        self.server_started = ""
        self._local = threading.local()
        self._idle: list[tuple[_AsyncTaskConnection, float]] = []  # the one used last comes last
        # Coroutines are many, connections are few: the others wait here, before their transaction begins.
        self._free = asyncio.Semaphore(app.conf.pool_max_size)

    def run(
        self, job_id: str, token: int, task: Task[..., Any], request: Request, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        """Run a plain function and record its success in the transaction of its work.

        Raises:
            LeaseLost: the attempt was another's by then; nothing was kept.
            SessionLost: the server went away; nothing was kept, or, if that happened at COMMIT, perhaps all.
            PartitionMissing: to be made first; nothing was kept.
            Exception: what the task raised; nothing was kept.
        """
        with self._scope(task) as connection:
            started, mark = time.monotonic(), transaction_connection.set(connection)
            try:
                transaction_id = self._begun(job_id, execute_on(connection, self._begin()))
                try:
                    value = task.run(task, *args, **kwargs) if task.bind else task.run(*args, **kwargs)
                except Replaced as replaced:
                    end = self._replace(job_id, token, replaced)
                else:
                    result = None if request.ignore_result else encode_result(value)
                    end = self._finish(job_id, token, task, result, started)
                call_off.get()()
                self._check(connection)
                with _telling_missing_partitions():
                    ended = execute_on(connection, end)
                self._confirm(ended, transaction_id, job_id)
            finally:
                transaction_connection.reset(mark)

    async def arun(
        self, job_id: str, token: int, task: Task[..., Any], request: Request, args: list[Any], kwargs: dict[str, Any]
    ) -> None:
        """Run a coroutine and record its success in the transaction of its work; raises as run() does."""
        async with self._ascope(task) as connection:
            started, mark = time.monotonic(), transaction_connection.set(connection)
            try:
                transaction_id = self._begun(job_id, await aexecute_on(connection, self._begin()))
                try:
                    value = await (task.run(task, *args, **kwargs) if task.bind else task.run(*args, **kwargs))
                except Replaced as replaced:
                    end = self._replace(job_id, token, replaced)
                else:
                    result = None if request.ignore_result else encode_result(value)
                    end = self._finish(job_id, token, task, result, started)
                call_off.get()()
                self._check(connection)
                with _telling_missing_partitions():
                    ended = await aexecute_on(connection, end)
                self._confirm(ended, transaction_id, job_id)
            finally:
                transaction_connection.reset(mark)

    def close_thread(self) -> None:
        """Close the calling thread's connection."""
        connection: _TaskConnection | None = getattr(self._local, "connection", None)
        if connection is not None:
            connection.close()

    async def close_loop(self) -> None:
        """Close the connections that coroutines used."""
        while self._idle:
            await self._idle.pop()[0].close()

    def _begin(self) -> Statement[tuple[str, int, str, str]]:
        return Statement(self._app.queries["begin_task"], {}, lambda rows: tuple(rows[0]))

    def _begun(self, job_id: str, begun: tuple[str, int, str, str]) -> str:
        transaction_id, pid, xid, self.server_started = begun
        self.on_begin(job_id, pid, xid)
        return transaction_id

    def _finish(
        self, job_id: str, token: int, task: Task[..., Any], result: str | None, started: float
    ) -> Statement[tuple[str, bool]]:
        queries, ran = self._app.queries, [int((time.monotonic() - started) * 1e6)]
        finish = finish_jobs(queries, [(job_id, token)], "succeeded", [result], None, None, task.result_expires, ran)
        return Statement(queries["finish_task"], finish.params, lambda rows: (str(rows[0][0]), not rows[0][1]))

    def _replace(self, job_id: str, token: int, replaced: Replaced) -> Statement[tuple[str, bool]]:
        replace = replace_job(self._app.queries, job_id, token, replaced.replacement)
        return Statement(
            self._app.queries["replace_task"], replace.params, lambda rows: (str(rows[0][0]), not rows[0][1])
        )

    def _confirm(self, ended: tuple[str, bool], transaction_id: str, job_id: str) -> None:
        if ended[0] != transaction_id:
            raise PgQueueError(_REFUSED.format(what="commit or roll back (found by its transaction id)"))
        if not ended[1]:
            raise LeaseLost(f"job {job_id} was rescued, cancelled or deleted while it ran; its work was rolled back")

    def _check(self, connection: Any) -> None:
        if not isinstance(connection, psycopg.Connection | psycopg.AsyncConnection):
            return
        if connection.closed:
            raise PgQueueError("the task closed the connection of its own transaction")
        status = connection.info.transaction_status
        if status == TransactionStatus.INERROR:
            raise PgQueueError(
                "the task caught a database error and returned with its transaction aborted; let the error out, or"
                " wrap the risky part in connection.transaction()"
            )
        if status != TransactionStatus.INTRANS:
            raise PgQueueError(_REFUSED.format(what="commit or roll back"))

    @contextlib.contextmanager
    def _scope(self, task: Task[..., Any]) -> Iterator[Any]:
        """A transaction that commits at the end of the block and rolls back on an error."""
        if callable(task.transactional):
            with sqlalchemy_scope(task.transactional) as session:
                yield session
            return
        django = django_connection()
        if django is not None:
            with django_scope(django):
                yield django
            return
        connection = self._thread_connection()
        try:
            yield connection
        except BaseException as error:
            lost = _lost(connection, error)
            self._end(connection, psycopg.Connection.rollback)
            if lost is not None:
                raise lost from error
            raise
        self._end(connection, psycopg.Connection.commit)

    def _thread_connection(self) -> _TaskConnection:
        """This thread's connection; the job waits for the server, which keeps other jobs from being claimed for it."""
        connection: _TaskConnection | None = getattr(self._local, "connection", None)
        if connection is None or connection.closed or hung_up(connection):
            if connection is not None:
                connection.close()
            connection = cast(_TaskConnection, connect_waiting(self._open, _say_waiting))
            self._local.connection = connection
        return connection

    def _open(self) -> _TaskConnection:
        connection: _TaskConnection = self._app.new_connection(
            connection_class=_TaskConnection, application_name=self._application_name
        )
        connection.server_started = mind_poolers(connection, self._app.queries)
        connection.autocommit = False
        return connection

    def _end(self, connection: _TaskConnection, end: Callable[[psycopg.Connection[Any]], None]) -> None:
        try:
            if not connection.closed:
                end(connection)
        except psycopg.Error as error:
            lost = _lost(connection, error)
            connection.close()
            if lost is not None:
                raise lost from error
            raise
        _forget_session_state(connection, self._app)

    @contextlib.asynccontextmanager
    async def _ascope(self, task: Task[..., Any]) -> AsyncIterator[Any]:
        if callable(task.transactional):
            async with self._free, sqlalchemy_async_scope(task.transactional) as session:
                yield session
            return
        async with self._free, self._aconnection() as connection:
            yield connection

    @contextlib.asynccontextmanager
    async def _aconnection(self) -> AsyncIterator[_AsyncTaskConnection]:
        connection = self._idle.pop()[0] if self._idle else None
        if connection is None or connection.closed or hung_up(connection):
            if connection is not None:
                await connection.close()
            connection = await self._aconnect()
        try:
            try:
                yield connection
            except BaseException:
                if not connection.closed:
                    await psycopg.AsyncConnection.rollback(connection)
                raise
            await psycopg.AsyncConnection.commit(connection)
        except BaseException as error:
            lost = _lost(connection, error)
            if lost is not None:
                raise lost from error
            raise
        finally:
            if await self._areset(connection):
                loop = asyncio.get_running_loop()
                self._idle.append((connection, loop.time()))
                loop.call_later(IDLE_SECONDS, self._close_idle)
            else:
                await connection.close()

    async def _aconnect(self) -> _AsyncTaskConnection:
        delay, told = 0.1, ""
        while True:
            try:
                connection: _AsyncTaskConnection = await self._app.new_async_connection(
                    connection_class=_AsyncTaskConnection, application_name=self._application_name
                )
                connection.server_started = await amind_poolers(connection, self._app.queries)
                await connection.set_autocommit(False)
            except psycopg.OperationalError as error:
                problem = connection_problem(error)
                if problem.exit_code == 2:
                    raise
                if problem.message != told:
                    told = problem.message
                    _say_waiting(told)
            else:
                return connection
            await asyncio.sleep(delay)
            delay = min(delay * 1.6, 3.0)

    def _close_idle(self) -> None:
        """Close what a burst has left: the server has few sessions, and others may need them."""
        until = asyncio.get_running_loop().time() - IDLE_SECONDS
        while self._idle and self._idle[0][1] <= until:
            self._idle.pop(0)[0].pgconn.finish()

    async def _areset(self, connection: _AsyncTaskConnection) -> bool:
        if connection.closed or connection.info.transaction_status != TransactionStatus.IDLE:
            return False
        try:
            await connection.set_autocommit(True)
            await connection.execute(self._app.queries["reset_session"], prepare=False)
            await connection.set_autocommit(False)
        except psycopg.Error:
            return False
        return True


def _say_waiting(reason: str) -> None:
    logger.warning("a transactional job waits for the database: %s", reason)


def _lost(connection: _TaskConnection | _AsyncTaskConnection, error: BaseException) -> SessionLost | None:
    """What to raise instead, when it was not the task that ended its session."""
    if not connection.broken or not isinstance(error, Exception) or getattr(error, "sqlstate", None) in OWN_TIMEOUTS:
        return None
    return SessionLost(f"its database session was lost: {' '.join(str(error).split())}", connection.server_started)


def is_conflict(error: BaseException) -> bool:
    """Whether a transaction, undone by now, only has to be run again: it got in the way of another one."""
    cause = driver_error(error)
    return isinstance(cause, psycopg.Error) and cause.sqlstate in _CONFLICTS


@contextlib.contextmanager
def _telling_missing_partitions() -> Iterator[None]:
    try:
        yield
    except Exception as error:
        cause = driver_error(error)
        if isinstance(cause, psycopg.errors.CheckViolation) and cause.diag.constraint_name is None:
            raise PartitionMissing(str(cause)) from error
        raise


def _forget_session_state(connection: psycopg.Connection[Any], app: PgQueue) -> None:
    """Undo what a task may have left on the session: role, search_path, temporary tables, locks."""
    if connection.closed:
        return
    try:
        connection.autocommit = True
        # Several statements in one: never prepared.
        connection.execute(app.queries["reset_session"], prepare=False)
        connection.autocommit = False
    except psycopg.Error:  # the task's end is committed or rolled back already, and stays as it is
        connection.close()
