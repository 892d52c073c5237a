"""What runs jobs inside one process: one at a time, in threads, or on an event loop.

A runner accepts jobs, runs them in the order in which they came, and reports messages:
    ("done", micros, outcomes)     how many microseconds each ran
    ("returned", numbers)          accepted, given back without having been started
"""

import asyncio
import contextvars
import threading
import time
from collections import deque
from collections.abc import Callable, Generator
from typing import Any, Protocol

from pgqueue.errors import SoftTimeLimitExceeded, TaskRevokedError
from pgqueue.request import progress_sink
from pgqueue.worker.executor import Executor, JobToRun, Outcome
from pgqueue.worker.interrupts import Interrupts, call_off
from pgqueue.worker.wire import RunBoard

__all__ = ["LoopRunner", "Report", "Runner", "ThreadRunner", "microseconds_since"]

Report = Callable[[tuple[Any, ...]], None]

# A batch of outcomes is reported when nothing waits to run, when it is this large, or this old.
BATCH_OUTCOMES = 64
BATCH_SECONDS = 0.002


def microseconds_since(started: float) -> int:
    """Return how long ago that was, on time.monotonic()."""
    return int((time.monotonic() - started) * 1e6)


class Runner(Protocol):
    """Accepts jobs and reports their outcomes."""

    def accept(self, jobs: list[JobToRun]) -> None:
        """Queue jobs to run."""

    def give_back(self) -> None:
        """Report the jobs that have not started as returned."""

    def cancel(self, number: int) -> None:
        """Raise TaskRevokedError inside a running job, as far as its kind of runner can."""

    def stop(self) -> None:
        """End, without waiting for running jobs."""

    def join(self, timeout: float) -> None:
        """Wait for the end of its threads, if it has any."""


class ThreadRunner:
    """Plain functions in a fixed number of threads.

    Args:
        executor: runs one job.
        threads: how many jobs run at once.
        board: where running jobs are shown.
        report: called with messages, from any thread.
    """

    def __init__(self, executor: Executor, threads: int, board: RunBoard, report: Report) -> None:
        self._executor = executor
        self._board = board
        self._report = report
        self._queue: deque[JobToRun] = deque()
        self._lock = threading.Lock()
        self._ready = threading.Condition(self._lock)
        self._idle = 0
        self._stopping = False
        self._outbox: list[Outcome] = []
        self._micros: list[int] = []
        self._flushed = 0.0
        self._outbox_lock = threading.Lock()
        self._unreported = threading.Event()
        self._interrupts = Interrupts()
        self._threads = [
            threading.Thread(target=self._work, args=(slot,), name=f"pgqueue-task-{slot}", daemon=True)
            for slot in range(threads)
        ]
        self._threads.append(threading.Thread(target=self._report_late, name="pgqueue-outcomes", daemon=True))
        for thread in self._threads:
            thread.start()

    def accept(self, jobs: list[JobToRun]) -> None:
        """Queue jobs to run."""
        with self._ready:
            self._queue.extend(jobs)
            self._ready.notify(min(len(jobs), self._idle))

    def give_back(self) -> None:
        """Report the jobs that have not started as returned."""
        with self._ready:
            numbers = [job.number for job in self._queue]
            self._queue.clear()
        self.send(("returned", numbers))

    def send(self, message: tuple[Any, ...]) -> None:
        """Report a message that is not about outcomes."""
        self._report(message)

    def cancel(self, number: int) -> None:
        """Raise TaskRevokedError in the thread that runs the job, at its next bytecode."""
        self._interrupts.cancel(number)

    def stop(self) -> None:
        """End idle threads now, and busy ones after their job."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        self._unreported.set()
        self._interrupts.stop()

    def join(self, timeout: float) -> None:
        """Wait for the threads' end after stop(); those that are busy may take longer."""
        until = time.monotonic() + timeout
        for thread in self._threads:
            thread.join(max(0.0, until - time.monotonic()))
        self._interrupts.join(max(0.0, until - time.monotonic()))

    def _next(self, slot: int) -> JobToRun | None:
        with self._lock:  # not the condition, which enters it in Python code
            while not self._queue:
                if self._stopping:
                    return None
                self._idle += 1
                self._ready.wait()
                self._idle -= 1
            job = self._queue.popleft()
            self._board.start(slot, job.number, time.monotonic())
            return job

    def _work(self, slot: int) -> None:
        executor, interrupts = self._executor, self._interrupts
        progress_sink.set(lambda job_id, token, progress: self.send(("progress", job_id, token, progress)))
        call_off.set(lambda: interrupts.end(job.number))
        job: JobToRun

        def call() -> Outcome:
            # In a context of its own: what it sets is not the next job's.
            return contextvars.copy_context().run(executor.run, job)

        def interrupted(error: Exception) -> Outcome:
            return executor.refused(job, error)

        while (taken := self._next(slot)) is not None:
            job = taken
            started = time.monotonic()
            outcome = interrupts.run(job.number, executor.soft_limit(job), call, interrupted)
            self._board.clear(slot)  # now: a report may have to wait, and would count as run time
            self._done(outcome, started)
        executor.end_thread()

    def _done(self, outcome: Outcome, started: float) -> None:
        now = time.monotonic()
        with self._outbox_lock:
            self._outbox.append(outcome)
            self._micros.append(int((now - started) * 1e6))
            if self._queue and len(self._outbox) < BATCH_OUTCOMES and now - self._flushed <= BATCH_SECONDS:
                if not self._unreported.is_set():
                    self._unreported.set()
                return
            message = ("done", self._micros, self._outbox)
            self._outbox, self._micros, self._flushed = [], [], now
        # Outside of the lock: the receiver may hold one of its own and call back.
        self._report(message)

    def _report_late(self) -> None:
        """Report what a batch kept: the job that follows may be a long one."""
        while not self._stopping:
            self._unreported.wait()
            time.sleep(BATCH_SECONDS)
            self._unreported.clear()
            with self._outbox_lock:
                message = ("done", self._micros, self._outbox)
                self._outbox, self._micros, self._flushed = [], [], time.monotonic()
            if message[2]:
                self._report(message)


class LoopRunner:
    """Coroutines as tasks of the running event loop. All methods are called in the loop's thread.

    Args:
        executor: runs one job.
        concurrency: how many jobs run at once.
        board: where started jobs are shown.
        report: called with messages.
    """

    def __init__(self, executor: Executor, concurrency: int, board: RunBoard, report: Report) -> None:
        self._executor = executor
        self._concurrency = concurrency
        self._board = board
        self._report = report
        self._loop = asyncio.get_running_loop()
        self._queue: deque[JobToRun] = deque()
        self._tasks: dict[int, asyncio.Task[None]] = {}
        self._outbox: list[Outcome] = []
        self._micros: list[int] = []
        self._flush_planned = False
        self._free_slots = list(range(board.slots))
        self._stopping = False
        progress_sink.set(lambda job_id, token, progress: self.send(("progress", job_id, token, progress)))
        self._context = contextvars.copy_context()

    def accept(self, jobs: list[JobToRun]) -> None:
        """Start jobs, or queue those beyond the concurrency."""
        self._queue.extend(jobs)
        self._start()

    def give_back(self) -> None:
        """Report the jobs that have not started as returned."""
        numbers = [job.number for job in self._queue]
        self._queue.clear()
        self._flush()
        self._report(("returned", numbers))

    def send(self, message: tuple[Any, ...]) -> None:
        """Report a message that is not about outcomes."""
        self._report(message)

    def cancel(self, number: int) -> None:
        """Cancel the asyncio task of a running job; the coroutine sees CancelledError."""
        task = self._tasks.get(number)
        if task is not None:
            # Not now: a task cancelled before its first step would never report.
            self._loop.call_soon(task.cancel, TaskRevokedError.__name__)

    def stop(self) -> None:
        """Cancel what runs; it reports no outcome."""
        self._stopping = True
        for task in self._tasks.values():
            task.cancel()

    async def end(self) -> None:
        """stop(), and wait until the coroutines have noticed."""
        self.stop()
        await asyncio.gather(*self._tasks.values(), return_exceptions=True)
        await self._executor.end_loop()

    def join(self, timeout: float) -> None:
        """Nothing: it has no threads."""

    def _start(self) -> None:
        queue, tasks, loop = self._queue, self._tasks, self._loop
        job = None
        while queue and not self._stopping and len(tasks) < self._concurrency:
            job = queue.popleft()
            # Not loop.create_task(), whose detour costs as much as the task itself; a name spares asyncio a counter.
            # In a context of its own, whichever job made room for it.
            tasks[job.number] = asyncio.Task(self._run(job), loop=loop, name=job.task, context=self._context.copy())
        if job is not None:
            self._board.note_started(job.number)

    async def _run(self, job: JobToRun) -> None:
        executor = self._executor
        started = time.monotonic()
        outcome: Outcome
        try:
            task = executor.task(job)
        except Exception as error:
            outcome = executor.refused(job, error)
        else:
            soft, hard = executor.limits(job, task)
            if soft is None and hard is None:
                outcome = await executor.arun(job, task)
            else:
                outcome = await self._run_limited(job, soft, hard)
        del self._tasks[job.number]
        if self._stopping:
            return
        self._outbox.append(outcome)
        self._micros.append(microseconds_since(started))
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)

    async def _run_limited(self, job: JobToRun, soft: float | None, hard: float | None) -> Outcome:
        """Run with limits: the soft one raises inside the coroutine, the hard one cancels it and ends the job."""
        executor = self._executor
        task = executor.task(job)
        slot = self._free_slots.pop() if self._free_slots else None
        if slot is not None:
            self._board.start_slot(slot, job.number, time.monotonic())
        timed_out = False
        call = _Interruptible(executor.arun(job, task, lambda: timed_out))
        call_off.set(call.call_off)
        inner = self._loop.create_task(call.drive())
        timers = []
        if soft is not None:
            timers.append(self._loop.call_later(soft, call.interrupt, inner))

        def end() -> None:
            nonlocal timed_out
            timed_out = True
            inner.cancel()

        if hard is not None:
            timers.append(self._loop.call_later(hard, end))
        try:
            outcome: Outcome = await inner
        except asyncio.CancelledError:
            if inner.cancelled() or not inner.done():
                inner.cancel()
                raise
            outcome = inner.result()  # it ended in the instant in which it was cancelled
        finally:
            for timer in timers:
                timer.cancel()
            if slot is not None:
                self._board.clear(slot)
                self._free_slots.append(slot)
        # It may have ended its work in the instant before, but not have gone on as if nothing had happened.
        return executor.timed_out(job, task) if timed_out and outcome[1] not in ("failed", "settled") else outcome

    def _flush(self) -> None:
        """Report what ended since the last time, and start as many others."""
        self._flush_planned = False
        if self._outbox:
            message = ("done", self._micros, self._outbox)
            self._outbox, self._micros = [], []
            self._report(message)
        if self._queue:
            self._start()


class _Interruptible:
    """Drives a coroutine so that a cancellation reaches it as SoftTimeLimitExceeded instead.

    asyncio can only throw CancelledError into a task; here it is exchanged on its way in.
    """

    def __init__(self, coroutine: Any) -> None:
        self._coroutine = coroutine
        self._interrupted = self._called_off = False

    def interrupt(self, task: "asyncio.Task[Any]") -> None:
        if not self._called_off:
            self._interrupted = True
            task.cancel()

    def call_off(self) -> None:
        self._called_off = True

    async def drive(self) -> Any:
        return await self

    def __await__(self) -> Generator[Any, Any, Any]:
        inner = self._coroutine.__await__()
        try:
            awaited = inner.send(None)
            while True:
                try:
                    sent = yield awaited
                except asyncio.CancelledError as cancelled:
                    if self._interrupted:
                        self._interrupted = False
                        current = asyncio.current_task()
                        if current is not None:
                            current.uncancel()
                        awaited = inner.throw(SoftTimeLimitExceeded("soft time limit passed"))
                    else:
                        awaited = inner.throw(cancelled)
                except BaseException as error:
                    awaited = inner.throw(error)
                else:
                    awaited = inner.send(sent)
        except StopIteration as end:
            return end.value
