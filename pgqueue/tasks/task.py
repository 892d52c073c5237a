"""Task: a function that can be enqueued. Made by @app.task; the worker reads its attributes and runs its function."""

import functools
import inspect
import json
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Generic, NamedTuple, NoReturn, ParamSpec, Protocol, TypeVar, Unpack, cast
from zoneinfo import ZoneInfo

from pgqueue.canvas.maps import chunks, xmap, xstarmap
from pgqueue.canvas.sender import Sender
from pgqueue.canvas.signatures import Signature
from pgqueue.codec import Coercion, coercer_for
from pgqueue.eager import EagerResult
from pgqueue.errors import ArgumentsError, ConfigurationError, DatabaseUnavailable
from pgqueue.job import new_job_id
from pgqueue.options.options import CallOptions, check_task_options, policy_of
from pgqueue.options.values import as_pool
from pgqueue.request import Request, current_request
from pgqueue.results.result import AsyncResult
from pgqueue.retry import RetryPolicy
from pgqueue.tasks.attempt import Attempt
from pgqueue.tasks.parameters import positional_range, shown
from pgqueue.tasks.routing import Annotations

__all__ = ["CoroutineTask", "Plan", "Task", "TaskOwner"]

P = ParamSpec("P")
R = TypeVar("R")

_RESOLVED = frozenset(
    {
        "max_retries",
        "default_retry_delay",
        "policy",
        "throws",
        "ignore_result",
        "time_limit",
        "soft_time_limit",
        "acks_late",
        "transactional",
        "pool",
        "result_expires",
        "queue",
        "priority",
        "expires",
    }
)


class Plan(NamedTuple):
    """What is the same in all calls of a task, found out once."""

    simple: bool  # nothing but these fields is needed: no router to ask, no other options
    options: CallOptions  # the route's and the task's own
    queue: str
    priority: int
    expires_in: float | None


class TaskSender(Sender, Protocol):
    """An application, as far as its tasks need it."""

    def delay(self, task: "Task[..., Any]", args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> AsyncResult[Any]: ...

    async def adelay(
        self, task: "Task[..., Any]", args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> AsyncResult[Any]: ...

    def apply_now(
        self, task: "Task[..., Any]", args: Sequence[Any], kwargs: Mapping[str, Any], request: Mapping[str, Any]
    ) -> EagerResult[Any]: ...

    def plan(self, task: "Task[..., Any]") -> Plan: ...

    def report(self, job_id: str, token: int, progress: str) -> None: ...


class TaskOwner(Protocol):
    """The application of a task."""

    @property
    def conf(self) -> Any: ...

    @property
    def zone(self) -> ZoneInfo: ...

    @property
    def client(self) -> TaskSender: ...

    def finalize(self) -> None: ...

    def AsyncResult(self, id: str) -> AsyncResult[Any]: ...  # noqa: N802 - Celery's name


class Task(Attempt, Generic[P, R]):
    """A registered function.

    Attributes:
        name: under which jobs name it.
        run: the function itself.
        is_coroutine: whether it is an `async def`.
        bind: whether it gets the task as its first argument.
        app: the application.
        queue, priority, expires, max_retries, default_retry_delay, throws, ignore_result, time_limit,
        soft_time_limit, acks_late, transactional, pool: its options, where it has none the setting's, with
            task_annotations applied. Times are seconds.
        policy: its RetryPolicy.
        result_expires: seconds that its finished jobs are kept; None keeps them.
        typing: whether arguments are checked against the signature.
    """

    OperationalError = DatabaseUnavailable

    app: TaskOwner
    _client: TaskSender
    __name__: str  # of the function, as its __doc__, __module__ and __wrapped__
    max_retries: int
    default_retry_delay: float
    policy: RetryPolicy
    throws: tuple[type[BaseException], ...]
    ignore_result: bool
    time_limit: float | None
    soft_time_limit: float | None
    acks_late: bool
    transactional: bool | Callable[[], Any]
    pool: str | None
    result_expires: float | None
    queue: str | None
    priority: int | None
    expires: float | None

    def __init__(
        self, app: TaskOwner, function: Callable[..., Any], name: str, bind: bool, options: Mapping[str, Any]
    ) -> None:
        functools.update_wrapper(self, function)
        self.app = app
        self.name = name
        self.run = function
        self.bind = bind
        self.is_coroutine = inspect.iscoroutinefunction(function)
        self.typing: bool = options.get("typing", True)
        self.named_by_user = "name" in options
        self._declared = options
        self._client = app.client
        self._fewest, self._most = 0, -1  # no call is known to fit until signature_of_call was looked at

    # options

    if not TYPE_CHECKING:  # a type checker would take every misspelt attribute for one that is found here

        def __getattr__(self, name):
            if name not in _RESOLVED:
                return super().__getattr__(name)
            found, decorators = self._resolve()
            if self.app.conf.frozen:
                for decorate in decorators:
                    self.run = decorate(self.run)
                self.__dict__.update(found)
            return found[name]

    def _resolve(self) -> tuple[dict[str, Any], list[Callable[..., Any]]]:
        conf = self.app.conf
        changed = Annotations(conf.task_annotations).options_for(self)
        decorators = [changed.pop(key) for key in ("@run", "@__call__") if key in changed]
        if "name" in changed:
            raise ConfigurationError(f"task_annotations: the name of {self.name!r} cannot be changed")
        found = {**self._declared, **check_task_options(changed, f"task_annotations: {self.name}")}
        get = found.get
        default = None if get("retry_policy") else conf.task_default_max_retries
        max_retries = get("max_retries", _thousand(default))
        resolved = {
            "max_retries": max_retries,
            "default_retry_delay": get("default_retry_delay", 180.0),
            "policy": policy_of(found, max_retries),
            "throws": get("throws", ()),
            "ignore_result": get("ignore_result", conf.task_ignore_result),
            "time_limit": get("time_limit", conf.task_time_limit),
            "soft_time_limit": get("soft_time_limit", conf.task_soft_time_limit),
            "acks_late": get("acks_late", conf.task_acks_late),
            "transactional": get("transactional", False),
            "pool": as_pool(get("pool", conf.task_default_pool)),
            "result_expires": get("result_expires", conf.result_expires),
            "queue": get("queue"),
            "priority": get("priority"),
            "expires": get("expires"),
        }
        return resolved, decorators

    @functools.cached_property
    def plan(self) -> Plan:
        """What is the same in all calls; settings are frozen when it is first needed."""
        self.app.finalize()
        if self.typing:
            self._fewest, self._most = positional_range(self.signature_of_call)
        else:
            self._most = 1 << 31
        return self._client.plan(self)

    @functools.cached_property
    def signature_of_call(self) -> inspect.Signature:
        """The function's signature without the task itself."""
        found = inspect.signature(self.run)
        return found.replace(parameters=list(found.parameters.values())[1:]) if self.bind else found

    @functools.cached_property
    def coerce(self) -> Coercion | None:
        """Rebuilds dataclasses, models and enums from decoded arguments; None when the signature asks for none."""
        return coercer_for(self.run, skip_first=self.bind)

    def fits(self, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Raise ArgumentsError unless the function can be called with these arguments."""
        if (not kwargs and self._fewest <= len(args) <= self._most) or not self.typing:
            return
        try:
            self.signature_of_call.bind(*args, **kwargs)
        except TypeError as error:
            raise ArgumentsError(f"{self.name}{shown(self.signature_of_call)}: {error}") from None

    # enqueueing

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Enqueue a call with these arguments; see apply_async for options and errors."""
        return self._client.delay(self, args, kwargs)

    async def adelay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """delay() for async code."""
        return await self._client.adelay(self, args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """Enqueue a call.

        In a transaction (app.using(), connection=, a transactional task, Django's atomic()) the job is part of it;
        otherwise it is committed when this returns.

        Args:
            args, kwargs: of the function.
            task_id: any text of 1 to 255 characters; a UUID is used as it is. Default: a new UUIDv7.
            countdown: seconds or a timedelta from now before which it does not start.
            eta: the same as an instant; a naive datetime is in the app's time zone.
            expires: seconds, timedelta or instant after which it does not start any more; None clears the task's.
            priority: 0 to 9, 9 runs first.
            queue: its queue.
            headers: JSON values, to be read as self.request.headers.
            ignore_result, time_limit, soft_time_limit, max_retries: instead of the task's.
            link: signatures to call with its result when it succeeds.
            link_error: signatures to call when it fails; see Signature.link_error.
            stamps: labels, to be read as self.request.stamps.
            connection: the connection of a transaction to take part in.
            on_duplicate: "raise", or "return" the result of the kept job of this task_id.

        Returns:
            The result, to be waited for.

        Raises:
            ArgumentsError: the arguments do not fit the signature.
            ValidationError: an option or argument is wrong (EncodingError, LimitExceeded).
            UnsupportedOption: an option of Celery that is not honoured.
            DuplicateJob: a job of this task_id is kept.
            EnrolmentError: the connection cannot take part.
            DatabaseUnavailable: the database cannot be reached; UnknownCommit: it went away in the middle.
        """
        return self._client.send(self.name, args or (), kwargs or {}, options)

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R]:
        """apply_async() for async code."""
        return await self._client.asend(self.name, args or (), kwargs or {}, options)

    def s(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return a signature: this call, to be completed and sent later."""
        return Signature(self.name, args, kwargs, app=self._client)

    def si(self, *args: Any, **kwargs: Any) -> Signature[R]:
        """Return an immutable signature: arguments given when it is called are ignored."""
        return Signature(self.name, args, kwargs, immutable=True, app=self._client)

    def signature(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Signature[R]:
        """Return a signature with options."""
        return self.s(*args, **(kwargs or {})).set(**options)

    subtask = signature

    def map(self, it: Iterable[Any]) -> xmap[list[R]]:
        """Return a signature of one job that calls the task with each element, one after another."""
        return xmap(self.s(), it)

    def starmap(self, it: Iterable[Iterable[Any]]) -> xstarmap[list[R]]:
        """Return a signature of one job that calls the task with the arguments that each element lists."""
        return xstarmap(self.s(), it)

    def chunks(self, it: Iterable[Iterable[Any]], n: int) -> chunks[R]:
        """Return a signature of a group of jobs, each of which makes `n` calls as starmap() does."""
        return chunks(self.s(), it, n)

    def AsyncResult(self, task_id: str) -> AsyncResult[R]:  # noqa: N802 - Celery's name
        """Return the result of a job of this task by its id."""
        return self.app.AsyncResult(task_id)

    # running inline

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Run the function here and now; a coroutine function gives its coroutine."""
        request = _direct(self.name, args, kwargs)
        if self.is_coroutine:
            return cast(R, self._await(request, args, kwargs))
        mark = current_request.set(request)
        try:
            return cast(R, self.run(self, *args, **kwargs) if self.bind else self.run(*args, **kwargs))
        finally:
            current_request.reset(mark)

    async def _await(self, request: Request, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> Any:
        mark = current_request.set(request)
        try:
            return await (self.run(self, *args, **kwargs) if self.bind else self.run(*args, **kwargs))
        finally:
            current_request.reset(mark)

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        task_id: str | None = None,
        retries: int = 0,
        throw: bool | None = None,
        headers: Mapping[str, Any] | None = None,
        **options: Any,
    ) -> EagerResult[R]:
        """Run the call here as a worker would, retries included and at once; nothing is stored.

        Args:
            args, kwargs: of the function.
            task_id: of the request; default: a new one.
            retries: that the request begins with.
            throw: raise the task's error; default: the setting task_eager_propagates.
            headers: of the request.
            options: of apply_async; of these link, link_error and stamps mean something here.

        Returns:
            Its outcome. Time limits do not apply, and a transactional task has no transaction.

        Raises:
            UnsupportedOption: an option of Celery that is not honoured.
        """
        if options:
            call = self.s(*(args or ()), **(kwargs or {})).set(task_id=task_id, headers=headers, **options)
            return self._thrown(call.apply(), throw)
        request = {"id": task_id or new_job_id(), "retries": retries}
        if headers:
            request["headers"] = json.dumps(dict(headers))
        return self._thrown(self._client.apply_now(self, args or (), kwargs or {}, request), throw)

    def _thrown(self, found: EagerResult[R], throw: bool | None) -> EagerResult[R]:
        if self.app.conf.task_eager_propagates if throw is None else throw:
            found.get()
        return found

    def __repr__(self) -> str:
        return f"<Task: {self.name}>"

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"task {self.name!r} cannot be pickled; pass its name, and find it in app.tasks")


class CoroutineTask(Task[P, R]):
    """A registered `async def` function."""

    if TYPE_CHECKING:

        def __call__(  # type: ignore[override] # calling a coroutine function gives its coroutine
            self, *args: P.args, **kwargs: P.kwargs
        ) -> Coroutine[Any, Any, R]: ...


def _thousand(max_retries: int | None) -> int:
    return 1000 if max_retries is None else max_retries


def _direct(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> Request:
    """The request of a direct call; jobs that it enqueues are still children of the job around it."""
    request = Request(None, name, list(args), dict(kwargs))
    around = current_request.get()
    if around is not None:
        request.parent_id = around.id or around.parent_id
        request.root_id = around.root_id or around.id
    return request
