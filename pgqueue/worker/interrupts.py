"""Exceptions that reach a thread from outside: soft time limits and cancellations."""

import contextvars
import ctypes
import threading
import time
from collections.abc import Callable
from typing import TypeVar

from pgqueue.errors import SoftTimeLimitExceeded, TaskRevokedError

__all__ = ["Interrupts", "call_off"]

T = TypeVar("T")

KINDS = (SoftTimeLimitExceeded, TaskRevokedError)


def _nothing() -> None:
    """Where nobody interrupts."""


# Called when a task has returned and the worker ends its transaction: an interruption then would leave it unknown.
call_off: contextvars.ContextVar[Callable[[], None]] = contextvars.ContextVar("pgqueue_call_off", default=_nothing)


class Interrupts:
    """Raises inside threads from outside: when a soft time limit passes, or a job is cancelled; never after its job."""

    def __init__(self) -> None:
        self._lock = threading.RLock()
        self._changed = threading.Condition(self._lock)
        self._threads: dict[int, int] = {}  # number of a running job -> its thread
        self._deadlines: dict[int, float] = {}  # number -> end of its soft limit
        self._raised: dict[int, set[type[BaseException]]] = {}  # number -> kinds, each once at most
        self._watcher: threading.Thread | None = None
        self._stopping = False

    def run(self, number: int, limit: float | None, call: Callable[[], T], interrupted: Callable[[Exception], T]) -> T:
        """Call, and let this thread be interrupted meanwhile, but not any more afterwards.

        Args:
            number: of the job, unique.
            limit: seconds until SoftTimeLimitExceeded is raised.
            call: what runs the job and handles interruptions.
            interrupted: gives the result when one arrives in the instant after the call: its own is lost.
        """
        found: T | None = None
        # There are two kinds of interruptions, each comes once: two levels may be left by them, the third cannot.
        try:
            try:
                try:
                    self._begin(number, limit)
                    found = call()
                except KINDS as error:
                    found = interrupted(error)
                self.end(number)
            except KINDS as error:
                found = found or interrupted(error)
                self.end(number)
        except KINDS as error:
            found = found or interrupted(error)
            self.end(number)
        return found

    def _begin(self, number: int, limit: float | None) -> None:
        if limit is None:
            self._threads[number] = threading.get_ident()
            return
        with self._changed:
            self._threads[number] = threading.get_ident()
            self._deadlines[number] = time.monotonic() + limit
            if self._watcher is None:
                self._watcher = threading.Thread(target=self._watch, name="pgqueue-soft-limits", daemon=True)
                self._watcher.start()
            self._changed.notify()

    def end(self, number: int) -> None:
        """Interrupt a job no more, and call off what has not arrived; done in its thread."""
        # The lock itself: a condition enters it in Python code, where an exception would leave it locked.
        with self._lock:
            self._threads.pop(number, None)
            self._deadlines.pop(number, None)
            if number in self._raised:
                # What was raised and has not arrived is called off.
                _raise_in_thread(threading.get_ident(), None)
                del self._raised[number]

    def cancel(self, number: int) -> None:
        """Raise TaskRevokedError in the thread of a job, if it runs."""
        with self._changed:
            self._raise(number, TaskRevokedError)

    def stop(self) -> None:
        """End the thread that watches limits, if there is one."""
        with self._changed:
            self._stopping = True
            self._changed.notify()

    def join(self, timeout: float) -> None:
        """Wait for it."""
        if self._watcher is not None:
            self._watcher.join(timeout)

    def _raise(self, number: int, error: type[BaseException]) -> None:
        thread_id = self._threads.get(number)
        if thread_id is not None and error not in (raised := self._raised.setdefault(number, set())):
            raised.add(error)
            _raise_in_thread(thread_id, error)

    def _watch(self) -> None:
        with self._changed:
            while not self._stopping:
                now = time.monotonic()
                for number, deadline in list(self._deadlines.items()):
                    if deadline <= now:
                        del self._deadlines[number]
                        self._raise(number, SoftTimeLimitExceeded)
                self._changed.wait(min(self._deadlines.values()) - now if self._deadlines else None)


def _raise_in_thread(thread_id: int, error: type[BaseException] | None) -> None:
    """Raise at the thread's next bytecode; None takes back what has not been raised yet."""
    thrown = None if error is None else ctypes.py_object(error)
    ctypes.pythonapi.PyThreadState_SetAsyncExc(ctypes.c_ulong(thread_id), thrown)
