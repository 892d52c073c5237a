"""Worker: one worker of an application. Builds its services, connects them, supervises its hosts, stops in order."""

import asyncio
import json
import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterable
from importlib.metadata import version
from types import TracebackType
from typing import Any, Self

import psycopg

from pgqueue.app.application import PgQueue
from pgqueue.store.claims import available_tasks
from pgqueue.store.partitions import days_ahead, ensure_partitions
from pgqueue.store.schema import preflight
from pgqueue.store.statement import run
from pgqueue.store.workers import isolation_level, read_committed, register_worker
from pgqueue.worker.beat import scheduler_of
from pgqueue.worker.burst import Burst
from pgqueue.worker.claimer import Claimer
from pgqueue.worker.completer import BATCH, Completer
from pgqueue.worker.executor import Executor
from pgqueue.worker.held import Entry, Held
from pgqueue.worker.hosts import ChildHost, Host, LocalHost
from pgqueue.worker.intake import Intake
from pgqueue.worker.lease import Lease, process_instance
from pgqueue.worker.listener import Listener
from pgqueue.worker.maintenance import Maintenance
from pgqueue.worker.plan import WorkerPlan, child_settings
from pgqueue.worker.pool import Pool
from pgqueue.worker.scheduler import Scheduler
from pgqueue.worker.session import PatientConnection, first_connection, mind_poolers
from pgqueue.worker.supervisor import Supervisor

__all__ = ["Worker"]

logger = logging.getLogger("pgqueue.worker")

UNLIMITED = sys.maxsize
IDLE_SUPERVISION_SECONDS = 1.0
BUSY_SUPERVISION_SECONDS = 0.1
MOST_PATIENCE_SECONDS = 30.0
SESSIONS = 4  # beside the lease's: claims, LISTEN, outcomes, schedules
MAINTENANCE_SECONDS = 3600.0


class Worker:
    """One worker; also a context manager, sync and async, for use inside a program.

    Args:
        app: whose jobs it runs.
        plan: what it serves, made by make_plan().
    """

    def __init__(self, app: PgQueue, plan: WorkerPlan) -> None:
        self.app = app
        self.plan = plan
        conf = app.conf
        self._queries = app.queries
        self._settled = 0
        self._executor: Executor | None = None
        self._attention = threading.Event()
        self._stopping = threading.Event()
        self._stopped = threading.Event()
        self._hurry = threading.Event()
        self.failure: str | None = None
        keeps = [task.result_expires for task in app.tasks.values()]
        self._partition_days = days_ahead(conf.result_expires, conf.failed_result_expires, *keeps)
        self._completer = Completer(
            self._connect,
            self._queries,
            self._keep_seconds,
            conf.worker_lost_limit,
            self._partition_days,
            self._has_room,
        )
        self.lease = Lease(
            connect=self._connect,
            queries=self._queries,
            register=self._register,
            lease_seconds=conf.worker_lease,
            heartbeat_seconds=conf.worker_heartbeat,
            lost_limit=conf.worker_lost_limit,
            keep_seconds=conf.failed_result_expires,
            figures=lambda: (sum(pool.running for pool in self.pools.values()), self.finished),
            on_cancel=self._cancel,
            on_evicted=self._evicted,
        )
        self.pools: dict[str, Pool] = {}
        once = frozenset(name for name in app.tasks if self._at_most_once(name))
        self._intake = Intake(self.pools, self._kinds(), once, conf.worker_claim_batch, self._completer.put)
        listener = Listener(
            lambda: self._connect(listen=True),
            trusted=conf.listen_dsn is not None,
            test_seconds=conf.worker_lease,
            queries=self._queries,
            queues=plan.queues,
            poll_seconds=conf.worker_poll_interval,
            on_message=self._on_message,
        )
        self._claimer = Claimer(
            connect=self._connect,
            listener=listener,
            queries=self._queries,
            queues=plan.queues,
            worker_id=lambda: self.lease.worker_id,
            room=self._room,
            take=self._intake.take,
            poll_seconds=conf.worker_poll_interval,
            on_connected=self._reconcile,
            on_evicted=self.lease.beat_now,
            on_drained=self._drained,
            unknown=self._intake.unknown,
        )
        for kind, size in plan.pools.items():
            self.pools[kind] = Pool(
                kind,
                size,
                buffer_seconds=conf.worker_buffer,
                claim_batch=conf.worker_claim_batch,
                quota=(plan.max_tasks_per_child or UNLIMITED) if kind == "processes" else UNLIMITED,
                make_host=self._make_host,
                finish=self._completer.put,
                settled=self._count_settled,
                has_room=self._has_room,
                at_most_once=self._at_most_once,
                record=self._completer.record,
            )
        self._supervisor = Supervisor(
            self.pools,
            plan,
            ready_seconds=conf.worker_proc_alive_timeout,
            hard_limit=self._hard_limit,
            may_start=lambda: self.lease.worker_id is not None and not self._stopping.is_set(),
            on_progress=self._completer.put_progress,
            on_death=self._completer.end_transactions,
            attention=self._attention,
        )
        self._maintenance = Maintenance(
            lambda: self._connect(patience=MAINTENANCE_SECONDS), self._queries, self._partition_days
        )
        self._scheduler: Scheduler | None = None  # once it has started
        self._burst: Burst | None = None
        if plan.burst:
            self._burst = Burst(self.pools, self._completer, self._claimer.nudge, self.request_stop)

    # -- life -----------------------------------------------------------------------------------------------------

    @property
    def finished(self) -> int:
        """Jobs that ended in this worker so far."""
        return self._completer.finished + self._settled

    def start(self, on_wait: Callable[[str], None] | None = None) -> None:
        """Check the database, register, and begin to work in background threads.

        Args:
            on_wait: called with the reason while the server cannot be reached or has no connection left, which then
                is waited for; None: that is an error.

        Raises:
            SchemaError, ConfigurationError: the schema or the server does not fit; the message says what to do.
            psycopg.Error: the database cannot be reached.
        """
        with first_connection(lambda: self._connect(patience=MAINTENANCE_SECONDS), on_wait) as connection:
            for warning in preflight(connection, self._queries):
                logger.warning("%s", warning)
            run(connection, ensure_partitions(self._queries, self._partition_days))
        self.app.conf.freeze("a worker started")
        self.app.embedded_worker_count += self.plan.in_process
        try:
            self.lease.start(first_connection(self._connect, on_wait, room_for=SESSIONS))
            self._supervisor.start()
            self._completer.start()
            self._claimer.start()
            self._maintenance.start()
            if self.plan.scheduler:
                scheduler = scheduler_of(self.app, self.plan.spec, self._connect, lambda: self.lease.worker_id)
                scheduler.start()
                self._scheduler = scheduler
            threading.Thread(target=self._supervise, name="pgqueue-supervisor", daemon=True).start()
        except BaseException:
            self._shut_down()
            raise

    def request_stop(self) -> None:
        """Begin a warm stop; asked again, do not wait for running jobs. Safe from any thread."""
        if self._stopping.is_set():
            self._hurry.set()
        self._stopping.set()
        self._attention.set()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the worker has stopped; false when `timeout` seconds were not enough."""
        return self._stopped.wait(timeout)

    def stop(self) -> None:
        """Stop: claim no more, give back what has not started, let run what has, within worker_shutdown_timeout."""
        if not self._stopping.is_set():
            self.request_stop()
        self.wait()

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    async def __aenter__(self) -> Self:
        await asyncio.to_thread(self.start)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self.stop)

    # -- what the services ask --------------------------------------------------------------------------------------

    def _connect(self, listen: bool = False, patience: float | None = None) -> PatientConnection:
        worker_id = self.lease.worker_id
        name = f"{self._queries.schema}/{worker_id}" if worker_id is not None else f"{self._queries.schema} worker"
        connection: PatientConnection = self.app.new_connection(
            application_name=name, listen=listen, connection_class=PatientConnection
        )
        # A heartbeat that hangs is made up for on another connection while the lease still lasts.
        connection.patience = patience or min(MOST_PATIENCE_SECONDS, max(5.0, self.app.conf.worker_lease / 2))
        connection.server_started = mind_poolers(connection, self._queries)
        # Claims and finishes count on each statement's own snapshot, whatever the role's default is.
        if run(connection, isolation_level(self._queries)) != "read committed":
            run(connection, read_committed(self._queries))
        return connection

    def _register(self, connection: psycopg.Connection[Any]) -> int:
        tasks = self.app.tasks
        return run(
            connection,
            register_worker(
                self._queries,
                name=self.plan.name,
                hostname=socket.gethostname(),
                pid=os.getpid(),
                instance=process_instance(),
                app=self.app.main or "",
                version=version("pgqueue"),
                queues=list(self.plan.queues),
                tasks=sorted(tasks),
                at_most_once=sorted(name for name in tasks if self._at_most_once(name)),
                pools=json.dumps(self.plan.pools),
                lease_seconds=self.app.conf.worker_lease,
            ),
        )

    def _kinds(self) -> dict[str, str]:
        """The kind of pool of each task."""
        plan = self.plan
        kinds = {n: "loop" if t.is_coroutine else t.pool or plan.main_pool for n, t in self.app.tasks.items()}
        return {n: "threads" if plan.in_process and kind == "processes" else kind for n, kind in kinds.items()}

    def _at_most_once(self, name: str) -> bool:
        task = self.app.tasks.get(name)
        return task is not None and not task.acks_late

    def _keep_seconds(self, name: str, kind: str) -> float | None:
        conf, task = self.app.conf, self.app.tasks.get(name)
        succeeded: float | None = conf.result_expires if task is None else task.result_expires
        failed: float | None = conf.failed_result_expires
        return succeeded if kind == "succeeded" else failed

    def _hard_limit(self, held: Held) -> float | None:
        task = self.app.tasks.get(held.job.task)
        limit: float | None = task.time_limit if task is not None else None
        if held.job.options is not None and "time_limit" in held.job.options:
            limit = json.loads(held.job.options).get("time_limit", limit)
        return limit

    def _room(self) -> tuple[int, list[str]]:
        if self._burst is not None:
            self._burst.before_look()
        if self._stopping.is_set() or not self._completer.connected or self._completer.pending > 4 * BATCH:
            return 0, []
        return self._intake.room()

    def _has_room(self) -> None:
        """There is room in a pool, or outcomes were written: what waited to be may have been what held claims back."""
        self._claimer.has_room()
        if self._burst is not None:
            self._burst.after_write()

    def _count_settled(self, count: int) -> None:
        self._settled += count

    def _drained(self) -> None:
        if self._burst is not None:
            self._burst.found_nothing()

    def _tell_what_is_left(self) -> None:
        """A burst that leaves jobs whose tasks it does not know has failed."""
        if not self.plan.burst or not self._intake.unknown:
            return
        with self._connect() as connection:
            left = run(connection, available_tasks(self._queries, self.plan.queues, sorted(self._intake.unknown)))
        if left:
            self.failure = f"jobs are left whose tasks are unknown here: {', '.join(left)}"

    def _on_message(self, payload: str) -> None:
        if payload[1:] == str(self.lease.worker_id):
            self.lease.beat_now()

    def _cancel(self, job_ids: set[str]) -> None:
        for pool in self.pools.values():
            pool.cancel(job_ids)

    def _evicted(self) -> None:
        for pool in self.pools.values():
            pool.forget()
        self._supervisor.kill_children()

    def _reconcile(self, connection: psycopg.Connection[Any], unheard: list[int]) -> None:
        self._intake.reconcile(connection, self._queries, self.lease.worker_id, unheard, self.app.conf.result_expires)

    def _make_host(self, kind: str, slots: int) -> Host:
        application_name = f"{self._queries.schema}/{self.lease.worker_id}"
        if kind == "solo" or self.plan.in_process:
            if self._executor is None:
                self._executor = Executor(self.app, self.plan.name, application_name)
            return LocalHost(kind, slots, self._executor, self._supervisor.take_local)
        settings = child_settings(self.app, self.plan, application_name)
        return ChildHost(kind, slots, settings, self._supervisor.wake_reader)

    def _supervise(self) -> None:
        while not self._stopping.is_set():
            watch = False
            try:
                watch = self._supervisor.tick()
            except Exception:
                logger.exception("supervision failed; it goes on")
            self.failure = self._supervisor.failure
            if self.failure:
                break
            self._attention.wait(BUSY_SUPERVISION_SECONDS if watch else IDLE_SUPERVISION_SECONDS)
            self._attention.clear()
        self._shut_down()

    # -- stopping -------------------------------------------------------------------------------------------------

    def _shut_down(self) -> None:
        try:
            self._stopping.set()
            if self._scheduler is not None:
                self._scheduler.stop()
            self._claimer.stop()
            self._release(held for pool in self.pools.values() for held in pool.close())
            until = time.monotonic() + self.app.conf.worker_shutdown_timeout
            while any(pool.load for pool in self.pools.values()) and not self._hurry.is_set():
                self._supervisor.tick()
                self._release(held for pool in self.pools.values() for held in pool.drain())
                if time.monotonic() > until:
                    logger.warning("jobs still run after %g s: they go back", self.app.conf.worker_shutdown_timeout)
                    break
                self._attention.wait(BUSY_SUPERVISION_SECONDS)
                self._attention.clear()
            for pool in self.pools.values():
                self._release(pool.drain())
            # Only when their processes are gone may others run these jobs.
            self._supervisor.end()
            for pool in self.pools.values():
                pool.give_up()
            self._supervisor.close()
            if not self._completer.stop(10.0):
                logger.error("%d outcomes could not be written; their jobs will run again", self._completer.pending)
            self._maintenance.stop()
            self._tell_what_is_left()
        except Exception:
            logger.exception("stopping failed")
            self.failure = "stopping failed; see the errors above"
        finally:
            self.app.embedded_worker_count -= self.plan.in_process
            try:
                self.lease.stop()
            finally:
                self._stopped.set()

    def _release(self, held: Iterable[Held]) -> None:
        entries: list[Entry] = [(attempt, ("released",)) for attempt in held]
        if entries:
            self._completer.put(entries)
