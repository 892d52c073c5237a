"""The side of an application that knows workflows: app.workflows, app.workflow(id), app.resolve(…)."""

from typing import Any

from pgqueue.enqueueing.client import Client
from pgqueue.workflows.control import Workflows
from pgqueue.workflows.result import WorkflowResult
from pgqueue.workflows.workflow import Workflow

__all__ = ["AppWorkflows"]


class AppWorkflows:
    """What PgQueue has of workflows."""

    client: Client

    @property
    def workflows(self) -> Workflows:
        """Looking at workflows by their ids, cancelling them, running them on."""
        return Workflows(self.client)

    def WorkflowResult(self, id: str) -> WorkflowResult:  # noqa: N802 - beside AsyncResult and GroupResult
        """Return the result of a workflow by its id."""
        return WorkflowResult(id, self.workflows)

    def workflow(self, id: str) -> Workflow:
        """Return a Workflow whose steps are added to the running one of this id when it is sent.

        Inside a step: `more = app.workflow(self.request.workflow_id)`; `after` may name steps that are there already.
        """
        return Workflow.of(id, self)

    def resolve(self, workflow_id: str, event: str, value: Any = None) -> None:
        """Say that the event that a workflow waits for has come; it may come before the step is reached.

        Args:
            workflow_id: id of the workflow.
            event: name of the step, as in wait_for(name).
            value: its result; anything that has a JSON form.

        Raises:
            ValidationError: it waits for no such event, or the event came before, or its time is over.
            EncodingError, LimitExceeded: of the value.
        """
        self.workflows.resolve(workflow_id, event, value)

    async def aresolve(self, workflow_id: str, event: str, value: Any = None) -> None:
        """resolve() for async code."""
        await self.workflows.aresolve(workflow_id, event, value)
