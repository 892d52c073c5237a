"""Calls inline: apply(), and every call where task_always_eager is set."""

import json
from collections.abc import Mapping
from typing import Any, cast

from pgqueue.canvas.links import callbacks
from pgqueue.canvas.signatures import Signature, maybe_signature
from pgqueue.canvas.submission import apply
from pgqueue.eager import EagerResult, arun_eagerly, run_eagerly
from pgqueue.enqueueing.preparing import Args, Kwargs, Preparer
from pgqueue.errors import UnknownTask, ValidationError
from pgqueue.job import new_job_id
from pgqueue.options.options import CallOptions, check_call_options, read_call
from pgqueue.request import Request
from pgqueue.tasks.errbacks import error_args
from pgqueue.tasks.repeated import Repeated
from pgqueue.tasks.task import Task

__all__ = ["InlineCalls"]


class InlineCalls(Preparer):
    """The side of a client that runs calls in this process."""

    def _linked(self, name: str, args: Args, kwargs: Kwargs, options: CallOptions) -> Signature[Any]:
        check_call_options(options, name)
        for option in ("link", "link_error"):
            for linked in callbacks(options, option):
                try:
                    maybe_signature(linked)
                except ValidationError as error:
                    raise type(error)(f"{option}: {error}") from None
        return Signature(name, tuple(args), kwargs, options, app=cast(Any, self))

    def apply(self, name: str, args: Args, kwargs: Kwargs, options: CallOptions) -> EagerResult[Any]:
        """Run a call inline."""
        if "link" in options or "link_error" in options:
            return cast(EagerResult[Any], apply(self._linked(name, args, kwargs, options), None, None, {}, False))
        return self._run(self._known(name), args, kwargs, options)

    async def aapply(self, name: str, args: Args, kwargs: Kwargs, options: CallOptions) -> EagerResult[Any]:
        """apply() for async code; what is linked is not called."""
        task = _repeated(self._known(name), options)
        task.fits(args, kwargs)
        return await arun_eagerly(task, args, kwargs, self._eager_request(options))

    def _known(self, name: str) -> Task[..., Any]:
        task = self._tasks.get(name)
        if task is None:
            raise UnknownTask(f"task {name!r} is not registered here, so it cannot run here")
        return task

    def _run(self, task: Task[..., Any], args: Args, kwargs: Kwargs, options: CallOptions) -> EagerResult[Any]:
        return self.apply_now(_repeated(task, options), args, kwargs, self._eager_request(options))

    def _eager_request(self, options: CallOptions) -> dict[str, Any]:
        """What of the options a request shows; all are checked as if the call were enqueued."""
        check_call_options(options, "apply")
        read_call(options, self._zone(), None, None)
        request: dict[str, Any] = {"id": options.get("task_id") or new_job_id()}
        if options.get("headers"):
            request["headers"] = json.dumps(dict(options["headers"] or {}))
        if options.get("stamps"):
            request["options"] = {"stamps": options["stamps"]}
        if options.get("max_retries") is not None:
            request["max_retries"] = options["max_retries"]
        return request

    def error_args(self, name: str, args: Args, kwargs: Kwargs, failed: EagerResult[Any]) -> Args:
        """What an error callback is given, before its own arguments, about a call that failed inline."""
        request = Request(failed.id, failed.name, called_directly=False, is_eager=True)
        return error_args(self._known(name), args, kwargs, request, failed.result, failed.traceback)

    def apply_now(
        self, task: Task[..., Any], args: Args, kwargs: Kwargs, request: Mapping[str, Any]
    ) -> EagerResult[Any]:
        """Run a call of a task inline."""
        task.fits(args, kwargs)
        return run_eagerly(task, args, kwargs, request)

    def is_eager(self) -> bool:
        """Whether calls are to run inline; freezes the settings."""
        self._begin()
        return bool(self._conf.task_always_eager)


def _repeated(task: Task[..., Any], options: CallOptions) -> Task[..., Any]:
    over = options.get("over")
    return task if over is None else cast(Any, Repeated(task, over))
