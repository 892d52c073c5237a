"""A job queue for Python in PostgreSQL: enqueue in your own transaction, a worker runs it, SQL shows the result."""

from pgqueue.app import PgQueue
from pgqueue.eager import EagerResult
from pgqueue.errors import (
    AppNotFound,
    ArgumentsError,
    ConfigurationError,
    DatabaseUnavailable,
    DuplicateJob,
    EncodingError,
    EnqueueError,
    EnrolmentError,
    Ignore,
    LeaseLost,
    LimitExceeded,
    MaxRetriesExceededError,
    PgQueueError,
    Reject,
    RemoteError,
    Retry,
    SchemaError,
    SoftTimeLimitExceeded,
    TaskError,
    TaskPredicate,
    TaskRevokedError,
    TimeLimitExceeded,
    TimeoutError,
    UnknownCommit,
    UnknownSetting,
    UnknownTask,
    UnsupportedOption,
    ValidationError,
    WorkerLostError,
)
from pgqueue.job import JobState
from pgqueue.request import Request, current_connection, get_task_logger
from pgqueue.results import AsyncResult
from pgqueue.retry import RetryPolicy
from pgqueue.signature import Signature, signature
from pgqueue.task import Task

__all__ = [
    "AppNotFound",
    "ArgumentsError",
    "AsyncResult",
    "ConfigurationError",
    "DatabaseUnavailable",
    "DuplicateJob",
    "EagerResult",
    "EncodingError",
    "EnqueueError",
    "EnrolmentError",
    "Ignore",
    "JobState",
    "LeaseLost",
    "LimitExceeded",
    "MaxRetriesExceededError",
    "PgQueue",
    "PgQueueError",
    "Reject",
    "RemoteError",
    "Request",
    "Retry",
    "RetryPolicy",
    "SchemaError",
    "Signature",
    "SoftTimeLimitExceeded",
    "Task",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "TimeoutError",
    "UnknownCommit",
    "UnknownSetting",
    "UnknownTask",
    "UnsupportedOption",
    "ValidationError",
    "WorkerLostError",
    "__version__",
    "current_connection",
    "get_task_logger",
    "signature",
]

__version__ = "0.1.0"
