"""Canvases on their way: built into one workflow and sent, or run inline where calls are eager."""

from collections.abc import Mapping, Sequence
from typing import Any

from pgqueue.canvas.builder import AnyResult, Feed, GraphBuilder
from pgqueue.canvas.eager_steps import EagerCall, EagerOutcome, aplay, play
from pgqueue.canvas.sender import Sender
from pgqueue.canvas.signatures import Signature, maybe_signature
from pgqueue.eager import EagerResult
from pgqueue.errors import ValidationError
from pgqueue.graph import NewWorkflow

__all__ = ["apply", "asubmit", "build", "submit"]

Args = Sequence[Any] | None
Kwargs = Mapping[str, Any] | None


def build(signature: Signature[Any], args: Args, kwargs: Kwargs, options: Mapping[str, Any]) -> "Order":
    """Make the workflow of a signature, to be sent in the transaction of its option `connection`."""
    sender = signature._sender
    own = {**signature.options, **options}
    connection = own.get("connection")
    if own.get("on_duplicate", "raise") != "raise":
        raise ValidationError("on_duplicate: a workflow is always new; leave it out")
    builder = GraphBuilder(sender, lambda linked: maybe_signature(linked, sender), connection)
    # The connection is the whole's: parts must not name one.
    feed = Feed(args=tuple(args or ()), kwargs=dict(kwargs or {}))
    built = signature._build(builder, feed, {**options, "connection": None, "on_duplicate": None})
    workflow = builder.finish()
    workflow.check()
    return Order(sender, workflow, connection, built.result)


class Order:
    """A workflow to be sent, and the result that it will have."""

    __slots__ = ("connection", "result", "sender", "workflow")

    def __init__(self, sender: Sender, workflow: NewWorkflow, connection: Any, result: AnyResult) -> None:
        self.sender = sender
        self.workflow = workflow
        self.connection = connection
        self.result = result


def submit(signature: Signature[Any], args: Args, kwargs: Kwargs, options: Mapping[str, Any]) -> Any:
    """Send a signature as one workflow; where calls are eager, run it inline."""
    sender = signature._sender
    if sender.is_eager():
        return apply(signature, args, kwargs, options)
    order = build(signature, args, kwargs, options)
    if order.workflow.steps:
        sender.send_workflow(order.workflow, order.connection)
    return order.result


async def asubmit(signature: Signature[Any], args: Args, kwargs: Kwargs, options: Mapping[str, Any]) -> Any:
    """submit() for async code."""
    sender = signature._sender
    if sender.is_eager():
        steps = signature._eager(args or (), kwargs or {}, options)  # type: ignore[arg-type] # checked by each call

        async def acall(wanted: EagerCall) -> EagerResult[Any]:
            return await sender.aapply(wanted.task, wanted.args, wanted.kwargs, wanted.options)  # type: ignore[arg-type]

        return _propagated(await aplay(steps, acall), bool(sender.conf.task_eager_propagates))
    order = build(signature, args, kwargs, options)
    if order.workflow.steps:
        await sender.asend_workflow(order.workflow, order.connection)
    return order.result


def apply(
    signature: Signature[Any], args: Args, kwargs: Kwargs, options: Mapping[str, Any], throw: bool | None = None
) -> EagerOutcome:
    """Run a signature inline, with all that is linked to it.

    Args:
        signature, args, kwargs, options: what to run.
        throw: raise its error; default: the setting task_eager_propagates.
    """
    sender = signature._sender
    steps = signature._eager(args or (), kwargs or {}, options)  # type: ignore[arg-type] # checked by each call

    def call(wanted: EagerCall) -> EagerResult[Any]:
        return sender.apply(wanted.task, wanted.args, wanted.kwargs, wanted.options)  # type: ignore[arg-type]

    return _propagated(play(steps, call), bool(sender.conf.task_eager_propagates) if throw is None else throw)


def _propagated(found: EagerOutcome, throw: bool) -> EagerOutcome:
    if throw:
        found.get()
    return found
