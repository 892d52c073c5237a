"""From the named steps of a Workflow to the rows of one: steps, edges, conditions, compensations."""

import inspect
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from difflib import get_close_matches
from graphlib import CycleError, TopologicalSorter
from typing import Any, Literal, Protocol

from pgqueue.canvas.builder import Built, Feed, GraphBuilder
from pgqueue.canvas.sender import Sender
from pgqueue.canvas.signatures import Signature, maybe_signature
from pgqueue.errors import ArgumentsError, GraphError, ValidationError
from pgqueue.graph import EdgePolicy, NewEdge, NewStep, NewWorkflow, StepInputs
from pgqueue.job import NewJob, new_job_id

__all__ = ["NamedSender", "Part", "compile_parts", "undo_name"]


class NamedSender(Sender, Protocol):
    """An application, as far as it makes the jobs of named steps."""

    def signature_of(self, name: str) -> inspect.Signature | None: ...


@dataclass(frozen=True, slots=True)
class Part:
    """One named step as it was given.

    run: None for a signature's own tasks; `wait` and `sleep` are the database's.
    after: names of its parents. policies: of the edges from them.
    delay, eta: of a wait or a sleep: seconds after its parents, or an instant.
    """

    name: str
    after: tuple[str, ...]
    policies: Mapping[str, EdgePolicy]
    signature: Signature[Any] | None = None
    run: Literal["wait", "sleep"] | None = None
    delay: float | None = None
    eta: datetime | None = None
    when: Signature[Any] | None = None
    compensate: Signature[Any] | None = None


def compile_parts(
    sender: NamedSender,
    workflow_id: str,
    name: str | None,
    parts: Mapping[str, Part],
    existing: Mapping[str, str],
    connection: Any,
    deadline_in: float | None,
    added: bool,
) -> tuple[NewWorkflow, dict[str, str]]:
    """Make the workflow.

    Args:
        sender: of the application.
        workflow_id: of a new workflow, or of the one to which the steps are added.
        name: of a new workflow.
        parts: by their names.
        existing: ids of the steps of a running workflow by their names.
        connection: of the transaction that it will be part of, or None.
        deadline_in: seconds.
        added: to a running workflow, whose own compensations the database puts behind the new ones.

    Returns:
        The workflow, checked, and the ids of the new steps by their names.

    Raises:
        GraphError: a cycle, or a step that waits for none.
        ArgumentsError, ValidationError: of a call; the message begins with the step.
    """
    graph = NamedGraph(sender, workflow_id, connection, existing)
    for part in _sorted(parts, existing):
        with _named(part.name):
            graph.add_part(part)
    graph.finish()
    graph.add_compensations(parts, added)
    found = graph.finish()
    own = json.dumps({"workflow_id": workflow_id})
    steps = [_told(step, workflow_id, own) for step in found.steps]
    workflow = NewWorkflow(workflow_id, steps, found.edges, name, deadline_in, tuple(existing.values()), found.groups)
    workflow.check()
    return workflow, graph.ids


def _told(step: NewStep, workflow_id: str, own: str) -> NewStep:
    """A step whose task can know its workflow."""
    job = step.job
    if step.run is not None:
        return step
    options = own if job.options is None else json.dumps({**json.loads(job.options), "workflow_id": workflow_id})
    return step._replace(job=job._replace(options=options))


def _sorted(parts: Mapping[str, Part], existing: Mapping[str, str]) -> Iterator[Part]:
    """The parts, each behind those that it waits for, else as they were given."""
    for part in parts.values():
        for parent in part.after:
            if parent not in parts and parent not in existing:
                near = get_close_matches(parent, [*parts, *existing], 1)
                hint = f"; did you mean {near[0]!r}?" if near else ""
                raise GraphError(f"step {part.name!r}: it waits for {parent!r}, which is no step{hint}")
    sorter = TopologicalSorter({name: [one for one in part.after if one in parts] for name, part in parts.items()})
    try:
        sorter.prepare()
    except CycleError as error:
        around = " -> ".join(repr(one) for one in reversed(error.args[1]))
        raise GraphError(f"the steps wait for each other: {around}") from None
    while sorter.is_active():
        ready = sorter.get_ready()
        yield from (parts[name] for name in ready)
        sorter.done(*ready)


class _named:  # noqa: N801 - a context manager
    """Say of which step an error speaks."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> None:
        if isinstance(error, ArgumentsError | ValidationError) and not str(error).startswith("step "):
            raise type(error)(f"step {self._name!r}: {error}") from error


class NamedGraph(GraphBuilder):
    """A workflow of named steps under construction.

    Args:
        sender, connection, existing: as in compile_parts().
        workflow_id: of the workflow.
    """

    def __init__(self, sender: NamedSender, workflow_id: str, connection: Any, existing: Mapping[str, str]) -> None:
        super().__init__(sender, lambda linked: maybe_signature(linked, sender), connection)
        self.workflow_id = workflow_id
        self.ids: dict[str, str] = {}
        self._named_sender = sender
        self._all = dict(existing)
        self._entry: tuple[str, ...] = ()  # ids of the steps that the part being added is given the results of
        self._names: tuple[str, ...] = ()
        self._passing: Literal["args", "names"] | None = None
        self._sleeps: set[str] = set()
        self._degrees: dict[str, int] = {}  # how many edges lead to a step
        self._usual = int(sender.conf.task_default_priority)
        self._priorities.update(dict.fromkeys(existing.values(), self._usual))

    # a task that is given the results of several named steps

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
        self._passing = None
        if self._entry and feed.kind == "value" and feed.ids == self._entry and not immutable:
            self._passing = "names" if self._takes(task, args, kwargs, self._names) else "args"
        return super().add(task, args, kwargs, options, immutable, feed, group_id)

    def _takes(self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], names: Iterable[str]) -> bool:
        """Whether a task has parameters of these names, and its own arguments leave them free."""
        found = self._named_sender.signature_of(task)
        if found is None:
            return False
        for name in names:
            kind = found.parameters[name].kind if name in found.parameters else None
            if kind not in (inspect.Parameter.POSITIONAL_OR_KEYWORD, inspect.Parameter.KEYWORD_ONLY) or name in kwargs:
                return False
        try:
            found.bind_partial(*args, **kwargs, **dict.fromkeys(names))
        except TypeError:
            return False
        return True

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
        if self._passing == "names":
            return self._sender.prepare_step(task, args, kwargs, call, 0, self._names)
        if self._passing == "args":
            return self._sender.prepare_step(task, args, kwargs, call, len(self._entry))
        return super()._prepare(task, args, kwargs, options, inputs, immutable)

    def _insert(self, job: NewJob, inputs: StepInputs | None, parents: Sequence[str], kind: Any) -> None:
        super()._insert(job, self._passing or inputs, parents, kind)
        self._passing = None

    # parts

    def add_part(self, part: Part) -> None:
        """Add a named step behind its parents."""
        parents = [self._all[one] for one in part.after]
        policies = {self._all[one]: part.policies[one] for one in part.after}
        if part.run is not None:
            found = self._own(part, parents)
        else:
            feed = self._feed(part)
            condition = None
            if part.when is not None:
                condition, _ = self._task(part.when, feed, parents, policies, f"{part.name}.when")
                self._needed.add(condition)
            assert part.signature is not None  # noqa: S101 - what the database runs was dealt with
            found, entries = self._task(part.signature, feed, parents, policies, part.name)
            if condition is not None:
                for entry in entries:
                    self._append_edge(NewEdge(condition, entry, 0, "when"))
        self.ids[part.name] = self._all[part.name] = found

    def _feed(self, part: Part) -> Feed:
        given = [one for one in part.after if one not in self._sleeps]
        self._names = tuple(given)
        self._entry = tuple(self._all[one] for one in given)
        return Feed("value", self._entry) if given else Feed()

    def _task(
        self,
        signature: Signature[Any],
        feed: Feed,
        parents: Sequence[str],
        policies: Mapping[str, EdgePolicy],
        name: str,
    ) -> tuple[str, list[str]]:
        """Add a signature of any kind: the id of the step that it ends with, and those of the steps it begins with."""
        first_step, first_edge = len(self.steps), len(self.edges)
        built = signature._build(self, feed)
        last = self.spread(built.feed).ids
        if len(self.steps) == first_step:  # an empty group
            last = (self._own_step("gather", inputs="list"),)
        self._rename(last[0], name)
        new = [step.job.id for step in self.steps[first_step:]]
        inner = set(new)
        inside = {edge.child_id for edge in self.edges[first_edge:] if edge.parent_id in inner}
        entries = [one for one in new if one not in inside]
        waits: dict[str, set[str]] = {}
        for place in range(first_edge, len(self.edges)):
            edge = self.edges[place]
            self._degrees[edge.child_id] = self._degrees.get(edge.child_id, 0) + 1
            if edge.parent_id in policies:
                self.edges[place] = edge._replace(policy=policies[edge.parent_id])
                waits.setdefault(edge.child_id, set()).add(edge.parent_id)
        for entry in entries:
            for parent in parents:
                if parent not in waits.get(entry, ()):
                    self._append_edge(NewEdge(parent, entry, 0, "order", policies[parent]))
        return last[0], entries

    def _rename(self, job_id: str, name: str, compensates: str | None = None) -> None:
        for place in range(len(self.steps) - 1, -1, -1):
            if self.steps[place].job.id == job_id:
                self.steps[place] = self.steps[place]._replace(name=name, compensates=compensates)
                return

    def _append_edge(self, edge: NewEdge) -> None:
        place = self._degrees.get(edge.child_id, 0)
        self._degrees[edge.child_id] = place + 1
        self.edges.append(edge._replace(position=place))

    def _own(self, part: Part, parents: Sequence[str]) -> str:
        """Add a step that the database runs."""
        assert part.run is not None  # noqa: S101 - the caller looked
        found = self._own_step(part.run, part.name, part.delay, part.eta)
        if part.run == "sleep":
            self._sleeps.add(part.name)
        for place, (parent, one) in enumerate(zip(parents, part.after, strict=True)):
            self.edges.append(NewEdge(parent, found, place, "order", part.policies[one]))
        return found

    def _own_step(
        self,
        run: Literal["gather", "wait", "sleep", "settle"],
        name: str | None = None,
        delay: float | None = None,
        eta: datetime | None = None,
        inputs: StepInputs | None = None,
    ) -> str:
        task = "pgqueue.wait_for" if run == "wait" else f"pgqueue.{run}"
        queue = str(self._sender.conf.task_default_queue)
        job = NewJob(new_job_id(), task, queue, self._usual, delay=delay, eta=eta, root_id=self._root_id)
        self.steps.append(NewStep(job, name, inputs, run))
        self._priorities[job.id] = self._usual
        return job.id

    # compensations

    def add_compensations(self, parts: Mapping[str, Part], added: bool) -> None:
        """Behind the end of everything, in reverse order: what undoes the steps that say so."""
        undone = {name: part for name, part in parts.items() if part.compensate is not None}
        if not undone:
            return
        settle = [] if added else [self._settle()]  # a running workflow has its own, or the database gives it one
        later = _nearest_followers(parts, undone)
        made: dict[str, str] = {}
        for part in reversed(list(_sorted(parts, self._all))):
            if part.compensate is not None:
                if undo_name(part.name) in parts:
                    raise GraphError(f"step {undo_name(part.name)!r}: so is the compensation of {part.name!r} named")
                with _named(part.name):
                    behind = [*settle, self._all[part.name], *(made[one] for one in later[part.name])]
                    made[part.name] = self._compensation(part, part.compensate, behind)

    def _settle(self) -> str:
        before = [step.job.id for step in self.steps]
        settle = self._own_step("settle")
        self.edges.extend(NewEdge(one, settle, place, "order", "ignore") for place, one in enumerate(before))
        return settle

    def _compensation(self, part: Part, signature: Signature[Any], behind: Sequence[str]) -> str:
        target = self._all[part.name]
        self._names, self._entry = (part.name,), (target,)
        knows = not signature.immutable and self._takes(signature.task, signature.args, signature.kwargs, self._names)
        policies: dict[str, EdgePolicy] = dict.fromkeys((target, *behind), "ignore")
        feed = Feed("value", self._entry) if knows else Feed()
        found, _ = self._task(signature, feed, behind, policies, undo_name(part.name))
        self._rename(found, undo_name(part.name), target)
        return found


def undo_name(name: str) -> str:
    """Return what the compensation of a step is named."""
    return f"{name}.undo"


def _nearest_followers(parts: Mapping[str, Part], wanted: Mapping[str, Part]) -> dict[str, list[str]]:
    """Of each wanted part the first wanted ones on each way down from it."""
    children: dict[str, list[str]] = {name: [] for name in parts}
    for part in parts.values():
        for parent in part.after:
            if parent in children:
                children[parent].append(part.name)
    found: dict[str, list[str]] = {}
    for name in wanted:
        seen: dict[str, None] = {}
        waiting = list(children[name])
        passed: set[str] = set()
        while waiting:
            one = waiting.pop()
            if one in passed:
                continue
            passed.add(one)
            if one in wanted:
                seen[one] = None
            else:
                waiting.extend(children[one])
        found[name] = list(seen)
    return found
