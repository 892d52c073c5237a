"""The scheduler of a worker: enqueues the jobs of ticks that are due, and sleeps until the next one.

Any number of them run at once; rows are locked for the moment in which their ticks become jobs. One of them, whichever
holds the duty lock, wakes up for each tick; the others look a little later whether anything was left, so that a hundred
workers do not all wake up together. The lock is a hint only: it ends with its session, and a scheduler that finds work
does it.
"""

import logging
import os
import random
import select
import threading
import time
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, NamedTuple

import psycopg

from pgqueue.store.schedules import (
    DueRow,
    Move,
    declare_schedules,
    due_schedules,
    fire_schedules,
    listen_schedules,
    next_wake,
    prune_ticks,
    take_duty,
)
from pgqueue.store.statement import Queries, run
from pgqueue.worker.moves import move, refused

__all__ = ["Declared", "Scheduler", "fire_batch"]

logger = logging.getLogger("pgqueue.scheduler")

BATCH = 500
RESERVE_SECONDS = (0.1, 0.3)  # how much later those who are not on duty look
EAGER_SECONDS = 10.0  # after doing the work of one who holds the duty and does not do it
LOCKED_SECONDS = 0.05  # until the next look at a row that somebody else has locked
DECLARE_AGAIN_SECONDS = 60.0
WITHOUT_NOTIFICATIONS_SECONDS = 5.0
DEFAULT_LOOP_SECONDS = 30.0
MOVING_SECONDS = 1.0  # that rows stay locked while ticks are computed; the server ends the session after five
FULL_LOOK_SECONDS = 30.0
WINDOW_SECONDS = 60.0
PRUNE_SECONDS = 3600.0


class Declared(NamedTuple):
    """What the code of an application declares.

    Attributes:
        owner: the application's name.
        fingerprint: of all entries.
        entries: JSON.
        tasks: names of the tasks that it has.
    """

    owner: str
    fingerprint: str
    entries: str
    tasks: Sequence[str]


def fire_batch(
    connection: psycopg.Connection[Any], queries: Queries, now: datetime | None = None, window: float | None = None
) -> tuple[int, int]:
    """Deal with schedules that are due, BATCH at most, in one transaction.

    Args:
        connection: in autocommit.
        queries: of the schema.
        now: instead of the database's clock.
        window: as of due_schedules.

    Returns:
        How many schedules were looked at, how many jobs were enqueued.
    """
    try:
        return _fire(connection, queries, BATCH, now, window)
    except psycopg.OperationalError:
        raise
    except psycopg.DatabaseError as error:
        if connection.closed:
            raise  # the server has ended the session
        # One schedule that cannot be enqueued, such as by a trigger of the user's, must not hold up the others.
        logger.warning("schedules are fired one by one: %s", _said(error))
    looked = fired = 0
    while looked < BATCH:
        seen, made = _fire(connection, queries, 1, now, window)
        looked, fired = looked + seen, fired + made
        if not seen:
            break
    return looked, fired


def _fire(
    connection: psycopg.Connection[Any], queries: Queries, limit: int, now: datetime | None, window: float | None
) -> tuple[int, int]:
    with connection.transaction():
        rows = run(connection, due_schedules(queries, limit, now, window), prepare=True)
        if not rows:
            return 0, 0
        moves: list[Move] = []
        began, ticks = time.monotonic(), 0
        for row in rows:
            moves.append(move(row))
            ticks += len(moves[-1].ticks)
            # After an outage schedules may have thousands of ticks: those that are left stay due.
            if time.monotonic() - began > MOVING_SECONDS or ticks > BATCH:
                break
        if limit > 1:
            fired = run(connection, fire_schedules(queries, moves), prepare=True)
        else:
            moves[0], fired = _fire_one(connection, queries, rows[0], moves[0])
    for row, made in zip(rows, moves, strict=False):
        if made.problem:
            logger.error("schedule %r: %s", row.name, made.problem)
        if row.next_run_at is not None and made.ticks and made.ticks[0][0] > row.next_run_at:
            logger.warning("schedule %r was late; ticks since %s were left out", row.name, row.next_run_at)
    return len(moves), fired


def _fire_one(connection: psycopg.Connection[Any], queries: Queries, row: DueRow, made: Move) -> tuple[Move, int]:
    """Fire one schedule; what the database does not enqueue is tried again later, and says why."""
    try:
        with connection.transaction():
            return made, run(connection, fire_schedules(queries, [made]))
    except psycopg.OperationalError:
        raise
    except psycopg.DatabaseError as error:
        made = refused(row, f"cannot be enqueued: {_said(error)}")
        return made, run(connection, fire_schedules(queries, [made]))


def _said(error: psycopg.Error) -> str:
    return (error.diag.message_primary or str(error).strip() or repr(error)).splitlines()[0]


class Scheduler:
    """A thread that makes jobs of ticks.

    Args:
        connect: opens its connection, on which it also listens for edits.
        queries: of the schema.
        declared: what the code declares; None: nothing is said about it.
        worker_id: returns the id of the worker that it is part of; None while it is not registered.
        loop_seconds: longest sleep; 0: 30 s.
        keep_seconds: how long ticks that were dealt with are remembered; None: for ever.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], psycopg.Connection[Any]],
        queries: Queries,
        declared: Declared | None,
        worker_id: Callable[[], int | None],
        loop_seconds: float = 0.0,
        keep_seconds: float | None = None,
    ) -> None:
        self._connect = connect
        self._queries = queries
        self._declared = declared
        self._worker_id = worker_id
        self._loop_seconds = loop_seconds or DEFAULT_LOOP_SECONDS
        self._keep_seconds = keep_seconds
        self._prune_at = time.monotonic() + PRUNE_SECONDS * random.uniform(0.1, 1.0)
        self._connection: psycopg.Connection[Any] | None = None
        self._listens = False
        self._on_duty = False
        self._eager_until = 0.0
        self._clear_at: float | None = None  # when a look all the way back found nothing due
        self._edited = False
        self._declared_as: int | None = None
        self._declare_at: float | None = 0.0
        self._stopping = False
        self._pipe_in, self._pipe_out = os.pipe()
        self._thread = threading.Thread(target=self._work, name="pgqueue-scheduler", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; what it has begun is committed first."""
        self._stopping = True
        os.write(self._pipe_out, b".")
        self._thread.join()
        os.close(self._pipe_in)
        os.close(self._pipe_out)

    def _work(self) -> None:
        delay = 0.1
        while not self._stopping:
            try:
                connection = self._open()
                while not self._stopping:
                    self._declare(connection)
                    self._look(connection)
                    self._prune(connection)
                    delay = 0.1
            except psycopg.Error as error:
                logger.warning("cannot schedule now: %s", _said(error))
            except Exception:
                logger.exception("the scheduler failed; it goes on")
            self._close()
            if not self._stopping:
                self._sleep(None, delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, 5.0)

    def _look(self, connection: psycopg.Connection[Any]) -> None:
        """Deal with what is due, then sleep."""
        if self._edited:
            self._clear_at = None  # the edit's transaction may have begun long ago
        self._edited = False
        now, window = time.monotonic(), None
        if self._clear_at is not None and now - self._clear_at < FULL_LOOK_SECONDS:
            window = now - self._clear_at + WINDOW_SECONDS
        due_in = run(connection, next_wake(self._queries, window))
        if due_in > 0 and window is None:
            self._clear_at = now
        if due_in <= 0:
            looked, fired = fire_batch(connection, self._queries, None, window)
            if not looked:
                self._sleep(connection, LOCKED_SECONDS)
            elif fired and self._listens and not self._on_duty:
                self._on_duty = run(connection, take_duty(self._queries))
                self._eager_until = time.monotonic() + EAGER_SECONDS
            return
        longest = self._loop_seconds if self._listens else WITHOUT_NOTIFICATIONS_SECONDS
        if self._declare_at is not None:
            longest = min(longest, max(self._declare_at - time.monotonic(), 0.0))
        if self._punctual:
            self._sleep(connection, min(due_in, longest))
            return
        self._sleep(connection, min(due_in + random.uniform(*RESERVE_SECONDS), longest))
        if self._edited:
            self._sleep(None, random.uniform(*RESERVE_SECONDS))

    def _prune(self, connection: psycopg.Connection[Any]) -> None:
        if self._keep_seconds is not None and self._on_duty and time.monotonic() > self._prune_at:
            self._prune_at = time.monotonic() + PRUNE_SECONDS
            run(connection, prune_ticks(self._queries, self._keep_seconds))

    @property
    def _punctual(self) -> bool:
        return self._on_duty or not self._listens or time.monotonic() < self._eager_until

    def _sleep(self, connection: psycopg.Connection[Any] | None, seconds: float) -> None:
        """Sleep until the time is over, an edit is told of, or the end is asked for."""
        until = time.monotonic() + seconds
        watched = [self._pipe_in] if connection is None else [self._pipe_in, connection.fileno()]
        while not (self._stopping or (self._edited and connection is not None)):
            ready, _, _ = select.select(watched, [], [], max(0.0, until - time.monotonic()))
            if not ready:
                return
            if connection is not None and connection.fileno() in ready:
                connection.pgconn.consume_input()
                while connection.pgconn.notifies() is not None:
                    self._edited = True

    # -- what the code declares -----------------------------------------------------------------------------------

    def _declare(self, connection: psycopg.Connection[Any]) -> None:
        """Tell the database once, again after a new registration, and now and then while newer code is in force."""
        declared, worker_id = self._declared, self._worker_id()
        due = self._declare_at is not None and time.monotonic() >= self._declare_at
        if declared is None or not (due or worker_id != self._declared_as):
            return
        statement = declare_schedules(
            self._queries, declared.owner, declared.fingerprint, worker_id, declared.tasks, declared.entries
        )
        try:
            said = run(connection, statement)
        except psycopg.DataError as error:
            # What is in the table ticks on.
            logger.error("the schedules of this code were left out: %s", (error.diag.message_primary or error))
            self._declare_at, self._declared_as = None, worker_id
            return
        older = said == [(None, "older")]
        if older and self._declare_at == 0.0:
            logger.warning("newer or other code of %s declares its schedules; this code changes none", declared.owner)
        self._declare_at = time.monotonic() + DECLARE_AGAIN_SECONDS if older else None
        self._declared_as = worker_id
        for name, outcome in () if older else said:
            _report(declared.owner, str(name), outcome)

    # -- connections ----------------------------------------------------------------------------------------------

    def _open(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            connection = self._connect()
            # Behind a pooler a session is not ours: no notifications come, and a lock would stay with a stranger.
            self._listens = connection.prepare_threshold is not None
            self._on_duty = False
            self._clear_at = None
            self._connection = connection
            if self._listens:
                run(connection, listen_schedules(self._queries))
                connection.add_notify_handler(self._notice)
                self._on_duty = run(connection, take_duty(self._queries))
        return self._connection

    def _notice(self, notify: psycopg.Notify) -> None:
        self._edited = True

    def _close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _report(owner: str, name: str, outcome: str) -> None:
    if outcome == "paused":
        logger.warning("schedule %r is no longer declared by %s: paused; remove or resume it by hand", name, owner)
    elif outcome == "parked":
        logger.warning("schedule %r waits: no worker has its task", name)
    elif outcome.startswith("refused"):
        logger.error("schedule %r was left out: %s", name, outcome.removeprefix("refused: "))
    elif outcome.startswith("taken"):
        logger.error("schedule %r was left as it is: its name is %s", name, outcome)
    else:
        logger.info("schedule %r: %s", name, outcome)
