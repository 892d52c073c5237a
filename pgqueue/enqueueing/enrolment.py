"""Enqueues inside a transaction that somebody else began: which connection, whether it may, and running on it.

The kinds of connections live in pgqueue.contrib, one room per library, loaded only when the library already is. Taking
part means: the statement runs at the call, on the caller's connection, and nothing is begun, committed or rolled back.
"""

import contextlib
import contextvars
import importlib
import sys
import weakref
from collections.abc import Callable
from types import TracebackType
from typing import Any, Generic, Protocol, TypeVar

from pgqueue.errors import EnqueueError, EnrolmentError
from pgqueue.request import transaction_connection
from pgqueue.store.database import translate
from pgqueue.store.jobs import find_schema
from pgqueue.store.statement import Queries, Statement

__all__ = ["Enrolment", "Participant", "Using", "aenlist", "aexecute_on", "enlist", "execute_on", "participant_of"]

R = TypeVar("R")
C = TypeVar("C")


class Participant(Protocol):
    """A caller's connection of one kind, as pgqueue.contrib wraps it."""

    is_async: bool

    @property
    def key(self) -> Any:
        """The driver's own connection: what is found out about its database is remembered for it."""

    @property
    def in_transaction(self) -> bool:
        """Whether a transaction is open now, as far as can be told without asking the server."""

    def check(self) -> None:
        """Raise EnrolmentError unless a statement run now would be part of a transaction that the caller ends."""

    def execute(self, statement: Statement[R]) -> R:
        """Run a statement; on an async connection this is refused."""

    async def acheck(self) -> None:
        """check() for async code."""

    async def aexecute(self, statement: Statement[R]) -> R:
        """execute() for async code; on a sync connection it blocks the event loop, as the caller's own queries do."""


Adapter = Callable[[Any], Participant | None]

# Library that must be loaded already, and the room that knows its connections. Named, not imported: contrib is above.
_ADAPTERS = (
    ("psycopg", "pgqueue.contrib.psycopg"),
    ("asyncpg", "pgqueue.contrib.asyncpg"),
    ("sqlalchemy", "pgqueue.contrib.sqlalchemy"),
    ("django.db", "pgqueue.contrib.django"),
)
_adapters: dict[type, Adapter] = {}
_checked: weakref.WeakKeyDictionary[Any, set[str]] = weakref.WeakKeyDictionary()


def participant_of(connection: Any) -> Participant:
    """Wrap a connection of any known kind.

    Args:
        connection: psycopg Connection or AsyncConnection; SQLAlchemy Session, Connection, AsyncSession or
            AsyncConnection; asyncpg Connection; django.db.connection.

    Raises:
        EnrolmentError: it is none of these.
    """
    known = _adapters.get(type(connection))
    if known is not None and (found := known(connection)) is not None:
        return found
    for library, name in _ADAPTERS:
        if library in sys.modules:
            adapter: Adapter = importlib.import_module(name).participant
            found = adapter(connection)
            if found is not None:
                _adapters[type(connection)] = adapter
                return found
    raise EnrolmentError(
        f"{type(connection).__module__}.{type(connection).__qualname__} cannot take part in an enqueue; pass a"
        " connection of psycopg or asyncpg, a SQLAlchemy Session or Connection, or django.db.connection"
    )


def execute_on(connection: Any, statement: Statement[R]) -> R:
    """Run a statement on a connection of any known sync kind, in whatever transaction it is in."""
    return participant_of(connection).execute(statement)


async def aexecute_on(connection: Any, statement: Statement[R]) -> R:
    """Run a statement on a connection of any known kind, in whatever transaction it is in."""
    return await participant_of(connection).aexecute(statement)


class Enrolment:
    """What `using` names while its block lasts; participant None stands for `using(None)`: outside any transaction."""

    __slots__ = ("active", "participant")

    def __init__(self, participant: Participant | None) -> None:
        self.participant = participant
        self.active = True


class Using(Generic[C]):
    """The context manager behind app.using(connection), for `with` and `async with`."""

    def __init__(self, variable: contextvars.ContextVar[Enrolment | None], connection: C) -> None:
        self._variable = variable
        self._connection = connection
        self._participant = None if connection is None else participant_of(connection)
        self._entered: list[tuple[Enrolment, contextvars.Token[Enrolment | None]]] = []

    def __enter__(self) -> C:
        enrolment = Enrolment(self._participant)
        self._entered.append((enrolment, self._variable.set(enrolment)))
        return self._connection

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        enrolment, token = self._entered.pop()
        enrolment.active = False
        self._variable.reset(token)

    async def __aenter__(self) -> C:
        return self.__enter__()

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.__exit__(kind, error, traceback)


def find(variable: contextvars.ContextVar[Enrolment | None]) -> Participant | None:
    """Return the connection in which an enqueue made here takes part; None when there is no transaction.

    In this order: app.using(...), the transaction of a running transactional job, Django's atomic().
    """
    enrolment = variable.get()
    if enrolment is not None:
        if not enrolment.active:
            raise EnrolmentError(
                "the block of app.using(connection) has ended, and this code, which it started, still runs; use"
                " app.using(None) in it to enqueue outside of that transaction"
            )
        return enrolment.participant
    connection = transaction_connection.get()
    if connection is not None:
        return participant_of(connection)
    return _django() if "django.db" in sys.modules else None


def _django() -> Participant | None:
    conf, database = sys.modules.get("django.conf"), sys.modules["django.db"]
    connections = getattr(database, "connections", None)
    if conf is None or connections is None or not conf.settings.configured:
        return None
    connection = connections["default"]
    if connection.in_atomic_block and connection.vendor == "postgresql":
        return participant_of(connection)
    return None


def enlist(participant: Participant, queries: Queries, statement: Statement[R]) -> R:
    """Run an enqueue inside the caller's transaction.

    Raises:
        EnrolmentError: the connection is async, closed, in autocommit, in an aborted transaction, or of a database
            without our schema.
        EnqueueError, SchemaError, DatabaseUnavailable: the statement failed.
    """
    if participant.is_async:
        raise EnrolmentError(
            "a sync enqueue cannot take part in the transaction of an async connection;"
            " await task.adelay(...), task.aapply_async(...) or app.aenqueue_many(...) instead"
        )
    participant.check()
    with _Translated(queries.schema):
        if not _remembered(participant, queries.schema):
            _remember(participant, queries.schema, participant.execute(find_schema(queries)))
        return participant.execute(statement)


async def aenlist(participant: Participant, queries: Queries, statement: Statement[R]) -> R:
    """enlist() for async code; a sync connection is taken too, and blocks the event loop for the round trip."""
    await participant.acheck()
    with _Translated(queries.schema):
        if not _remembered(participant, queries.schema):
            _remember(participant, queries.schema, await participant.aexecute(find_schema(queries)))
        return await participant.aexecute(statement)


def _remembered(participant: Participant, schema: str) -> bool:
    return schema in _checked.get(participant.key, ())


def _remember(participant: Participant, schema: str, found: bool) -> None:
    if not found:
        raise EnrolmentError(
            f"this connection's database has no schema {schema!r} (or an older one): a job must be in the database of"
            " the transaction; run `pgqueue migrate` there, or enqueue outside of it within app.using(None)"
        )
    with contextlib.suppress(TypeError):  # a driver's connection without weak references is asked each time
        _checked.setdefault(participant.key, set()).add(schema)


class _Translated:
    """Turns the drivers' errors into ours."""

    __slots__ = ("_schema",)

    def __init__(self, schema: str) -> None:
        self._schema = schema

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if not isinstance(error, Exception) or isinstance(error, EnqueueError):
            return
        cause = getattr(error, "orig", None) or error.__cause__ or error
        code = getattr(cause, "sqlstate", None) or getattr(cause, "pgcode", None)
        if code == "25P02":
            raise EnrolmentError(ABORTED) from error
        known = translate(cause, self._schema) if isinstance(cause, Exception) else None
        if known is not None:
            raise known from error


ABORTED = "the transaction of this connection is aborted by an earlier error; roll back, then enqueue again"
CLOSED = "the connection is closed"
AUTOCOMMIT = "this connection is in autocommit mode outside of a transaction, so the job would not share one; {}"
