"""chain, group and chord: signatures made of signatures, sent as one workflow."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, TypeVar, Unpack, cast

from pgqueue.canvas.builder import Built, Feed, GraphBuilder
from pgqueue.canvas.eager import run_chain
from pgqueue.canvas.eager_steps import EagerSteps
from pgqueue.canvas.groups import chord, group
from pgqueue.canvas.links import callbacks
from pgqueue.canvas.parts import LINKS, Canvas, after, given, listed, part_of, read_rest
from pgqueue.canvas.sender import Application, Sender
from pgqueue.canvas.signatures import Signature, maybe_signature
from pgqueue.canvas.stamping import StampingVisitor, merged_stamps
from pgqueue.errors import GraphError
from pgqueue.options.options import CallOptions, check_call_options

__all__ = ["chain", "chord", "group"]

R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")


@Signature.register_type("chain")
class chain(Canvas[R_co]):  # noqa: N801 - Celery's name
    """Tasks one after another: each is given the result of the one before it.

    Args:
        tasks: signatures, or one iterable of them. Chains among them are spliced in; a group in front of a task makes
            a chord; a group of one is its member; empty groups are left out.
        app: the application, if no task has one.
        options: of the first task; task_id, link and link_error as in apply_async.
    """

    __slots__ = ()
    _parts = ("tasks",)

    def __init__(
        self: "chain[Any]", *tasks: Any, app: Sender | Application | None = None, **options: Unpack[CallOptions]
    ) -> None:
        check_call_options(options, "chain")
        steps: list[Signature[Any]] = []
        empty: Signature[Any] | None = None
        for task in listed(tasks, app):
            if isinstance(task, group) and not task.tasks:
                empty = empty or task
            else:
                _append_step(steps, task)
        super().__init__("pgqueue.chain", (), {"tasks": steps or ([empty] if empty else [])}, options, False, app)

    @property
    def tasks(self) -> list[Signature[Any]]:
        """Its steps."""
        return cast(list[Signature[Any]], self.kwargs["tasks"])

    def unchain_tasks(self) -> list[Signature[Any]]:
        """Return copies of its tasks: with its error callbacks on each, with its callbacks on the last."""
        return self._ready({**self.options}, [task.clone() for task in self.tasks])

    def _ready(self, merged: Mapping[str, Any], tasks: list[Signature[Any]]) -> list[Signature[Any]]:
        if tasks:
            for callback in callbacks(merged, "link"):
                tasks[-1].link(maybe_signature(callback, self.app))
            for errback in callbacks(merged, "link_error"):
                one = maybe_signature(errback, self.app)
                for task in tasks:
                    task.link_error(one)
        return tasks

    def _steps(self, merged: Mapping[str, Any]) -> list[Signature[Any]]:
        if any(merged.get(name) for name in LINKS):
            return self._ready(merged, [task.clone() for task in self.tasks])
        return self.tasks

    def _of_nothing(self) -> Any:
        if not self.tasks:
            raise GraphError("chain: it has no tasks")

    def _shares(self, merged: Mapping[str, Any]) -> Iterator[tuple[Signature[Any], dict[str, Any], bool]]:
        """Its steps, the options that each has of the chain, and whether it is the last."""
        self._of_nothing()
        steps = self._steps(merged)
        for place, step in enumerate(steps):
            last = place == len(steps) - 1
            share = self._inherited(merged) if place == 0 else {}
            if last and merged.get("task_id"):
                share["task_id"] = merged["task_id"]
            yield step, share, last

    def _build(
        self, builder: GraphBuilder, feed: Feed, options: Mapping[str, Any] | None = None, group_id: str | None = None
    ) -> Built:
        feed = self._fed(feed, builder)
        built: Built | None = None
        for step, share, last in self._shares({**self.options, **(options or {})}):
            built = step._build(builder, built.feed if built else feed, share, group_id if last else None)
        assert built is not None  # noqa: S101 - a chain without tasks was refused
        return built

    def _eager(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions) -> EagerSteps:
        args, kwargs, merged = given(self, args, kwargs, options)
        return run_chain(((step, share) for step, share, _ in self._shares(merged)), args, kwargs)

    def freeze(self, _id: str | None = None) -> Any:
        """Give each task its id now; returns the result of the last."""
        found = None
        for place, task in enumerate(self.tasks):
            last = place == len(self.tasks) - 1
            task_id = self.options.get("task_id") or _id
            found = after(task.freeze(task_id if last else None), found)
        if found is None:
            raise GraphError("chain: it has no tasks")
        self.options["task_id"] = found.id
        return found

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Label its tasks; see Signature.stamp()."""
        chosen = visitor.on_chain_start(self, **headers) if visitor is not None else None
        self._take_stamps(chosen, append_stamps, headers)
        stamps = merged_stamps(headers, chosen, append_stamps)
        self.stamp_links(visitor, append_stamps, **stamps)
        self._stamp_parts(self.tasks, visitor, append_stamps, stamps)
        if visitor is not None:
            visitor.on_chain_end(self, **stamps)
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], app: Sender | Application | None = None) -> "Signature[Any]":
        """Return the chain that to_dict() described."""
        return read_rest(chain(part_of(values, "tasks"), app=app), values)

    def __repr__(self) -> str:
        return " | ".join(map(repr, self.tasks)) or "<chain: empty>"


def _append_step(steps: list[Signature[Any]], task: Signature[Any]) -> None:
    if type(task) is group:
        if not task.tasks:
            return
        if len(task.tasks) == 1:
            _append_step(steps, task.tasks[0].clone(task.args, None, **task.options) if task.options else task.tasks[0])
            return
        steps.append(task)
    elif isinstance(task, chain):
        inner = task._steps(task.options)
        share = task._inherited(task.options)
        for place, one in enumerate(inner):
            if place == 0 and (share or task.args or task.immutable):
                one = one.clone(task.args, None, **share)
                if task.immutable:
                    one.set_immutable(True)
            _append_step(steps, one)
    elif steps and type(steps[-1]) is group:
        steps[-1] = chord(steps[-1], task)
    else:
        steps.append(task)
