"""Statements of workflows: insert one whole, look at it, resolve its events, cancel it, run it on."""

from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import Any, NamedTuple, cast

from pgqueue.graph import EdgeKind, EdgePolicy, NewEdge, NewWorkflow
from pgqueue.store.columns import array, column, first, joined, nothing, texts
from pgqueue.store.statement import Queries, Rows, Statement

__all__ = [
    "StepOutcome",
    "StepRow",
    "WorkflowRow",
    "add_member",
    "cancel_workflow",
    "get_workflow",
    "insert_workflow",
    "list_edges",
    "list_steps",
    "list_workflows",
    "mend_workflows",
    "named_steps",
    "prune_workflows",
    "replace_job",
    "resolve_event",
    "retry_workflow",
    "step_outcomes",
    "workflow_job_ids",
    "workflow_of_job",
    "workflow_parameters",
]


class WorkflowRow(NamedTuple):
    """One workflow and how far it is, in the order of the query get_workflow."""

    id: str
    name: str | None
    state: str  # running, succeeded, failed, cancelled
    steps: int
    live: int
    succeeded: int
    failed: int
    cancelled: int
    skipped: int
    created_at: datetime
    deadline_at: datetime | None
    cancelled_at: datetime | None
    finished_at: datetime | None


class StepRow(NamedTuple):
    """One step of a workflow, in the order of the query list_steps."""

    job_id: str
    name: str | None
    state: str
    task: str | None
    run: str | None
    waits_for: int | None
    remaining: int | None
    compensates: str | None
    error_type: str | None
    error: str | None
    propagated: bool | None
    finished_at: datetime | None


class StepOutcome(NamedTuple):
    """How one step ended, in the order of the query step_outcomes."""

    job_id: str
    name: str | None
    state: str
    result: str | None
    error: str | None
    propagated: bool


def insert_workflow(
    queries: Queries, workflow: NewWorkflow, keep: float | None, existing: bool = False
) -> Statement[None]:
    """Insert a workflow, or more steps for one that exists.

    Args:
        queries: of the schema.
        workflow: checked before.
        keep: seconds that it is kept after its end; None: for ever.
        existing: add the steps to the workflow of this id.
    """
    return Statement(queries["insert_workflow"], workflow_parameters(workflow, keep, existing), nothing)


def workflow_parameters(workflow: NewWorkflow, keep: float | None, existing: bool = False) -> dict[str, Any]:
    """Return the parameters of insert_workflow: texts, numbers and None, which cross a pipe unchanged."""
    steps, edges = workflow.steps, workflow.edges
    jobs = [step.job for step in steps]
    ids = [job.id for job in jobs]
    waits = dict.fromkeys(ids, 0)
    for edge in edges:
        waits[edge.child_id] += 1
    own = [job.id for job in jobs if job.own_id]
    return {
        "workflow_id": workflow.id,
        "name": workflow.name,
        "keep": keep,
        "deadline_in": workflow.deadline_in,
        "existing": existing,
        "ids": array(ids),
        "tasks": joined([job.task for job in jobs]),
        "queues": joined([job.queue for job in jobs]),
        "priorities": array(job.priority for job in jobs),
        "args": joined([job.args for job in jobs]),
        "kwargs": joined([job.kwargs for job in jobs]),
        "headers": joined([job.headers for job in jobs]),
        "options": joined([job.options for job in jobs]),
        "delays": column([job.delay for job in jobs], str),
        "etas": column([job.eta for job in jobs], datetime.isoformat),
        "expires_in": column([job.expires_in for job in jobs], str),
        "expires_at": column([job.expires_at for job in jobs], datetime.isoformat),
        "root_ids": column([job.root_id for job in jobs], str),
        "parent_ids": column([job.parent_id for job in jobs], str),
        "own_ids": array(own) if own else None,
        "steps": joined([step.name for step in steps]),
        "inputs": joined([step.inputs for step in steps]),
        "runs": joined([step.run for step in steps]),
        "compensates": column([step.compensates for step in steps], str),
        "waits": array(waits.values()),
        "children": array(edge.child_id for edge in edges),
        "parents": array(edge.parent_id for edge in edges),
        "positions": array(edge.position for edge in edges),
        "kinds": _unless_all([edge.kind for edge in edges], "value"),
        "policies": _unless_all([edge.policy for edge in edges], "stop"),
        "group_ids": array(group_id for group_id, ids in workflow.groups for _ in ids) if workflow.groups else None,
        "group_members": array(one for _, ids in workflow.groups for one in ids) if workflow.groups else None,
    }


def replace_job(queries: Queries, job_id: str, token: int, replacement: Mapping[str, Any]) -> Statement[list[str]]:
    """Let a running job, fenced, wait for other steps that give its result; the id if its lease was lost.

    Args:
        queries: of the schema.
        job_id, token: the attempt.
        replacement: parameters of the steps, and `last_id`: whose result is the job's.
    """
    params = {**replacement, "id": job_id, "token": token}
    return Statement(queries["replace_job"], params, lambda rows: [] if rows else [job_id])


def add_member(
    queries: Queries, workflow: NewWorkflow, keep: float | None, member_id: str, last_id: str
) -> Statement[None]:
    """Add steps, and the last of them to the members of the chord that a running job is a member of."""
    params = {**workflow_parameters(workflow, keep, existing=True), "member_id": member_id, "last_id": last_id}
    return Statement(queries["add_member"], params, nothing)


def _unless_all(values: Sequence[str], usual: str) -> str | None:
    return None if values.count(usual) == len(values) else joined(values)


def resolve_event(queries: Queries, workflow_id: str, event: str, value: str) -> Statement[None]:
    """Resolve the event that a step of this name waits for, with a value as JSON text."""
    return Statement(queries["resolve_event"], {"workflow_id": workflow_id, "event": event, "value": value}, nothing)


def cancel_workflow(queries: Queries, workflow_id: str) -> Statement[int]:
    """Cancel what has not ended; returns how many steps."""
    return Statement(queries["cancel_workflow"], {"workflow_id": workflow_id}, first)


def retry_workflow(queries: Queries, workflow_id: str) -> Statement[int]:
    """Run it on from the steps that did not succeed; returns how many."""
    return Statement(queries["retry_workflow"], {"workflow_id": workflow_id}, first)


def workflow_of_job(queries: Queries, job_id: str) -> Statement[str | None]:
    """Return the id of the workflow that a job is a step of."""
    return Statement(queries["workflow_of_job"], {"id": job_id}, lambda rows: rows[0][0] if rows else None)


def workflow_job_ids(queries: Queries, workflow_id: str) -> Statement[list[str]]:
    """Return the ids of its steps, in the order in which they were given; none of an unknown workflow."""
    return Statement(queries["workflow_job_ids"], {"workflow_id": workflow_id}, texts)


def get_workflow(queries: Queries, workflow_id: str) -> Statement[WorkflowRow | None]:
    """Return one workflow with its progress."""
    return Statement(
        queries["get_workflow"], {"workflow_id": workflow_id}, lambda rows: WorkflowRow(*rows[0]) if rows else None
    )


def list_workflows(
    queries: Queries, states: Iterable[str] | None, name: str | None, limit: int
) -> Statement[list[WorkflowRow]]:
    """Return the newest workflows; `name` is a LIKE pattern."""
    return Statement(
        queries["list_workflows"],
        {"states": None if states is None else array(states), "name": name, "limit": limit},
        lambda rows: [WorkflowRow(*row) for row in rows],
    )


def list_steps(queries: Queries, workflow_id: str) -> Statement[list[StepRow]]:
    """Return the steps of a workflow in the order in which they were given."""
    return Statement(queries["list_steps"], {"workflow_id": workflow_id}, lambda rows: [StepRow(*row) for row in rows])


def named_steps(queries: Queries, workflow_id: str, names: Iterable[str]) -> Statement[dict[str, str]]:
    """Return the ids of those steps of a workflow that have one of these names."""
    return Statement(queries["named_steps"], {"workflow_id": workflow_id, "names": list(names)}, dict)


def step_outcomes(queries: Queries, workflow_id: str) -> Statement[list[StepOutcome]]:
    """Return how those steps of a workflow ended that did, the first first."""
    return Statement(
        queries["step_outcomes"], {"workflow_id": workflow_id}, lambda rows: [StepOutcome(*row) for row in rows]
    )


def list_edges(queries: Queries, workflow_id: str) -> Statement[list[NewEdge]]:
    """Return the edges of a workflow."""
    return Statement(queries["list_edges"], {"workflow_id": workflow_id}, _edges)


def _edges(rows: Rows) -> list[NewEdge]:
    return [
        NewEdge(str(row[0]), str(row[1]), int(row[2]), cast(EdgeKind, row[3]), cast(EdgePolicy, row[4]))
        for row in cast(Iterable[Sequence[Any]], rows)
    ]


def mend_workflows(queries: Queries) -> Statement[int]:
    """Let steps whose jobs were deleted by hand count as cancelled; returns how many."""
    return Statement(queries["mend_workflows"], {}, first)


def prune_workflows(queries: Queries, limit: int) -> Statement[int]:
    """Remove workflows that need not be kept any longer; returns how many."""
    return Statement(queries["prune_workflows"], {"limit": limit}, first)
