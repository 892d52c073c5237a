"""The values of a workflow to insert: its steps, the edges between them, and the checks that need no database."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from typing import Literal, NamedTuple

from pgqueue.errors import GraphError, LimitExceeded
from pgqueue.job import NewJob

__all__ = ["EdgeKind", "EdgePolicy", "NewEdge", "NewStep", "NewWorkflow", "StepInputs", "StepRun", "check_size"]

MAX_STEPS = 100_000
MAX_BYTES = 64 * 1024 * 1024

EdgeKind = Literal["value", "order", "when", "error"]
EdgePolicy = Literal["stop", "value", "ignore"]
StepInputs = Literal["value", "list", "args", "names", "error"]
StepRun = Literal["gather", "pass", "sleep", "wait", "settle"]


def check_size(steps: int) -> None:
    """Raise LimitExceeded when a workflow has too many steps."""
    if steps > MAX_STEPS:
        raise LimitExceeded(
            f"a workflow has at most {MAX_STEPS:,} steps; let each take several calls (task.chunks()), or send"
            " jobs that belong to none by app.enqueue_many()"
        )


class NewEdge(NamedTuple):
    """What makes one step wait for another.

    kind: `value` passes the parent's result on, `order` only waits for it, `when` skips the child if the result is
    false, `error` releases a callback when it fails.
    policy: what a parent that did not succeed means: `stop` ends the child too, `value` passes the error on as a
    value, `ignore` passes None.
    """

    parent_id: str
    child_id: str
    position: int = 0  # among the parents of the child
    kind: EdgeKind = "value"
    policy: EdgePolicy = "stop"


class NewStep(NamedTuple):
    """A job of a workflow. The delay, eta and lifetime of one that has parents count from its release.

    inputs: how results of parents come before its own arguments: `value` the one, `list` all as one list, `args` each
    as an argument, `names` as keyword arguments by the parents' names, `error` the story of the parent that failed.
    run: None for a worker; else what the database does itself: `gather` makes a list of the parents' results, `pass`
    hands on the one result, `sleep` ends when its delay is over, `wait` when its event is resolved or its delay over,
    `settle` when all steps have ended, leaving the compensations that are called for.
    compensates: id of the step that this one undoes when the workflow fails.
    """

    job: NewJob
    name: str | None = None
    inputs: StepInputs | None = None
    run: StepRun | None = None
    compensates: str | None = None


@dataclass(frozen=True, slots=True)
class NewWorkflow:
    """A whole workflow, or steps for one that exists, to be inserted at once."""

    id: str
    steps: Sequence[NewStep]
    edges: Sequence[NewEdge]
    name: str | None = None
    deadline_in: float | None = None  # seconds
    existing: Iterable[str] = ()  # steps of the running workflow that edges may start from
    groups: Sequence[tuple[str, Sequence[str]]] = ()  # ids of groups, and of what their members end with

    def check(self) -> None:
        """Raise GraphError unless the edges join steps that exist, each once, without a cycle, LimitExceeded when there
        is too much of it.
        """
        check_size(len(self.steps))
        if sum(len(step.job.args or "") + len(step.job.kwargs or "") for step in self.steps) > MAX_BYTES:
            raise LimitExceeded(
                f"the arguments of a workflow have at most {MAX_BYTES >> 20} MiB together; pass references"
            )
        known = {step.job.id for step in self.steps}
        if len(known) < len(self.steps):
            [(twice, _)] = Counter(step.job.id for step in self.steps).most_common(1)
            raise GraphError(f"step {self._name(twice)}: its id is used twice in one workflow")
        parents: dict[str, set[str]] = {}
        outside = set(self.existing)
        for edge in self.edges:
            if edge.child_id not in known:
                raise GraphError(f"edge to {edge.child_id}: there is no such step among the new ones")
            if edge.parent_id not in known and edge.parent_id not in outside:
                raise GraphError(f"step {self._name(edge.child_id)}: it waits for {edge.parent_id}, which is no step")
            parents.setdefault(edge.child_id, set()).add(edge.parent_id)
        # Members of a header wait for nothing: only steps with parents can be part of a cycle.
        try:
            TopologicalSorter({child: above & parents.keys() for child, above in parents.items()}).prepare()
        except CycleError as error:
            around = " -> ".join(self._name(one) for one in reversed(error.args[1]))
            raise GraphError(f"the steps wait for each other: {around}") from None

    def _name(self, job_id: str) -> str:
        found = next((step for step in self.steps if step.job.id == job_id), None)
        return job_id if found is None else repr(found.name or found.job.task)
