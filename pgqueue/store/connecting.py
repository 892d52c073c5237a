"""Why a connection cannot be made: what waiting cures, and what it does not."""

import random
import re
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg

from pgqueue.config.dsn import redact
from pgqueue.errors import ConfigurationError, DatabaseUnavailable

__all__ = ["ConnectionProblem", "connect_waiting", "connection_problem"]

# libpq gives no SQLSTATE for a connection that was never made; servers with other languages say FATAL as well, and an
# unknown problem counts as one that may pass.
_PERMANENT = (
    (r"password authentication failed|no password supplied|fe_sendauth", "the password is wrong or missing"),
    (r"database .* does not exist", "no such database: create it, or correct the DSN"),
    (r"role .* does not exist", "no such user"),
    (r"no pg_hba\.conf entry|authentication failed", "the server does not let this user in from here"),
    (r"permission denied for database|is not permitted to log in", "this user may not connect"),
    (r"invalid (connection option|port|sslmode|.* value)|definition of service", "the DSN is wrong"),
    (r"certificate verify failed|server does not support SSL", "the connection is not secure as the DSN demands"),
    (r"session is (read-only|not read-only)|server is in hot standby", "no server of the kind the DSN asks for"),
)
_TRANSIENT = (
    (r"Connection refused|No such file or directory", "no server listens there (not started yet?)"),
    (r"starting up|not yet accepting|not accepting connections", "the server is starting"),
    (r"shutting down", "the server is shutting down"),
    (r"too many (clients|connections)|remaining connection slots", "the server has no connection left"),
    (r"timeout expired|timed out", "the server does not answer"),
    (r"could not translate host name|Name or service not known", "the host name is not known"),
)


class ConnectionProblem(NamedTuple):
    """Why a connection could not be made.

    Attributes:
        exit_code: 2 when waiting cures nothing, 3 when the server may come back.
        message: one line without a password.
    """

    exit_code: int
    message: str


def connection_problem(error: BaseException) -> ConnectionProblem:
    """Say why psycopg could not connect, or lost its connection."""
    said = " ".join(redact(str(error)).split()) or type(error).__name__
    # Several hosts, several lines: one that may come back is enough to wait for.
    for pattern, meaning in _TRANSIENT:
        if re.search(pattern, said):
            return ConnectionProblem(3, f"{meaning}: {said}")
    for pattern, meaning in _PERMANENT:
        if re.search(pattern, said):
            return ConnectionProblem(2, f"{meaning}: {said}")
    return ConnectionProblem(3, said)


def connect_waiting(
    connect: Callable[[], psycopg.Connection[Any]],
    on_wait: Callable[[str], None],
    *,
    timeout: float | None = None,
    sleep: Callable[[float], object] = time.sleep,
) -> psycopg.Connection[Any]:
    """Connect, and wait for a server that is not there yet.

    Args:
        connect: makes one attempt.
        on_wait: called with the reason when waiting begins, and again when the reason changes.
        timeout: seconds after which to give up; None waits for ever.
        sleep: how to pass the time; an exception of it ends the wait.

    Raises:
        ConfigurationError: waiting cures nothing: wrong password, no such database.
        DatabaseUnavailable: the time is over.
    """
    deadline = None if timeout is None else time.monotonic() + timeout
    delay, told = 0.1, ""
    while True:
        try:
            return connect()
        except psycopg.OperationalError as error:
            problem = connection_problem(error)
            if problem.exit_code == 2:
                raise ConfigurationError(problem.message) from error
            if deadline is not None and time.monotonic() >= deadline:
                raise DatabaseUnavailable(problem.message) from error
            if problem.message != told:
                told = problem.message
                on_wait(told)
        sleep(delay * random.uniform(0.7, 1.0))
        delay = min(delay * 1.6, 3.0)
