"""Enqueueing: a call becomes a row, in the caller's transaction or in one of its own.

Every job has its id before it is sent, so that delivery can send it twice.
"""

import contextvars
from collections.abc import Callable, Mapping
from typing import Any
from zoneinfo import ZoneInfo

from pgqueue.canvas.submission import asubmit, submit
from pgqueue.enqueueing.delivery import adeliver, adeliver_workflow, deliver, deliver_workflow, refusals
from pgqueue.enqueueing.enrolment import Enrolment, Participant, aenlist, enlist, find, participant_of
from pgqueue.enqueueing.inline import InlineCalls
from pgqueue.enqueueing.preparing import Args, Kwargs, Prepared, simple_job
from pgqueue.errors import DuplicateJob
from pgqueue.graph import NewWorkflow
from pgqueue.job import new_job_id
from pgqueue.options.options import CallOptions
from pgqueue.request import progress_sink
from pgqueue.results.result import AsyncResult, Results
from pgqueue.store.database import Database
from pgqueue.store.jobs import insert_job, update_progress
from pgqueue.store.statement import Queries, Statement
from pgqueue.store.workflows import add_member, insert_workflow
from pgqueue.tasks.task import Task

__all__ = ["Client"]


class Client(InlineCalls):
    """Enqueues for one application.

    Args:
        conf: the settings.
        tasks: the registry.
        using: the context variable behind app.using().
        results: of the application.
        zone: of naive instants.
        begin: freezes the settings; called before the first enqueue.
        embedded: whether a worker of this application runs in this process, so that tasks of __main__ can run.
    """

    def __init__(
        self,
        conf: Any,
        tasks: Mapping[str, Task[..., Any]],
        using: contextvars.ContextVar[Enrolment | None],
        results: Results,
        zone: Callable[[], ZoneInfo],
        begin: Callable[[], None],
        embedded: Callable[[], bool],
    ) -> None:
        super().__init__(conf, tasks, zone, begin, embedded)
        self._using = using
        self.results = results

    @property
    def _database(self) -> Database:
        return self.results.database

    @property
    def _queries(self) -> Queries:
        return self.results.database.queries

    # one call

    def delay(self, task: Task[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> AsyncResult[Any]:
        """Enqueue a call without options: the short way, whatever does not change was found out before."""
        plan = task.plan
        if not plan.simple:
            return self.send(task.name, args, kwargs, {})
        task.fits(args, kwargs)
        job_id = new_job_id()
        job = simple_job(job_id, task.name, plan, args, kwargs)
        participant = find(self._using)
        if participant is None:
            deliver(self._database, job)
        else:
            enlist(participant, self._queries, insert_job(self._queries, job))
        return AsyncResult.of_enqueued(job_id, job_id, self.results, participant)

    async def adelay(self, task: Task[..., Any], args: tuple[Any, ...], kwargs: Kwargs) -> AsyncResult[Any]:
        """delay() for async code."""
        plan = task.plan
        if not plan.simple:
            return await self.asend(task.name, args, kwargs, {})
        task.fits(args, kwargs)
        job_id = new_job_id()
        job = simple_job(job_id, task.name, plan, args, kwargs)
        participant = find(self._using)
        if participant is None:
            await adeliver(self._database, job)
        else:
            await aenlist(participant, self._queries, insert_job(self._queries, job))
        return AsyncResult.of_enqueued(job_id, job_id, self.results, participant)

    def send(self, name: str, args: Args, kwargs: Kwargs, options: CallOptions) -> AsyncResult[Any]:
        """Enqueue a call with options; of a task that is not registered here, without a check of its arguments."""
        if "link" in options or "link_error" in options:
            found: AsyncResult[Any] = submit(self._linked(name, args, kwargs, options), None, None, {})
            return found
        task = self._tasks.get(name)
        if task is not None and self.is_eager():
            return self._run(task, args, kwargs, options)
        prepared = self.prepare(name, args, kwargs, options)
        participant = self.participant(prepared.connection)
        if participant is None:
            inserted = deliver(self._database, prepared.job)
        else:
            inserted = enlist(participant, self._queries, insert_job(self._queries, prepared.job))
        return self._enqueued(prepared, inserted, participant)

    async def asend(self, name: str, args: Args, kwargs: Kwargs, options: CallOptions) -> AsyncResult[Any]:
        """send() for async code."""
        if "link" in options or "link_error" in options:
            found: AsyncResult[Any] = await asubmit(self._linked(name, args, kwargs, options), None, None, {})
            return found
        if name in self._tasks and self.is_eager():
            return await self.aapply(name, args, kwargs, options)
        prepared = self.prepare(name, args, kwargs, options)
        participant = self.participant(prepared.connection)
        if participant is None:
            inserted = await adeliver(self._database, prepared.job)
        else:
            inserted = await aenlist(participant, self._queries, insert_job(self._queries, prepared.job))
        return self._enqueued(prepared, inserted, participant)

    def _enqueued(self, prepared: Prepared, inserted: bool, participant: Participant | None) -> AsyncResult[Any]:
        if not inserted and prepared.duplicate == "raise":
            raise DuplicateJob(
                f"task_id: a job {prepared.task_id!r} is kept already; choose another, or pass on_duplicate='return'",
                prepared.task_id,
            )
        return AsyncResult.of_enqueued(prepared.task_id, prepared.job.id, self.results, participant)

    def participant(self, connection: Any = None) -> Participant | None:
        """The connection in which an enqueue takes part: the one given, or the one in force here; None: its own."""
        return find(self._using) if connection is None else participant_of(connection)

    def send_workflow(self, workflow: NewWorkflow, connection: Any = None, existing: bool = False) -> None:
        """Insert a workflow whole, or with `existing` more steps for the one of this id.

        Raises:
            GraphError: its steps do not fit together, or the workflow that is to get more of them is over.
            DuplicateJob: a step has the task_id of a job that is still kept.
        """
        self._begin()
        statement = insert_workflow(self._queries, workflow, self.results.keep(), existing)
        self._send_whole(workflow, statement, connection)

    async def asend_workflow(self, workflow: NewWorkflow, connection: Any = None, existing: bool = False) -> None:
        """send_workflow() for async code."""
        self._begin()
        statement = insert_workflow(self._queries, workflow, self.results.keep(), existing)
        await self._asend_whole(workflow, statement, connection)

    def add_member(self, workflow: NewWorkflow, member_id: str, last_id: str) -> None:
        """Add steps to the chord of which a running job is a member, the last of them as one more member."""
        self._send_whole(workflow, add_member(self._queries, workflow, self.results.keep(), member_id, last_id), None)

    async def aadd_member(self, workflow: NewWorkflow, member_id: str, last_id: str) -> None:
        """add_member() for async code."""
        await self._asend_whole(
            workflow, add_member(self._queries, workflow, self.results.keep(), member_id, last_id), None
        )

    def _send_whole(self, workflow: NewWorkflow, statement: Statement[None], connection: Any) -> None:
        participant = self.participant(connection)
        if participant is None:
            deliver_workflow(self._database, workflow, statement)
        else:
            with refusals(workflow):
                enlist(participant, self._queries, statement)

    async def _asend_whole(self, workflow: NewWorkflow, statement: Statement[None], connection: Any) -> None:
        participant = self.participant(connection)
        if participant is None:
            await adeliver_workflow(self._database, workflow, statement)
        else:
            with refusals(workflow):
                await aenlist(participant, self._queries, statement)

    def report(self, job_id: str, token: int, progress: str) -> None:
        """Record what a running attempt reports of itself: through its worker, or else directly."""
        from_worker = progress_sink.get()
        if from_worker is not None:
            from_worker(job_id, token, progress)
        else:
            self._database.run(update_progress(self._queries, job_id, token, progress))
