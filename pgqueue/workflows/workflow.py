"""Workflow: any graph of named steps, and WorkflowResult, what becomes of one."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Protocol, TypeAlias, cast
from zoneinfo import ZoneInfo

from pgqueue.canvas.signatures import Signature
from pgqueue.errors import ConfigurationError, GraphError, ValidationError
from pgqueue.graph import EdgePolicy, NewWorkflow
from pgqueue.job import new_job_id
from pgqueue.options.values import instant, seconds, short
from pgqueue.store.workflows import StepRow
from pgqueue.tasks.task import Task
from pgqueue.workflows.control import Workflows
from pgqueue.workflows.graph import NamedSender, Part, compile_parts, undo_name
from pgqueue.workflows.result import WorkflowResult

__all__ = ["Step", "Workflow"]

_POLICIES = ("stop", "value", "ignore")


class Owner(NamedSender, Protocol):
    """An application, as far as it sends workflows."""

    def send_workflow(self, workflow: NewWorkflow, connection: Any = None, existing: bool = False) -> None: ...

    async def asend_workflow(self, workflow: NewWorkflow, connection: Any = None, existing: bool = False) -> None: ...


class HasClient(Protocol):
    """An application."""

    @property
    def client(self) -> Owner: ...


@dataclass(frozen=True, slots=True, repr=False)
class Step:
    """A named step of a workflow under construction, to be given as `after`."""

    name: str
    workflow: "Workflow"

    def __repr__(self) -> str:
        return f"<Step {self.name!r} of {self.workflow!r}>"


Parents: TypeAlias = str | Step | Iterable[str | Step]


class Workflow:
    """A graph of named steps. Nothing is written before it is sent, and then all of it is.

    A step is given the results of the steps named in its `after`, in that order, before its own arguments; or by
    keyword, if its task has parameters of all their names, which its own arguments leave free. An immutable signature
    (task.si()) is given none; neither is a result of sleep().

    Args:
        name: shown by `pgqueue workflows`; need not be unique.
        on_failure: what a step that did not succeed means for those behind it, unless they say otherwise: "stop" ends
            them too, "value" gives them the error as a dict {"type", "message", …}, "ignore" gives them None.
        deadline: seconds, timedelta or instant after which what is left of it is cancelled.
        app: the application; default: that of the first step.

    Raises:
        ValidationError: a name, a policy or a time is wrong.
    """

    def __init__(
        self,
        name: str | None = None,
        *,
        on_failure: EdgePolicy = "stop",
        deadline: float | timedelta | datetime | None = None,
        app: HasClient | None = None,
    ) -> None:
        self.name = None if name is None else _name(name, "workflow")
        self._on_failure = _policy(on_failure, "workflow")
        self._deadline = deadline
        self._app = app
        self._parts: dict[str, Part] = {}
        self._of: str | None = None

    @classmethod
    def of(cls, id: str, app: HasClient) -> "Workflow":
        """More steps for the running workflow of this id; `after` may name its steps, and what its steps are named is
        taken."""
        found = cls(app=app)
        found._of = id
        return found

    # steps

    def step(
        self,
        name: str,
        signature: Signature[Any],
        after: Parents = (),
        *,
        when: "Signature[Any] | Task[..., Any] | None" = None,
        on_failure: "EdgePolicy | Mapping[str, EdgePolicy] | None" = None,
        compensate: Signature[Any] | None = None,
    ) -> Step:
        """Add a step.

        Args:
            name: unique in the workflow.
            signature: of a task, or a chain, group or chord; the result of a group is the list of its members'.
            after: the step, or the steps, by name or as step() returned them, that it waits for.
            when: a task that decides whether the step runs: it is given what the step is given by its parents, and if
                its result is false, the step ends as `skipped`. A skipped step counts as done, with the result None;
                a step of whose parents all were skipped is skipped.
            on_failure: policy of the edges from its parents, or of some, by their names.
            compensate: a task's signature that undoes the step: it runs after the workflow has failed or was cancelled
                if the step had succeeded, after the compensations of the steps behind it. It is given the step's
                result if it has a parameter of the step's name.

        Raises:
            GraphError: the name is used twice.
            ValidationError: an argument is wrong.
        """
        if not isinstance(signature, Signature):
            raise ValidationError(f"step {name!r}: expected a signature such as task.s(1), got {short(signature)}")
        if isinstance(when, Task):
            when = when.s()
        for what, one in (("when", when), ("compensate", compensate)):
            if one is not None and (not isinstance(one, Signature) or one.subtask_type is not None):
                raise ValidationError(f"step {name!r}: {what}: expected a task's signature, got {short(one)}")
        return self._add(name, after, on_failure, signature=signature, when=when, compensate=compensate)

    def wait_for(
        self,
        name: str,
        timeout: float | timedelta | datetime | None = None,
        after: Parents = (),
        *,
        on_failure: "EdgePolicy | Mapping[str, EdgePolicy] | None" = None,
    ) -> Step:
        """Add a step that waits for an event, which app.resolve(id, name, value) tells; the value is its result.

        No worker waits. An event that comes before the step is reached is kept; a second one is refused.

        Args:
            name: of the step and of the event.
            timeout: seconds or timedelta after its parents are done, or an instant, when it fails with EventTimeout.
            after, on_failure: as in step().
        """
        delay, eta = self._time(timeout, f"step {name!r}: timeout") if timeout is not None else (None, None)
        return self._add(name, after, on_failure, run="wait", delay=delay, eta=eta)

    def sleep(
        self,
        duration: float | timedelta | datetime,
        name: str | None = None,
        after: Parents = (),
        *,
        on_failure: "EdgePolicy | Mapping[str, EdgePolicy] | None" = None,
    ) -> Step:
        """Add a step that ends a duration after its parents, or at an instant; no worker waits.

        Args:
            duration: seconds, timedelta or instant.
            name: default: sleep, sleep-2, …
            after, on_failure: as in step().
        """
        if name is None:
            number = sum(part.run == "sleep" for part in self._parts.values())
            name = f"sleep-{number + 1}" if number else "sleep"
        delay, eta = self._time(duration, f"step {name!r}")
        return self._add(name, after, on_failure, run="sleep", delay=delay, eta=eta)

    def _add(self, name: str, after: Any, on_failure: Any, **fields: Any) -> Step:
        _name(name, "step")
        if name in self._parts:
            raise GraphError(f"step {name!r}: the name is used twice")
        parents: dict[str, None] = {}
        for one in [after] if isinstance(after, str | Step) else after:
            if isinstance(one, Step) and one.workflow is not self:
                raise GraphError(f"step {name!r}: it waits for {one!r}, of another workflow")
            parent = one.name if isinstance(one, Step) else one
            if not isinstance(parent, str):
                raise ValidationError(f"step {name!r}: after: expected names of steps, got {short(one)}")
            if parent in parents:
                raise GraphError(f"step {name!r}: it waits for {parent!r} twice")
            parents[parent] = None
        self._parts[name] = Part(name, tuple(parents), self._policies(name, parents, on_failure), **fields)
        return Step(name, self)

    def _policies(self, name: str, parents: Iterable[str], given: Any) -> dict[str, EdgePolicy]:
        if not isinstance(given, Mapping):
            return dict.fromkeys(parents, self._on_failure if given is None else _policy(given, f"step {name!r}"))
        found = dict.fromkeys(parents, self._on_failure)
        for parent, policy in given.items():
            if parent not in found:
                raise GraphError(f"step {name!r}: on_failure: it does not wait for {parent!r}")
            found[parent] = _policy(policy, f"step {name!r}")
        return found

    def _time(self, value: Any, what: str) -> tuple[float | None, datetime | None]:
        try:
            if isinstance(value, datetime):
                zone = ZoneInfo(self._client.conf.timezone if value.utcoffset() is None else "UTC")
                return None, instant(value, zone)
            return seconds(value), None
        except ValueError as error:
            raise ValidationError(f"{what}: {error}") from None

    # sending

    def apply_async(self, connection: Any = None) -> WorkflowResult:
        """Send the whole workflow; inside app.using(connection) it exists if and only if the caller commits.

        Args:
            connection: of a transaction to take part in; default as in Task.apply_async.

        Raises:
            GraphError: the steps wait for each other, for one that is none, or for those of a workflow that is over.
            ArgumentsError: arguments do not fit a task, counting those that its parents give.
            ConfigurationError: no application is known, or calls are eager.
            ValidationError, LimitExceeded, DuplicateJob: as in Task.apply_async.
        """
        client, control = self._ready()
        found: dict[str, str] = {}
        if self._of is not None:
            found = control.named(self._of, self._mentioned())
            if self._misses(found):
                found = _by_name(control.steps(self._of))  # for the hint
            self._refuse_taken(found)
        workflow, ids = self._compile(client, found, connection)
        client.send_workflow(workflow, connection, self._of is not None)
        return self._result(workflow, control, {**found, **ids}, client.participant(connection))

    async def aapply_async(self, connection: Any = None) -> WorkflowResult:
        """apply_async() for async code."""
        client, control = self._ready()
        found: dict[str, str] = {}
        if self._of is not None:
            found = await control.anamed(self._of, self._mentioned())
            if self._misses(found):
                found = _by_name(await control.asteps(self._of))
            self._refuse_taken(found)
        workflow, ids = self._compile(client, found, connection)
        await client.asend_workflow(workflow, connection, self._of is not None)
        return self._result(workflow, control, {**found, **ids}, client.participant(connection))

    def delay(self) -> WorkflowResult:
        """Send it."""
        return self.apply_async()

    async def adelay(self) -> WorkflowResult:
        """delay() for async code."""
        return await self.aapply_async()

    @property
    def _client(self) -> Owner:
        if self._app is not None:
            return self._app.client
        for part in self._parts.values():
            if part.signature is not None and part.signature.app is not None:
                return cast(Owner, part.signature.app)
        raise ConfigurationError(f"{self!r} belongs to no application; pass app=…")

    def _ready(self) -> tuple[Owner, Workflows]:
        if not self._parts:
            raise GraphError(f"{self!r} has no step")
        client = self._client
        if client.is_eager():
            raise ConfigurationError(
                "task_always_eager: a Workflow waits and decides in the database; run it with app.worker() instead"
            )
        return client, Workflows(client)

    def _new_names(self) -> list[str]:
        undone = [undo_name(part.name) for part in self._parts.values() if part.compensate is not None]
        return [*self._parts, *undone]

    def _mentioned(self) -> set[str]:
        return {*self._new_names(), *(parent for part in self._parts.values() for parent in part.after)}

    def _misses(self, existing: Mapping[str, str]) -> bool:
        return any(
            one not in self._parts and one not in existing for part in self._parts.values() for one in part.after
        )

    def _refuse_taken(self, existing: Mapping[str, str]) -> None:
        for name in self._new_names():
            if name in existing:
                raise GraphError(f"step {name!r}: the name is used twice, workflow {self._of} has a step of this name")

    def _compile(
        self, client: Owner, existing: Mapping[str, str], connection: Any
    ) -> tuple[NewWorkflow, dict[str, str]]:
        deadline = None
        if self._deadline is not None:
            delay, eta = self._time(self._deadline, "deadline")
            deadline = delay if eta is None else max((eta - datetime.now(UTC)).total_seconds(), 0.0)
        workflow_id = self._of or new_job_id()
        return compile_parts(
            client, workflow_id, self.name, self._parts, existing, connection, deadline, self._of is not None
        )

    def _result(
        self, workflow: NewWorkflow, control: Workflows, ids: Mapping[str, str], participant: Any
    ) -> WorkflowResult:
        return WorkflowResult(workflow.id, control, ids, participant)

    def __repr__(self) -> str:
        return f"<Workflow {self.name or self._of or ''}: {', '.join(self._parts)}>"


def _name(value: Any, what: str) -> str:
    if not isinstance(value, str) or not 0 < len(value) <= 255 or not value.isprintable():
        raise ValidationError(f"{what}: expected a name of 1 to 255 printable characters, got {short(value)}")
    return value


def _by_name(steps: Iterable[StepRow]) -> dict[str, str]:
    return {step.name: step.job_id for step in steps if step.name is not None}


def _policy(value: Any, what: str) -> EdgePolicy:
    if value not in _POLICIES:
        raise ValidationError(f"{what}: on_failure: expected 'stop', 'value' or 'ignore', got {short(value)}")
    return cast(EdgePolicy, value)
