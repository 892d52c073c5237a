"""A task that is called for each element of its one argument: what a job of task.map() runs."""

from collections.abc import Iterable, Mapping
from typing import Any

from pgqueue.errors import ValidationError
from pgqueue.tasks.task import Task

__all__ = ["Repeated", "fit_each"]


class Repeated:
    """Stands for a task in the worker: its function takes a list and calls the task's own for each element.

    Args:
        task: the task.
        over: "map": each element is the argument; "starmap": each element is a list of arguments.
    """

    bind = False
    coerce = None  # each call does it for itself

    def __init__(self, task: Task[..., Any], over: str) -> None:
        self._task = task
        self._star = over == "starmap"
        self.run = self._arun if task.is_coroutine else self._run

    def __getattr__(self, name: str) -> Any:
        return getattr(self._task, name)

    def fits(self, args: Any, kwargs: Mapping[str, Any]) -> None:
        """Raise ArgumentsError unless the task can be called with each element."""
        fit_each(self._task, args[0], self._star)

    def _call(self, element: Any) -> Any:
        task = self._task
        args: list[Any] = list(element) if self._star else [element]
        kwargs: dict[str, Any] = {}
        if task.coerce is not None:
            args, kwargs = task.coerce(args, kwargs)
        return task.run(task, *args, **kwargs) if task.bind else task.run(*args, **kwargs)

    def _run(self, elements: Iterable[Any]) -> list[Any]:
        return [self._call(element) for element in elements]

    async def _arun(self, elements: Iterable[Any]) -> list[Any]:
        return [await self._call(element) for element in elements]


def fit_each(task: Task[..., Any], elements: Iterable[Any], star: bool) -> None:
    """Raise ArgumentsError unless the task can be called with each element."""
    for element in elements:
        if star and not isinstance(element, list | tuple):
            raise ValidationError(f"{task.name}: starmap wants lists of arguments, got {type(element).__name__}")
        task.fits(element if star else (element,), {})
