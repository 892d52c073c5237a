"""psycopg connections, sync and async."""

from typing import Any, NoReturn, TypeVar

import psycopg
from psycopg.pq import TransactionStatus

from pgqueue.enqueueing.enrolment import ABORTED, AUTOCOMMIT, CLOSED, Participant
from pgqueue.errors import EnrolmentError
from pgqueue.store.statement import Statement, arun, run

__all__ = ["participant"]

R = TypeVar("R")
_WAY_OUT = "enqueue inside `with connection.transaction():`, or connect without autocommit=True"


def _check(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> None:
    if connection.closed:
        raise EnrolmentError(CLOSED)
    status = connection.pgconn.transaction_status
    if status == TransactionStatus.INERROR:
        raise EnrolmentError(ABORTED)
    if connection.autocommit and status != TransactionStatus.INTRANS:
        raise EnrolmentError(AUTOCOMMIT.format(_WAY_OUT))


def _in_transaction(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any]) -> bool:
    status = connection.pgconn.transaction_status
    return status in (TransactionStatus.INTRANS, TransactionStatus.INERROR, TransactionStatus.ACTIVE)


class _Sync:
    is_async = False

    def __init__(self, connection: psycopg.Connection[Any]) -> None:
        self.key = connection

    @property
    def in_transaction(self) -> bool:
        return _in_transaction(self.key)

    def check(self) -> None:
        _check(self.key)

    def execute(self, statement: Statement[R]) -> R:
        return run(self.key, statement)

    async def acheck(self) -> None:
        _check(self.key)

    async def aexecute(self, statement: Statement[R]) -> R:
        return run(self.key, statement)


class _Async:
    is_async = True

    def __init__(self, connection: psycopg.AsyncConnection[Any]) -> None:
        self.key = connection

    @property
    def in_transaction(self) -> bool:
        return _in_transaction(self.key)

    def check(self) -> None:
        _check(self.key)

    def execute(self, statement: Statement[Any]) -> NoReturn:
        raise EnrolmentError("an async connection runs statements in coroutines only")

    async def acheck(self) -> None:
        _check(self.key)

    async def aexecute(self, statement: Statement[R]) -> R:
        return await arun(self.key, statement)


def participant(connection: Any) -> Participant | None:
    """Wrap a psycopg connection; None for anything else."""
    if isinstance(connection, psycopg.Connection):
        return _Sync(connection)
    if isinstance(connection, psycopg.AsyncConnection):
        return _Async(connection)
    return None
