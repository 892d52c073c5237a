"""Every exception pgqueue raises on purpose, in one tree.

PgQueueError
├── ConfigurationError              a setting, option or DSN is wrong (alias ImproperlyConfigured)
│   ├── UnknownSetting              no such setting; names the nearest one
│   ├── UnsupportedOption           a Celery option that pgqueue declines; names the way out
│   │   └── UnsupportedAttribute    an attribute or method of Celery's objects; likewise
│   └── AppNotFound                 -A names no importable application
├── ValidationError (ValueError)    bad input, refused before anything is written
│   ├── EncodingError               a value has no JSON form; names its path
│   ├── LimitExceeded               a size, depth or range limit; names the limit
│   ├── UnknownSchedule             there is no schedule of that name
│   ├── UnknownTask (NotRegistered) no task of that name is registered
│   └── GraphError                  the steps of a workflow do not fit together: a cycle, a missing step
├── ArgumentsError (TypeError)      arguments do not fit the task's signature
├── EnqueueError
│   ├── DuplicateJob                the id is taken by a kept job
│   └── EnrolmentError              the caller's connection cannot take part (autocommit, other database, wrong kind)
├── DatabaseUnavailable             the server cannot be reached (now)
│   └── UnknownCommit               the connection broke during COMMIT: it may or may not have happened
├── SchemaError                     no schema, an older or a newer one
├── TaskError                       the outcome of a job, raised by AsyncResult.get()
│   ├── RemoteError                 an error whose type this process does not know
│   ├── WorkerLostError             the worker died, and the job may not run again
│   ├── TimeLimitExceeded           the hard time limit ended the job
│   ├── TaskRevokedError            cancelled or expired before it could finish
│   ├── MaxRetriesExceededError     retry() beyond max_retries without an error to raise
│   ├── ChordError                  a member of the group that this job joins did not succeed
│   ├── EventTimeout                nobody resolved the event that a workflow waited for
│   └── IncompleteStream            collect() met a job that is not finished
├── TaskPredicate                   control flow inside a task
│   ├── Retry                       run this job again later
│   ├── Snooze                      run this job later; the attempt does not count
│   ├── Ignore                      end it without recording a state
│   ├── Replaced                    other steps give its result
│   └── Reject                      give it up (or put it back: requeue=True)
├── TimeoutError                    AsyncResult.get(timeout=…) ran out
├── LeaseLost                       this attempt no longer belongs to this worker
└── SoftTimeLimitExceeded           raised inside a task whose soft time limit passed
"""

import builtins
from datetime import datetime, timedelta
from typing import Any

__all__ = [
    "AppNotFound",
    "ArgumentsError",
    "ChordError",
    "ConfigurationError",
    "DatabaseUnavailable",
    "DuplicateJob",
    "EncodingError",
    "EnqueueError",
    "EnrolmentError",
    "EventTimeout",
    "GraphError",
    "Ignore",
    "IncompleteStream",
    "LeaseLost",
    "LimitExceeded",
    "MaxRetriesExceededError",
    "PgQueueError",
    "Reject",
    "RemoteError",
    "Replaced",
    "Retry",
    "SchemaError",
    "Snooze",
    "SoftTimeLimitExceeded",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "TimeoutError",
    "UnknownCommit",
    "UnknownSchedule",
    "UnknownSetting",
    "UnknownTask",
    "UnsupportedAttribute",
    "UnsupportedOption",
    "ValidationError",
    "WorkerLostError",
]


class PgQueueError(Exception):
    """Base of every error that pgqueue raises on purpose."""


class ConfigurationError(PgQueueError):
    """A setting, an option or a DSN is wrong."""


class UnknownSetting(ConfigurationError):
    """No setting has this name.

    Read as an attribute of app.conf it is an AttributeError, too; from a file or the environment it never is, which
    hasattr() and properties would take for a missing attribute of their own.
    """


class UnsupportedOption(ConfigurationError):
    """A Celery option, setting or flag that pgqueue does not honour; the message names the way out."""


class UnsupportedAttribute(UnsupportedOption, AttributeError):
    """An attribute or method of one of Celery's objects that pgqueue's has not; the message names the way out."""


class AppNotFound(ConfigurationError):
    """The application named by -A or PGQUEUE_APP cannot be found or imported."""


class ValidationError(PgQueueError, ValueError):
    """Bad input, refused before anything was written."""


class EncodingError(ValidationError):
    """A value has no JSON form; the message names its path."""


class LimitExceeded(ValidationError):
    """A size, depth or range limit was passed; the message names it."""


class UnknownSchedule(ValidationError, KeyError):
    """There is no schedule of this name."""

    def __str__(self) -> str:
        return ValueError.__str__(self)


class UnknownTask(ValidationError, KeyError):
    """No task of this name is registered (Celery: NotRegistered)."""

    def __str__(self) -> str:
        return ValueError.__str__(self)


class GraphError(ValidationError):
    """The steps of a workflow do not fit together: a cycle, a missing step, an id used twice."""


class ArgumentsError(PgQueueError, TypeError):
    """The arguments do not fit the task's signature."""


class EnqueueError(PgQueueError):
    """A job could not be enqueued."""


class DuplicateJob(EnqueueError):
    """The id belongs to a job that is still kept.

    Attributes:
        job_id: the id, as the caller gave it.
    """

    def __init__(self, message: str, job_id: str = "") -> None:
        super().__init__(message)
        self.job_id = job_id


class EnrolmentError(EnqueueError):
    """The caller's connection cannot take part in an enqueue; the message says why and what to do."""


class DatabaseUnavailable(PgQueueError):
    """The database cannot be reached, or the connection broke."""


class UnknownCommit(DatabaseUnavailable):
    """The connection broke while committing: the job may or may not exist. Send it again under the same task_id."""


class SchemaError(PgQueueError):
    """The schema is missing, older or newer than this release; the message names the command to type."""


class TaskError(PgQueueError):
    """How a job ended, when it did not succeed."""


class RemoteError(TaskError):
    """A task's error whose type is not known here.

    Attributes:
        type_name: qualified name of the original type.
        error_args: its arguments, as far as they have a JSON form.
    """

    def __init__(self, message: str, type_name: str = "", error_args: tuple[Any, ...] = ()) -> None:
        super().__init__(message)
        self.type_name = type_name
        self.error_args = error_args


class WorkerLostError(TaskError):
    """The process that ran the job died, and the job may not run again."""


class TimeLimitExceeded(TaskError):
    """The hard time limit ended the job."""


class TaskRevokedError(TaskError):
    """The job was cancelled, or expired, before it could finish."""


class MaxRetriesExceededError(TaskError):
    """retry() was called more than max_retries times, and there was no error to raise instead."""


class ChordError(TaskError):
    """A member of the group that this job joins did not succeed; the message names it."""


class EventTimeout(TaskError):
    """Nobody resolved the event that a workflow waited for before its time was over."""


class IncompleteStream(TaskError):
    """AsyncResult.collect() met a job that is not finished."""


class TaskPredicate(PgQueueError):
    """Control flow inside a task; not an error of the task."""


class Retry(TaskPredicate):
    """Run this job again later.

    Args:
        message: shown by people and logs.
        exc: the error that led to the retry, if any.
        when: seconds from now, or the (aware) instant.
        changes: what the next attempt replaces of the job: "args", "kwargs" (encoded), "queue", "priority", "options"
            and "expires_in" (seconds).
    """

    def __init__(
        self,
        message: str | None = None,
        exc: BaseException | None = None,
        when: float | datetime | None = None,
        changes: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(message or (f"retry: {_shown(exc)}" if exc is not None else "retry"))
        self.exc = exc
        self.when = when
        self.changes = changes


class Snooze(TaskPredicate):
    """Run this job later, as if this attempt had not been: it costs no retry and leaves no trace in `attempts`.

    Args:
        when: seconds or a timedelta from now, or an aware datetime.

    Raises:
        ValueError: a naive datetime, or no time at all.
    """

    def __init__(self, when: float | timedelta | datetime) -> None:
        if isinstance(when, timedelta):
            when = when.total_seconds()
        if isinstance(when, datetime):
            if when.utcoffset() is None:
                raise ValueError(f"Snooze: expected an aware datetime, got {when.isoformat()}")
        elif isinstance(when, bool) or not isinstance(when, int | float) or not 0 <= when < float("inf"):
            raise ValueError(f"Snooze: expected seconds, a timedelta or a datetime, got {when!r}")
        super().__init__(f"snooze: {when}")
        self.when = when


class Ignore(TaskPredicate):
    """End the job and keep no result of it."""


class Replaced(TaskPredicate):
    """Other steps give the job's result; for the worker, which makes the job wait for them.

    Attributes:
        replacement: parameters of the steps, and of the one whose result is the job's.
    """

    def __init__(self, replacement: dict[str, Any]) -> None:
        super().__init__("other steps give the result")
        self.replacement = replacement


class Reject(TaskPredicate):
    """Give the job up, or put it back in line.

    Args:
        reason: kept as the job's error.
        requeue: put it back in line, at its end, instead of failing it.
    """

    def __init__(self, reason: object = None, requeue: bool = False) -> None:
        super().__init__(str(reason))
        self.reason = reason
        self.requeue = requeue


class TimeoutError(PgQueueError, builtins.TimeoutError):  # noqa: A001 - Celery's name for it
    """The job did not finish within the timeout of AsyncResult.get()."""


class LeaseLost(PgQueueError):
    """This attempt no longer belongs to this worker: the job was rescued, cancelled or deleted meanwhile."""


class SoftTimeLimitExceeded(PgQueueError):
    """Raised inside a task whose soft time limit passed; the task may clean up and return, retry or fail."""


def _shown(error: BaseException) -> str:
    try:
        return repr(error)
    except Exception:
        # An error that cannot show itself must not take the place of the retry.
        return type(error).__name__
