"""Django's connection, as django.db.connection or connections[alias]."""

from typing import Any, TypeVar

from django.db.backends.base.base import BaseDatabaseWrapper
from django.utils.connection import ConnectionProxy

from pgqueue.enqueueing.enrolment import ABORTED, AUTOCOMMIT, Participant
from pgqueue.errors import EnrolmentError
from pgqueue.store.statement import Statement

__all__ = ["participant"]

R = TypeVar("R")
_WAY_OUT = "enqueue inside `with transaction.atomic():`"


class _Wrapper:
    is_async = False

    def __init__(self, connection: Any) -> None:
        self._connection = connection

    @property
    def key(self) -> Any:
        return self._connection.connection

    @property
    def in_transaction(self) -> bool:
        return bool(self._connection.in_atomic_block)

    def check(self) -> None:
        connection = self._connection
        if connection.vendor != "postgresql":
            raise EnrolmentError(f"jobs are in PostgreSQL, and this connection is to {connection.vendor}")
        if connection.in_atomic_block and connection.needs_rollback:
            raise EnrolmentError(ABORTED)
        if not connection.in_atomic_block and connection.get_autocommit():
            raise EnrolmentError(AUTOCOMMIT.format(_WAY_OUT))

    def execute(self, statement: Statement[R]) -> R:
        params: Any = statement.params
        with self._connection.cursor() as cursor:
            cursor.execute(statement.sql, params if isinstance(params, dict) else tuple(params) or None)
            return statement.decode(cursor.fetchall() if cursor.description else [])

    async def acheck(self) -> None:
        self.check()

    async def aexecute(self, statement: Statement[R]) -> R:
        return self.execute(statement)


def participant(connection: Any) -> Participant | None:
    """Wrap Django's connection; None for anything else."""
    if isinstance(connection, ConnectionProxy):
        connection = connection._connections[connection._alias]
    return _Wrapper(connection) if isinstance(connection, BaseDatabaseWrapper) else None
