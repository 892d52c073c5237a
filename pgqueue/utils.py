"""Celery has a module of this name, and pgqueue has not: importing it says where its names are."""

raise ImportError(
    "pgqueue.utils is not supported: pgqueue.get_task_logger makes loggers of tasks:"
    " from pgqueue import get_task_logger"
)
