"""chain, group and chord run inline, as workers would run them: what follows a failure fails with its error."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol

from pgqueue.canvas.eager_steps import Caller, EagerOutcome, EagerSteps
from pgqueue.canvas.links import callbacks
from pgqueue.eager import EagerResult
from pgqueue.errors import ChordError
from pgqueue.job import new_job_id
from pgqueue.results.groups import GroupResult

__all__ = ["run_chain", "run_chord", "run_group"]


class Part(Protocol):
    """A signature, as far as it runs inline."""

    options: Any
    immutable: bool

    def _eager(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: Any) -> EagerSteps: ...


def run_chain(
    shares: Iterable[tuple[Part, Mapping[str, Any]]], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> EagerSteps:
    """One part after another, each with the value of the one before."""
    last: EagerOutcome | None = None
    for part, options in shares:
        if last is not None:
            failed = failure(last)
            if failed is not None:
                stopped: EagerResult[Any] = EagerResult(
                    str(options.get("task_id") or new_job_id()), failed.result, failed.state, failed.traceback
                )
                stopped.parent = last
                last = stopped
                continue
            args, kwargs = (value_of(last),), {}
        found = yield from part._eager(args, kwargs, options)
        _set_parent(found, last)
        last = found
    assert last is not None  # noqa: S101 - a chain without tasks was refused
    return last


def run_group(
    id: str, members: Iterable[tuple[Part, Mapping[str, Any]]], args: Sequence[Any], kwargs: Mapping[str, Any]
) -> EagerSteps:
    """Each member, with the same arguments."""
    found: list[EagerOutcome] = []
    for member, options in members:
        found.append((yield from member._eager(args, kwargs, options)))
    return GroupResult(id, found)


def run_chord(
    caller: Caller,
    header: Part,
    body: Any,
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    first: Mapping[str, Any],
    last: Mapping[str, Any],
) -> EagerSteps:
    """The header, and the body with the list of its values; a member that fails makes a ChordError of the body."""
    above = yield from header._eager(args, kwargs, first)
    failed = failure(above)
    if failed is None:
        found: EagerOutcome = yield from body._eager((value_of(above),), {}, last)
        _set_parent(found, above)
        return found
    error = ChordError(f"Dependency {failed.id} raised {type(failed.result).__name__}: {failed.result}")
    result: EagerResult[Any] = EagerResult(
        str(last.get("task_id") or new_job_id()), error, "FAILURE", failed.traceback, body.task
    )
    result.parent = above
    for task in getattr(body, "tasks", None) or [body]:
        for errback in callbacks(task.options, "link_error"):
            given = () if errback.immutable else caller.error_args(errback.task, errback.args, errback.kwargs, result)
            yield from errback._eager(given, {}, {})
    return result


def failure(found: EagerOutcome) -> EagerResult[Any] | None:
    """The outcome that keeps what follows from running: its own, or that of the first member that has one."""
    if isinstance(found, GroupResult):
        return next((one for one in map(failure, found.results) if one is not None), None)
    return None if found.successful() or found.state == "IGNORED" else found


def value_of(found: EagerOutcome) -> Any:
    """The value, of a group the list of its members' values."""
    if isinstance(found, GroupResult):
        return [value_of(one) for one in found.results]
    return found.get(propagate=False)


def _set_parent(found: EagerOutcome, parent: EagerOutcome | None) -> None:
    """Give the first of a line of results its parent."""
    while found.parent is not None:
        found = found.parent
    found.parent = parent
