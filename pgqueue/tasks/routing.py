"""task_routes and task_annotations applied: where a job goes, and which options a task has from outside.

Both are prepared once, when the settings are frozen; a task's route by name alone is remembered.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from fnmatch import translate
from inspect import Parameter, signature
from typing import Any

from pgqueue.discovery import find_object
from pgqueue.errors import ConfigurationError

__all__ = ["Annotations", "Router"]

_Rule = Callable[[str, Sequence[Any], Mapping[str, Any], Mapping[str, Any], Any], Any]
_SPECIAL = re.compile(r"[*?\[]")


class Router:
    """Finds the route of a call in task_routes; the first entry that has one wins.

    Args:
        routes: conf.task_routes: pairs of a name, glob or compiled pattern and options; functions (name, args, kwargs,
            options, task=None, **kw) that return options, a queue's name or None; objects with such a method
            route_for_task; dotted paths of either.
        queues: conf.task_queues when no others may be used; None allows every name.
    """

    def __init__(self, routes: Sequence[Any], queues: Sequence[str] | None = None) -> None:
        self._rules: list[_Rule] = []
        self._names: dict[str, Mapping[str, Any]] = {}
        self._queues = None if queues is None else frozenset(queues)
        self._known: dict[str, Mapping[str, Any]] | None = {}
        for route in routes:
            self._add(route)

    def _add(self, route: Any) -> None:
        if isinstance(route, str):
            route = _made(find_object(route))
            if isinstance(route, Mapping):
                for pair in route.items():
                    self._add((pair[0], {"queue": pair[1]} if isinstance(pair[1], str) else pair[1]))
                return
        if isinstance(route, tuple):
            self._rules.append(_rule_of(*route))
            return
        self._known = None  # a function may look at arguments: nothing can be remembered
        self._rules.append(_caller_of(route))

    def __bool__(self) -> bool:
        return bool(self._rules)

    @property
    def by_name(self) -> bool:
        """Whether the name alone decides: no function has to be asked at each call."""
        return self._known is not None

    def route(
        self,
        name: str,
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: Mapping[str, Any] | None = None,
        task: Any = None,
    ) -> Mapping[str, Any]:
        """Options that the routes give to one call.

        Args:
            name: of the task.
            args, kwargs: of the call.
            options: of the call; what it says itself wins over a route, which is for the caller to apply.
            task: the Task, when it is known here.

        Returns:
            Options such as {"queue": "mail", "priority": 5}; empty when no route fits.

        Raises:
            ConfigurationError: a router gave something else than options, or a queue that does not exist.
        """
        known = self._known
        if known is not None and name in known:
            return known[name]
        found: Mapping[str, Any] = {}
        for rule in self._rules:
            given = rule(name, args, kwargs or {}, options or {}, task)
            if given:
                found = self._checked(name, given)
                break
        if known is not None and len(known) < 10_000:
            known[name] = found
        return found

    def _checked(self, name: str, given: Any) -> Mapping[str, Any]:
        if isinstance(given, str):
            given = {"queue": given}
        if not isinstance(given, Mapping):
            raise ConfigurationError(
                f"task_routes: a router gave {given!r} for {name}; expected options or a queue's name"
            )
        self.check_queue(given.get("queue"))
        return given

    def check_queue(self, queue: str | None) -> None:
        """Refuse a queue that task_queues does not name, when task_create_missing_queues is False."""
        if queue is not None and self._queues is not None and queue not in self._queues:
            raise ConfigurationError(
                f"queue {queue!r} is not among task_queues ({', '.join(sorted(self._queues))}), "
                "and task_create_missing_queues is False"
            )


def _rule_of(key: str | re.Pattern[str], options: Mapping[str, Any]) -> _Rule:
    if isinstance(key, str) and not _SPECIAL.search(key):
        return lambda name, *_: options if name == key else None
    pattern = re.compile(translate(key)) if isinstance(key, str) else key
    return lambda name, *_: options if pattern.match(name) else None


def _made(found: Any) -> Any:
    return found() if isinstance(found, type) else found


def _caller_of(router: Any) -> _Rule:
    method = getattr(router, "route_for_task", None)
    if callable(method):
        return lambda name, args, kwargs, options, task: method(name, args, kwargs)
    if not callable(router):
        raise ConfigurationError(f"task_routes: {router!r} is no router; expected a function or route_for_task")
    try:
        names = signature(router).parameters
        takes_task = "task" in names or any(one.kind is Parameter.VAR_KEYWORD for one in names.values())
    except (TypeError, ValueError):
        takes_task = True
    if takes_task:
        return lambda name, args, kwargs, options, task: router(name, args, kwargs, options, task=task)
    return lambda name, args, kwargs, options, task: router(name, args, kwargs, options)


class Annotations:
    """Options that task_annotations gives to tasks, in the order of its entries; within a dict the name wins over '*'.

    Args:
        annotations: conf.task_annotations: dicts of task name or '*' to options, objects with annotate(task) that
            return options or None, dotted paths of either.
    """

    def __init__(self, annotations: Sequence[Any]) -> None:
        self._entries = [_made(find_object(entry)) if isinstance(entry, str) else entry for entry in annotations]

    def options_for(self, task: Any) -> dict[str, Any]:
        """Options for this task (an object with a `name`); a key ``@__call__`` or ``@run`` names a decorator for it.

        Raises:
            ConfigurationError: annotate() gave something else than options.
        """
        found: dict[str, Any] = {}
        for entry in self._entries:
            if isinstance(entry, Mapping):
                found |= dict(entry.get("*", {})) | dict(entry.get(task.name, {}))
                continue
            given = entry.annotate(task)
            if given is not None and not isinstance(given, Mapping):
                raise ConfigurationError(
                    f"task_annotations: annotate() gave {given!r} for {task.name}; expected options"
                )
            found |= dict(given or {})
        return found
