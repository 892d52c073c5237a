"""What runs jobs inside one process: one at a time, in threads, or on an event loop.

A runner accepts jobs, runs them in the order in which they came, and reports messages:
    ("done", seconds, outcomes)    seconds of run time behind these outcomes
    ("returned", numbers)          accepted, given back without having been started
"""

import asyncio
import contextlib
import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Generator, Iterator
from typing import Any, Protocol

from pgqueue.codec import encode_error
from pgqueue.errors import SoftTimeLimitExceeded, TaskRevokedError, TimeLimitExceeded
from pgqueue.request import progress_sink
from pgqueue.worker.executor import Executor, JobToRun, Outcome
from pgqueue.worker.wire import RunBoard

__all__ = ["LoopRunner", "Report", "Runner", "ThreadRunner"]

Report = Callable[[tuple[Any, ...]], None]

# A batch of outcomes is reported when nothing waits to run, when it is this large, or this old.
BATCH_OUTCOMES = 64
BATCH_SECONDS = 0.002


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
        self._ready = threading.Condition()
        self._idle = 0
        self._stopping = False
        self._outbox: list[Outcome] = []
        self._busy = 0.0
        self._flushed = 0.0
        self._outbox_lock = threading.Lock()
        self._current: dict[int, int] = {}  # number -> thread id
        self._soft = _SoftLimits()
        self._threads = [
            threading.Thread(target=self._work, args=(slot,), name=f"pgqueue-task-{slot}", daemon=True)
            for slot in range(threads)
        ]
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
        thread_id = self._current.get(number)
        if thread_id is not None:
            _raise_in_thread(thread_id, TaskRevokedError)

    def stop(self) -> None:
        """End idle threads now, and busy ones after their job."""
        with self._ready:
            self._stopping = True
            self._ready.notify_all()
        self._soft.stop()

    def _next(self, slot: int) -> JobToRun | None:
        with self._ready:
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
        thread_id = threading.get_ident()
        executor, tasks = self._executor, self._current
        progress_sink.set(lambda job_id, token, progress: self.send(("progress", job_id, token, progress)))
        while (job := self._next(slot)) is not None:
            started = time.monotonic()
            tasks[job.number] = thread_id
            limit = executor.soft_limit(job)
            try:
                if limit is None:
                    outcome = executor.run(job)
                else:
                    with self._soft.watching(thread_id, limit):
                        outcome = executor.run(job)
            except (SoftTimeLimitExceeded, TaskRevokedError) as error:
                # Raised from outside in the instant after the call: the job's own end is lost.
                outcome = executor.refused(job, error)
            tasks.pop(job.number, None)
            self._board.clear(slot)
            self._done(outcome, started)

    def _done(self, outcome: Outcome, started: float) -> None:
        now = time.monotonic()
        with self._outbox_lock:
            self._outbox.append(outcome)
            self._busy += now - started
            if self._queue and len(self._outbox) < BATCH_OUTCOMES and now - self._flushed <= BATCH_SECONDS:
                return
            message = ("done", self._busy, self._outbox)
            self._outbox, self._busy, self._flushed = [], 0.0, now
        # Outside of the lock: the receiver may hold one of its own and call back.
        self._report(message)


class _SoftLimits:
    """One thread that raises SoftTimeLimitExceeded in the threads whose time is over; it starts when first needed."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._deadlines: dict[int, float] = {}
        self._thread: threading.Thread | None = None
        self._stopping = False

    @contextlib.contextmanager
    def watching(self, thread_id: int, seconds: float) -> Iterator[None]:
        with self._changed:
            self._deadlines[thread_id] = time.monotonic() + seconds
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, name="pgqueue-soft-limits", daemon=True)
                self._thread.start()
            self._changed.notify()
        try:
            yield
        finally:
            with self._changed:
                self._deadlines.pop(thread_id, None)

    def stop(self) -> None:
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def _watch(self) -> None:
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                for thread_id, deadline in list(self._deadlines.items()):
                    if deadline <= now:
                        del self._deadlines[thread_id]
                        _raise_in_thread(thread_id, SoftTimeLimitExceeded)
                self._changed.wait(min(self._deadlines.values()) - now if self._deadlines else None)


def _raise_in_thread(thread_id: int, error: type[BaseException]) -> None:
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), ctypes.py_object(error))


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
        self._busy = 0.0
        self._flush_planned = False
        self._free_slots = list(range(board.slots))
        self._stopping = False
        # Every task made from here on inherits it.
        progress_sink.set(lambda job_id, token, progress: self.send(("progress", job_id, token, progress)))

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
            task.cancel(TaskRevokedError.__name__)

    def stop(self) -> None:
        """Cancel what runs; it reports no outcome."""
        self._stopping = True
        for task in self._tasks.values():
            task.cancel()

    def _start(self) -> None:
        queue, tasks, loop = self._queue, self._tasks, self._loop
        job = None
        while queue and len(tasks) < self._concurrency:
            job = queue.popleft()
            tasks[job.number] = loop.create_task(self._run(job))
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
        self._busy += time.monotonic() - started
        if not self._flush_planned:
            self._flush_planned = True
            self._loop.call_soon(self._flush)
        if self._queue:
            self._start()

    async def _run_limited(self, job: JobToRun, soft: float | None, hard: float | None) -> Outcome:
        """Run with limits: the soft one raises inside the coroutine, the hard one cancels it and ends the job."""
        executor = self._executor
        task = executor.task(job)
        slot = self._free_slots.pop() if self._free_slots else None
        if slot is not None:
            self._board.start_slot(slot, job.number, time.monotonic())
        call = _Interruptible(executor.arun(job, task))
        inner = self._loop.create_task(call.drive())
        timers = []
        if soft is not None:
            timers.append(self._loop.call_later(soft, call.interrupt, inner))
        timed_out = False

        def end() -> None:
            nonlocal timed_out
            timed_out = True
            inner.cancel()

        if hard is not None:
            timers.append(self._loop.call_later(hard, end))
        try:
            outcome: Outcome = await inner
        except asyncio.CancelledError:
            inner.cancel()
            raise
        finally:
            for timer in timers:
                timer.cancel()
            if slot is not None:
                self._board.clear(slot)
                self._free_slots.append(slot)
        if timed_out:
            error = TimeLimitExceeded(f"time limit of {hard} s of task {job.task}[{job.id}] passed")
            return (job.number, "failed", encode_error(error), None)
        return outcome

    def _flush(self) -> None:
        self._flush_planned = False
        if self._outbox:
            message = ("done", self._busy, self._outbox)
            self._outbox, self._busy = [], 0.0
            self._report(message)


class _Interruptible:
    """Drives a coroutine so that a cancellation reaches it as SoftTimeLimitExceeded instead.

    asyncio can only throw CancelledError into a task; here it is exchanged on its way in.
    """

    def __init__(self, coroutine: Any) -> None:
        self._coroutine = coroutine
        self._interrupted = False

    def interrupt(self, task: "asyncio.Task[Any]") -> None:
        self._interrupted = True
        task.cancel()

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
