"""A pool: where jobs of one kind wait for a free host, and what its hosts run.

Buffer and hosts' own queues are bounded by time, not by number: about a second of work waits here, some milliseconds of
it in a child, as measured from the jobs that ended before.
"""

import itertools
import logging
import threading
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from pgqueue.codec import encode_error
from pgqueue.errors import TaskRevokedError, TimeLimitExceeded
from pgqueue.worker.held import Entry, Held, Recorded
from pgqueue.worker.hosts import ChildHost, Host
from pgqueue.worker.line import Line
from pgqueue.worker.logs import about
from pgqueue.worker.station import Station

__all__ = ["Pool"]

logger = logging.getLogger("pgqueue.worker")

# Work that waits in a host behind what it runs, so that it need not pause between jobs.
HOST_AHEAD_SECONDS = 0.02
HOST_AHEAD_JOBS = 255
# A host that runs one job longer than this gives back what waits behind it.
RECALL_SECONDS = 0.25
# A loop ends coroutines at their limits by itself; one that does not is ended with its process.
LOOP_GRACE_SECONDS = 1.0


class Pool:
    """One kind of pool of a worker. Its methods are called from several threads; a lock makes them take turns.

    Args:
        kind: processes, threads, loop or solo.
        concurrency: how many jobs run at once.
        buffer_seconds: work that may wait in this worker.
        claim_batch: upper bound of one claim; four of them bound the buffer.
        quota: jobs that one host may run before it is replaced.
        make_host: starts a host with so many slots.
        finish: takes outcomes.
        settled: takes the number of jobs that recorded their end themselves.
        has_room: called when jobs may be claimed again.
        at_most_once: whether a task must not run again when its process died.
        record: writes that attempts begin, and then calls back with them and the ids of those that are still ours.
    """

    def __init__(
        self,
        kind: str,
        concurrency: int,
        *,
        buffer_seconds: float,
        claim_batch: int,
        quota: int,
        make_host: Callable[[str, int], Host],
        finish: Callable[[Iterable[Entry]], None],
        settled: Callable[[int], None],
        has_room: Callable[[], None],
        at_most_once: Callable[[str], bool],
        record: Callable[[list[Held], Recorded | None], None],
    ) -> None:
        self.kind = kind
        self.concurrency = concurrency
        self._buffer_seconds = buffer_seconds
        self._buffer_jobs = 4 * claim_batch
        self._quota = quota
        self._make_host = make_host
        self._finish = finish
        self._settled = settled
        self._has_room = has_room
        self._at_most_once = at_most_once
        self._record = record
        self._lock = threading.RLock()
        self._line = Line()
        self._numbers = itertools.count(1)
        self._load = 0
        self._job_seconds: float | None = None  # moving average of run time per job
        self.closed = False
        self.stations: list[Station] = []

    # -- claimed jobs in ------------------------------------------------------------------------------------------

    @property
    def load(self) -> int:
        """Jobs in this pool: waiting and running."""
        return self._load

    @property
    def running(self) -> int:
        """Jobs handed to hosts."""
        return sum(len(station.sent) for station in self.stations)

    @property
    def target(self) -> int:
        """Jobs that keep this pool busy for the buffer's time."""
        if not self._job_seconds:
            return self.concurrency if self._job_seconds is None else self.concurrency + self._buffer_jobs
        ahead = int(self.concurrency * self._buffer_seconds / self._job_seconds)
        return self.concurrency + min(ahead, self._buffer_jobs)

    def room(self) -> int:
        """How many jobs to claim now; 0 while enough wait, so that claims come in batches."""
        target, load = self.target, self._load
        if self.closed or (load >= self.concurrency and load * 2 > target):
            return 0
        return target - load

    def offer(self, held: Sequence[Held], careful: Sequence[Held] = ()) -> None:
        """Take claimed jobs and hand them to hosts as these have room, careful ones after they were recorded."""
        with self._lock:
            self._line.add(held, careful)
            self._load += len(held) + len(careful)
            self._feed()

    def _feed(self) -> None:
        line = self._line
        if self.closed or not (line or line.careful):
            return
        stations = [station for station in self.stations if station.open]
        if line.careful and (batch := line.to_record(sum(station.free for station in stations))):
            self._record(batch, self._recorded)
        if not line:
            return
        ahead = 0
        if self._job_seconds is not None and not line.careful:
            ahead = min(HOST_AHEAD_JOBS, int(HOST_AHEAD_SECONDS / max(self._job_seconds, 1e-6)))
        kept = line.slots_kept
        # First everyone something to do, then something to go on with.
        for share in (1, 1 + ahead) if ahead else (1,):
            for station in stations:
                if share > 1 and station.stuck:
                    continue
                room = station.slots * share - len(station.sent)
                if kept and room > 0:
                    kept_here = min(kept, room)
                    kept -= kept_here
                    room -= kept_here
                if share > 1 and room * 2 < station.slots * share:
                    continue  # it has enough to go on with: jobs travel in batches
                count = min(room, len(line), station.quota)
                if count > 0:
                    station.send(line.take(count), self._numbers)
            if not line:
                return

    def _recorded(self, batch: list[Held], ours: set[str]) -> None:
        """Their beginning is recorded: they run, unless they were given up, cancelled or lost meanwhile."""
        with self._lock:
            left = self._line.recorded(batch, ours)
            self._end(left)
            self._feed()
            room = self.room() > 0
        if room:
            self._has_room()

    def _end(self, held: Sequence[Held]) -> None:
        """Report those that have their end; the others are no longer ours. Not before that has the load gone."""
        if ended := [(attempt, attempt.end) for attempt in held if attempt.end is not None]:
            self._finish(ended)
        self._load -= len(held)

    # -- messages of hosts ----------------------------------------------------------------------------------------

    def handle(self, station: Station, message: tuple[Any, ...]) -> None:
        """Take one message of a host: outcomes, jobs given back, or that it is ready."""
        kind = message[0]
        with self._lock:
            if kind == "done":
                self._done(station, message[1], message[2])
            elif kind == "returned":
                station.recalled = False
                returned = [station.sent.pop(n) for n in message[1] if n in station.sent]
                station.quota += len(returned)
                self._end([held for held in returned if held.end is not None])
                self._line.put_back([held for held in returned if held.end is None])
                for held in station.sent.values():
                    if held.end is not None and not held.told and station.has_begun(held):
                        self._tell(station, held)  # it began while it was recalled
            elif kind == "ready":
                station.host.ready = True
            self._feed()
            room = self.room() > 0
        if room:
            self._has_room()

    def _done(self, station: Station, micros: list[int], outcomes: list[tuple[Any, ...]]) -> None:
        each = sum(micros) / len(outcomes) / 1e6
        known = self._job_seconds
        self._job_seconds = each if known is None else 0.8 * known + 0.2 * each
        entries: list[Entry] = []
        ended = settled = 0
        for outcome, ran in zip(outcomes, micros, strict=True):
            held = station.sent.pop(outcome[0], None)
            if held is None:
                continue
            held.micros = ran
            ended += 1
            if outcome[1] == "settled":
                settled += 1
            else:
                entries.append((held, held.end or outcome[1:]))
        station.done += len(outcomes)
        station.stuck = False
        if entries:
            self._finish(entries)
        if settled:
            self._settled(settled)
        self._load -= ended

    # -- hosts ----------------------------------------------------------------------------------------------------

    def add(self, slots: int) -> Station:
        """Start a host."""
        station = Station(self._make_host(self.kind, slots), slots, self._quota)
        with self._lock:
            self.stations.append(station)
            self._feed()
        return station

    def retire(self, station: Station) -> None:
        """Let a host finish what it runs, and end."""
        with self._lock:
            if not station.retiring:
                station.retiring = True
                station.host.recall()
                station.host.stop()

    def bury(self, station: Station, reason: str) -> int:
        """Account for the jobs of a host that died; returns how many attempts it took along.

        What it had not started goes back in line here; what it ran is lost, or has the end for which it was killed.
        """
        with self._lock:
            if station not in self.stations:
                return 0
            self.stations.remove(station)
            entries: list[Entry] = []
            unstarted = []
            for held in station.sent.values():
                if held.end is not None:
                    entries.append((held, held.end))
                elif not station.has_begun(held):
                    unstarted.append(held)
                else:
                    entries.append((held, ("lost", reason, self._at_most_once(held.job.task))))
            station.sent = {}
            if entries:
                self._finish(entries)
            self._load -= len(entries)
            self._line.put_back(unstarted)
            self._feed()
        return len(entries)

    def supervise(self, now: float, hard_limit: Callable[[Held], float | None]) -> bool:
        """Enforce hard time limits and recall what waits behind a long job; true when something needs watching."""
        watch = False
        grace = LOOP_GRACE_SECONDS if self.kind == "loop" else 0.0
        with self._lock:
            for station in self.stations:
                if not station.sent:
                    continue
                if late := station.unrecorded(now):
                    self._record(late, None)
                watch = watch or station.to_record
                waiting = len(station.sent) > station.slots
                running = station.host.board.running()
                for number, since in running:
                    held = station.sent.get(number)
                    if held is None:
                        continue
                    limit = hard_limit(held)
                    if limit is not None:
                        watch = True
                        if now - since > limit + grace and not held.overdue:
                            self._time_out(station, held, limit)
                busy = len(running) >= station.slots
                station.stuck = busy and all(now - since > RECALL_SECONDS for _, since in running)
                if waiting and station.stuck and not station.recalled and station.host.ready:
                    station.recalled = True
                    station.host.recall()
                watch = watch or waiting
        return watch

    def _time_out(self, station: Station, held: Held, limit: float) -> None:
        error = TimeLimitExceeded(f"time limit of {limit:g} s of task {held.job.task}[{held.job.id}] passed")
        held.end = held.end or ("failed", encode_error(error), None)
        held.overdue = held.told = True
        job = held.job
        logger.error("Task %s[%s] passed its time limit of %g s", job.task, job.id, limit, extra=about(job))
        if self.kind == "processes" or isinstance(station.host, ChildHost):
            # Neighbours in threads or on the loop go back in line, their attempt unspent.
            for other in station.sent.values():
                if other.end is None and other is not held and station.has_begun(other):
                    once = self._at_most_once(other.job.task)
                    other.end = ("lost", "a neighbour passed its time limit", True) if once else ("released",)
            station.host.kill()
        else:
            station.host.cancel(held.number)

    def cancel(self, job_ids: set[str]) -> None:
        """End these jobs, wherever they are in this pool."""
        end = ("cancelled", encode_error(TaskRevokedError("cancelled on request")), None)
        with self._lock:
            waiting = self._line.remove(job_ids, end)
            if waiting:
                self._finish([(held, end) for held in waiting])
            self._load -= len(waiting)
            for station in self.stations:
                for held in list(station.sent.values()):
                    if held.job.id not in job_ids:
                        continue
                    held.end = held.end or end
                    if station.has_begun(held):
                        self._tell(station, held)
                    elif not station.recalled:
                        station.recalled = True
                        station.host.recall()

    def _tell(self, station: Station, held: Held) -> None:
        # A coroutine that cleans up is not disturbed again; a thread hears it once, but perhaps was not ready to hear.
        if not held.told or self.kind != "loop":
            held.told = True
            station.host.cancel(held.number)

    # -- ending ---------------------------------------------------------------------------------------------------

    def give_up(self) -> None:
        """Decide the end of everything that still runs: it goes back in line, or is lost where it may run only once."""
        with self._lock:
            # Also what was recorded, or came back, since the line was drained.
            waiting = [*self._line.give_up(), *self._line.drain()]
            entries: list[Entry] = [(held, held.end or ("released",)) for held in waiting]
            for station in self.stations:
                for held in station.sent.values():
                    once = station.has_begun(held) and self._at_most_once(held.job.task)
                    end = ("lost", "its worker stopped before it ended", True) if once else ("released",)
                    entries.append((held, held.end or end))
                station.sent.clear()
            if entries:
                self._finish(entries)
            self._load -= len(entries)

    def close(self) -> list[Held]:
        """Take no more jobs; returns those that were not started here, and recalls those that wait in hosts."""
        with self._lock:
            self.closed = True
            for station in self.stations:
                if len(station.sent) > 0 and station.host.ready:
                    station.host.recall()
            return self.drain()

    def drain(self) -> list[Held]:
        """Return what came back after close()."""
        with self._lock:
            waiting = self._line.drain()
            self._load -= len(waiting)
        return waiting

    def forget(self) -> None:
        """Drop everything: the worker lost its lease, and all these attempts are others' now."""
        with self._lock:
            self._line = Line()
            for station in self.stations:
                station.sent.clear()
            self._load = 0

    def held(self) -> list[Held]:
        """Return all attempts in this pool."""
        with self._lock:
            sent = (held for station in self.stations for held in station.sent.values())
            return [*self._line, *sent]

    def drop(self, lost: set[Held]) -> None:
        """Drop attempts that turned out to be no longer ours; what runs of them is refused at its finish."""
        with self._lock:
            self._load -= self._line.drop(lost)
