"""Transactional tasks on the connection of SQLAlchemy or Django: scopes that tell when their session was lost."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import psycopg

from pgqueue.errors import ConfigurationError
from pgqueue.store.connecting import connection_problem
from pgqueue.worker.connections import end_statement
from pgqueue.worker.django import django_atomic

__all__ = ["OWN_TIMEOUTS", "SessionLost", "django_scope", "driver_error", "sqlalchemy_async_scope", "sqlalchemy_scope"]

# Time-outs by which the server ends a session for what the task does with it: the task's own failure.
OWN_TIMEOUTS = frozenset({"25P03", "25P04"})
AGAIN_SECONDS = 1.0
_NOT_REACHED = "not reached"


class SessionLost(Exception):
    """The session of a transactional task ended under it; the task runs again if it was undone.

    Attributes:
        server_started: of the server that ended it, "" if that is not known here. A server that has started anew since
            ended all its sessions; else the task itself may be what ends them.
    """

    def __init__(self, message: str, server_started: str = "") -> None:
        super().__init__(message)
        self.server_started = server_started


def driver_error(error: BaseException) -> BaseException:
    """The driver's own error, which SQLAlchemy and Django wrap."""
    return getattr(error, "orig", None) or error.__cause__ or error


@contextlib.contextmanager
def sqlalchemy_scope(factory: Callable[[], Any]) -> Iterator[Any]:
    """A transaction on what a factory makes: a Session or a Connection."""
    connection, done = None, False
    try:
        with (
            _fit(factory(), "__enter__", "a plain function needs a Session or a Connection") as session,
            session.begin(),
        ):
            connection = session if hasattr(session, "exec_driver_sql") else session.connection()
            try:
                yield session
            except Exception as error:
                if not (connection.closed or connection.invalidated):
                    end_statement(connection.connection.driver_connection)
                _raise_if_lost(connection.invalidated, error)
                raise
            done = True
    except Exception as error:
        if connection is None and _unreachable(error):
            time.sleep(AGAIN_SECONDS)
            raise SessionLost(_said(error), _NOT_REACHED) from error
        _raise_if_lost(done and getattr(error, "connection_invalidated", False), error)
        raise


@contextlib.asynccontextmanager
async def sqlalchemy_async_scope(factory: Callable[[], Any]) -> AsyncIterator[Any]:
    """sqlalchemy_scope() for an AsyncSession or an AsyncConnection."""
    connection, done = None, False
    try:
        made = _fit(factory(), "__aenter__", "a coroutine needs an AsyncSession or an AsyncConnection")
        async with made as session, session.begin():
            connection = session if hasattr(session, "exec_driver_sql") else await session.connection()
            try:
                yield session
            except Exception as error:
                _raise_if_lost(connection.invalidated, error)
                raise
            done = True
    except Exception as error:
        if connection is None and _unreachable(error):
            await asyncio.sleep(AGAIN_SECONDS)
            raise SessionLost(_said(error), _NOT_REACHED) from error
        _raise_if_lost(done and getattr(error, "connection_invalidated", False), error)
        raise


@contextlib.contextmanager
def django_scope(django: Any) -> Iterator[Any]:
    """A transaction on Django's connection."""
    connection, done = None, False
    try:
        with django_atomic():
            connection = django.connection
            try:
                yield django
            except Exception as error:
                end_statement(connection)
                _raise_if_lost(getattr(connection, "broken", connection.closed == 2), error)  # psycopg 3, psycopg2
                raise
            done = True
    except Exception as error:
        if connection is None and _unreachable(error):
            time.sleep(AGAIN_SECONDS)
            raise SessionLost(_said(error), _NOT_REACHED) from error
        _raise_if_lost(done and connection is not None and connection.closed, error)
        raise


def _fit(made: Any, method: str, needed: str) -> Any:
    if not hasattr(type(made), method) or not hasattr(type(made), "begin"):
        kind = f"{type(made).__module__}.{type(made).__qualname__}"
        raise ConfigurationError(f"transactional: the callable made a {kind}; {needed} of SQLAlchemy")
    return made


def _raise_if_lost(lost: Any, error: Exception) -> None:
    if (
        lost
        and not isinstance(error, SessionLost)
        and getattr(driver_error(error), "sqlstate", None) not in OWN_TIMEOUTS
    ):
        raise SessionLost(_said(error)) from error


def _unreachable(error: Exception) -> bool:
    """Whether a server that may come back could not be reached, before anything of the task ran."""
    cause = driver_error(error)
    reached = not isinstance(cause, psycopg.OperationalError | OSError) or getattr(cause, "sqlstate", None) is not None
    return not reached and connection_problem(cause).exit_code == 3


def _said(error: Exception) -> str:
    return f"its database session was lost: {' '.join(str(driver_error(error)).split())}"
