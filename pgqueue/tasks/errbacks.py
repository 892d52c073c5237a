"""How an error callback is called: f(request, exc, traceback), or f(task_id) when it does not take as many."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from pgqueue.codec import decode_error
from pgqueue.request import Request
from pgqueue.tasks.parameters import takes_three
from pgqueue.tasks.task import Task

__all__ = ["error_args", "read_story"]


def error_args(
    task: Task[..., Any],
    args: Sequence[Any],
    kwargs: Mapping[str, Any],
    failed: Request,
    error: BaseException,
    traceback: str | None,
) -> list[Any]:
    """The arguments that come before an error callback's own.

    Args:
        task: the callback.
        args, kwargs: its own, which do not count among those that it takes.
        failed: the job that failed.
        error, traceback: of that job.
    """
    three = takes_three(task.signature_of_call, args, kwargs)
    return [failed, error, traceback] if three else [failed.id]


def read_story(
    args: str | None, known: Callable[[str], type[BaseException] | None]
) -> tuple[Request, BaseException, str | None]:
    """What the first argument of an error callback's job tells of the job that failed: request, error, traceback."""
    story = json.loads(args or "[{}]")[0]
    request = Request(
        story.get("task_id"),
        story.get("task"),
        story.get("args") or [],
        story.get("kwargs") or {},
        called_directly=False,
    )
    return request, decode_error(json.dumps(story.get("error") or {}), known), story.get("traceback")
