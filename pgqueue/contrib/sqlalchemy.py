"""SQLAlchemy: Session, Connection, AsyncSession, AsyncConnection, over psycopg, psycopg2 or asyncpg."""

import sys
from collections.abc import Callable
from typing import Any, NoReturn, TypeVar

from sqlalchemy import exc
from sqlalchemy.engine import Connection

from pgqueue.contrib.numbered import numbered
from pgqueue.enqueueing.enrolment import AUTOCOMMIT, CLOSED, Participant
from pgqueue.errors import EnrolmentError
from pgqueue.store.statement import Statement

__all__ = ["participant"]

R = TypeVar("R")
_WAY_OUT = "leave out isolation_level='AUTOCOMMIT' for this connection"


class _Sync:
    """A Connection or a Session. Every statement goes through SQLAlchemy, which then knows that a transaction began."""

    is_async = False

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def _connection(self) -> Connection:
        try:
            found: Connection = self._owner if isinstance(self._owner, Connection) else self._owner.connection()
            if found.closed or found.invalidated:
                raise EnrolmentError(CLOSED)
        except exc.InvalidRequestError as error:
            raise EnrolmentError(f"the session cannot take part: {error}") from error
        return found

    @property
    def key(self) -> Any:
        return self._connection().connection.driver_connection

    @property
    def in_transaction(self) -> bool:
        return bool(self._owner.in_transaction())

    def check(self) -> None:
        connection = self._connection()
        if connection.dialect.name != "postgresql":
            raise EnrolmentError(f"jobs are in PostgreSQL, and this connection is to {connection.dialect.name}")
        if getattr(connection.connection.dbapi_connection, "autocommit", False):
            raise EnrolmentError(AUTOCOMMIT.format(_WAY_OUT))

    def execute(self, statement: Statement[R]) -> R:
        connection = self._connection()
        text: str = statement.sql
        params: Any = statement.params
        if connection.dialect.driver == "asyncpg":
            text, params = numbered(statement)
        found = connection.exec_driver_sql(text, params if isinstance(params, dict) else tuple(params) or None)
        return statement.decode([tuple(row) for row in found] if found.returns_rows else [])

    async def acheck(self) -> None:
        self.check()

    async def aexecute(self, statement: Statement[R]) -> R:
        return self.execute(statement)


class _Async:
    """An AsyncConnection or an AsyncSession: what the sync one does, in the greenlet that SQLAlchemy has for it."""

    is_async = True

    def __init__(self, owner: Any) -> None:
        self._owner = owner
        self.key: Any = None

    @property
    def in_transaction(self) -> bool:
        return bool(self._owner.in_transaction())

    def check(self) -> None:
        """Needs the server for a session without a connection: left to acheck()."""

    def execute(self, statement: Statement[Any]) -> NoReturn:
        raise EnrolmentError("an async connection runs statements in coroutines only")

    async def _run(self, do: Callable[[Any], R]) -> R:
        try:
            found: R = await self._owner.run_sync(do)
        except exc.InvalidRequestError as error:
            raise EnrolmentError(f"the connection cannot take part: {error}") from error
        return found

    async def acheck(self) -> None:
        def check(owner: Any) -> Any:
            sync = _Sync(owner)
            sync.check()
            return sync.key

        self.key = await self._run(check)

    async def aexecute(self, statement: Statement[R]) -> R:
        return await self._run(lambda owner: _Sync(owner).execute(statement))


def participant(connection: Any) -> Participant | None:
    """Wrap what SQLAlchemy has for a connection; None for anything else."""
    if isinstance(connection, Connection):
        return _Sync(connection)
    orm = sys.modules.get("sqlalchemy.orm")
    if orm is not None and isinstance(connection, orm.Session | orm.scoped_session):
        return _Sync(connection)
    aio = sys.modules.get("sqlalchemy.ext.asyncio")
    if aio is not None:
        if isinstance(connection, aio.AsyncConnection | aio.AsyncSession):
            return _Async(connection)
        if isinstance(connection, aio.async_scoped_session):
            return _Async(connection())
    return None
