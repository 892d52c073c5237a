"""`pgqueue worker`: one worker in this process, from its start to its exit code."""

import faulthandler
import logging
import os
import signal
import sys
from pathlib import Path
from typing import Any

import psycopg

from pgqueue.app.application import PgQueue
from pgqueue.config.dsn import describe
from pgqueue.discovery import import_tasks
from pgqueue.errors import ConfigurationError
from pgqueue.store.schema import connect_waiting, found_version
from pgqueue.worker.logs import set_up_logging, tell_waiting, teller
from pgqueue.worker.plan import WorkerPlan, make_plan
from pgqueue.worker.reload import run_reloading, same_command
from pgqueue.worker.signals import Signals
from pgqueue.worker.worker import Worker

__all__ = ["run"]

logger = logging.getLogger("pgqueue.worker")


def run(
    app: PgQueue,
    *,
    loglevel: str | None = None,
    pidfile: str | None = None,
    reload: bool = False,
    quiet: bool = False,
    **options: Any,
) -> int:
    """Run a worker until it is told to stop, or has drained its queues (burst).

    Args:
        app: the application.
        loglevel: least severe level that is logged; default WARNING.
        pidfile: where to write the process id; removed at the end.
        reload: start again whenever a Python file of the current directory changes (development).
        quiet: whether the worker says nothing about itself beside its log.
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
    import_tasks(options.get("include", ()))
    plan = make_plan(app, loglevel=loglevel or "WARNING", **options)
    set_up_logging(app.conf, plan.loglevel, plan.logfile)
    say = teller(app.conf, plan.loglevel, plan.logfile, quiet)
    if hasattr(faulthandler, "register"):
        faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)
    connection: psycopg.Connection[Any] = connect_waiting(app.new_connection, tell_waiting)
    with connection:
        server = _server(connection, app)
    worker = Worker(app, plan)
    signals = Signals(worker.request_stop, app.conf.worker_shutdown_timeout, say)
    with _PidFile(pidfile):
        worker.start(tell_waiting)
        say(_banner(app, plan, server))
        # In slices, so that signal handlers run on every system.
        while not worker.wait(3600.0):
            pass
    if worker.failure:
        logger.error("%s", worker.failure)
        return 1
    say(f"pgqueue worker: stopped; {worker.finished} job{'' if worker.finished == 1 else 's'} ended here")
    if signals.restart:
        sys.stdout.flush()
        sys.stderr.flush()
        os.execv(sys.executable, same_command())  # noqa: S606 - this very program
    return 0


def _server(connection: psycopg.Connection[Any], app: PgQueue) -> str:
    """Where the jobs are, without the password."""
    version = connection.info.parameter_status("server_version")
    schema = found_version(connection, app.queries)
    return f"{describe(app.dsn)} (PostgreSQL {version}), schema {app.queries.schema} {schema or 'missing'}"


def _banner(app: PgQueue, plan: WorkerPlan, server: str) -> str:
    conf = app.conf
    pools = ", ".join(f"{kind} x {size}" for kind, size in plan.pools.items())
    once = sorted(name for name, task in app.tasks.items() if not task.acks_late)
    promise = "jobs run at least once"
    if once:
        promise += f" (at most once: {_listed(once)})"
    unknown = f"\n  unknown queues: {', '.join(plan.unknown_queues)} (no task of this application is routed there)"
    return (
        f"pgqueue worker {plan.name} is ready (pid {os.getpid()})\n"
        f"  database: {server}\n"
        f"  queues: {', '.join(plan.queues)}\n"
        f"  pools: {pools}\n"
        f"  tasks: {_listed(sorted(app.tasks))}\n"
        f"  lease: {conf.worker_lease:g} s, renewed each {conf.worker_heartbeat:g} s;"
        f" grace period of a stop: {conf.worker_shutdown_timeout:g} s\n"
        f"  {promise}" + (unknown if plan.unknown_queues else "")
    )


def _listed(names: list[str]) -> str:
    shown = ", ".join(names[:8]) or "none"
    return f"{shown} and {len(names) - 8} more" if len(names) > 8 else shown


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
