"""Django in a worker: its connections around tasks, and its own one for transactional tasks."""

import logging
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import Any

from pgqueue.worker.connections import hung_up

__all__ = ["django_atomic", "django_connection", "old_connections_closer"]

logger = logging.getLogger("pgqueue.worker")


def django_connection() -> Any | None:
    """Return Django's default connection when Django is set up with PostgreSQL, else None; never imports Django."""
    conf = sys.modules.get("django.conf")
    database = sys.modules.get("django.db")
    if conf is None or database is None or not conf.settings.configured:
        return None
    connection = database.connection
    return connection if connection.vendor == "postgresql" else None


def old_connections_closer() -> Callable[[], None] | None:
    """What Django does around requests: close the calling thread's connections that broke or outlived CONN_MAX_AGE.

    Returns:
        To be called around each task, never raises; None where Django is not set up.
    """
    conf, database = sys.modules.get("django.conf"), sys.modules.get("django.db")
    if conf is None or database is None or not conf.settings.configured:
        return None

    def close() -> None:
        try:
            for connection in database.connections.all(initialized_only=True):
                own = connection.connection
                if connection.vendor == "postgresql" and own is not None and not own.closed and hung_up(own):
                    connection.errors_occurred = True  # so that Django looks whether it is usable
            database.close_old_connections()
        except Exception:
            logger.warning("Django's old connections cannot be closed", exc_info=True)

    return close


def django_atomic() -> AbstractContextManager[Any]:
    """Return django.db.transaction.atomic(durable=True): the outermost transaction of this task."""
    transaction = sys.modules["django.db.transaction"]
    block: AbstractContextManager[Any] = transaction.atomic(durable=True)
    return block
