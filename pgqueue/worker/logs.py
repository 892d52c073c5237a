"""Logging of the worker's processes, with Celery's settings: lines of text, or one JSON object a line."""

import contextvars
import io
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol, TextIO

import click

from pgqueue.config.conf import Conf
from pgqueue.config.dsn import redact
from pgqueue.request import current_request

__all__ = ["about", "end_prints", "first_line", "set_up_logging", "tell_waiting", "teller"]

logger = logging.getLogger("pgqueue.worker")
prints = logging.getLogger("pgqueue.task.prints")

# A line that a job has begun to print: each job runs in a context of its own.
_begun: contextvars.ContextVar[str] = contextvars.ContextVar("pgqueue_begun", default="")


# Codes of the terminal: the levels that a person should not miss.
_COLOURS = {logging.WARNING: "\x1b[33m", logging.ERROR: "\x1b[31m", logging.CRITICAL: "\x1b[1;31m"}


class _Job(Protocol):
    """A job, as far as a line of the log names it."""

    @property
    def id(self) -> str: ...
    @property
    def task(self) -> str: ...
    @property
    def attempt(self) -> int: ...


def about(job: _Job) -> dict[str, Any]:
    """What a log record carries of the job that it is about, as `extra`."""
    return {"task_id": job.id, "task_name": job.task, "attempt": job.attempt}


def first_line(error: Exception) -> str:
    """What an error says, in one line."""
    return (str(error).strip() or repr(error)).splitlines()[0]


class _Formatter(logging.Formatter):
    """Adds the running task's name, id and attempt, and hides passwords whatever else a message carries."""

    def __init__(self, plain: str, in_task: str, coloured: bool) -> None:
        super().__init__(plain)
        self._in_task = logging.Formatter(in_task)
        self._colours: Mapping[int, str] = _COLOURS if coloured else {}

    def format(self, record: logging.LogRecord) -> str:
        request = current_request.get()
        # What pgqueue itself says of a job names it already.
        if request is None or record.name == "pgqueue.task":
            text = super().format(record)
        else:
            record.task_name, record.task_id, record.attempt = request.task, request.id, request.attempt
            text = self._in_task.format(record)
        colour = self._colours.get(record.levelno)
        return redact(text if colour is None else f"{colour}{text}\x1b[0m")


class _JsonFormatter(logging.Formatter):
    """One JSON object a line: what happened; of a job its id, task and attempt; of an error its traceback."""

    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="microseconds"),
            "level": record.levelname,
            "logger": record.name,
            "pid": record.process,
            "message": redact(record.getMessage()),
        }
        request, known = current_request.get(), vars(record)
        if "task_id" in known:
            line |= {"job_id": known["task_id"], "task": known["task_name"], "attempt": known["attempt"]}
        elif request is not None:
            line |= {"job_id": request.id, "task": request.task, "attempt": request.attempt}
        if record.exc_info:
            line["traceback"] = redact(self.formatException(record.exc_info))
        return json.dumps(line, ensure_ascii=False, default=str)


def set_up_logging(conf: Conf, level: str = "WARNING", logfile: str | None = None) -> None:
    """Send log records to a file or to standard error.

    Args:
        conf: for worker_log_format ("json" for JSON), worker_task_log_format, worker_log_color,
            worker_hijack_root_logger and worker_redirect_stdouts.
        level: least severe level that is shown.
        logfile: path; None for standard error.
    """
    handler: logging.Handler
    handler = logging.FileHandler(logfile) if logfile else logging.StreamHandler(sys.stderr)
    if conf.worker_log_format == "json":
        handler.setFormatter(_JsonFormatter())
    else:
        coloured = conf.worker_log_color
        if coloured is None:
            coloured = not logfile and sys.stderr.isatty() and not os.environ.get("NO_COLOR")
        handler.setFormatter(_Formatter(conf.worker_log_format, conf.worker_task_log_format, coloured))
    root = logging.getLogger() if conf.worker_hijack_root_logger else logging.getLogger("pgqueue")
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # A log that cannot be written (closed pipe, full disk) must not stop jobs.
    logging.raiseExceptions = False
    if conf.worker_redirect_stdouts:
        level_number = logging.getLevelName(conf.worker_redirect_stdouts_level)
        sys.stdout = _Prints(sys.stdout, level_number)
        sys.stderr = _Prints(sys.stderr, level_number)


def teller(conf: Conf, level: str, logfile: str | None, quiet: bool) -> Callable[[str], None]:
    """Return what takes a program's words about itself (ready, stopping, stopped).

    A person at a terminal is shown them as they are; in JSON and in a file they are lines of the log like all others.

    Args:
        conf: for worker_log_format.
        level, logfile: as of set_up_logging().
        quiet: whether nothing is to be said.
    """
    if quiet or logging.getLevelName(level.upper()) > logging.WARNING:
        return lambda text: None
    if logfile or conf.worker_log_format == "json":
        return lambda text: logger.info("%s", "; ".join(map(str.strip, text.splitlines())))
    return lambda text: click.echo(text, err=True)


def tell_waiting(reason: str) -> None:
    """Say why a program does not start yet."""
    logger.warning("waiting for the server, and trying again: %s", reason)


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
