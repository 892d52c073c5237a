"""The database as a process that enqueues and waits sees it: pooled autocommit connections, and errors of ours."""

import asyncio
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import psycopg
from psycopg import sql

from pgqueue.errors import DatabaseUnavailable, EnqueueError, PgQueueError, SchemaError
from pgqueue.store.pool import AsyncPool, Pool
from pgqueue.store.statement import Queries, Statement, arun, run

__all__ = ["Database", "translate"]

R = TypeVar("R")
Connect = Callable[..., psycopg.Connection[Any]]
AsyncConnect = Callable[..., Awaitable[psycopg.AsyncConnection[Any]]]


def translate(error: Exception, schema: str) -> PgQueueError | None:
    """Say what an error of the server means for the caller of an enqueue or a look; None when it is not known.

    Args:
        error: of psycopg, asyncpg or another driver: its `sqlstate` or `pgcode` counts.
        schema: of the application.
    """
    code = getattr(error, "sqlstate", None) or getattr(error, "pgcode", None)
    if code in ("3F000", "42883", "42P01", "42703"):
        return SchemaError(f"this database has no schema {schema!r}, or an older one; run `pgqueue migrate`")
    if code == "42501":
        return EnqueueError(f"{error}: this role needs usage of schema {schema!r} and its tables and functions")
    if code == "25006":
        return DatabaseUnavailable("the server is read-only (a standby?); name the primary in the DSN")
    if code is not None and code[:2] not in ("08", "53", "57"):
        return None
    if code is None and not isinstance(error, psycopg.OperationalError | psycopg.InterfaceError | OSError):
        return None
    return DatabaseUnavailable(" ".join(str(error).split()) or type(error).__name__)


class Database:
    """Pooled autocommit connections for threads and event loops.

    Args:
        queries: of the schema.
        connect, aconnect: open a connection; they take the keywords autocommit, application_name and listen.
        max_size: most connections of threads, and of each event loop.
        timeout: seconds to wait for one of them.
    """

    def __init__(
        self, queries: Queries, connect: Connect, aconnect: AsyncConnect, max_size: int, timeout: float
    ) -> None:
        self.queries = queries
        self._connect = connect
        self._aconnect = aconnect
        self._max_size = max_size
        self._timeout = timeout
        self._closed = False
        self.pool = Pool(self._open, max_size, timeout)
        self.listeners = Pool(self._open_listener, max_size, timeout)
        self._loops: weakref.WeakKeyDictionary[Any, tuple[AsyncPool, AsyncPool]] = weakref.WeakKeyDictionary()
        self._listen = sql.SQL("listen {}").format(sql.Identifier(f"{queries.schema}/results"))

    def _open(self) -> psycopg.Connection[Any]:
        connection = self._connect(autocommit=True)
        (pid,) = connection.execute(self.queries["backend_pid"]).fetchone() or (None,)
        if pid != connection.info.backend_pid:
            connection.prepare_threshold = None  # a pooler: the next statement may meet another server process
        return connection

    async def _aopen(self) -> psycopg.AsyncConnection[Any]:
        connection = await self._aconnect(autocommit=True)
        cursor = await connection.execute(self.queries["backend_pid"])
        (pid,) = await cursor.fetchone() or (None,)
        if pid != connection.info.backend_pid:
            connection.prepare_threshold = None
        return connection

    def _open_listener(self) -> psycopg.Connection[Any]:
        connection = self._connect(autocommit=True, listen=True)
        (pid,) = connection.execute(self.queries["backend_pid"]).fetchone() or (None,)
        if pid != connection.info.backend_pid:
            connection.close()
            raise DatabaseUnavailable("no notifications through a pooler")
        connection.execute(self._listen)
        return connection

    async def _aopen_listener(self) -> psycopg.AsyncConnection[Any]:
        connection = await self._aconnect(autocommit=True, listen=True)
        cursor = await connection.execute(self.queries["backend_pid"])
        (pid,) = await cursor.fetchone() or (None,)
        if pid != connection.info.backend_pid:
            await connection.close()
            raise DatabaseUnavailable("no notifications through a pooler")
        await connection.execute(self._listen)
        return connection

    def loop_pools(self) -> tuple[AsyncPool, AsyncPool]:
        """Return the pools of the running event loop: for statements, and of listeners."""
        loop = asyncio.get_running_loop()
        try:
            return self._loops[loop]
        except KeyError:
            if self._closed:
                raise PgQueueError("this application was closed; make a new PgQueue, or do not close it yet") from None
            pools = self._loops[loop] = (
                AsyncPool(self._aopen, self._max_size, self._timeout),
                AsyncPool(self._aopen_listener, self._max_size, self._timeout),
            )
            return pools

    def run(self, statement: Statement[R], again: Statement[R] | None = None) -> R:
        """Run a statement in a transaction of its own.

        Args:
            statement: what to run.
            again: what to run, on a new connection, when the first one breaks; None when a second run could do harm.

        Raises:
            PgQueueError: as translate() says.
        """
        while True:
            connection = self.take()
            try:
                found = run(connection, statement)
            except psycopg.Error as error:
                if connection.closed:
                    self.pool.drop_idle()
                    if again is not None:
                        statement, again = again, None
                        continue
                raise (translate(error, self.queries.schema) or error) from error
            finally:
                self.pool.give_checked(connection)
            return found

    async def arun(self, statement: Statement[R], again: Statement[R] | None = None) -> R:
        """Run a statement in a transaction of its own; as run()."""
        pool, _ = self.loop_pools()
        while True:
            connection = await self.atake()
            try:
                found = await arun(connection, statement)
            except psycopg.Error as error:
                if connection.closed:
                    pool.drop_idle()
                    if again is not None:
                        statement, again = again, None
                        continue
                raise (translate(error, self.queries.schema) or error) from error
            finally:
                pool.give(connection)
            return found

    def take(self) -> psycopg.Connection[Any]:
        """Return a pooled connection; DatabaseUnavailable when there is none."""
        try:
            return self.pool.take()
        except (psycopg.Error, OSError) as error:
            raise DatabaseUnavailable(_said(error)) from error

    async def atake(self) -> psycopg.AsyncConnection[Any]:
        """Return a connection of the running loop's pool; DatabaseUnavailable when there is none."""
        try:
            return await self.loop_pools()[0].take()
        except (psycopg.Error, OSError) as error:
            raise DatabaseUnavailable(_said(error)) from error

    def close(self) -> None:
        """Close what is idle now and the rest when it is given back."""
        self._closed = True
        self.pool.close()
        self.listeners.close()
        for pools in list(self._loops.values()):
            for pool in pools:
                pool.close()


def _said(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
