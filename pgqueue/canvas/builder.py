"""From the parts of a canvas to the steps and edges of one workflow, and the results that stand for them.

A part is added after its Feed: what it waits for and is given. What it leaves behind is the feed of the next part.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple, Protocol

from pgqueue.canvas.links import callbacks
from pgqueue.canvas.sender import Sender
from pgqueue.errors import ArgumentsError, GraphError, ValidationError
from pgqueue.graph import EdgeKind, NewEdge, NewStep, NewWorkflow, StepInputs, check_size
from pgqueue.job import NewJob, as_job_id, new_job_id
from pgqueue.results.groups import GroupResult
from pgqueue.results.result import AsyncResult

__all__ = ["Built", "Feed", "GraphBuilder", "Link"]

AnyResult = AsyncResult[Any] | GroupResult[Any]
_OF_OTHERS = frozenset({"link", "link_error", "connection", "on_duplicate"})
_OF_A_WHOLE = ("connection", "on_duplicate")
# Whose columns are the same in all members that share them.
_OF_ALL_MEMBERS = frozenset({"queue", "priority", "headers", "countdown", "eta", "expires"})


class Feed(NamedTuple):
    """What comes before a part of a workflow.

    kind: `value`: one step, whose result is put before the arguments; `list`: members of a group, whose results are put
    there as one list; `order`: steps that are only waited for; `error`: steps of which one fails.
    ids: of the steps.
    members: of a list instead, where some are lists themselves.
    args, kwargs: given at the call, before the part's own.
    joint: a step of the database's own that this part stands behind: its failure is the part's.
    result: of what comes before, the parent of the part's own.
    """

    kind: Literal["value", "list", "order", "error"] = "order"
    ids: tuple[str, ...] = ()
    members: "tuple[Feed, ...]" = ()
    args: tuple[Any, ...] = ()
    kwargs: Mapping[str, Any] = {}
    joint: str | None = None
    result: AnyResult | None = None


class Built(NamedTuple):
    """What a part left behind: the feed of the next one (whose `result` is the part's own)."""

    feed: Feed
    result: AnyResult


class Link(Protocol):
    """A signature, as far as it is added as a callback."""

    def _build(
        self, builder: "GraphBuilder", feed: Feed, options: Mapping[str, Any] | None = None, group_id: str | None = None
    ) -> Built: ...


class GraphBuilder:
    """The workflow that one canvas becomes.

    Args:
        sender: makes the jobs.
        read: makes a signature of what is linked: one, or its dict.
        connection: of the transaction that it will be part of, or None.
    """

    def __init__(self, sender: Sender, read: Any, connection: Any = None) -> None:
        self._sender = sender
        self._read = read
        self._participant = sender.participant(connection)
        self._inherits_priority = bool(sender.conf.task_inherit_parent_priority)
        self.steps: list[NewStep] = []
        self.edges: list[NewEdge] = []
        self.workflow_id: str | None = None
        self.groups: list[tuple[str, list[str]]] = []
        self._root_id: str | None = None
        # One step for an error callback that several tasks of a chain share, by its identity; members have their own.
        self._errbacks: dict[tuple[int, int], tuple[Any, list[str]]] = {}
        self._line = self._lines = 0
        self._ignoring: dict[str, bool] = {}
        self._needed: set[str] = set()
        self._group_options: dict[str, str] = {}
        self._priorities: dict[str, int] = {}

    # tasks

    def add(
        self,
        task: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: Mapping[str, Any],
        immutable: bool,
        feed: Feed,
        group_id: str | None,
    ) -> Built:
        """Add the call of a task, and what is linked to it."""
        given: dict[str, Any] = {}
        if options:
            _refuse_options_of_a_whole(task, options)
            given = {name: value for name, value in options.items() if name not in _OF_OTHERS}
        parents = self._parents(feed)
        extra: dict[str, Any] = {}
        kind, inputs = self._inputs(feed, immutable, extra)
        if not immutable:
            if feed.args:
                args = (*feed.args, *args)
            if feed.kwargs:
                kwargs = {**kwargs, **feed.kwargs}
        if self._inherits_priority and parents:
            given["priority"] = self._priorities[parents[0]]
        job = self._prepare(task, args, kwargs, given, inputs, immutable)
        options_text = job.options
        if group_id is not None and not extra and options_text is None:
            options_text = self._options_of_member(group_id)
        elif group_id is not None or extra:
            own = json.loads(options_text) if options_text else {}
            options_text = json.dumps({**own, **({"group_id": group_id} if group_id else {}), **extra})
        job = job._replace(
            options=options_text,
            root_id=job.root_id or self._root_id,
            parent_id=parents[-1] if parents else job.parent_id,
        )
        if self._root_id is None:
            self._root_id = job.root_id or job.id
        self._insert(job, inputs, parents, kind)
        task_id = given.get("task_id")
        found: AsyncResult[Any] = AsyncResult.of_enqueued(
            str(task_id) if task_id else job.id, job.id, self._sender.results, self._participant
        )
        found.parent = feed.result
        after = Feed("value", (job.id,), result=found)
        if options:
            self._link(options, after, feed.joint)
        return Built(after, found)

    def add_member(self, call: Link, feed: Feed, options: Mapping[str, Any], group_id: str) -> Built:
        """Add a member of a group."""
        outer, self._lines = self._line, self._lines + 1
        self._line = self._lines
        try:
            return call._build(self, feed, options, group_id)
        finally:
            self._line = outer

    def add_members(
        self, calls: Sequence[Any], feed: Feed, given: Mapping[str, Any], group_id: str
    ) -> list[AsyncResult[Any]] | None:
        """Add many calls with the same options behind the same feed; None if that does not do, and nothing is added."""
        if feed.args or feed.kwargs or feed.kind not in ("order", "value") or self._inherits_priority:
            return None
        if not given.keys() <= _OF_ALL_MEMBERS:
            return None
        call: Any = given
        options = self._options_of_member(group_id)
        parent_id = feed.ids[-1] if feed.ids else None
        jobs = self._sender.prepare_members(calls, feed.kind == "value", call, options, self._root_id, parent_id)
        if jobs is None:
            return None
        steps, new = self.steps, tuple.__new__
        self._root_id = self._root_id or jobs[0].root_id or jobs[0].id
        if feed.ids:
            for job, call in zip(jobs, calls, strict=True):
                kind, inputs = self._inputs(feed, call.immutable, {})
                self._insert(job, inputs, feed.ids, kind)
        else:
            steps.extend([new(NewStep, (job, None, None, None, None)) for job in jobs])
        source, participant, of_enqueued = self._sender.results, self._participant, AsyncResult.of_enqueued
        return [of_enqueued(job[0], job[0], source, participant) for job in jobs]

    def _options_of_member(self, group_id: str) -> str:
        found = self._group_options.get(group_id)
        if found is None:
            found = self._group_options[group_id] = json.dumps({"group_id": group_id})
        return found

    def _prepare(
        self,
        task: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: dict[str, Any],
        inputs: StepInputs | None,
        immutable: bool,
    ) -> NewJob:
        call: Any = options
        before = 0 if immutable or inputs is None else 1
        try:
            return self._sender.prepare_step(task, args, kwargs, call, before)
        except ArgumentsError:
            if inputs != "error" or immutable:
                raise
            # The new style: f(request, exc, traceback).
            return self._sender.prepare_step(task, args, kwargs, call, 3)

    @staticmethod
    def _inputs(feed: Feed, immutable: bool, extra: dict[str, Any]) -> tuple[EdgeKind, StepInputs | None]:
        """How the feed reaches a task; `extra` is completed by what the worker has to know about it."""
        if feed.kind == "error":
            extra["errback"] = True
            if immutable:
                extra["immutable"] = True
            return "error", "error"
        if feed.kind == "order" or (feed.kind == "value" and immutable):
            return "order", None
        if feed.kind == "value":
            return "value", "value"
        if immutable:
            # Still a join, whose error is a ChordError: the list is empty, and the worker drops it.
            extra["immutable"] = True
            return "order", "list"
        return "value", "list"

    def _insert(self, job: NewJob, inputs: StepInputs | None, parents: Sequence[str], kind: EdgeKind) -> None:
        self.steps.append(NewStep(job, None, inputs))
        check_size(len(self.steps))
        child = job.id
        self.edges.extend([NewEdge(parent, child, position, kind) for position, parent in enumerate(parents)])
        if kind == "value":
            self._needed.update(parents)
        if self._inherits_priority:
            self._priorities[child] = job.priority

    # joins

    def _parents(self, feed: Feed) -> Sequence[str]:
        if not feed.members:
            return feed.ids
        return [self.single(member) for member in feed.members]

    def single(self, feed: Feed) -> str:
        """The step whose result stands for a feed: its only one, or one that makes a list of several."""
        if feed.kind == "list":
            return self.gather(feed)
        if not feed.ids:
            raise GraphError("an empty group has no step whose result could be waited for")
        return feed.ids[0]

    def last(self, feed: Feed) -> str:
        """The step whose result stands for all that was built, and is kept whatever its task says."""
        found = self.single(feed) if feed.ids or feed.kind == "list" else self.gather(feed)
        self._needed.add(found)
        return found

    def gather(self, feed: Feed) -> str:
        """A step of the database's own that makes a list of the results of a feed, of none, too."""
        parents = self._parents(feed)
        queue = self.steps[0].job.queue if self.steps else self._sender.conf.task_default_queue
        priority = self.steps[0].job.priority if self.steps else 0
        parent_id = parents[-1] if parents else None
        job = NewJob(new_job_id(), "pgqueue.gather", queue, priority, root_id=self._root_id, parent_id=parent_id)
        self.steps.append(NewStep(job, None, "list", "gather"))
        self.edges.extend(NewEdge(parent, job.id, place) for place, parent in enumerate(parents))
        self._needed.update(parents)
        if self._inherits_priority:
            self._priorities[job.id] = job.priority
        return job.id

    def spread(self, feed: Feed) -> Feed:
        """A feed that several parts can share: a list is made once, not by each of them."""
        if feed.kind != "list":
            return feed
        joint = self.gather(feed)
        return feed._replace(kind="value", ids=(joint,), members=(), joint=joint)

    def begin_group(self, group_id: str) -> None:
        """The first group gives the workflow its id."""
        if self.workflow_id is None:
            self.workflow_id = as_job_id(group_id)[0]

    def end_group(self, found: GroupResult[Any]) -> None:
        """Let GroupResult.restore() find a group: the first one by the workflow, others by themselves."""
        own_id = as_job_id(found.id)[0]
        if own_id != self.workflow_id:
            self.groups.append((own_id, [job.job_id for job in found._jobs()]))

    # callbacks

    def _link(self, options: Mapping[str, Any], after: Feed, joint: str | None) -> None:
        for callback in callbacks(options, "link"):
            self._read(callback)._build(self, after)
        for errback in callbacks(options, "link_error"):
            _, failing = self._errbacks.setdefault((self._line, id(errback)), (errback, []))
            failing.extend(after.ids)
            if joint is not None and joint not in failing:
                failing.append(joint)

    def finish(self) -> NewWorkflow:
        """Add the error callbacks, and return the workflow."""
        while self._errbacks:
            errback, failing = self._errbacks.pop(next(iter(self._errbacks)))
            self._read(errback)._build(self, Feed("error", tuple(failing)))
        self._keep_needed_results()
        return NewWorkflow(self.workflow_id or new_job_id(), self.steps, self.edges, groups=self.groups)

    def _keep_needed_results(self) -> None:
        """A step that ignores its result, and whose result another one is given, does not ignore it."""
        for place, step in enumerate(self.steps):
            job = step.job
            ignores = self._ignores(job.task)
            if not (ignores or (job.options and "ignore_result" in job.options)) or job.id not in self._needed:
                continue
            options = json.loads(job.options) if job.options else {}
            if step.run is None and options.get("ignore_result", ignores):
                kept = json.dumps({**options, "ignore_result": False})
                self.steps[place] = step._replace(job=job._replace(options=kept))

    def _ignores(self, task: str) -> bool:
        found = self._ignoring.get(task)
        if found is None:
            found = self._ignoring[task] = self._sender.ignores_result(task)
        return found


def _refuse_options_of_a_whole(task: str, options: Mapping[str, Any]) -> None:
    for name in _OF_A_WHOLE:
        if options.get(name) is not None:
            raise ValidationError(f"{name} of the signature of {task!r}: a workflow is sent as a whole; leave it out")
