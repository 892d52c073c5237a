"""Where jobs run: a child process behind a socket, or a runner inside this very process."""

import asyncio
import contextvars
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from typing import Any, Protocol

from pgqueue.worker.executor import Executor, as_job
from pgqueue.worker.runners import LoopRunner, Report, Runner, ThreadRunner
from pgqueue.worker.wire import Channel, RunBoard

__all__ = ["ChildHost", "Host", "LocalHost"]


class Host(Protocol):
    """Runs jobs of one pool and reports messages to the worker."""

    board: RunBoard
    ready: bool

    def send(self, jobs: list[tuple[Any, ...]]) -> None:
        """Hand jobs over; they start in this order."""

    def recall(self) -> None:
        """Ask for the jobs that have not started."""

    def cancel(self, number: int) -> None:
        """Ask a running job to end, without ending its neighbours."""

    def stop(self) -> None:
        """End when idle."""

    def kill(self) -> None:
        """End now."""


class ChildHost:
    """A child process, a fresh interpreter that imports the application.

    Args:
        kind: processes, threads or loop.
        slots: jobs it runs at once.
        settings: what the child needs to know, sent through the socket so that no argument list shows it.
        on_backlog: called when the socket did not take a message whole, which is to be flushed when it can.

    Attributes:
        killed: the worker has ended it.
        ended: the process was found to be gone; programs that it started may still hold its end of the socket.
    """

    def __init__(self, kind: str, slots: int, settings: dict[str, Any], on_backlog: Callable[[], None]) -> None:
        ours, theirs = socket.socketpair()
        self.kind = kind
        self.board = RunBoard(slots)
        self.ready = False
        self.ended = self.killed = False
        self._on_backlog = on_backlog
        self.started_at = time.monotonic()
        with theirs:
            os.set_inheritable(theirs.fileno(), True)
            descriptors = (theirs.fileno(), self.board.descriptor)
            self.process = subprocess.Popen(
                [sys.executable, "-m", "pgqueue.worker.child", *map(str, (*descriptors, slots, os.getpid()))],
                pass_fds=descriptors,
                stdin=subprocess.DEVNULL,
                # A terminal's Ctrl-C is for the worker, which then decides about its children.
                process_group=0,
            )
        self.channel = Channel(ours, blocking=False)
        self.channel.send(("init", kind, settings))

    @property
    def pid(self) -> int:
        """Process id of the child."""
        return self.process.pid

    def send(self, jobs: list[tuple[Any, ...]]) -> None:
        """Hand jobs over; they start in this order."""
        self._tell("jobs", jobs)

    def recall(self) -> None:
        """Ask for the jobs that have not started."""
        if self.kind == "processes":
            # Its only thread runs a task; a signal handler answers between two bytecodes.
            self._signal(signal.SIGUSR2)
        else:
            self._tell("recall")

    def cancel(self, number: int) -> None:
        """Ask a running job to end; a process that runs nothing else is ended with it."""
        if self.kind == "processes":
            self.kill()
        else:
            self._tell("cancel", number)

    def stop(self) -> None:
        """End when idle."""
        self._tell("stop")

    def kill(self) -> None:
        """End now."""
        self.killed = True
        self._signal(signal.SIGKILL)

    def memory(self) -> int:
        """Resident memory in KiB; 0 where the system does not tell."""
        try:
            with open(f"/proc/{self.pid}/statm", "rb") as file:
                return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") // 1024
        except (OSError, ValueError):
            return 0

    def notice_end(self) -> bool:
        """Look whether the process has ended; true when that is news, for whoever reads from it."""
        if self.ended or self.process.poll() is None:
            return False
        self.ended = True
        return True

    def reap(self, timeout: float) -> int:
        """Wait for the end, kill after the timeout, and return the exit code (negative: signal)."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            code = self.process.wait()
        return code

    def _tell(self, *message: Any) -> None:
        self.channel.send(message)
        if self.channel.unsent:
            self._on_backlog()

    def _signal(self, number: int) -> None:
        if self.process.poll() is None:
            self.process.send_signal(number)


class LocalHost:
    """A runner in threads of this process: for workers inside a program, `-P solo`, and systems without fork.

    Args:
        kind: threads, solo or loop.
        slots: jobs it runs at once.
        executor: runs one job.
        report: called with (host, message).
    """

    def __init__(
        self, kind: str, slots: int, executor: Executor, report: "Callable[[LocalHost, tuple[Any, ...]], None]"
    ) -> None:
        self.kind = kind
        self.board = RunBoard(slots, -1)
        self.ready = True
        self._loop: asyncio.AbstractEventLoop | None = None
        self._runner: Runner

        def to_worker(message: tuple[Any, ...]) -> None:
            report(self, message)

        if kind == "loop":
            started = threading.Event()
            self._thread = threading.Thread(
                target=self._run_loop, args=(executor, slots, to_worker, started), name="pgqueue-loop", daemon=True
            )
            self._thread.start()
            started.wait()
        else:
            self._runner = ThreadRunner(executor, slots, self.board, to_worker)

    def _run_loop(self, executor: Executor, slots: int, report: Report, started: threading.Event) -> None:
        async def main() -> None:
            self._loop = asyncio.get_running_loop()
            self._stopped = asyncio.Event()
            self._runner = runner = LoopRunner(executor, slots, self.board, report)
            self._context = contextvars.copy_context()
            started.set()
            await self._stopped.wait()
            await runner.end()

        asyncio.run(main())

    def _call(self, function: Callable[..., object], *args: Any) -> None:
        if self._loop is None:
            function(*args)
        elif not self._loop.is_closed():
            # In the loop's own context: jobs must not inherit that of whoever hands them over.
            self._loop.call_soon_threadsafe(function, *args, context=self._context)

    def send(self, jobs: list[tuple[Any, ...]]) -> None:
        """Hand jobs over; they start in this order."""
        self._call(self._runner.accept, list(map(as_job, jobs)))

    def recall(self) -> None:
        """Ask for the jobs that have not started."""
        self._call(self._runner.give_back)

    def cancel(self, number: int) -> None:
        """Ask a running job to end, without ending its neighbours."""
        self._call(self._runner.cancel, number)

    def stop(self) -> None:
        """End idle threads now, busy ones after their job."""
        if self._loop is None:
            self._runner.stop()
        else:
            self._call(self._stopped.set)

    kill = stop

    def join(self, timeout: float) -> None:
        """Wait for the threads' end after stop(), no longer than the timeout: a task may never return."""
        if self._loop is None:
            self._runner.join(timeout)
        else:
            self._thread.join(timeout)
