"""Running a task inline, as a worker would: retries at once, and the outcome as an EagerResult. No database."""

import asyncio
import time
import traceback as traceback_module
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NoReturn, Protocol, TypeVar

from pgqueue.codec import decode_args, decode_kwargs
from pgqueue.errors import Ignore, PgQueueError, Reject, Retry, Snooze, TaskRevokedError, ValidationError
from pgqueue.request import Request, current_request
from pgqueue.results.result import AsyncResult
from pgqueue.retry import RetryPolicy

__all__ = ["EagerResult", "arun_eagerly", "run_eagerly"]

R_co = TypeVar("R_co", covariant=True)


class Runnable(Protocol):
    """A task, as far as running it inline goes."""

    name: str
    bind: bool
    is_coroutine: bool
    policy: RetryPolicy
    run: Any


class EagerResult(AsyncResult[R_co]):
    """The outcome of a task that ran inline, by apply() or with task_always_eager; no row stands behind it.

    Args:
        id: of the call.
        ret_value: what the task returned, or the error it raised.
        state: SUCCESS, FAILURE, RETRY, REVOKED or REJECTED.
        traceback: of the error, as text.
        name: of the task.
    """

    __slots__ = ("_children", "_name", "_state", "_traceback", "_value_or_error")
    _has_row = False
    _settled = True

    def __init__(self, id: str, ret_value: Any, state: str, traceback: str | None = None, name: str | None = None):
        self.id = self.job_id = id
        self.parent = None
        self._children: list[Any] = []
        self._value_or_error = ret_value
        self._state = state
        self._traceback = traceback
        self._name = name

    state = status = property(lambda self: self._state)
    result = info = property(lambda self: self._value_or_error)
    traceback = property(lambda self: self._traceback)
    children = property(lambda self: self._children)
    name = property(lambda self: self._name)

    def ready(self) -> bool:
        """Always True."""
        return True

    def exists(self) -> bool:
        """Always True."""
        return True

    def successful(self) -> bool:
        """Whether it succeeded."""
        return bool(self._state == "SUCCESS")

    def failed(self) -> bool:
        """Whether it failed."""
        return bool(self._state == "FAILURE")

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        disable_sync_subtasks: bool = True,
        **declined: Any,
    ) -> R_co:
        """Return what the task returned, or raise its error."""
        if propagate and isinstance(self._value_or_error, BaseException) and self._state != "SUCCESS":
            raise self._value_or_error
        value: R_co = self._value_or_error
        return value

    wait = get

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        disable_sync_subtasks: bool = True,
        **declined: Any,
    ) -> R_co:
        """get() for async code."""
        return self.get(timeout, propagate)

    async def _alook(self) -> NoReturn:
        raise PgQueueError("an eager result has no row")

    async def astate(self) -> str:
        """`state` for async code."""
        return str(self._state)

    async def aresult(self) -> Any:
        """`result` for async code."""
        return self._value_or_error

    async def aready(self) -> bool:
        """Always True."""
        return True

    async def aexists(self) -> bool:
        """Always True."""
        return True

    async def achildren(self) -> list[Any]:
        """`children` for async code."""
        return self._children

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> Any:
        """get(), with a callback that is called with the id and the value."""
        value = self.get(propagate=propagate)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def forget(self) -> None:
        """There is nothing to forget."""

    async def aforget(self) -> None:
        """There is nothing to forget."""

    def revoke(self, terminate: bool = False, **declined: Any) -> bool:
        """It is over: False."""
        return False

    async def arevoke(self, terminate: bool = False, **declined: Any) -> bool:
        """It is over: False."""
        return False

    def __repr__(self) -> str:
        return f"<EagerResult: {self.id}>"

    def __reduce__(self) -> Any:
        return EagerResult, (self.id, self._value_or_error, self._state, self._traceback, self._name)


class _Run:
    """The attempts of one call."""

    def __init__(
        self, task: Runnable, args: Sequence[Any], kwargs: Mapping[str, Any], request: Mapping[str, Any]
    ) -> None:
        self.task = task
        self.args, self.kwargs = list(args), dict(kwargs)
        self.request = dict(request)
        self.retries: int = self.request.pop("retries", 0)
        self.id: str = self.request["id"]
        self.started = time.monotonic()

    def begin(self) -> Any:
        """Set the request of the next attempt; returns what resets it."""
        self.attempt = Request(
            task=self.task.name,
            args=self.args,
            kwargs=self.kwargs,
            attempt=self.retries + 1,
            called_directly=False,
            is_eager=True,
            **self.request,
        )
        return current_request.set(self.attempt)

    def call(self) -> Any:
        task = self.task
        return task.run(task, *self.args, **self.kwargs) if task.bind else task.run(*self.args, **self.kwargs)

    def ended(self, value: Any, state: str = "SUCCESS") -> EagerResult[Any]:
        text = None
        if isinstance(value, BaseException) and state != "SUCCESS":
            text = "".join(traceback_module.format_exception(value))
        return EagerResult(self.id, value, state, text, self.task.name)

    def failed(self, error: Exception) -> EagerResult[Any] | None:
        """The outcome after an error; None: once more."""
        if isinstance(error, Retry):
            changes = error.changes or {}
            if "args" in changes:
                self.args = decode_args(changes["args"])
            if "kwargs" in changes:
                self.kwargs = decode_kwargs(changes["kwargs"])
            self.retries += 1
            return None
        if isinstance(error, Ignore):
            return self.ended(None, "IGNORED")
        if isinstance(error, Snooze):
            return self.ended(error, "RETRY")
        if isinstance(error, Reject):
            return self.ended(error, "REJECTED")
        if isinstance(error, TaskRevokedError):
            return self.ended(error, "REVOKED")
        policy = self.task.policy
        limit = self.attempt.max_retries
        exhausted = policy.exhausted(self.retries) if limit is None else self.retries >= limit
        if policy.retries(error) and not isinstance(error, ValidationError) and not exhausted:
            elapsed = time.monotonic() - self.started
            if policy.next_delay(error, elapsed, self.attempt) is not None:
                self.retries += 1
                return None
        return self.ended(error, "FAILURE")


def run_eagerly(
    task: Runnable, args: Sequence[Any], kwargs: Mapping[str, Any], request: Mapping[str, Any]
) -> EagerResult[Any]:
    """Run a task to its end in this thread; a coroutine in an event loop of its own.

    Args:
        task: what to run.
        args, kwargs: passed as they are, without a round trip through JSON.
        request: keywords of Request, `id` at least; `retries` to begin with.

    Raises:
        PgQueueError: a coroutine task, while an event loop runs in this thread.
    """
    run = _Run(task, args, kwargs, request)
    if task.is_coroutine:
        try:
            asyncio.get_running_loop()
        except RuntimeError:
            return asyncio.run(_arun(run))
        raise PgQueueError(
            f"{task.name} is a coroutine, and an event loop runs here already: await task(…), or await task.adelay(…)"
        )
    while True:
        mark = run.begin()
        try:
            return run.ended(run.call())
        except Exception as error:
            outcome = run.failed(error)
        finally:
            current_request.reset(mark)
        if outcome is not None:
            return outcome


async def arun_eagerly(
    task: Runnable, args: Sequence[Any], kwargs: Mapping[str, Any], request: Mapping[str, Any]
) -> EagerResult[Any]:
    """Run a task to its end inside the running event loop; a plain function blocks it."""
    return await _arun(_Run(task, args, kwargs, request))


async def _arun(run: _Run) -> EagerResult[Any]:
    while True:
        mark = run.begin()
        try:
            value = run.call()
            return run.ended(await value if run.task.is_coroutine else value)
        except Exception as error:
            outcome = run.failed(error)
        finally:
            current_request.reset(mark)
        if outcome is not None:
            return outcome
