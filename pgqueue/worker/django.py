"""Django's own connection for transactional tasks, when the program uses Django with PostgreSQL."""

import sys
from contextlib import AbstractContextManager
from typing import Any

__all__ = ["django_atomic", "django_connection"]


def django_connection() -> Any | None:
    """Return Django's default connection when Django is set up with PostgreSQL, else None; never imports Django."""
    conf = sys.modules.get("django.conf")
    database = sys.modules.get("django.db")
    if conf is None or database is None or not conf.settings.configured:
        return None
    connection = database.connection
    return connection if connection.vendor == "postgresql" else None


def django_atomic() -> AbstractContextManager[Any]:
    """Return django.db.transaction.atomic(durable=True): the outermost transaction of this task."""
    transaction = sys.modules["django.db.transaction"]
    block: AbstractContextManager[Any] = transaction.atomic(durable=True)
    return block
