"""One claimed job -> one outcome. Runs the task's function and nothing else: no thread, no timer, no database.

An outcome is a plain tuple, so that it crosses a pipe unchanged: (number, kind, ...):
    (n, "succeeded", result)                         result as JSON text, or None
    (n, "failed", error, traceback)                  error as JSON text
    (n, "retry", delay, error, traceback, changes)   delay in seconds, changes as JSON text or None
    (n, "cancelled", error, traceback)
    (n, "replaced", steps)                           other steps give its result: parameters of theirs
    (n, "settled",)                                  its transaction has recorded the end already
    (n, "adrift", reason, at_most_once, server)      its database session was lost: it runs again
    (n, "unstored",)                                 its transaction found no partition to end in: it runs again
    (n, "released",)                                 its transaction got in another's way: it runs again
"""

import asyncio
import functools
import json
import logging
import time
import traceback
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any, NamedTuple, cast

from pgqueue.app.application import PgQueue
from pgqueue.codec import clean_text, decode_args, decode_kwargs, encode_error, encode_result
from pgqueue.errors import (
    Ignore,
    LeaseLost,
    Reject,
    Replaced,
    Retry,
    Snooze,
    TaskRevokedError,
    TimeLimitExceeded,
    UnknownTask,
    ValidationError,
)
from pgqueue.request import Request, current_request
from pgqueue.retry import MAX_DELAY_SECONDS
from pgqueue.tasks.errbacks import error_args, read_story
from pgqueue.tasks.repeated import Repeated
from pgqueue.tasks.task import Task
from pgqueue.worker.django import old_connections_closer
from pgqueue.worker.logs import about, end_prints
from pgqueue.worker.orm import SessionLost
from pgqueue.worker.transaction import PartitionMissing, Transactions, is_conflict

__all__ = ["Executor", "JobToRun", "Outcome", "as_job"]

Outcome = tuple[Any, ...]
logger = logging.getLogger("pgqueue.task")


class JobToRun(NamedTuple):
    """What a runner needs of a claimed job, as Held.to_run() gives it; `number` is the worker's own, unique."""

    number: int
    token: int
    id: str
    task: str
    queue: str
    priority: int
    attempt: int
    lost: int
    args: str | None
    kwargs: str | None
    headers: str | None
    options: str | None
    run_at: str | None
    expires_at: str | None
    root_id: str | None
    parent_id: str | None


# As JobToRun._make(), but without a call of Python code for each.
as_job: Callable[[tuple[Any, ...]], JobToRun] = functools.partial(tuple.__new__, JobToRun)


class Executor:
    """Runs jobs of one application.

    Args:
        app: whose registry names the tasks; a row never causes an import.
        hostname: the worker's name, for `self.request.hostname`.
        application_name: of the database sessions of transactional jobs, by which a rescuer ends them.
    """

    def __init__(self, app: PgQueue, hostname: str, application_name: str) -> None:
        self._tasks = app.tasks
        self._known = app.results.known
        self._hostname = hostname
        self._close_old = old_connections_closer()
        self._tells_all = logger.isEnabledFor(logging.DEBUG)
        self.transactions = Transactions(app, application_name)

    def task(self, job: JobToRun) -> Task[..., Any]:
        """Return the task of a job."""
        try:
            task = self._tasks[job.task]
        except KeyError:
            raise UnknownTask(f"task {job.task!r} is not registered in this worker") from None
        if job.options is not None and '"over"' in job.options:
            over = json.loads(job.options).get("over")
            return task if over is None else cast(Any, Repeated(task, over))
        return task

    def limits(self, job: JobToRun, task: Task[..., Any]) -> tuple[float | None, float | None]:
        """Return the (soft, hard) time limits of a job in seconds: its own, or else its task's."""
        if job.options is None or "time_limit" not in job.options:
            return task.soft_time_limit, task.time_limit
        options = json.loads(job.options)
        return options.get("soft_time_limit", task.soft_time_limit), options.get("time_limit", task.time_limit)

    def soft_limit(self, job: JobToRun) -> float | None:
        """Return the soft time limit of a job in seconds, for a task that may be unknown."""
        task = self._tasks.get(job.task)
        return None if task is None else self.limits(job, task)[0]

    def prepare(self, job: JobToRun, task: Task[..., Any]) -> tuple[Request, list[Any], dict[str, Any]]:
        """Decode the arguments and make the request that the task sees."""
        args: list[Any] = decode_args(job.args)
        kwargs: dict[str, Any] = decode_kwargs(job.kwargs)
        options = json.loads(job.options) if job.options is not None else {}
        if "errback" in options or "immutable" in options:
            args = self._of_step(job, task, args, kwargs, options)
        if task.coerce is not None:
            args, kwargs = task.coerce(args, kwargs)
        request = Request(
            job.id,
            job.task,
            args,
            kwargs,
            queue=job.queue,
            priority=job.priority,
            attempt=job.attempt,
            lost=job.lost,
            headers=job.headers,
            eta=job.run_at,
            expires=job.expires_at,
            root_id=job.root_id or job.id,
            parent_id=job.parent_id,
            hostname=self._hostname,
            token=job.token,
            called_directly=False,
        )
        request.ignore_result = task.ignore_result
        request.timelimit = (task.time_limit, task.soft_time_limit)
        if self._tells_all or task.policy.decide is not None:
            request.started = time.monotonic()
        if options:
            request.options = options
            request.ignore_result = options.get("ignore_result", task.ignore_result)
            request.max_retries = options.get("max_retries")
            soft, hard = self.limits(job, task)
            request.timelimit = (hard, soft)
        return request, args, kwargs

    def _of_step(
        self, job: JobToRun, task: Task[..., Any], args: list[Any], kwargs: dict[str, Any], options: dict[str, Any]
    ) -> list[Any]:
        """The arguments of a step for which the database could not quite make them."""
        if options.get("immutable"):
            return args[1:]
        return error_args(task, args[1:], kwargs, *read_story(job.args, self._known)) + args[1:]

    def run(self, job: JobToRun) -> Outcome:
        """Run a plain function to its end and return the outcome; never raises an Exception."""
        try:
            task = self.task(job)
            request, args, kwargs = self.prepare(job, task)
        except Exception as error:
            return self.refused(job, error)
        close_old = self._close_old
        if close_old is not None:
            close_old()
        mark = current_request.set(request)
        try:
            if task.transactional:
                self.transactions.run(job.id, job.token, task, request, args, kwargs)
                outcome: Outcome = (job.number, "settled")
            else:
                value = task.run(task, *args, **kwargs) if task.bind else task.run(*args, **kwargs)
                outcome = (job.number, "succeeded", None if request.ignore_result else encode_result(value))
            if self._tells_all:
                _tell_success(job, request)
            return outcome
        except BaseException as error:
            return self.ended(job, task, request, error)
        finally:
            end_prints()
            current_request.reset(mark)
            if close_old is not None:
                close_old()

    async def arun(self, job: JobToRun, task: Task[..., Any], overdue: Callable[[], bool] = bool) -> Outcome:
        """Run a coroutine task to its end in the running event loop's current asyncio task.

        Args:
            job: what to run.
            task: its task.
            overdue: whether it was cancelled because its hard time limit has passed.
        """
        try:
            request, args, kwargs = self.prepare(job, task)
        except Exception as error:
            return self.refused(job, error)
        current_request.set(request)
        try:
            if task.transactional:
                await self.transactions.arun(job.id, job.token, task, request, args, kwargs)
                outcome: Outcome = (job.number, "settled")
            else:
                value = await (task.run(task, *args, **kwargs) if task.bind else task.run(*args, **kwargs))
                outcome = (job.number, "succeeded", None if request.ignore_result else encode_result(value))
            if self._tells_all:
                _tell_success(job, request)
            return outcome
        except BaseException as error:
            return self.timed_out(job, task) if overdue() else self.ended(job, task, request, error)
        finally:
            end_prints()

    def end_thread(self) -> None:
        """Close what the calling thread keeps open for its jobs."""
        self.transactions.close_thread()

    async def end_loop(self) -> None:
        """Close what the running event loop keeps open for its jobs."""
        await self.transactions.close_loop()

    def refused(self, job: JobToRun, error: BaseException) -> Outcome:
        """Return the outcome of a job that failed outside of its task's function.

        Its task is unknown, its arguments are wrong, or an interruption came in the instant before or after the call.
        """
        logger.error("Task %s[%s] cannot run: %s", job.task, job.id, _short(error), extra=about(job))
        return (job.number, "failed", encode_error(error), _traceback_text(error))

    def timed_out(self, job: JobToRun, task: Task[..., Any]) -> Outcome:
        """Return the outcome of a job that was ended as its hard time limit had passed."""
        passed = f"time limit of {self.limits(job, task)[1]:g} s"
        logger.error("Task %s[%s] passed its %s", job.task, job.id, passed, extra=about(job))
        error = TimeLimitExceeded(f"{passed} of task {job.task}[{job.id}] passed")
        return (job.number, "failed", encode_error(error), None)

    def ended(self, job: JobToRun, task: Task[..., Any], request: Request, error: BaseException) -> Outcome:
        """Return the outcome of a call that raised, whatever the error does when it is looked at."""
        try:
            return self._ended(job, task, request, error)
        except Exception:
            logger.exception(
                "Task %s[%s] failed, and so did its retry policy or log", job.task, job.id, extra=about(job)
            )
            return (job.number, "failed", encode_error(error), None)

    def _ended(self, job: JobToRun, task: Task[..., Any], request: Request, error: BaseException) -> Outcome:
        if isinstance(error, SessionLost):
            logger.warning("Task %s[%s]: %s", job.task, job.id, error)
            server = error.server_started or self.transactions.server_started
            return (job.number, "adrift", clean_text(str(error)), not task.acks_late, server)
        if isinstance(error, PartitionMissing):
            return (job.number, "unstored")
        if task.transactional and is_conflict(error):
            logger.info("Task %s[%s] runs again: %s", job.task, job.id, _short(error))
            return (job.number, "released")
        if isinstance(error, Replaced):
            return (job.number, "replaced", error.replacement)
        if isinstance(error, Ignore):
            return (job.number, "succeeded", None)
        if isinstance(error, Reject):
            if error.requeue:
                return (job.number, "retry", 0.0, encode_error(error), None, None)
            return (job.number, "failed", encode_error(error), None)
        if isinstance(error, TaskRevokedError | asyncio.CancelledError):
            logger.warning("Task %s[%s] was cancelled while it ran, at attempt %d", *_named(job))
            return (job.number, "cancelled", encode_error(TaskRevokedError("cancelled while it ran")), None)
        if isinstance(error, Snooze):
            delay = _seconds_until(error.when)
            logger.info("Task %s[%s] snoozes at attempt %d for %.1f s", *_named(job), delay)
            return (job.number, "retry", delay, None, None, '{"snoozed": true}')
        policy = task.policy
        since = None if policy.decide is None else {"since": True}
        if isinstance(error, Retry):
            cause = error.exc or error
            delay = _seconds_until(error.when)
            _tell_retry(job, delay, cause)
            changes = json.dumps({**(error.changes or {}), **(since or {})}) if error.changes or since else None
            return (job.number, "retry", delay, encode_error(cause), _traceback_text(cause), changes)
        if policy.retries(error) and not isinstance(error, ValidationError):
            own = json.loads(job.options) if job.options else {}
            limit = own.get("max_retries", policy.max_retries)
            if limit is None or request.retries < limit:
                wait = policy.next_delay(error, _elapsed(request, own), request)
                if wait is not None:
                    _tell_retry(job, wait, error)
                    changes = json.dumps(since) if since else None
                    return (job.number, "retry", wait, encode_error(error), _traceback_text(error), changes)
        if isinstance(error, task.throws):
            logger.info("Task %s[%s] raised the expected error at attempt %d: %s", *_named(job), _short(error))
        elif not isinstance(error, LeaseLost):
            logger.error("Task %s[%s] failed at attempt %d: %s", *_named(job), _short(error), exc_info=error)
        return (job.number, "failed", encode_error(error), _traceback_text(error))


def _named(job: JobToRun) -> tuple[str, str, int]:
    return job.task, job.id, job.attempt


def _tell_success(job: JobToRun, request: Request) -> None:
    ran = time.monotonic() - (request.started or 0.0)
    logger.debug("Task %s[%s] succeeded at attempt %d in %.3f s", *_named(job), ran)


def _tell_retry(job: JobToRun, delay: float, cause: BaseException) -> None:
    logger.info("Task %s[%s] retries after attempt %d in %.1f s: %s", *_named(job), delay, _short(cause))


def _elapsed(request: Request, options: dict[str, Any]) -> float:
    """Seconds since the job began for the first time, by the database's clock and this process's stopwatch.

    What this attempt waited in line is not known here and not counted.
    """
    ran = time.monotonic() - request.started if request.started is not None else 0.0
    since = options.get("since")
    if since is None or request.retries == 0 or request.eta is None:
        return ran
    return max((request.eta - datetime.fromisoformat(since)).total_seconds(), 0.0) + ran


def _seconds_until(when: float | datetime | None) -> float:
    if when is None:
        return 0.0
    seconds = (when - datetime.now(UTC)).total_seconds() if isinstance(when, datetime) else float(when)
    return min(max(seconds, 0.0), MAX_DELAY_SECONDS) if seconds == seconds else 0.0


def _traceback_text(error: BaseException) -> str:
    """The traceback from the task's own first frame on."""
    own = error.__traceback__
    while own is not None and own.tb_frame.f_globals.get("__name__", "").startswith("pgqueue."):
        own = own.tb_next
    return clean_text("".join(traceback.format_exception(type(error), error, own)))


def _short(error: BaseException) -> str:
    """An error for a line of the log, even when its own repr() fails."""
    try:
        return clean_text(repr(error), 1000)
    except Exception:
        return f"<{type(error).__qualname__} without a repr()>"
