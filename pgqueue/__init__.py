"""A job queue for Python in PostgreSQL: enqueue in your own transaction, a worker runs it, SQL shows the result."""

from pgqueue.app import PgQueue
from pgqueue.canvas import chain, chord, group
from pgqueue.canvas_maps import chunks, xmap, xstarmap
from pgqueue.eager import EagerResult
from pgqueue.errors import (
    AppNotFound,
    ArgumentsError,
    ChordError,
    ConfigurationError,
    DatabaseUnavailable,
    DuplicateJob,
    EncodingError,
    EnqueueError,
    EnrolmentError,
    EventTimeout,
    GraphError,
    Ignore,
    IncompleteStream,
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
    UnknownSchedule,
    UnknownSetting,
    UnknownTask,
    UnsupportedOption,
    ValidationError,
    WorkerLostError,
)
from pgqueue.group_results import GroupResult, result_from_tuple
from pgqueue.job import JobState
from pgqueue.request import Request, current_connection, get_task_logger
from pgqueue.result_sets import ResultSet
from pgqueue.results import AsyncResult
from pgqueue.retry import RetryPolicy
from pgqueue.signature import Signature, maybe_signature, signature
from pgqueue.stamping import StampingVisitor
from pgqueue.task import Task
from pgqueue.workflow import Step, Workflow
from pgqueue.workflow_result import WorkflowResult

__all__ = [
    "AppNotFound",
    "ArgumentsError",
    "AsyncResult",
    "ChordError",
    "ConfigurationError",
    "DatabaseUnavailable",
    "DuplicateJob",
    "EagerResult",
    "EncodingError",
    "EnqueueError",
    "EnrolmentError",
    "EventTimeout",
    "GraphError",
    "GroupResult",
    "Ignore",
    "IncompleteStream",
    "JobState",
    "LeaseLost",
    "LimitExceeded",
    "MaxRetriesExceededError",
    "PgQueue",
    "PgQueueError",
    "Reject",
    "RemoteError",
    "Request",
    "ResultSet",
    "Retry",
    "RetryPolicy",
    "SchemaError",
    "Signature",
    "SoftTimeLimitExceeded",
    "StampingVisitor",
    "Step",
    "Task",
    "TaskError",
    "TaskPredicate",
    "TaskRevokedError",
    "TimeLimitExceeded",
    "TimeoutError",
    "UnknownCommit",
    "UnknownSchedule",
    "UnknownSetting",
    "UnknownTask",
    "UnsupportedOption",
    "ValidationError",
    "WorkerLostError",
    "Workflow",
    "WorkflowResult",
    "__version__",
    "chain",
    "chord",
    "chunks",
    "current_connection",
    "get_task_logger",
    "group",
    "maybe_signature",
    "result_from_tuple",
    "signature",
    "xmap",
    "xstarmap",
]

__version__ = "0.1.0"
