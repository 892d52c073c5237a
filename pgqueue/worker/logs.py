"""Logging of the worker's processes, with Celery's settings."""

import contextvars
import io
import logging
import sys
from typing import TextIO

from pgqueue.config import Conf
from pgqueue.dsn import redact
from pgqueue.request import current_request

__all__ = ["end_prints", "set_up_logging"]

prints = logging.getLogger("pgqueue.task.prints")

# A line that a job has begun to print: each job runs in a context of its own.
_begun: contextvars.ContextVar[str] = contextvars.ContextVar("pgqueue_begun", default="")


class _Formatter(logging.Formatter):
    """Adds the running task's name and id, and hides passwords whatever else a message carries."""

    def __init__(self, plain: str, in_task: str) -> None:
        super().__init__(plain)
        self._in_task = logging.Formatter(in_task)

    def format(self, record: logging.LogRecord) -> str:
        request = current_request.get()
        # What pgqueue itself says of a job names it already.
        if request is None or record.name == "pgqueue.task":
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
    if conf.worker_redirect_stdouts:
        level_number = logging.getLevelName(conf.worker_redirect_stdouts_level)
        sys.stdout = _Prints(sys.stdout, level_number)
        sys.stderr = _Prints(sys.stderr, level_number)


def end_prints() -> None:
    """Log the line that the task which ends here has begun to print, if any."""
    if _begun.get():
        for stream in (sys.stdout, sys.stderr):
            if isinstance(stream, _Prints):
                stream.flush()


class _Prints(io.TextIOBase):
    """Standard output whose lines go to the log while a task runs, under its name and its job's id."""

    def __init__(self, stream: TextIO, level: int) -> None:
        self._stream = stream
        self._level = level

    def write(self, text: str) -> int:
        """Log what a task prints; what is printed outside of tasks goes on to the stream."""
        if current_request.get() is None:
            return self._stream.write(text)
        *lines, rest = (_begun.get() + text).split("\n")
        _begun.set(rest)
        for line in filter(str.strip, lines):
            prints.log(self._level, "%s", line)
        return len(text)

    def flush(self) -> None:
        if current_request.get() is not None and _begun.get().strip():
            prints.log(self._level, "%s", _begun.get())
            _begun.set("")
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return self._stream.isatty()

    @property
    def encoding(self) -> str:  # type: ignore[override] # a plain attribute there
        return self._stream.encoding
