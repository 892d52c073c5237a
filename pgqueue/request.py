"""What a running task knows of its own job, and the connection of a transactional one.

The worker sets both for the time of a call; they are context variables, so threads and coroutines each see their own.
"""

import contextvars
import json
import logging
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

from pgqueue.codec import decode_kwargs
from pgqueue.declined.attributes import REQUEST, Declining
from pgqueue.errors import PgQueueError

__all__ = [
    "Request",
    "current_connection",
    "current_request",
    "get_task_logger",
    "progress_sink",
    "transaction_connection",
]


class Request(Declining):
    """The job being run, as `self.request` of a bound task shows it (Celery: Context).

    Attributes:
        id, task, queue, priority, args, kwargs, headers: of the job.
        retries: earlier attempts that asked for a retry.
        attempt: starts of the job so far, this one included.
        root_id, parent_id: the job at the origin of this one, and the one that enqueued it.
        eta, expires: aware UTC datetimes, or None.
        scheduled_for: the planned instant of the schedule's tick, or None.
        hostname: name of the worker.
        called_directly: True outside of a worker.
        is_eager: True under apply() and task_always_eager.
        timelimit: (hard, soft) in seconds, None where there is none; time_limit and soft_time_limit are its parts.
        max_retries: what the job overrides of its task's; None: nothing.
        options: all that it overrides, and what the worker was told about it.
    """

    DECLINED = REQUEST
    utc = True  # instants are stored in UTC

    __slots__ = (
        "_eta",
        "_expires",
        "_headers",
        "args",
        "attempt",
        "called_directly",
        "hostname",
        "id",
        "ignore_result",
        "is_eager",
        "kwargs",
        "lost",
        "max_retries",
        "options",
        "parent_id",
        "priority",
        "queue",
        "root_id",
        "started",
        "task",
        "timelimit",
        "token",
    )

    def __init__(
        self,
        id: str | None = None,
        task: str | None = None,
        args: list[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        *,
        queue: str | None = None,
        priority: int = 0,
        attempt: int = 1,
        lost: int = 0,
        headers: str | None = None,
        eta: str | None = None,
        expires: str | None = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        hostname: str | None = None,
        ignore_result: bool = False,
        timelimit: tuple[float | None, float | None] = (None, None),
        token: int | None = None,
        called_directly: bool = True,
        is_eager: bool = False,
        max_retries: int | None = None,
        options: Mapping[str, Any] | None = None,
    ) -> None:
        self.id = id
        self.task = task
        self.args = args if args is not None else []
        self.kwargs = kwargs if kwargs is not None else {}
        self.queue = queue
        self.priority = priority
        self.attempt = attempt
        self.lost = lost
        self._headers = headers
        self._eta = eta
        self._expires = expires
        self.root_id = root_id
        self.parent_id = parent_id
        self.hostname = hostname
        self.ignore_result = ignore_result
        self.timelimit = timelimit
        self.token = token
        self.called_directly = called_directly
        self.is_eager = is_eager
        self.max_retries = max_retries
        self.options = options or {}
        self.started: float | None = None  # on time.monotonic(), where a retry policy wants to know

    @property
    def retries(self) -> int:
        """How often the job asked for a retry; attempts lost with their worker do not count."""
        return self.attempt - 1 - self.lost

    @property
    def headers(self) -> dict[str, Any]:
        """Custom headers given at the enqueue."""
        return dict(json.loads(self._headers)) if self._headers else {}

    @property
    def eta(self) -> datetime | None:
        """The instant before which the job was not to run."""
        return datetime.fromisoformat(self._eta) if self._eta else None

    @property
    def expires(self) -> datetime | None:
        """The instant after which the job was not to start."""
        return datetime.fromisoformat(self._expires) if self._expires else None

    @property
    def group_id(self) -> str | None:
        """The group whose member it is, or whose member ends with it."""
        found: str | None = self.options.get("group_id")
        return found

    group = taskset = group_id

    @property
    def workflow_id(self) -> str | None:
        """The Workflow whose step it is; for app.workflow(id)."""
        found: str | None = self.options.get("workflow_id")
        return found

    @property
    def stamps(self) -> dict[str, Any]:
        """Its stamps, by name."""
        return decode_kwargs(json.dumps(self.options.get("stamps") or {}))

    @property
    def stamped_headers(self) -> list[str]:
        """The names of its stamps."""
        return list(self.options.get("stamps") or ())

    @property
    def scheduled_for(self) -> datetime | None:
        """The planned instant of the tick that made this job, whenever it runs; None: no schedule did."""
        found = self.headers.get("scheduled_for")
        return datetime.fromisoformat(found) if found else None

    @property
    def time_limit(self) -> float | None:
        """Seconds after which it is killed."""
        return self.timelimit[0]

    @property
    def soft_time_limit(self) -> float | None:
        """Seconds after which SoftTimeLimitExceeded is raised in it."""
        return self.timelimit[1]

    @property
    def correlation_id(self) -> str | None:
        """The id (Celery's other name for it)."""
        return self.id

    @property
    def delivery_info(self) -> dict[str, Any]:
        """Queue, priority, and whether an earlier attempt was lost, in Celery's shape."""
        return {"routing_key": self.queue, "priority": self.priority, "redelivered": self.lost > 0}

    def get(self, key: str, default: Any = None) -> Any:
        """Return an attribute, or a default when there is none of this name."""
        return getattr(self, key, default)

    def __repr__(self) -> str:
        return f"<Request: {self.task}[{self.id}] attempt {self.attempt}>"


current_request: contextvars.ContextVar[Request | None] = contextvars.ContextVar("pgqueue_request", default=None)

# The connection of the transaction in which a transactional job runs; the worker's, psycopg sync or async.
transaction_connection: contextvars.ContextVar[Any] = contextvars.ContextVar("pgqueue_connection", default=None)

# Where update_state() of a running job writes: (job_id, token, progress JSON) -> None.
progress_sink: contextvars.ContextVar[Callable[[str, int, str], None] | None] = contextvars.ContextVar(
    "pgqueue_progress", default=None
)


def get_task_logger(name: str) -> logging.Logger:
    """Return a logger for a module of tasks: the worker shows its lines with the task's name and the job's id.

    Args:
        name: usually `__name__`.
    """
    return logging.getLogger(f"pgqueue.task.{name}")


def current_connection() -> Any:
    """Return the connection of the transaction in which this transactional job runs.

    What is executed on it commits together with the job's result and whatever the job enqueues.

    Returns:
        A psycopg.Connection, or a psycopg.AsyncConnection in a coroutine.

    Raises:
        PgQueueError: no transactional job is running here.
    """
    connection = transaction_connection.get()
    if connection is None:
        raise PgQueueError(
            "current_connection() is only to be had inside a task declared with @app.task(transactional=True)"
            " that a worker runs"
        )
    return connection
