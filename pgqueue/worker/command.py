"""`pgqueue worker`: one worker in this process, from its start to its exit code."""

import faulthandler
import logging
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import click
import psycopg

from pgqueue.app import PgQueue
from pgqueue.errors import ConfigurationError
from pgqueue.store.schema import connect_waiting
from pgqueue.worker.logs import set_up_logging
from pgqueue.worker.plan import WorkerPlan, make_plan
from pgqueue.worker.reload import run_reloading
from pgqueue.worker.worker import Worker

__all__ = ["run"]

logger = logging.getLogger("pgqueue.worker")


def _say(line: str) -> None:
    click.echo(line, err=True)


def run(
    app: PgQueue,
    *,
    loglevel: str | None = None,
    pidfile: str | None = None,
    reload: bool = False,
    say: Callable[[str], None] = _say,
    **options: Any,
) -> int:
    """Run a worker until it is told to stop, or has drained its queues (burst).

    Args:
        app: the application.
        loglevel: least severe level that is logged; default WARNING.
        pidfile: where to write the process id; removed at the end.
        reload: start again whenever a Python file of the current directory changes (development).
        say: shows a line to the person who started the worker.
        **options: of make_plan().

    Returns:
        0 after an orderly stop, 1 when the worker could not go on.

    Raises:
        ConfigurationError: options that do not fit.
        SchemaError: the database does not fit; the message names the command to type.
    """
    if reload:
        return run_reloading()
    limits = {"task_time_limit": options.get("time_limit"), "task_soft_time_limit": options.get("soft_time_limit")}
    app.conf.override({name: value for name, value in limits.items() if value is not None})
    plan = make_plan(app, loglevel=loglevel or "WARNING", **options)
    set_up_logging(app.conf, plan.loglevel, plan.logfile)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    connection: psycopg.Connection[Any] = connect_waiting(app.new_connection, say)
    connection.close()
    worker = Worker(app, plan)
    _obey_signals(worker, say)
    with _PidFile(pidfile):
        worker.start()
        say(_banner(app, plan))
        # In slices, so that signal handlers run on every system.
        while not worker.wait(3600.0):
            pass
    if worker.failure:
        say(f"pgqueue worker: {worker.failure}")
        return 1
    say(f"pgqueue worker: stopped; {worker.finished} jobs ended here")
    return 0


def _banner(app: PgQueue, plan: WorkerPlan) -> str:
    pools = ", ".join(f"{kind} x {size}" for kind, size in plan.pools.items())
    once = sorted(name for name, task in app.tasks.items() if not task.acks_late)
    promise = "jobs run at least once"
    if once:
        promise += f" (at most once: {', '.join(once[:5])}{' ...' if len(once) > 5 else ''})"
    unknown = f"\n  unknown queues: {', '.join(plan.unknown_queues)} (no task of this application is routed there)"
    return (
        f"pgqueue worker {plan.name} is ready (pid {os.getpid()})\n"
        f"  queues: {', '.join(plan.queues)}\n"
        f"  pools: {pools}\n"
        f"  {promise}" + (unknown if plan.unknown_queues else "")
    )


def _obey_signals(worker: Worker, say: Callable[[str], None]) -> None:
    if threading.current_thread() is not threading.main_thread():
        return

    def stop(number: int, frame: FrameType | None) -> None:
        worker.request_stop()

    for name in ("SIGTERM", "SIGINT", "SIGHUP"):
        if hasattr(signal, name):
            signal.signal(getattr(signal, name), stop)
    if hasattr(signal, "SIGQUIT"):

        def stop_now(number: int, frame: FrameType | None) -> None:
            worker.request_stop()
            worker.request_stop()

        signal.signal(signal.SIGQUIT, stop_now)
    if hasattr(signal, "SIGPIPE"):
        signal.signal(signal.SIGPIPE, signal.SIG_IGN)


class _PidFile:
    """Writes a pid file without following links; refuses when a live process owns it."""

    def __init__(self, path: str | None) -> None:
        self._path = Path(path) if path else None

    def __enter__(self) -> None:
        if self._path is None:
            return
        try:
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            if self._owner_lives():
                raise ConfigurationError(f"pid file {self._path} belongs to a running process") from None
            self._path.unlink()
            descriptor = os.open(self._path, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except OSError as error:
            raise ConfigurationError(f"pid file {self._path}: {error.strerror}") from None
        with os.fdopen(descriptor, "w") as file:
            file.write(f"{os.getpid()}\n")

    def __exit__(self, *exc_info: object) -> None:
        if self._path is not None:
            self._path.unlink(missing_ok=True)

    def _owner_lives(self) -> bool:
        try:
            os.kill(int(self._path.read_text()) if self._path is not None else 0, 0)
        except (ValueError, ProcessLookupError, OSError):
            return False
        return True
