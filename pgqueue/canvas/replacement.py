"""What a running task makes of a signature: steps that give its result, or one more member of its chord."""

from typing import Any

from pgqueue.canvas.builder import AnyResult, Feed, GraphBuilder
from pgqueue.canvas.sender import Sender
from pgqueue.canvas.signatures import Signature, maybe_signature
from pgqueue.graph import NewWorkflow
from pgqueue.job import new_job_id
from pgqueue.store.workflows import workflow_parameters

__all__ = ["Standin", "stand_in"]


class Standin:
    """Steps to be added to a workflow, and the one of them whose result counts."""

    __slots__ = ("last_id", "result", "workflow")

    def __init__(self, workflow: NewWorkflow, last_id: str, result: AnyResult) -> None:
        self.workflow = workflow
        self.last_id = last_id
        self.result = result

    def parameters(self, keep: float | None) -> dict[str, Any]:
        """Return what the worker needs in order to put them in a job's place; plain values that cross a pipe."""
        return {**workflow_parameters(self.workflow, keep, existing=True), "last_id": self.last_id}


def stand_in(signature: Signature[Any], sender: Sender) -> Standin:
    """Make the steps of a signature; a group counts by the list of its results."""
    builder = GraphBuilder(sender, lambda linked: maybe_signature(linked, sender))
    builder.workflow_id = new_job_id()  # of a workflow to come, or of none: no group gives its id to one that exists
    built = signature._build(builder, Feed())
    last_id = builder.last(built.feed)
    workflow = builder.finish()
    workflow.check()
    return Standin(workflow, last_id, built.result)
