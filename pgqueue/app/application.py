"""PgQueue: settings, tasks, and where the database is. What people import first."""

import contextvars
import difflib
import importlib
import inspect
import sys
import weakref
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from typing import Any, Concatenate, Literal, ParamSpec, Protocol, TypeVar, Unpack, overload
from zoneinfo import ZoneInfo

from pgqueue.app.connecting import Connector
from pgqueue.app.control import Control
from pgqueue.app.schedules import AppSchedules
from pgqueue.app.workflows import AppWorkflows
from pgqueue.canvas.signatures import Signature
from pgqueue.canvas.signatures import signature as make_signature
from pgqueue.codec import loaded_exception
from pgqueue.config.conf import Conf
from pgqueue.declined.attributes import APP, Declining
from pgqueue.declined.options import DECLINED_APP_OPTIONS
from pgqueue.discovery import autodiscover, import_tasks
from pgqueue.enqueueing.bulk import aenqueue_many, enqueue_many
from pgqueue.enqueueing.client import Client
from pgqueue.enqueueing.enrolment import Enrolment, Using
from pgqueue.errors import ConfigurationError, UnknownTask, UnsupportedOption
from pgqueue.options.options import CallOptions, TaskOptions, check_task_options
from pgqueue.options.values import task_name
from pgqueue.results.groups import GroupResults
from pgqueue.results.result import AsyncResult, Results
from pgqueue.results.sets import ResultSet
from pgqueue.tasks.task import CoroutineTask, Task

__all__ = ["PgQueue", "TaskRegistry"]

P = ParamSpec("P")
R = TypeVar("R")
C = TypeVar("C")


class Declare(Protocol):
    """What @app.task(…) gives."""

    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class DeclareBound(Protocol):
    """What @app.task(bind=True, …) gives: the function's first parameter is the task."""

    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[Concatenate[Any, P], R], /) -> Task[P, R]: ...


class TaskRegistry(dict[str, Task[..., Any]]):
    """Tasks by name; a missing name raises UnknownTask with the nearest one."""

    def __missing__(self, name: object) -> Task[..., Any]:
        near = difflib.get_close_matches(str(name), self, 1)
        hint = f"; did you mean {near[0]!r}?" if near else "; is its module imported (imports, include, -I)?"
        raise UnknownTask(f"no task {name!r} is registered{hint}")


class PgQueue(Connector, AppSchedules, AppWorkflows, Declining):
    """An application: settings, tasks, a database.

    Args:
        main: its name, shown by workers; pickled results find it by it.
        dsn: of the database. Default: PGQUEUE_DSN, DATABASE_URL, pgqueue.toml or [tool.pgqueue]; else, in development,
            the embedded server.
        schema: that holds the tables; default "pgqueue".
        include: modules with tasks, imported when the application first runs.
        settings: any setting; see app.conf.

    Raises:
        UnknownSetting, UnsupportedOption, ConfigurationError: a setting is wrong.
    """

    DECLINED = APP

    def __init__(
        self,
        main: str | None = None,
        dsn: str | None = None,
        *,
        schema: str | None = None,
        include: Sequence[str] = (),
        **settings: Any,
    ) -> None:
        for name, way_out in DECLINED_APP_OPTIONS.items():
            if name in settings:
                raise UnsupportedOption(f"PgQueue: {name} is not supported: {way_out}")
        given = {"dsn": dsn, "schema": schema, "include": include or None}
        self.main = main
        super().__init__(Conf({**{name: value for name, value in given.items() if value is not None}, **settings}))
        self.tasks = TaskRegistry()
        self.embedded_worker_count = 0
        self._finalized = False
        self._to_discover: list[tuple[Any, str | None]] = []
        self._using: contextvars.ContextVar[Enrolment | None] = contextvars.ContextVar("pgqueue_using", default=None)
        # The parts know the application by functions that hold it weakly: it goes when its owner lets it go.
        this = weakref.ref(self)
        self.results = Results(
            main or "pgqueue",
            lambda: _alive(this).database,
            lambda: _alive(this).conf.result_expires,
            lambda name: _alive(this)._known_error(name),
        )
        self.client = Client(
            self.conf,
            self.tasks,
            self._using,
            self.results,
            lambda: _alive(this).zone,
            lambda: _alive(this).freeze(),
            lambda: _alive(this).embedded_worker_count > 0,
        )
        self._begin_schedules()

    # tasks

    @overload
    def task(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def task(self, function: Callable[P, R], /) -> Task[P, R]: ...
    @overload
    def task(self, /, *, bind: Literal[True], **options: Unpack[TaskOptions]) -> DeclareBound: ...
    @overload
    def task(self, /, *, bind: Literal[False] = False, **options: Unpack[TaskOptions]) -> Declare: ...

    def task(self, function: Callable[..., Any] | None = None, /, *, bind: bool = False, **options: Any) -> Any:
        """Register a function as a task: `@app.task` or `@app.task(…)`.

        Args:
            function: plain or `async def`.
            bind: pass the task itself as the first argument.
            options: name (default module.function), queue, priority (0 to 9, 9 first), expires (seconds), max_retries
                (3; None is 1,000), default_retry_delay (180 s), autoretry_for, dont_autoretry_for, retry_kwargs,
                retry_backoff, retry_backoff_max (600 s), retry_jitter (True), retry_policy (a callable that decides
                instead; see pgqueue.retry), throws, ignore_result, time_limit, soft_time_limit (seconds), acks_late
                (True: at least once; False: at most once), transactional (True, or a callable that makes a Session or
                Connection), pool, typing (True: arguments are checked), result_expires (seconds).

        Raises:
            UnsupportedOption: an option of Celery that is not honoured; the way out is named.
            ConfigurationError: an unknown option, a wrong value, or a name that another task has.
        """
        if function is not None:
            return self._register(function, bind, options)
        return lambda declared: self._register(declared, bind, options)

    def _register(self, function: Any, bind: bool, options: Mapping[str, Any]) -> Task[..., Any]:
        if not inspect.isroutine(function):
            kind = "a class" if isinstance(function, type) else f"a {type(function).__name__}"
            raise ConfigurationError(f"@app.task: expected a function, got {kind}: write the work as a function")
        where = f"task {function.__qualname__!r}"
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise ConfigurationError(f"{where}: a generator has no result to keep: return a list instead of yield")
        checked = check_task_options(options, where)
        try:
            name = task_name(checked.get("name") or f"{function.__module__}.{function.__name__}")
        except ValueError as error:
            raise ConfigurationError(f"{where}: name: {error}; pass name=…") from None
        if not isinstance(bind, bool):
            raise ConfigurationError(f"{where}: bind: expected True or False, got {bind!r}")
        kind_of_task = CoroutineTask if inspect.iscoroutinefunction(function) else Task
        task: Task[..., Any] = kind_of_task(self, function, name, bind, checked)
        with self._lock:
            other = self.tasks.get(name)
            if other is not None and not _replaces(function, other.run):
                raise ConfigurationError(
                    f"two tasks are named {name!r}: {_place(other.run)} and {_place(function)}; pass name=… to one"
                )
            self.tasks[name] = task
        return task

    def finalize(self) -> None:
        """Import the modules with tasks and freeze the settings; done by itself when the application first runs."""
        if self._finalized:
            return
        with self._lock:
            if self._done():
                return
            self._finalized = True
            try:
                import_tasks((*self.conf.imports, *self.conf.include))
                for packages, related_name in self._to_discover:
                    autodiscover(packages() if callable(packages) else packages, related_name)
                self.on_after_configure.send(self)
                self.on_after_finalize.send(self)
                self.freeze()
            except BaseException:
                self._finalized = False
                raise

    def _done(self) -> bool:
        return self._finalized

    def autodiscover_tasks(
        self,
        packages: Sequence[str] | Callable[[], Sequence[str]] | None = None,
        related_name: str | None = "tasks",
        force: bool = False,
    ) -> None:
        """Import the module `tasks` of packages when the application first runs.

        Args:
            packages: their names, or a callable that gives them then. Default: Django's INSTALLED_APPS.
            related_name: name of the module; None imports the packages alone.
            force: import now.
        """
        found = packages if packages is not None else _django_apps
        if force:
            autodiscover(found() if callable(found) else found, related_name)
        else:
            self._to_discover.append((found, related_name))

    def config_from_object(
        self, source: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> bool:
        """Take settings from an object or its name, at once whether `force` or not; see Conf.config_from_object."""
        return self.conf.config_from_object(source, silent=silent, namespace=namespace)

    def config_from_envvar(self, variable: str, silent: bool = False, force: bool = False) -> bool:
        """The same from the object that an environment variable names."""
        return self.conf.config_from_envvar(variable, silent=silent)

    # enqueueing

    def send_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """Enqueue a call of a task by its name, also of one that is defined elsewhere.

        Args:
            name: of the task. If it is registered here, its options apply and the arguments are checked.
            args, kwargs, options: as in Task.apply_async; errors too.
        """
        return self.client.send(name, args or (), kwargs or {}, options)

    async def asend_task(
        self,
        name: str,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[Any]:
        """send_task() for async code."""
        return await self.client.asend(name, args or (), kwargs or {}, options)

    def enqueue_many(self, signatures: Iterable[Signature[R]], connection: Any = None) -> list[AsyncResult[R]]:
        """Enqueue many calls in one statement: all or none.

        Args:
            signatures: task.s(…), also from a generator; at most 1,000,000, with 512 MiB of arguments together.
            connection: of a transaction to take part in; default as in apply_async.

        Returns:
            Their results, in the same order.

        Raises:
            As Task.apply_async; messages begin with the place of the signature, counted from 0.
        """
        return enqueue_many(self.client, signatures, connection)

    async def aenqueue_many(self, signatures: Iterable[Signature[R]], connection: Any = None) -> list[AsyncResult[R]]:
        """enqueue_many() for async code."""
        return await aenqueue_many(self.client, signatures, connection)

    def using(self, connection: C) -> Using[C]:
        """Let the enqueues of a block take part in the transaction of a connection: `with app.using(connection):`.

        Nothing is begun, committed or rolled back. `with` and `async with` mean the same. None opts out of every
        transaction: enqueues in the block commit by themselves.

        Args:
            connection: psycopg, SQLAlchemy, asyncpg or Django; see pgqueue.enqueueing.enrolment.

        Raises:
            EnrolmentError: it is of no known kind.
        """
        return Using(self._using, connection)

    def signature(
        self,
        varies: str | Mapping[str, Any] | Signature[Any],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: CallOptions | None = None,
        immutable: bool = False,
        **more: Unpack[CallOptions],
    ) -> Signature[Any]:
        """Make a signature from a task's name, from a dict (Signature.to_dict) or from another signature."""
        return make_signature(varies, args, kwargs, options, app=self.client, immutable=immutable, **more)

    @property
    def GroupResult(self) -> GroupResults:  # noqa: N802 - Celery's name
        """Makes results of groups, and finds them: app.GroupResult.restore(id)."""
        return GroupResults(self.results)

    def ResultSet(self, results: Iterable[Any] = ()) -> ResultSet[Any]:  # noqa: N802 - Celery's name
        """Return results as a set to be waited for."""
        return ResultSet(results, self)

    def AsyncResult(self, id: str) -> AsyncResult[Any]:  # noqa: N802 - Celery's name
        """Return the result of a job by its task_id."""
        return AsyncResult(id, self.results)

    @property
    def control(self) -> Control:
        """Revoking jobs by their ids."""
        return Control(self.results)

    @property
    def zone(self) -> ZoneInfo:
        """The time zone of naive instants."""
        return ZoneInfo(self.conf.timezone)

    def _known_error(self, name: str) -> type[BaseException] | None:
        """A loaded exception class whose package is in sight of a registered task's module, or that a task names."""
        found = loaded_exception(name)
        if found is None:
            return None
        root = found.__module__.partition(".")[0]
        for task in self.tasks.values():
            names = getattr(task.run, "__globals__", {})
            if root == task.run.__module__.partition(".")[0] or found in task.throws or found in task.policy.retry_for:
                return found
            for value in list(names.values()):
                if value is found or (inspect.ismodule(value) and value.__name__.partition(".")[0] == root):
                    return found
        return None

    # running

    def worker(self, **options: Any) -> Any:
        """Return a worker of this application for `with` and `async with`; see pgqueue.worker.inprocess."""
        # By name, because imports point one way only: the worker imports this module.
        return importlib.import_module("pgqueue.worker.inprocess").worker_in_process(self, **options)

    def __enter__(self) -> "PgQueue":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"<PgQueue {self.main or ''}: {len(self.tasks)} tasks>"


def _alive(reference: "weakref.ref[PgQueue]") -> PgQueue:
    found = reference()
    if found is None:
        raise ConfigurationError("the application of this task or result is gone; keep a reference to it")
    return found


def _place(function: Any) -> str:
    code = getattr(inspect.unwrap(function), "__code__", None)
    return f"{code.co_filename}:{code.co_firstlineno}" if code else repr(function)


def _replaces(new: Any, old: Any) -> bool:
    """Whether a function is the same one defined again: a cell of a notebook, a module that was reloaded."""
    if (new.__module__, new.__qualname__) != (old.__module__, old.__qualname__):
        return False
    return new.__module__ == "__main__" or _place(new) == _place(old)


def _django_apps() -> Sequence[str]:
    apps = sys.modules.get("django.apps")
    if apps is None:
        raise ConfigurationError(
            "autodiscover_tasks(): without Django, name the packages: autodiscover_tasks(['shop'])"
        )
    return [config.name for config in apps.apps.get_app_configs()]


_PLAIN = (str, int, float, bool)
