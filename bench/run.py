"""What a row needs: the server, workers, how large to be, and whom to tell."""

import os
import signal
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from types import FrameType

import psutil

from bench.report import Figure
from bench.server import Server
from tests.support.process import REPOSITORY, CommandLine, clean_environment, cli

__all__ = ["Group", "Run", "TookTooLong", "WorkerProcess", "time_limit"]


class TookTooLong(Exception):
    """A group of rows passed its time limit."""


@dataclass(frozen=True)
class Group:
    """Rows that are measured together.

    Attributes:
        name: for --only.
        measure: yields the figures.
        seconds: limit of the short run.
        long_seconds: limit of the long one.
        part: for --part.
    """

    name: str
    measure: Callable[["Run"], Iterable[Figure]]
    seconds: float
    long_seconds: float
    part: str = "jobs"


class WorkerProcess:
    """A worker, started as a user starts it."""

    def __init__(self, command: CommandLine) -> None:
        self._command = command
        self.process = psutil.Process(command.pid)

    def children(self) -> list[psutil.Process]:
        """Return its child processes."""
        return self.process.children(recursive=True)

    def cpu_seconds(self) -> float:
        """Return the processor time of the worker and its children so far."""
        times = [process.cpu_times() for process in (self.process, *self.children())]
        return float(sum(t.user + t.system for t in times))

    @property
    def output(self) -> str:
        """What it has printed."""
        return self._command.output


class Run:
    """One run of the bench.

    Args:
        server: of this run.
        long: measure also what needs time or volume.
    """

    def __init__(self, server: Server, long: bool) -> None:
        self.server = server
        self.long = long
        self.started = time.monotonic()

    def say(self, text: str) -> None:
        """Tell the person who waits."""
        load = os.getloadavg()[0]
        print(f"[{time.monotonic() - self.started:5.0f} s, load {load:4.1f}] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def worker(self, queue: str, *options: str, app: str = "bench.tasks:app") -> Iterator[WorkerProcess]:
        """Run a worker on a queue of its own: `pgqueue -A app worker -Q queue options`."""
        command = CommandLine(
            cli("-A", app, "worker", "-Q", queue, *options), clean_environment(PGQUEUE_DSN=self.server.dsn), REPOSITORY
        )
        try:
            command.expect("is ready", timeout=30)
            if app == "bench.tasks:app":
                for task in ("bench.coroutine", "bench.function"):
                    # Children start after the worker; what is measured begins when they are there.
                    self.server.preload(20, task, queue).release_and_wait()
            yield WorkerProcess(command)
            command.send_signal(signal.SIGTERM)
            command.wait(30)
        except BaseException:
            print(command.output[-3000:], file=sys.stderr)
            raise
        finally:
            command.kill_all()

    @contextmanager
    def workers(self, *wanted: tuple[str, ...]) -> Iterator[list[WorkerProcess]]:
        """Run several workers, each given as (queue, *options)."""
        with ExitStack() as stack:
            yield [stack.enter_context(self.worker(*each)) for each in wanted]


@contextmanager
def time_limit(seconds: float) -> Iterator[None]:
    """Raise TookTooLong in the main thread when the block takes longer."""

    def end(number: int, frame: FrameType | None) -> None:
        raise TookTooLong(f"not done after {seconds:g} s")

    before = signal.signal(signal.SIGALRM, end)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
