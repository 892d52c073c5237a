"""`pgqueue beat`: the scheduler without a worker around it; and how either comes to its scheduler."""

import json
import logging
import os
import socket
import threading
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import psycopg

from pgqueue.app.application import PgQueue
from pgqueue.errors import ConfigurationError
from pgqueue.store.schema import preflight
from pgqueue.store.statement import run as run_statement
from pgqueue.store.workers import isolation_level, read_committed, register_worker
from pgqueue.worker.lease import Lease, process_instance
from pgqueue.worker.logs import set_up_logging, tell_waiting, teller
from pgqueue.worker.scheduler import Declared, Scheduler
from pgqueue.worker.session import PatientConnection, first_connection, mind_poolers
from pgqueue.worker.signals import Signals

__all__ = ["Beat", "run", "scheduler_of"]

logger = logging.getLogger("pgqueue.scheduler")

PATIENCE_SECONDS = 30.0


def scheduler_of(
    app: PgQueue,
    spec: str | None,
    connect: Callable[..., psycopg.Connection[Any]],
    worker_id: Callable[[], int | None],
) -> Scheduler:
    """Return the scheduler of an application.

    Args:
        app: the application; finalized.
        spec: what -A named.
        connect: opens a connection; takes `listen`.
        worker_id: as in Scheduler.

    Raises:
        ValidationError: a declared schedule is wrong.
        ConfigurationError: schedules are declared, and the application has no name by which they would be known as its
            own.
    """
    fingerprint, entries, names = app.schedules.definitions.declarations()
    owner = app.main or spec
    declared = None
    if owner is not None:
        declared = Declared(owner, fingerprint, entries, sorted(app.tasks))
    elif names:
        raise ConfigurationError(
            f"schedule {names[0]!r}: the application that declares it needs a name: PgQueue('shop', …)"
        )
    return Scheduler(
        connect=lambda: connect(listen=True),
        queries=app.queries,
        declared=declared,
        worker_id=worker_id,
        loop_seconds=app.conf.beat_max_loop_interval,
        keep_seconds=app.conf.result_expires,
    )


class Beat:
    """A scheduler with a lease, so that it is seen beside the workers.

    Args:
        app: the application.
        spec: what -A named.
    """

    def __init__(self, app: PgQueue, spec: str | None = None) -> None:
        self._app = app
        self._stopped = threading.Event()
        conf = app.conf
        self._lease = Lease(
            connect=self._connect,
            queries=app.queries,
            register=self._register,
            lease_seconds=conf.worker_lease,
            heartbeat_seconds=conf.worker_heartbeat,
            lost_limit=conf.worker_lost_limit,
            keep_seconds=conf.failed_result_expires,
            figures=lambda: (0, 0),
            on_cancel=lambda ids: None,
            on_evicted=lambda: None,
        )
        self._scheduler = scheduler_of(app, spec, self._connect, lambda: self._lease.worker_id)
        self.name = f"beat.{app.main or 'app'}@{socket.gethostname()}"

    def start(self, on_wait: Callable[[str], None] | None = None) -> None:
        """Check the database, register, and begin; parameters and errors as of Worker.start."""
        with first_connection(self._connect, on_wait) as connection:
            for warning in preflight(connection, self._app.queries):
                logger.warning("%s", warning)
        self._app.conf.freeze("a scheduler started")
        self._lease.start(first_connection(self._connect, on_wait))
        self._scheduler.start()

    def request_stop(self) -> None:
        """Let wait() return. Safe from any thread."""
        self._stopped.set()

    def wait(self) -> None:
        """Wait for request_stop(), then end in order."""
        while not self._stopped.wait(3600.0):
            pass
        self._scheduler.stop()
        self._lease.stop()

    def _connect(self, listen: bool = False) -> PatientConnection:
        worker_id = self._lease.worker_id
        queries = self._app.queries
        connection: PatientConnection = self._app.new_connection(
            application_name=f"{queries.schema}/{worker_id}" if worker_id is not None else f"{queries.schema} beat",
            listen=listen,
            connection_class=PatientConnection,
        )
        connection.patience = PATIENCE_SECONDS
        connection.server_started = mind_poolers(connection, queries)
        if run_statement(connection, isolation_level(queries)) != "read committed":
            run_statement(connection, read_committed(queries))
        return connection

    def _register(self, connection: psycopg.Connection[Any]) -> int:
        return run_statement(
            connection,
            register_worker(
                self._app.queries,
                name=self.name,
                hostname=socket.gethostname(),
                pid=os.getpid(),
                instance=process_instance(),
                app=self._app.main or "",
                version=version("pgqueue"),
                queues=[],
                tasks=[],
                at_most_once=[],
                pools=json.dumps({}),
                lease_seconds=self._app.conf.worker_lease,
            ),
        )


def run(
    app: PgQueue,
    *,
    spec: str | None = None,
    loglevel: str = "INFO",
    logfile: str | None = None,
    max_interval: float | None = None,
    quiet: bool = False,
) -> int:
    """Schedule until told to stop.

    Args:
        app: the application.
        spec: what -A named.
        loglevel, logfile: of the log.
        max_interval: longest sleep in seconds; None: the setting.
        quiet: whether it says nothing about itself beside its log.

    Returns:
        0.
    """
    if max_interval is not None:
        app.conf.override({"beat_max_loop_interval": max_interval})
    app.finalize()
    set_up_logging(app.conf, loglevel, logfile)
    say = teller(app.conf, loglevel, logfile, quiet)
    beat = Beat(app, spec)
    Signals(beat.request_stop, 0.0, lambda line: say("pgqueue beat: stopping"))
    beat.start(tell_waiting)
    say(f"pgqueue beat {beat.name} is ready (pid {os.getpid()})")
    beat.wait()
    say("pgqueue beat: stopped")
    return 0
