"""Main program of a child process: imports the application, runs jobs, reports outcomes. Started by ChildHost."""

import asyncio
import contextvars
import ctypes
import faulthandler
import os
import signal
import socket
import sys
import threading
import time
from collections import deque
from types import FrameType
from typing import Any

from pgqueue.app.application import PgQueue
from pgqueue.errors import SoftTimeLimitExceeded
from pgqueue.request import progress_sink
from pgqueue.worker.application import load_application
from pgqueue.worker.executor import Executor, JobToRun, as_job
from pgqueue.worker.interrupts import call_off
from pgqueue.worker.runners import LoopRunner, Runner, ThreadRunner, microseconds_since
from pgqueue.worker.wire import Channel, RunBoard

__all__ = ["main"]


def main(argv: list[str]) -> None:
    """Run until the worker says stop or is gone."""
    descriptors = list(map(int, argv[:2]))
    for descriptor in descriptors:
        os.set_inheritable(descriptor, False)
    slots = int(argv[2])
    channel = Channel(socket.socket(fileno=descriptors[0]), blocking=True)
    board = RunBoard(slots, descriptors[1])
    _die_with_parent(int(argv[3]))
    _leave_signals_to_the_worker()
    faulthandler.register(signal.SIGUSR1, all_threads=True, chain=False)

    def leave() -> None:
        """The worker learns of this process's end by the socket's: what a task forks must not hold it open."""
        channel.close()
        progress_sink.set(None)

    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=leave)
    messages: list[tuple[Any, ...]] | None = []
    while not messages:
        channel.wait()
        messages = channel.receive()
        if messages is None:
            return
    _, kind, settings = messages[0]
    app = load_application(settings)
    executor = Executor(app, settings["name"], settings["application_name"])
    rest = messages[1:]
    if kind == "processes":
        _ProcessRunner(executor, board, channel).run(rest)
    elif kind == "threads":
        _run_threads(executor, slots, board, channel, rest)
    else:
        asyncio.run(_run_loop(app, executor, slots, board, channel, rest))
    # Threads of the application may never end; what matters has been sent.
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)


def _leave_signals_to_the_worker() -> None:
    """The worker alone answers to the service manager. Not by SIG_IGN: programs that a task starts would inherit it."""
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda number, frame: None)
    if hasattr(os, "register_at_fork"):
        os.register_at_fork(after_in_child=_answer_signals)


def _answer_signals() -> None:
    """What a task forks answers its own signals."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def _die_with_parent(parent: int) -> None:
    """Ask Linux to end this process with its worker, even when it is stuck in C code; elsewhere the socket tells."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(1, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


class _ProcessRunner:
    """One job at a time in the main thread, where signals can interrupt it: soft limits, and recall of what waits."""

    def __init__(self, executor: Executor, board: RunBoard, channel: Channel) -> None:
        self._executor = executor
        self._board = board
        self._channel = channel
        self._queue: deque[JobToRun] = deque()
        self._running: JobToRun | None = None
        self._busy = False  # with a frame: in the middle of one nothing else may be read or written
        self._recalled = self._overdue = False
        self._stopping = False
        progress_sink.set(self._progress)
        call_off.set(self._call_off)
        executor.transactions.on_begin = lambda *begun: self._send(("transaction", *begun))
        signal.signal(signal.SIGUSR2, self._on_recall)
        signal.signal(signal.SIGALRM, self._on_soft_limit)

    def run(self, messages: list[tuple[Any, ...]] | None) -> None:
        self._send(("ready", os.getpid()))
        queue = self._queue
        self._take(messages)
        while True:
            while queue:
                try:
                    job = queue.popleft()
                except IndexError:
                    break  # recalled in this very moment
                self._run_one(job)
            if self._stopping:
                return
            self._channel.wait()
            self._receive()

    def _take(self, messages: list[tuple[Any, ...]] | None) -> None:
        if messages is None:
            self._stopping = True  # the worker is gone
            return
        for message in messages:
            if message[0] == "jobs":
                self._queue.extend(map(as_job, message[1]))
            elif message[0] == "stop":
                self._stopping = True

    def _receive(self) -> None:
        self._busy = True
        self._take(self._channel.receive())
        self._busy = False
        self._catch_up()

    def _run_one(self, job: JobToRun) -> None:
        executor = self._executor
        started = time.monotonic()
        self._board.start(0, job.number, started)
        limit = executor.soft_limit(job)
        if limit is None:
            # In a context of its own: what it sets is not the next job's.
            outcome = contextvars.copy_context().run(executor.run, job)
        else:
            self._running = job
            try:
                signal.setitimer(signal.ITIMER_REAL, limit)
                outcome = contextvars.copy_context().run(executor.run, job)
            except SoftTimeLimitExceeded as error:
                # In the instant before or after the call: the job's own end is lost.
                outcome = executor.refused(job, error)
            finally:
                self._running = None  # first, and not in a call, on whose way a signal would be heard
                signal.setitimer(signal.ITIMER_REAL, 0)
        self._board.clear(0)
        # At once, not in batches: what this process has finished must not share the fate of what it runs next.
        self._send(("done", [microseconds_since(started)], [outcome]))

    def _send(self, message: tuple[Any, ...]) -> None:
        self._busy = True
        self._channel.send(message)
        self._busy = False
        self._catch_up()

    def _catch_up(self) -> None:
        """Do what signals asked for in the middle of a frame."""
        while self._recalled:
            self._recalled = False
            self._give_back()
        if self._overdue:
            self._interrupt()

    def _give_back(self) -> None:
        # As a whole: a soft limit in between would lose jobs that have left the queue.
        self._busy = True
        # What was sent since this process last looked waits in the socket.
        self._take(self._channel.receive())
        numbers = [job.number for job in self._queue]
        self._queue.clear()
        self._channel.send(("returned", numbers))
        self._busy = False

    def _on_recall(self, signum: int, frame: FrameType | None) -> None:
        self._recalled = True
        if not self._busy:
            self._catch_up()

    def _on_soft_limit(self, signum: int, frame: FrameType | None) -> None:
        self._overdue = self._running is not None
        if not self._busy:
            self._catch_up()

    def _call_off(self) -> None:
        self._running = None
        signal.setitimer(signal.ITIMER_REAL, 0)

    def _interrupt(self) -> None:
        job, self._running, self._overdue = self._running, None, False
        if job is not None:
            raise SoftTimeLimitExceeded(f"soft time limit of task {job.task}[{job.id}] passed")

    def _progress(self, job_id: str, token: int, progress: str) -> None:
        message = ("progress", job_id, token, progress)
        if threading.current_thread() is threading.main_thread():
            self._send(message)
        else:
            self._channel.send(message)  # signals interrupt the main thread alone


def _obey(runner: Runner, message: tuple[Any, ...]) -> bool:
    """Do what the worker says; false when that is to stop."""
    if message[0] == "jobs":
        runner.accept(list(map(as_job, message[1])))
    elif message[0] == "recall":
        runner.give_back()
    elif message[0] == "cancel":
        runner.cancel(message[1])
    return bool(message[0] != "stop")


def _run_threads(
    executor: Executor, slots: int, board: RunBoard, channel: Channel, messages: list[tuple[Any, ...]] | None
) -> None:
    runner = ThreadRunner(executor, slots, board, channel.send)
    executor.transactions.on_begin = lambda *begun: runner.send(("transaction", *begun))
    runner.send(("ready", os.getpid()))
    while messages is not None:
        for message in messages:
            if not _obey(runner, message):
                runner.stop()
                return
        channel.wait()
        messages = channel.receive()


async def _run_loop(
    app: PgQueue,
    executor: Executor,
    slots: int,
    board: RunBoard,
    channel: Channel,
    messages: list[tuple[Any, ...]] | None,
) -> None:
    runner = LoopRunner(executor, slots, board, channel.send)
    executor.transactions.on_begin = lambda *begun: runner.send(("transaction", *begun))
    runner.send(("ready", os.getpid()))
    ended = asyncio.Event()

    def handle(received: list[tuple[Any, ...]] | None) -> None:
        if received is None or not all(_obey(runner, message) for message in received):
            ended.set()

    asyncio.get_running_loop().add_reader(channel.fileno(), lambda: handle(channel.receive()))
    handle(messages)
    await ended.wait()
    await runner.end()


if __name__ == "__main__":
    main(sys.argv[1:])
