"""WorkflowResult: state, progress and results of a workflow by its id, from any process."""

import asyncio
import time
from collections.abc import Mapping, Sequence
from typing import Any

from pgqueue.codec import decode_error, decode_result
from pgqueue.errors import TaskRevokedError, TimeoutError
from pgqueue.request import current_request
from pgqueue.results.result import AsyncResult, InTransaction
from pgqueue.results.waiting import await_end, wait_for_end
from pgqueue.store.workflows import StepOutcome, StepRow, WorkflowRow
from pgqueue.workflows.control import Workflows

__all__ = ["WorkflowResult"]

LOOK_SECONDS = 30.0  # a step that is deleted by hand notifies nobody


class WorkflowResult:
    """What becomes of a workflow. Equal and hashed by its id.

    Args:
        id: of the workflow.
        control: app.workflows.
        ids: of steps by their names, as far as they are known.
        transaction: the connection on which it was sent.

    Properties ask the database each time.
    """

    __slots__ = ("_control", "_ids", "_transaction", "id")

    def __init__(
        self,
        id: str,
        control: Workflows,
        ids: Mapping[str, str] | None = None,
        transaction: InTransaction | None = None,
    ) -> None:
        self.id = id
        self._control = control
        self._ids = dict(ids or {})
        self._transaction = transaction

    # looking

    @property
    def progress(self) -> WorkflowRow | None:
        """The workflow with its state and the numbers of its steps, in one query; None when it is not kept."""
        return self._control.get(self.id)

    async def aprogress(self) -> WorkflowRow | None:
        """`progress` for async code."""
        return await self._control.aget(self.id)

    @property
    def state(self) -> str:
        """running, succeeded, failed or cancelled; unknown when there is none of this id."""
        return _state(self._control.get(self.id))

    async def astate(self) -> str:
        """`state` for async code."""
        return _state(await self._control.aget(self.id))

    def ready(self) -> bool:
        """Whether every step has ended."""
        return self.state not in ("running", "unknown")

    async def aready(self) -> bool:
        """ready() for async code."""
        return await self.astate() not in ("running", "unknown")

    def successful(self) -> bool:
        """Whether it succeeded."""
        return self.state == "succeeded"

    async def asuccessful(self) -> bool:
        """successful() for async code."""
        return await self.astate() == "succeeded"

    @property
    def steps(self) -> list[StepRow]:
        """Its steps, in the order in which they were given."""
        return self._control.steps(self.id)

    async def asteps(self) -> list[StepRow]:
        """`steps` for async code."""
        return await self._control.asteps(self.id)

    def step(self, name: str) -> AsyncResult[Any]:
        """Return the result of a step; KeyError when there is none of this name."""
        if name not in self._ids:
            self._learn(self.steps)
        return AsyncResult(self._ids[name], self._control.results)

    __getitem__ = step

    async def astep(self, name: str) -> AsyncResult[Any]:
        """step() for async code."""
        if name not in self._ids:
            self._learn(await self.asteps())
        return AsyncResult(self._ids[name], self._control.results)

    def _learn(self, steps: Sequence[StepRow]) -> None:
        self._ids.update({step.name: step.job_id for step in steps if step.name is not None})

    @property
    def results(self) -> dict[str, Any]:
        """By the names of the steps that ended: what succeeded returned, None for a skipped one, else the error."""
        return self._values(self._control.outcomes(self.id))

    async def aresults(self) -> dict[str, Any]:
        """`results` for async code."""
        return self._values(await self._control.aoutcomes(self.id))

    def _values(self, outcomes: Sequence[StepOutcome]) -> dict[str, Any]:
        return {each.name: self._value(each) for each in outcomes if each.name is not None}

    def _value(self, outcome: StepOutcome) -> Any:
        if outcome.state == "succeeded":
            return decode_result(outcome.result)
        return None if outcome.state == "skipped" else self._error(outcome)

    def _error(self, outcome: StepOutcome) -> BaseException:
        if outcome.error is None:
            return TaskRevokedError("expired before it could start" if outcome.state == "expired" else "cancelled")
        return decode_error(outcome.error, self._control.results.known)

    # waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        disable_sync_subtasks: bool = True,
    ) -> dict[str, Any]:
        """Wait until every step has ended, compensations too, and return `results`.

        Args:
            timeout: seconds to wait; None waits for ever, 0 only looks.
            propagate: raise the error of the step that failed first, if the workflow did not succeed.
            interval, disable_sync_subtasks: as in AsyncResult.get.

        Raises:
            TimeoutError: it did not end in time.
            RuntimeError: called inside a task, or inside the transaction in which it was sent.
            TaskRevokedError: it was cancelled, or its deadline passed.
            Exception: what the first step that failed raised.
        """
        self._refuse(disable_sync_subtasks)
        end = _End(self.id, timeout)
        database, batch = self._control.results.database, 1
        while not (steps := self._control.steps(self.id)) or _live(steps):
            if not steps:  # not committed yet
                time.sleep(end.pause(interval))
            for job_id in _live(steps)[:batch]:
                try:
                    wait_for_end(database, job_id, end.left(), interval)
                except TimeoutError:
                    end.check()
            batch *= 2
        outcomes = self._control.outcomes(self.id)
        return self._final(_state(self._control.get(self.id)), outcomes, propagate)

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        disable_sync_subtasks: bool = True,
    ) -> dict[str, Any]:
        """get() for async code."""
        self._refuse(disable_sync_subtasks)
        end = _End(self.id, timeout)
        database, batch = self._control.results.database, 1
        while not (steps := await self._control.asteps(self.id)) or _live(steps):
            if not steps:
                await asyncio.sleep(end.pause(interval))
            for job_id in _live(steps)[:batch]:
                try:
                    await await_end(database, job_id, end.left(), interval)
                except TimeoutError:
                    end.check()
            batch *= 2
        outcomes = await self._control.aoutcomes(self.id)
        return self._final(_state(await self._control.aget(self.id)), outcomes, propagate)

    def _final(self, state: str, outcomes: Sequence[StepOutcome], propagate: bool) -> dict[str, Any]:
        if propagate and state not in ("succeeded", "unknown"):
            own = ("failed",) if state == "failed" else ("cancelled", "expired", "failed")
            first = next((each for each in outcomes if each.state in own and not each.propagated), None)
            error = TaskRevokedError("cancelled") if first is None else self._error(first)
            if first is not None:
                error.add_note(f"in step {first.name or first.job_id!r} of workflow {self.id}")
            raise error
        return self._values(outcomes)

    def _refuse(self, disable_sync_subtasks: bool) -> None:
        request = current_request.get()
        if disable_sync_subtasks and request is not None and not (request.called_directly or request.is_eager):
            raise RuntimeError(
                "Never call result.get() within a task: when all workers wait, none is left to run what they wait for."
                " Add a step that follows; or pass disable_sync_subtasks=False"
            )
        if self._transaction is not None and self._transaction.in_transaction:
            raise RuntimeError(
                f"workflow {self.id} was sent in a transaction that is still open: it cannot run before the commit."
                " Commit first, then wait for the result"
            )

    # changing

    def resolve(self, event: str, value: Any = None) -> None:
        """Say that an event has come; see app.resolve()."""
        self._control.resolve(self.id, event, value)

    async def aresolve(self, event: str, value: Any = None) -> None:
        """resolve() for async code."""
        await self._control.aresolve(self.id, event, value)

    def cancel(self) -> int:
        """Cancel what has not ended; returns how many steps."""
        return self._control.cancel(self.id)

    async def acancel(self) -> int:
        """cancel() for async code."""
        return await self._control.acancel(self.id)

    def retry(self) -> int:
        """Run it on from the steps that did not succeed; returns how many; see app.workflows.retry()."""
        return self._control.retry(self.id)

    async def aretry(self) -> int:
        """retry() for async code."""
        return await self._control.aretry(self.id)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, WorkflowResult) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<WorkflowResult: {self.id}>"


def _state(row: WorkflowRow | None) -> str:
    return "unknown" if row is None else row.state


def _live(steps: Sequence[StepRow]) -> list[str]:
    """Steps that have not ended, the last first: when it has, most have."""
    return [step.job_id for step in reversed(steps) if step.state in ("waiting", "scheduled", "available", "running")]


class _End:
    """When to stop waiting."""

    def __init__(self, workflow_id: str, timeout: float | None) -> None:
        self._workflow_id = workflow_id
        self._timeout = timeout
        self._start = time.monotonic()

    def left(self) -> float:
        """Seconds until the next look at the workflow itself."""
        if self._timeout is None:
            return LOOK_SECONDS
        return max(min(self._start + self._timeout - time.monotonic(), LOOK_SECONDS), 0.0)

    def pause(self, interval: float) -> float:
        """Seconds to wait for a workflow that is not there yet; raises TimeoutError when none are left."""
        self.check()
        return min(max(interval, 0.01), self.left())

    def check(self) -> None:
        """Raise TimeoutError when the time is over."""
        if self._timeout is not None and time.monotonic() >= self._start + self._timeout:
            raise TimeoutError(f"workflow {self._workflow_id} did not end within {self._timeout:g} s")
