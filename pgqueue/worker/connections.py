"""Connections that tasks use, as the worker finds them: without their server, or in the middle of a statement."""

import select
from typing import Any

import psycopg
from psycopg.pq import ExecStatus, TransactionStatus

__all__ = ["PATIENCE_SECONDS", "end_statement", "hung_up"]

PATIENCE_SECONDS = 5.0
_COPIES = frozenset({ExecStatus.COPY_IN, ExecStatus.COPY_OUT, ExecStatus.COPY_BOTH})


def hung_up(connection: Any) -> bool:
    """Whether an idle connection's server has gone: what arrives unasked is its farewell."""
    return bool(select.select([connection.fileno()], [], [], 0)[0])


def end_statement(connection: Any) -> None:
    """End the statement in whose middle a task was interrupted, on the server as well; its transaction is aborted then.

    What cannot be ended so is closed. Connections of other drivers than psycopg 3 are left alone: theirs cannot be
    interrupted in a statement.
    """
    if not isinstance(connection, psycopg.Connection):
        return
    pgconn = connection.pgconn
    if pgconn.transaction_status != TransactionStatus.ACTIVE:
        return
    try:
        connection.cancel_safe(timeout=PATIENCE_SECONDS)
        while True:
            while pgconn.is_busy():
                if not select.select([pgconn.socket], [], [], PATIENCE_SECONDS)[0]:
                    raise psycopg.OperationalError("a cancelled statement does not end")
                pgconn.consume_input()
            result = pgconn.get_result()
            if result is None:
                return
            if result.status in _COPIES:
                raise psycopg.OperationalError("a COPY does not end by itself")
    except psycopg.Error:
        connection.close()
