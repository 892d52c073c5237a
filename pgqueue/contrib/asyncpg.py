"""asyncpg connections, also those that its pool hands out."""

from typing import Any, NoReturn, TypeVar

import asyncpg

from pgqueue.contrib.numbered import numbered
from pgqueue.enqueueing.enrolment import AUTOCOMMIT, CLOSED, Participant
from pgqueue.errors import EnrolmentError
from pgqueue.store.statement import Statement

__all__ = ["participant"]

R = TypeVar("R")
_WAY_OUT = "enqueue inside `async with connection.transaction():`"


class _Connection:
    is_async = True

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def key(self) -> Any:
        return getattr(self._connection, "_con", self._connection)  # what a pool's proxy stands for

    @property
    def in_transaction(self) -> bool:
        try:
            return bool(self._connection.is_in_transaction())
        except asyncpg.InterfaceError:
            return False

    def check(self) -> None:
        try:
            if self._connection.is_closed():
                raise EnrolmentError(CLOSED)
            if not self._connection.is_in_transaction():
                raise EnrolmentError(AUTOCOMMIT.format(_WAY_OUT))
        except asyncpg.InterfaceError as error:
            raise EnrolmentError(f"{CLOSED}: {error}") from error  # given back to its pool

    def execute(self, statement: Statement[Any]) -> NoReturn:
        raise EnrolmentError("an async connection runs statements in coroutines only")

    async def acheck(self) -> None:
        self.check()

    async def aexecute(self, statement: Statement[R]) -> R:
        text, values = numbered(statement)
        return statement.decode([tuple(record) for record in await self._connection.fetch(text, *values)])


def participant(connection: Any) -> Participant | None:
    """Wrap an asyncpg connection; None for anything else."""
    if isinstance(connection, asyncpg.Connection | asyncpg.pool.PoolConnectionProxy):
        return _Connection(connection)
    return None
