"""What an application says about schedules: app.schedules, @app.periodic_task, app.add_periodic_task, two hooks."""

import importlib
from collections.abc import Callable, Coroutine, Mapping, Sequence
from typing import TYPE_CHECKING, Any, ParamSpec, Protocol, TypeVar, cast, overload

from pgqueue.canvas.signatures import Signature
from pgqueue.errors import ConfigurationError, ValidationError
from pgqueue.tasks.task import CoroutineTask, Task

if TYPE_CHECKING:
    from pgqueue.schedules import Schedules

__all__ = ["AppSchedules", "Hook"]

P = ParamSpec("P")
R = TypeVar("R")
T = TypeVar("T", bound=Task[..., Any])

_OF_SCHEDULES = (
    *("timezone", "start_at", "end_at", "jitter", "catch_up", "catch_up_limit", "starting_deadline", "overlap"),
    *("args", "kwargs", "options", "relative"),
)


class DeclarePeriodic(Protocol):
    """What @app.periodic_task(…) gives."""

    @overload
    def __call__(self, function: T, /) -> T: ...
    @overload
    def __call__(self, function: Callable[P, Coroutine[Any, Any, R]], /) -> CoroutineTask[P, R]: ...
    @overload
    def __call__(self, function: Callable[P, R], /) -> Task[P, R]: ...


class Hook:
    """Functions to call at one moment of an application's life, as `sender.connect` of Celery's signals takes them.

    Args:
        name: for messages.
    """

    def __init__(self, name: str) -> None:
        self._name = name
        self._receivers: list[Callable[..., Any]] = []

    def connect(self, receiver: Callable[..., Any] | None = None, **options: Any) -> Any:
        """Have a function called with sender=app; also as a decorator. Celery's options are taken and not used."""
        if receiver is None:
            return self.connect
        if not callable(receiver):
            raise ConfigurationError(f"{self._name}.connect: expected a function, got {receiver!r}")
        self._receivers.append(receiver)
        return receiver

    def send(self, sender: Any) -> None:
        """Call the functions, in the order in which they were connected."""
        for receiver in self._receivers:
            receiver(sender=sender)


class AppSchedules:
    """The part of PgQueue that knows schedules.

    Attributes:
        on_after_configure, on_after_finalize: `connect` takes functions, called with sender=app when the modules
            with tasks have been imported; the place to call sender.add_periodic_task(…).
    """

    on_after_configure: Hook
    on_after_finalize: Hook
    _schedules: "Schedules | None"

    def _begin_schedules(self) -> None:
        self._schedules = None
        self.on_after_configure = Hook("on_after_configure")
        self.on_after_finalize = Hook("on_after_finalize")

    @property
    def schedules(self) -> "Schedules":
        """Looks at schedules and edits them, at run time."""
        if self._schedules is None:
            app: Any = self
            results = app.results
            # By name, when they are needed: most programs that enqueue have no schedules.
            made = importlib.import_module("pgqueue.schedules").Schedules
            self._schedules = made(app.conf, app.client, app.tasks, lambda: results.database)
        return cast("Schedules", self._schedules)

    def periodic_task(self, schedule: Any, /, *, schedule_name: str | None = None, **options: Any) -> DeclarePeriodic:
        """Declare a task together with a schedule for it: `@app.periodic_task("*/5 * * * *")`.

        Args:
            schedule: cron text, seconds or timedelta, datetime, crontab(), schedule() or solar().
            schedule_name: default the task's name.
            **options: those of a schedule (args, kwargs, options, timezone, start_at, end_at, jitter, catch_up,
                catch_up_limit, starting_deadline, overlap); the others are of the task, as in @app.task.

        Raises:
            ConfigurationError: as @app.task.
            ValidationError: another schedule has this name.
        """
        entry = {name: options.pop(name) for name in _OF_SCHEDULES if name in options}

        def declare(function: Any) -> Any:
            task = function
            if not isinstance(function, Task):
                task = cast(Any, self).task(**options)(function)
            elif options:
                raise ConfigurationError(f"@app.periodic_task: {', '.join(options)} belong to @app.task below it")
            self.schedules.definitions.declare(
                schedule_name or task.name, {"task": task.name, "schedule": schedule, **entry}
            )
            return task

        return cast(DeclarePeriodic, declare)

    def add_periodic_task(
        self,
        schedule: Any,
        sig: "Signature[Any] | Task[..., Any]",
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        name: str | None = None,
        **options: Any,
    ) -> str:
        """Declare a schedule for a signature, as in Celery.

        Args:
            schedule: as in periodic_task.
            sig: the call, task.s(…), or the task.
            args, kwargs: more arguments, as at a signature's call.
            name: of the schedule; default the call, written out.
            **options: those of a schedule, as in periodic_task; the others are of apply_async.

        Returns:
            The name of the schedule.

        Raises:
            ValidationError: another schedule has this name.
        """
        call = sig.s() if isinstance(sig, Task) else sig
        if not isinstance(call, Signature):
            raise ConfigurationError(f"add_periodic_task: expected task.s(…) or a task, got {type(sig).__name__}")
        given = options.get("options")
        if (
            not isinstance(args, Sequence)
            or not isinstance(kwargs, Mapping | None)
            or not isinstance(given, Mapping | None)
        ):
            raise ValidationError("add_periodic_task: args: a list or tuple, kwargs and options: dicts are expected")
        call = call.clone(tuple(args), dict(kwargs or {}))
        entry = {key: options.pop(key) for key in _OF_SCHEDULES if key in options}
        shown = [*map(repr, call.args), *(f"{key}={value!r}" for key, value in call.kwargs.items())]
        name = name or f"{call.task}({', '.join(shown)})"[:255]
        self.schedules.definitions.declare(
            name,
            {
                "task": call.task,
                "schedule": schedule,
                "args": call.args,
                "kwargs": dict(call.kwargs),
                "options": {**call.options, **options, **(entry.pop("options", None) or {})},
                **entry,
            },
        )
        return name
