"""Logging of the worker's processes, with Celery's settings."""

import logging
import sys

from pgqueue.config import Conf
from pgqueue.dsn import redact
from pgqueue.request import current_request

__all__ = ["set_up_logging"]


class _Formatter(logging.Formatter):
    """Adds the running task's name and id, and hides passwords whatever else a message carries."""

    def __init__(self, plain: str, in_task: str) -> None:
        super().__init__(plain)
        self._in_task = logging.Formatter(in_task)

    def format(self, record: logging.LogRecord) -> str:
        request = current_request.get()
        if request is None:
            return redact(super().format(record))
        record.task_name, record.task_id = request.task, request.id
        return redact(self._in_task.format(record))


def set_up_logging(conf: Conf, level: str = "WARNING", logfile: str | None = None) -> None:
    """Send log records to a file or to standard error.

    Args:
        conf: for worker_log_format, worker_task_log_format and worker_hijack_root_logger.
        level: least severe level that is shown.
        logfile: path; None for standard error.
    """
    handler: logging.Handler
    handler = logging.FileHandler(logfile) if logfile else logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Formatter(conf.worker_log_format, conf.worker_task_log_format))
    root = logging.getLogger() if conf.worker_hijack_root_logger else logging.getLogger("pgqueue")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A log that cannot be written (closed pipe, full disk) must not stop jobs.
    logging.raiseExceptions = False
