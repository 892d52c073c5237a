"""The hosts of a worker: reads what they report, replaces those that died, enforces limits, scales."""

import logging
import selectors
import socket
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from pgqueue.worker.held import Held
from pgqueue.worker.hosts import ChildHost, Host, LocalHost
from pgqueue.worker.logs import about
from pgqueue.worker.plan import WorkerPlan
from pgqueue.worker.pool import Pool
from pgqueue.worker.station import Station

__all__ = ["Supervisor"]

logger = logging.getLogger("pgqueue.worker")

# Children that die before they are ready, one after the other, until the worker gives up.
MAX_FAILED_STARTS = 3
SHRINK_AFTER_SECONDS = 30.0


class Supervisor:
    """Looks after the hosts of all pools. One thread of its own reads; `tick` is called by the worker's.

    Args:
        pools: by kind.
        plan: limits of children, and autoscale.
        ready_seconds: a child that takes longer to become ready is replaced.
        hard_limit: the hard time limit of an attempt in seconds, or None.
        may_start: whether new children may be started now.
        on_progress: takes (job id, token, progress) of update_state().
        on_death: takes the transactions that a child had begun, before its jobs are accounted for.
        attention: set when `tick` is to be called soon.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        plan: WorkerPlan,
        *,
        ready_seconds: float,
        hard_limit: Callable[[Held], float | None],
        may_start: Callable[[], bool],
        on_progress: Callable[[str, int, str], None],
        on_death: Callable[[dict[int, str]], None],
        attention: threading.Event,
    ) -> None:
        self._pools = pools
        self._plan = plan
        self._ready_seconds = ready_seconds
        self._hard_limit = hard_limit
        self._may_start = may_start
        self._on_progress = on_progress
        self._on_death = on_death
        self._attention = attention
        self._stations: dict[Host, tuple[Pool, Station]] = {}
        self._dead: list[tuple[Pool, Station]] = []
        self._failed_starts = 0
        self._told_of_memory = False
        self._idle_since = time.monotonic()
        self._ended = False
        self._selector = selectors.DefaultSelector()
        self._wake_in, self._wake_out = socket.socketpair()
        self._selector.register(self._wake_in, selectors.EVENT_READ)
        self._reader = threading.Thread(target=self._read, name="pgqueue-reader", daemon=True)

    @property
    def failure(self) -> str | None:
        """Why the worker cannot go on, if it cannot."""
        if self._failed_starts < MAX_FAILED_STARTS:
            return None
        return "child processes die before they are ready; see the errors above"

    def start(self) -> None:
        """Start the hosts of all pools, and the thread that reads from them."""
        self._reader.start()
        for kind, pool in self._pools.items():
            hosts, slots = (pool.concurrency, 1) if kind == "processes" else (1, pool.concurrency)
            for _ in range(hosts):
                self._add(pool, slots)

    def tick(self) -> bool:
        """Do what is due; true when something needs watching closely."""
        now = time.monotonic()
        watch = False
        for pool in self._pools.values():
            watch = pool.supervise(now, self._hard_limit) or watch
        self._notice_ends()
        self._replace_dead()
        if self._may_start():
            self._renew(now)
        return watch

    def _notice_ends(self) -> None:
        for host in list(self._stations):
            if isinstance(host, ChildHost) and host.notice_end():
                self.wake_reader()

    def kill_children(self) -> None:
        """End all children now."""
        for host in list(self._stations):
            if isinstance(host, ChildHost):
                host.kill()

    def end(self) -> None:
        """Let idle hosts end, kill busy ones, and wait until the last word of each was read."""
        hosts = list(self._stations)
        for host, (_, station) in list(self._stations.items()):
            (host.kill if station.sent else host.stop)()
        for host in hosts:
            if isinstance(host, ChildHost):
                host.reap(5.0)
        self._notice_ends()
        until = time.monotonic() + 1.0
        while any(isinstance(h, ChildHost) and not h.channel.closed for h in hosts) and time.monotonic() < until:
            self._attention.wait(0.1)
            self._attention.clear()
        self._ended = True
        self.wake_reader()
        if self._reader.ident is not None:
            self._reader.join()
        for host in hosts:
            if isinstance(host, ChildHost):
                self._on_death(dict(self._stations[host][1].transactions.values()))
                host.channel.close()
            elif isinstance(host, LocalHost):
                host.join(1.0)
        self._selector.close()
        self._wake_in.close()
        self._wake_out.close()

    def close(self) -> None:
        """Release the memory in which hosts showed what they ran."""
        for host in self._stations:
            host.board.close()

    def wake_reader(self) -> None:
        """Let the reading thread look at its hosts again. Safe from any thread."""
        self._wake_out.send(b".")

    def take_local(self, host: LocalHost, message: tuple[Any, ...]) -> None:
        """Take a message of a host in this process."""
        found = self._stations.get(host)
        if found is not None:
            self._handle(*found, message)

    # -- reading ----------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        while not self._ended:
            try:
                self._read_once()
            except Exception:
                logger.exception("reading from children failed; it goes on")

    def _read_once(self) -> None:
        for host in list(self._stations):
            if not isinstance(host, ChildHost) or host.channel.closed:
                continue
            if host.ended:
                host.channel.end_reading()
            if host.channel.unsent:
                self._selector.modify(host.channel, selectors.EVENT_READ | selectors.EVENT_WRITE, host)
        for key, _ in self._selector.select():
            host = key.data
            if host is None:
                self._wake_in.recv(64)
                continue
            found = self._stations.get(host)
            if found is None:
                continue
            if host.channel.unsent:
                host.channel.flush()
                if not host.channel.unsent:
                    self._selector.modify(host.channel, selectors.EVENT_READ, host)
            messages = host.channel.receive()
            if messages is None:
                # This thread alone closes channels, so that no other finds one closed under its hands.
                self._selector.unregister(host.channel)
                host.channel.close()
                self._dead.append(found)
                self._attention.set()
                continue
            for message in _gathered(messages):
                self._handle(*found, message)

    def _handle(self, pool: Pool, station: Station, message: tuple[Any, ...]) -> None:
        if message[0] == "progress":
            self._on_progress(message[1], message[2], message[3])
            return
        if message[0] == "transaction":
            station.transactions[message[1]] = message[2:]
            return
        if message[0] == "done":
            station.end_transactions(message[2])
        if message[0] == "ready":
            self._failed_starts = 0
        pool.handle(station, message)
        if message[0] == "done" and (station.quota <= 0 or (pool.closed and not pool.load)):
            self._attention.set()

    # -- replacing ------------------------------------------------------------------------------------------------

    def _add(self, pool: Pool, slots: int) -> None:
        station = pool.add(slots)
        if isinstance(station.host, ChildHost):
            self._selector.register(station.host.channel, selectors.EVENT_READ, station.host)
        self._stations[station.host] = (pool, station)
        self.wake_reader()

    def _replace_dead(self) -> None:
        while self._dead and (self._may_start() or any(pool.closed for pool in self._pools.values())):
            pool, station = self._dead.pop()
            host = station.host
            self._stations.pop(host, None)
            if not isinstance(host, ChildHost):
                continue
            code = host.reap(1.0)
            ended = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            reason = f"its child process {ended}"
            self._on_death(dict(station.transactions.values()))
            _tell_of_jobs(station, reason)
            lost = pool.bury(station, reason)
            host.board.close()
            if station.retiring or pool.closed:
                continue
            if not host.ready:
                self._failed_starts += 1
            if host.killed:
                logger.info("a child (pid %d) of pool %s was ended with its job, and is replaced", host.pid, pool.kind)
            else:
                jobs = "1 job" if lost == 1 else f"{lost} jobs"
                logger.warning("a child (pid %d) of pool %s died: %s; %s with it", host.pid, pool.kind, reason, jobs)
            self._add(pool, station.slots)

    def _renew(self, now: float) -> None:
        plan = self._plan
        for pool in self._pools.values():
            for station in list(pool.stations):
                host = station.host
                if not isinstance(host, ChildHost) or station.retiring:
                    continue
                if not host.ready and now - host.started_at > self._ready_seconds:
                    logger.error("a child is not ready after %g s (worker_proc_alive_timeout)", self._ready_seconds)
                    host.kill()
                elif station.quota <= 0 and not station.sent:
                    self._replace(pool, station)
                elif plan.max_memory_per_child and host.ready:
                    self._limit_memory(pool, station, host.memory(), plan.max_memory_per_child)
        if plan.autoscale is not None:
            self._autoscale(now, *plan.autoscale)

    def _limit_memory(self, pool: Pool, station: Station, used: int, limit: int) -> None:
        if used <= limit:
            return
        if station.done:
            logger.warning("a child uses %d KiB: replaced after its job", used)
            self._replace(pool, station)
        elif not self._told_of_memory:
            self._told_of_memory = True
            logger.warning(
                "max_memory_per_child (%d KiB) lies below what a child needs to start (%d KiB): each runs one job",
                limit,
                used,
            )

    def _replace(self, pool: Pool, station: Station) -> None:
        pool.retire(station)
        self._add(pool, station.slots)

    def _autoscale(self, now: float, most: int, least: int) -> None:
        pool = self._pools["processes"]
        hosts = len(pool.stations)
        if pool.load >= pool.concurrency:
            self._idle_since = now
            if hosts < most:
                pool.concurrency = hosts + 1
                self._add(pool, 1)
        elif now - self._idle_since > SHRINK_AFTER_SECONDS and hosts > least:
            self._idle_since = now
            pool.concurrency = hosts - 1
            pool.retire(pool.stations[-1])


def _tell_of_jobs(station: Station, reason: str) -> None:
    """Say of each job that ran in a dead child what becomes of it; time limits were told of when they passed."""
    for held in list(station.sent.values()):
        job = held.job
        if held.number > station.host.board.started:
            continue
        if held.end is None:
            what = "Task %s[%s] was lost at attempt %d: %s"
            logger.warning(what, job.task, job.id, job.attempt, reason, extra=about(job))
        elif held.end[0] == "cancelled":
            what = "Task %s[%s] was cancelled while it ran, at attempt %d"
            logger.warning(what, job.task, job.id, job.attempt, extra=about(job))


def _gathered(messages: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Join outcomes that arrived together: a process reports each by itself, and each message costs a round of work."""
    gathered: list[tuple[Any, ...]] = []
    for message in messages:
        if message[0] == "done" and gathered and gathered[-1][0] == "done":
            gathered[-1][1].extend(message[1])
            gathered[-1][2].extend(message[2])
        else:
            gathered.append(message)
    return gathered
