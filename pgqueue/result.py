"""Celery has a module of this name, and pgqueue has not: importing it says where its names are."""

raise ImportError(
    "pgqueue.result is not supported: from pgqueue import AsyncResult, GroupResult, ResultSet, EagerResult"
)
