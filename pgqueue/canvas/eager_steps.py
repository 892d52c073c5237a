"""Canvases inline: the calls in the order in which a worker would make them, in this thread, without a database.

A canvas yields the calls it wants made and is sent their outcomes, so that the same steps serve sync and async code.
"""

from collections.abc import Awaitable, Callable, Generator, Mapping, Sequence
from typing import Any, NamedTuple, Protocol

from pgqueue.canvas.links import callbacks
from pgqueue.eager import EagerResult
from pgqueue.results.groups import GroupResult

__all__ = ["EagerCall", "EagerSteps", "aplay", "play", "run_task"]


class EagerCall(NamedTuple):
    """A call to be made now."""

    task: str
    args: Sequence[Any]
    kwargs: Mapping[str, Any]
    options: Mapping[str, Any]


EagerOutcome = EagerResult[Any] | GroupResult[Any]
EagerSteps = Generator[EagerCall, EagerResult[Any], EagerOutcome]


class Caller(Protocol):
    """An application, as far as it runs calls inline."""

    def error_args(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], failed: EagerResult[Any]
    ) -> Sequence[Any]: ...


def play(steps: EagerSteps, call: Callable[[EagerCall], EagerResult[Any]]) -> EagerOutcome:
    """Make the calls that a canvas wants, to its end."""
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(call(wanted))
    except StopIteration as end:
        found: EagerOutcome = end.value
        return found


async def aplay(steps: EagerSteps, call: Callable[[EagerCall], Awaitable[EagerResult[Any]]]) -> EagerOutcome:
    """play() for async code."""
    try:
        wanted = next(steps)
        while True:
            wanted = steps.send(await call(wanted))
    except StopIteration as end:
        found: EagerOutcome = end.value
        return found


def run_task(
    caller: Caller,
    read: Callable[[Any], Any],
    task: str,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    options: Mapping[str, Any],
) -> EagerSteps:
    """One call, and what is linked to it."""
    own = {name: value for name, value in options.items() if name not in ("link", "link_error")}
    found = yield EagerCall(task, args, kwargs, own)
    if found.successful():
        for callback in callbacks(options, "link"):
            child = yield from read(callback)._eager((found.result,), {}, {})
            child.parent = found
            found.children.append(child)
    elif found.failed():
        for errback in callbacks(options, "link_error"):
            one = read(errback)
            given = () if one.immutable else caller.error_args(one.task, one.args, one.kwargs, found)
            found.children.append((yield from one._eager(given, {}, {})))
    return found
