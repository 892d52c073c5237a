"""app.workflows: looking at workflows by their ids, resolving their events, cancelling them, running them on."""

import contextlib
from collections.abc import Iterable, Iterator
from typing import Any, Protocol, TypeAlias, TypeVar

import psycopg

from pgqueue.codec import encode_result
from pgqueue.enqueueing.enrolment import Participant, aenlist, enlist
from pgqueue.errors import ValidationError
from pgqueue.graph import NewEdge
from pgqueue.job import as_job_id
from pgqueue.results.result import Results
from pgqueue.store.statement import Queries, Statement
from pgqueue.store.workflows import (
    StepOutcome,
    StepRow,
    WorkflowRow,
    cancel_workflow,
    get_workflow,
    list_edges,
    list_steps,
    list_workflows,
    named_steps,
    resolve_event,
    retry_workflow,
    step_outcomes,
    workflow_of_job,
)

__all__ = ["STATES", "Workflows"]

R = TypeVar("R")
# Inside the class `list` is a method.
_Workflows: TypeAlias = list[WorkflowRow]
_Steps: TypeAlias = list[StepRow]
_Edges: TypeAlias = list[NewEdge]
_Outcomes: TypeAlias = list[StepOutcome]
DEADLOCKS = 3  # with steps that end just then; the server undid it all, so it is tried again
STATES = ("running", "succeeded", "failed", "cancelled")


class Client(Protocol):
    """An application, as far as it knows a database and who takes part in which transaction."""

    @property
    def results(self) -> Results: ...

    def participant(self, connection: Any = None) -> Participant | None: ...


class Workflows:
    """Looks at workflows and changes them; inside app.using(connection) as part of that transaction.

    Ids are those of WorkflowResult and GroupResult. Each method has a twin for async code, whose name begins with `a`.

    Args:
        client: of the application.
    """

    def __init__(self, client: Client) -> None:
        self._client = client

    @property
    def results(self) -> Results:
        """Where results of the application are."""
        return self._client.results

    # looking

    def get(self, id: str) -> WorkflowRow | None:
        """Return a workflow with its state (running, succeeded, failed, cancelled) and the numbers of its steps, in
        one query; None when there is none of this id."""
        return self._run(get_workflow(self._queries, _id(id)), again=True)

    async def aget(self, id: str) -> WorkflowRow | None:
        """get() for async code."""
        return await self._arun(get_workflow(self._queries, _id(id)), again=True)

    def of(self, job_id: str) -> str | None:
        """Return the id of the workflow that a job is a step of, such as the body of a chord; None: of none."""
        return self._run(workflow_of_job(self._queries, _id(job_id)), again=True)

    async def aof(self, job_id: str) -> str | None:
        """of() for async code."""
        return await self._arun(workflow_of_job(self._queries, _id(job_id)), again=True)

    def list(self, states: Iterable[str] | None = None, name: str | None = None, limit: int = 50) -> _Workflows:
        """Return the newest workflows.

        Args:
            states: only these: running, succeeded, failed, cancelled.
            name: only of this name; * stands for anything.
            limit: at most so many.

        Raises:
            ValidationError: a state that does not exist.
        """
        return self._run(self._listing(states, name, limit), again=True)

    async def alist(self, states: Iterable[str] | None = None, name: str | None = None, limit: int = 50) -> _Workflows:
        """list() for async code."""
        return await self._arun(self._listing(states, name, limit), again=True)

    def steps(self, id: str) -> _Steps:
        """Return the steps of a workflow, in the order in which they were given."""
        return self._run(list_steps(self._queries, _id(id)), again=True)

    async def asteps(self, id: str) -> _Steps:
        """steps() for async code."""
        return await self._arun(list_steps(self._queries, _id(id)), again=True)

    def named(self, id: str, names: Iterable[str]) -> dict[str, str]:
        """Return the job ids of those steps of a workflow that have one of these names."""
        return self._run(named_steps(self._queries, _id(id), names), again=True)

    async def anamed(self, id: str, names: Iterable[str]) -> dict[str, str]:
        """named() for async code."""
        return await self._arun(named_steps(self._queries, _id(id), names), again=True)

    def edges(self, id: str) -> _Edges:
        """Return which step of a workflow waits for which."""
        return self._run(list_edges(self._queries, _id(id)), again=True)

    async def aedges(self, id: str) -> _Edges:
        """edges() for async code."""
        return await self._arun(list_edges(self._queries, _id(id)), again=True)

    def outcomes(self, id: str) -> _Outcomes:
        """Return how those steps ended that did, as JSON texts."""
        return self._run(step_outcomes(self._queries, _id(id)), again=True)

    async def aoutcomes(self, id: str) -> _Outcomes:
        """outcomes() for async code."""
        return await self._arun(step_outcomes(self._queries, _id(id)), again=True)

    # changing

    def resolve(self, id: str, event: str, value: Any = None) -> None:
        """Say that the event that a workflow waits for has come, be it before the step is reached.

        Args:
            id: of the workflow.
            event: name of the step, as in wait_for(name).
            value: its result; anything that has a JSON form.

        Raises:
            ValidationError: it waits for no such event, or the event came before, or its time is over.
            EncodingError, LimitExceeded: of the value.
        """
        with _refusals():
            self._run(self._resolving(id, event, value))

    async def aresolve(self, id: str, event: str, value: Any = None) -> None:
        """resolve() for async code."""
        with _refusals():
            await self._arun(self._resolving(id, event, value))

    def cancel(self, id: str) -> int:
        """Cancel all steps that have not ended; those that run are asked to stop. Compensations then run.

        Returns:
            How many steps it concerns; 0 when the workflow is over or unknown.
        """
        return self._run(cancel_workflow(self._queries, _id(id)))

    async def acancel(self, id: str) -> int:
        """cancel() for async code."""
        return await self._arun(cancel_workflow(self._queries, _id(id)))

    def retry(self, id: str) -> int:
        """Run it on from the steps that did not succeed: what succeeded, and was not compensated, is kept.

        Returns:
            How many steps did not succeed; 0 when there are none.

        Raises:
            ValidationError: one of the steps to run again is kept no longer.
        """
        with _refusals():
            return self._run(retry_workflow(self._queries, _id(id)))

    async def aretry(self, id: str) -> int:
        """retry() for async code."""
        with _refusals():
            return await self._arun(retry_workflow(self._queries, _id(id)))

    # statements

    @property
    def _queries(self) -> Queries:
        return self._client.results.database.queries

    def _listing(self, states: Iterable[str] | None, name: str | None, limit: int) -> Statement[_Workflows]:
        wanted = None if states is None else (states,) if isinstance(states, str) else tuple(states)
        for state in wanted or ():
            if state not in STATES:
                raise ValidationError(f"states: {state!r} is none; there are {', '.join(STATES)}")
        return list_workflows(self._queries, wanted, None if name is None else as_pattern(name), limit)

    def _resolving(self, id: str, event: str, value: Any) -> Statement[None]:
        if not isinstance(event, str):
            raise ValidationError(f"event: expected a name, got {type(event).__name__}")
        return resolve_event(self._queries, _id(id), event, encode_result(value) or "null")

    def _run(self, statement: Statement[R], again: bool = False) -> R:
        participant = self._client.participant()
        if participant is not None:
            return enlist(participant, self._queries, statement)
        database = self._client.results.database
        for _ in range(DEADLOCKS):
            with contextlib.suppress(psycopg.errors.DeadlockDetected):
                return database.run(statement, statement if again else None)
        return database.run(statement, statement if again else None)

    async def _arun(self, statement: Statement[R], again: bool = False) -> R:
        participant = self._client.participant()
        if participant is not None:
            return await aenlist(participant, self._queries, statement)
        database = self._client.results.database
        for _ in range(DEADLOCKS):
            with contextlib.suppress(psycopg.errors.DeadlockDetected):
                return await database.arun(statement, statement if again else None)
        return await database.arun(statement, statement if again else None)


def as_pattern(name: str) -> str:
    """A LIKE pattern of a name in which * stands for anything."""
    for special in "\\%_":
        name = name.replace(special, f"\\{special}")
    return name.replace("*", "%")


def _id(value: str) -> str:
    if not isinstance(value, str) or not value:
        raise ValidationError(f"id: expected that of a workflow, got {value!r}")
    return as_job_id(value)[0]


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """Turn what our functions refuse, through whatever driver, into ValidationError."""
    try:
        yield
    except Exception as error:
        cause: Any = getattr(error, "orig", None) or error.__cause__ or error
        if "22023" not in (getattr(cause, "sqlstate", None), getattr(cause, "pgcode", None)):
            raise
        said = getattr(getattr(cause, "diag", None), "message_primary", None) or str(cause)
        raise ValidationError(said.removeprefix("event: ")) from error
