"""The only claimer of a worker: looks for jobs, hands them to the pools, sleeps when there are none."""

import contextlib
import logging
import random
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg
from psycopg.types.string import TextLoader

from pgqueue.errors import LeaseLost
from pgqueue.job import ClaimedJob
from pgqueue.store.claims import claim_jobs, first_places
from pgqueue.store.statement import Queries, run
from pgqueue.worker.lanes import Lanes
from pgqueue.worker.listener import Listener
from pgqueue.worker.logs import first_line

__all__ = ["Claimer"]

logger = logging.getLogger("pgqueue.worker")

# More jobs than this in one look: enqueues need not notify while the claimer is busy anyway.
BUSY_JOBS = 8
# Pauses between looks after a burst, before the locks are taken: more is likely to follow.
AFTER_BURST_SECONDS = (0.001, 0.002, 0.004, 0.008)
DUE_WINDOW_SECONDS = 60.0
# A pool full for longer than this has jobs that take long: then jobs of other pools are looked for past its backlog,
# for this share of the time, as such a look walks over all of it.
FULL_SECONDS = 0.25
PARTIAL_LOOK_DUTY = 0.05
HAND_OVER_SECONDS = 1.0
HAND_OVER_PAUSE_SECONDS = 0.05  # for others to take the locks
SETTLED_SECONDS = 10.0  # a connection that lasted so long was a good one


class Claimer:
    """A thread that claims.

    Args:
        connect: opens its connection for claims.
        listener: where it sleeps; its own from now on.
        queries: of the schema.
        queues: names to serve.
        worker_id: returns the id under which to claim; None while the worker is not registered.
        room: returns how many jobs to claim and the tasks that have no room.
        take: hands over (token, jobs).
        poll_seconds: between looks without any notification.
        on_connected: called with the claim connection after each connect, before the first claim, and with the tokens
            of claims whose answer was lost: if they happened, nobody has their jobs in hand.
        on_evicted: called when the database says that the worker was declared lost.
        on_drained: called when a look found nothing.
        unknown: tasks that this worker does not have; `take` may add to it.
    """

    def __init__(
        self,
        *,
        connect: Callable[[], psycopg.Connection[Any]],
        listener: Listener,
        queries: Queries,
        queues: Sequence[str],
        worker_id: Callable[[], int | None],
        room: Callable[[], tuple[int, list[str]]],
        take: Callable[[int, list[ClaimedJob]], None],
        poll_seconds: float,
        on_connected: Callable[[psycopg.Connection[Any], list[int]], None],
        on_evicted: Callable[[], None],
        on_drained: Callable[[], None],
        unknown: set[str],
    ) -> None:
        self._connect = connect
        self._listener = listener
        self._queries = queries
        self._queues = list(queues)
        self._worker_id = worker_id
        self._room = room
        self._take = take
        self._poll_seconds = poll_seconds
        self._on_connected = on_connected
        self._on_evicted = on_evicted
        self._on_drained = on_drained
        self._unknown = unknown
        self._lanes = Lanes(self._queues)
        self._connection: psycopg.Connection[Any] | None = None
        self._wants_room = False
        self._handed_over_at = 0.0
        self._due_in: float | None = None
        self._partial_look_at = 0.0
        self._opened_at = 0.0
        self._unheard: list[int] = []  # tokens of claims whose answer was lost
        self._looked_at: float | None = None
        self._failing_since: float | None = None
        self._stopping = False
        self._thread = threading.Thread(target=self._work, name="pgqueue-claimer", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """Claim no more, and wait for the claim that is under way."""
        self._stopping = True
        self.nudge()
        if self._thread.ident is not None:
            self._thread.join()
        self._listener.end()

    def nudge(self) -> None:
        """Wake it: there is room again, or something became available. Safe from any thread."""
        self._listener.nudge()

    def has_room(self) -> None:
        """Wake it if it waits for room; a sleeping claimer need not know."""
        if self._wants_room:
            self.nudge()

    # -- the loop -------------------------------------------------------------------------------------------------

    def _work(self) -> None:
        delay = 0.1
        while not self._stopping:
            try:
                self._open()
                self._claim_until_stopped()
            except LeaseLost:
                self._close()  # the rescuer ended these sessions; the next ones bear the new worker's name
                self._on_evicted()
                self._sleep(0.2)
            except psycopg.Error as error:
                if self._looked_at is not None and time.monotonic() - self._opened_at > SETTLED_SECONDS:
                    delay = 0.1
                self._close()
                self._failing_since = self._failing_since or time.monotonic()
                logger.warning("cannot claim now: %s", first_line(error))
                self._sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, 5.0)
            except Exception:
                self._close()
                logger.exception("the claimer failed; it goes on")
                self._sleep(1.0)
        if self._listener.keys:
            with contextlib.suppress(psycopg.Error):
                self._listener.rise(hand_over=True)  # another one answers from now on
        self._close()

    def _claim_until_stopped(self) -> None:
        listener = self._listener
        burst = quiet_looks = 0
        more = stale = woken = untold = False
        while not self._stopping:
            worker_id = self._worker_id()
            limit, full = self._room()
            if worker_id is None or limit <= 0:
                self._wait_for_room(more)
                continue
            if not full:
                self._partial_look_at = 0.0
            elif self._wait_for_full(full):
                continue
            claimed = self._look(worker_id, limit, full)
            if self._failing_since is not None:
                logger.info("connected again after %.0f s", time.monotonic() - self._failing_since)
                self._failing_since = None
            more = claimed == limit
            if claimed:
                quiet_looks = 0
                burst += claimed
                if listener.asleep and claimed > BUSY_JOBS:
                    listener.rise(hand_over=False)
                if listener.asleep and not (more or full or stale or self._unknown):
                    # It found all there was, and what came since has told: no look for nothing beside the work.
                    burst = 0
                    woken = self._sleep_until_told()
                    stale = bool(listener.others)
                continue
            if self._due_in is not None and self._due_in <= 0:
                continue
            if self._lanes.owed() is None:
                self._on_drained()
            if full and not self._wants_more_room(full):
                continue
            if woken and self._unknown and listener.keys:
                # Perhaps for a job of which only others have the task: they answer now, and this one after them.
                woken = False
                listener.rise(hand_over=True)
                self._sleep(HAND_OVER_PAUSE_SECONDS)
                continue
            if listener.asleep and not stale:
                if untold and self._unknown:
                    # What was enqueued while this worker was awake told nobody, and perhaps only others have the task.
                    listener.tell_others()
                untold = False
                burst = quiet_looks = 0
                woken = self._sleep_until_told()
                stale = bool(listener.others)  # who answers for them may be gone by now
            elif not listener.listening:
                # No notification will come: look often after work, and ever more seldom.
                self._sleep(min(self._poll_seconds, 0.02 * 2 ** min(quiet_looks, 10)))
                quiet_looks += 1
            elif burst > BUSY_JOBS and quiet_looks < len(AFTER_BURST_SECONDS):
                self._sleep(AFTER_BURST_SECONDS[quiet_looks])
                quiet_looks += 1
            else:
                stale = False
                answered_for = listener.keys if listener.asleep else frozenset()
                if listener.fall_asleep():
                    untold = untold or not listener.keys <= answered_for
                    continue  # one more look: what was committed before the locks were ours
                if listener.keys:
                    # An enqueue is under way and will not notify: look again soon.
                    self._sleep(min(0.05, 0.001 * 2 ** min(quiet_looks, 6)))
                    quiet_looks += 1
                else:
                    burst = quiet_looks = 0
                    self._sleep_until_told()
            self._wants_room = False

    def _wait_for_full(self, full: list[str]) -> bool:
        """Give full pools time to have room before a look leaves their jobs out; false when it is over."""
        now = time.monotonic()
        if not self._partial_look_at:
            self._partial_look_at = now + FULL_SECONDS
        pause = self._partial_look_at - now
        if pause <= 0:
            return False
        if self._wants_more_room(full):
            self._sleep(pause)
        self._wants_room = False
        return True

    def _wants_more_room(self, full: list[str]) -> bool:
        """Ask to be woken when a full pool has room; false when it got some meanwhile."""
        self._wants_room = True
        return self._room()[1] == full

    def _wait_for_room(self, more: bool) -> None:
        now = time.monotonic()
        if self._listener.keys or (more and now - self._handed_over_at > HAND_OVER_SECONDS):
            self._handed_over_at = now
            self._listener.rise(hand_over=True)
        self._wants_room = True
        self._due_in = None
        # Room may have come between the question and the flag.
        if self._room()[0] <= 0 or self._worker_id() is None:
            self._sleep(self._poll_seconds)
        self._wants_room = False

    def _look(self, worker_id: int, limit: int, full: list[str]) -> int:
        excluded = [*self._unknown, *full]
        ranges, kind = self._lanes.plan(excluded)
        token = secrets.randbits(62)
        started = time.monotonic()
        window = None
        if kind != "full" and self._looked_at is not None and not self._lanes.went_back:
            window = started - self._looked_at + DUE_WINDOW_SECONDS
        connection = self._connection
        if connection is None:
            raise psycopg.OperationalError("the connection is closed")
        if self._unheard and started - self._opened_at > SETTLED_SECONDS:
            # Once more: at the reconnect the server may still have been busy with them.
            self._on_connected(connection, self._unheard)
            self._unheard = []
        try:
            look, jobs = run(connection, claim_jobs(self._queries, worker_id, token, ranges, limit, excluded, window))
        except psycopg.Error as error:
            if error.sqlstate == "PGQ01":
                raise LeaseLost(str(error)) from error
            self._unheard.append(token)
            raise
        self._due_in = look.due_in
        if look.due_in is None or look.due_in > 0:
            self._looked_at = started  # and found all that was due
        if jobs:
            jobs.sort(key=_place)
            self._take(token, jobs)
        seconds = time.monotonic() - started
        self._lanes.learn(kind, look, jobs, len(jobs) < limit, seconds)
        if (owed := self._lanes.owed()) is not None:
            self._due_in = owed if look.due_in is None else min(look.due_in, owed)
        if full and not jobs:
            # It walked over all jobs of the pools that are full.
            self._partial_look_at = time.monotonic() + seconds / PARTIAL_LOOK_DUTY
        if lanes := self._lanes.behind():
            self._lanes.move(lanes, run(connection, first_places(self._queries, lanes, list(self._unknown))))
        return len(jobs)

    def _sleep_until_told(self) -> bool:
        """Sleep as long as polling allows; true as Listener.sleep()."""
        return self._sleep(self._poll_seconds * random.uniform(0.9, 1.0))

    def _sleep(self, seconds: float) -> bool:
        """Sleep until something may have become available, or until the next job is due; true as Listener.sleep()."""
        return self._listener.sleep(seconds if self._due_in is None else min(seconds, max(self._due_in, 0.0)))

    # -- connections ----------------------------------------------------------------------------------------------

    def _open(self) -> None:
        if self._connection is None:
            connection = self._connect()
            for name in ("uuid", "json", "timestamptz"):
                connection.adapters.register_loader(name, TextLoader)
            connection.prepare_threshold = 0 if connection.prepare_threshold is not None else None
            self._lanes.forget()
            self._looked_at = None
            self._on_connected(connection, self._unheard)
            self._connection = connection
            self._opened_at = time.monotonic()
        self._listener.open()

    def _close(self) -> None:
        self._wants_room = False
        self._due_in = None  # as of a look that is over: the next one is after a pause
        self._listener.close()
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _place(job: ClaimedJob) -> tuple[int, int]:
    return -job.priority, job.seq
