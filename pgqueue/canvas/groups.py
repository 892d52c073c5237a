"""group and chord: signatures side by side, and what follows when all have ended."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeVar, Unpack, cast

from pgqueue.canvas.builder import Built, Feed, GraphBuilder
from pgqueue.canvas.eager import run_chord, run_group
from pgqueue.canvas.eager_steps import EagerSteps
from pgqueue.canvas.links import callbacks
from pgqueue.canvas.parts import LINKS, Canvas, after, given, listed, part_of, read_rest
from pgqueue.canvas.sender import Application, Sender
from pgqueue.canvas.signatures import Signature, maybe_signature
from pgqueue.canvas.stamping import StampingVisitor, merged_stamps
from pgqueue.errors import ArgumentsError, GraphError
from pgqueue.graph import check_size
from pgqueue.job import new_job_id
from pgqueue.options.options import CallOptions, check_call_options
from pgqueue.results.groups import GroupResult

__all__ = ["chord", "group"]

R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")

if TYPE_CHECKING:
    from pgqueue.canvas.chains import chain


@Signature.register_type("group")
class group(Canvas[R_co]):  # noqa: N801 - Celery's name
    """Tasks side by side; the result is a GroupResult, whose value is the list of theirs, in order.

    Args:
        tasks: signatures, or one iterable of them. Groups among them are unrolled.
        app: the application, if no task has one.
        options: of each task; task_id is the id of the group.
    """

    __slots__ = ()
    _parts = ("tasks",)

    def __init__(
        self: "group[S]",
        *tasks: Signature[S] | Iterable[Signature[S]],
        app: Sender | Application | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        check_call_options(options, "group")
        if len(tasks) == 1 and type(tasks[0]) is group:
            tasks = tuple(tasks[0].tasks)
        super().__init__("pgqueue.group", (), {"tasks": listed(tasks, app)}, options, False, app)

    @property
    def tasks(self) -> list[Signature[Any]]:
        """Its members."""
        return cast(list[Signature[Any]], self.kwargs["tasks"])

    def __len__(self) -> int:
        return len(self.tasks)

    def __bool__(self) -> bool:
        return True

    def __or__(self, other: Signature[S]) -> "chord[S]":  # type: ignore[override] # a group in front makes a chord
        if not isinstance(other, Signature):
            return NotImplemented
        if isinstance(other, group) and not other.tasks:
            return cast("chord[S]", self)
        return chord(self, other, app=self._app)

    if TYPE_CHECKING:  # what the value of each member is, the group's result has a list of

        def apply_async(  # type: ignore[override]
            self,
            args: Sequence[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            **options: Unpack[CallOptions],
        ) -> GroupResult[R_co]: ...

        async def aapply_async(  # type: ignore[override]
            self,
            args: Sequence[Any] | None = None,
            kwargs: Mapping[str, Any] | None = None,
            **options: Unpack[CallOptions],
        ) -> GroupResult[R_co]: ...

        def delay(self, *args: Any, **kwargs: Any) -> GroupResult[R_co]: ...  # type: ignore[override]

        async def adelay(self, *args: Any, **kwargs: Any) -> GroupResult[R_co]: ...  # type: ignore[override]

        def __call__(self, *args: Any, **kwargs: Any) -> GroupResult[R_co]: ...  # type: ignore[override]

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> "group[R_co]":
        """Give the members growing countdowns, in seconds: start, start + step, … and `stop` from there on."""
        countdown = start
        for task in self.tasks:
            task.set(countdown=countdown if stop is None else min(countdown, stop))
            countdown += step
        return self

    def _of_nothing(self) -> Any:
        return None if self.tasks else GroupResult(str(self.options.get("task_id") or new_job_id()))

    def set_immutable(self, immutable: bool) -> None:
        """Say of each member whether arguments given at the call are ignored."""
        for task in self.tasks:
            task.set_immutable(immutable)

    def link(self, callback: Any) -> Any:
        """Link a callback to the first member, without its result, as Celery does; a chord is what waits for all."""
        if not self.tasks:
            raise GraphError("group: an empty one has no member to link to")
        return self.tasks[0].link(callback.clone().set(immutable=True))

    def link_error(self, errback: Any) -> Any:
        """Link a copy of an error callback to each member: it is called once for each that fails."""
        one = maybe_signature(errback, self.app)
        return tuple(task.link_error(one.clone()) for task in self.tasks)

    def _flat(self, merged: Mapping[str, Any]) -> Iterator[tuple[Signature[Any], dict[str, Any]]]:
        """Its members with the options that they have of the group, those of groups among them too."""
        if any(merged.get(name) for name in LINKS):
            raise ArgumentsError("group: no callback can be given at the call; link it to the members, or use a chord")
        share = self._inherited(merged)
        for task in self.tasks:
            if task.subtask_type == "chain" and not task.options and len(task.kwargs["tasks"]) == 1:
                (task,) = task.kwargs["tasks"]  # a chain of one is what it chains
            if type(task) is group:
                inner = task.clone(self.args) if self.args else task
                yield from inner._flat({**inner.options, **share})
            elif task.subtask_type != "chain" or task.kwargs["tasks"]:
                yield (task.clone(self.args) if self.args else task), share

    def _build(
        self, builder: GraphBuilder, feed: Feed, options: Mapping[str, Any] | None = None, group_id: str | None = None
    ) -> Built:
        merged = {**self.options, **(options or {})}
        own_id = str(merged.get("task_id") or new_job_id())
        members = list(self._flat(merged))
        if not members:
            empty: GroupResult[Any] = GroupResult(own_id, (), feed.result)
            return Built(_nothing(builder, feed, empty), empty)
        check_size(len(members))
        builder.begin_group(own_id)
        each = (builder.spread(feed) if len(members) > 1 else feed)._replace(result=None)
        common = members[0][1]
        if not any(share != common or task.options or type(task) is not Signature for task, share in members):
            results = builder.add_members([task for task, _ in members], each, common, own_id)
            if results is not None:
                found: GroupResult[Any] = GroupResult(own_id, results, feed.result)
                builder.end_group(found)
                return Built(Feed("list", tuple(one.job_id for one in results), result=found), found)
        built = [builder.add_member(task, each, share, own_id) for task, share in members]
        found = GroupResult(own_id, [one.result for one in built], feed.result)
        builder.end_group(found)
        if len(built) == 1 and isinstance(built[0].result, GroupResult):
            found = built[0].result
        return Built(Feed("list", members=tuple(one.feed for one in built), result=found), found)

    def _eager(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions) -> EagerSteps:
        merged = {**self.options, **options}
        return run_group(str(merged.get("task_id") or new_job_id()), self._flat(merged), args, kwargs)

    def freeze(self, _id: str | None = None) -> Any:
        """Give the group and each member its id now; returns the GroupResult."""
        own_id = str(self.options.get("task_id") or _id or new_job_id())
        self.options["task_id"] = own_id
        return GroupResult(own_id, [task.freeze() for task, _ in self._flat({})])

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Label its members; see Signature.stamp()."""
        chosen = visitor.on_group_start(self, **headers) if visitor is not None else None
        self._take_stamps(chosen, append_stamps, headers)
        stamps = merged_stamps(headers, chosen, append_stamps)
        self._stamp_parts(self.tasks, visitor, append_stamps, stamps)
        if visitor is not None:
            visitor.on_group_end(self, **stamps)
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], app: Sender | Application | None = None) -> "Signature[Any]":
        """Return the group that to_dict() described."""
        return read_rest(group(part_of(values, "tasks"), app=app), values)

    def __repr__(self) -> str:
        return f"group({', '.join(map(repr, self.tasks))})"


@Signature.register_type("chord")
class chord(Canvas[R_co]):  # noqa: N801 - Celery's name
    """A group, and a task that is given the list of its results.

    Args:
        header: a group, or an iterable of signatures.
        body: a signature of any kind; it may be given later: chord(header)(body).
        app: the application, if no task has one.
        options: as in apply_async.
    """

    __slots__ = ()
    _parts = ("header", "body")

    def __init__(
        self: "chord[S]",
        header: Any,
        body: Signature[S] | None = None,
        app: Sender | Application | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        check_call_options(options, "chord")
        given_header = maybe_signature(header, app) if isinstance(header, Mapping) else header
        head: group[Any] = given_header if isinstance(given_header, group) else group(given_header, app=app)
        super().__init__("pgqueue.chord", (), {"header": head, "body": maybe_signature(body, app)}, options, False, app)

    @property
    def header(self) -> group[Any]:
        """The group."""
        return cast(group[Any], self.kwargs["header"])

    @property
    def tasks(self) -> list[Signature[Any]]:
        """The members of the header."""
        return self.header.tasks

    @property
    def body(self) -> Any:
        """What follows, or None."""
        return self.kwargs["body"]

    def __call__(self, body: Any = None, **options: Any) -> Any:
        """Send it, with this body if it has none yet."""
        whole = self if body is None else self._with_body(maybe_signature(body, self.app))
        return whole.apply_async(**options)

    def __or__(self, other: Signature[S]) -> "chain[S]":
        """The body becomes a chain of itself and the other; a chain or a chord behind it stays beside it."""
        if not isinstance(other, Signature):
            return NotImplemented
        if other.subtask_type in ("chain", "chord") or self.body is None:
            return super().__or__(other)
        return cast("chain[S]", self._with_body(self.body | other))

    def _with_body(self, body: Signature[Any]) -> "chord[Any]":
        return chord(self.header, body, app=self._app).replace(options=cast(CallOptions, dict(self.options)))

    def __len__(self) -> int:
        return len(self.header)

    def __bool__(self) -> bool:
        return True

    def set_immutable(self, immutable: bool) -> None:
        """Say of each member of the header whether arguments given at the call are ignored."""
        self.header.set_immutable(immutable)

    def link(self, callback: Any) -> Any:
        """Link a callback to the body."""
        self._needed_body().link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Link an error callback to the body, which fails when a member of the header does.

        With task_allow_error_cb_on_chord_header a copy is linked to each member too: then it is called for each member
        that fails, and for the body.
        """
        one = maybe_signature(errback, self.app)
        app = self.app
        if app is not None and app.conf.task_allow_error_cb_on_chord_header:
            for task in self.tasks:
                task.link_error(one.clone())
        self._needed_body().link_error(one)
        return one

    def _needed_body(self) -> Signature[Any]:
        if self.body is None:
            raise GraphError("chord: it has no body; write chord(header, body), or chord(header)(body)")
        return cast(Signature[Any], self.body)

    def _halves(self, options: Mapping[str, Any]) -> tuple[dict[str, Any], Signature[Any], dict[str, Any]]:
        """Options of the header, the body with the callbacks given to the chord, and the body's options."""
        merged = {**self.options, **options}
        body = self._needed_body()
        if any(merged.get(name) for name in LINKS):
            body = body.clone()
            for callback in callbacks(merged, "link"):
                body.link(maybe_signature(callback, self.app))
            for errback in callbacks(merged, "link_error"):
                body.link_error(maybe_signature(errback, self.app))
        last = self._inherited(merged, "countdown", "eta")
        if merged.get("task_id"):
            last["task_id"] = merged["task_id"]
        return self._inherited(merged), body, last

    def _build(
        self, builder: GraphBuilder, feed: Feed, options: Mapping[str, Any] | None = None, group_id: str | None = None
    ) -> Built:
        first, body, last = self._halves(options or {})
        header = self.header._build(builder, self._fed(feed, builder), first)
        return body._build(builder, header.feed, last, group_id)

    def _eager(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions) -> EagerSteps:
        args, kwargs, merged = given(self, args, kwargs, options)
        first, body, last = self._halves(merged)
        return run_chord(self._sender, self.header, body, args, kwargs, first, last)

    def freeze(self, _id: str | None = None) -> Any:
        """Give each task its id now; returns the result of the body."""
        header = self.header.freeze()
        found = after(self._needed_body().freeze(self.options.get("task_id") or _id), header)
        self.options["task_id"] = found.id
        return found

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Label the members of the header and the body; see Signature.stamp()."""
        chosen = visitor.on_chord_header_start(self, **headers) if visitor is not None else None
        self._take_stamps(chosen, append_stamps, headers)
        stamps = merged_stamps(headers, chosen, append_stamps)
        self._stamp_parts(self.tasks, visitor, append_stamps, stamps)
        if visitor is not None:
            visitor.on_chord_header_end(self, **stamps)
        if self.body is not None:
            chosen = visitor.on_chord_body(self, **stamps) if visitor is not None else None
            self.body.stamp(visitor, append_stamps, **merged_stamps(stamps, chosen, append_stamps))
        return self

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], app: Sender | Application | None = None) -> "Signature[Any]":
        """Return the chord that to_dict() described."""
        return read_rest(chord(part_of(values, "header"), part_of(values, "body", None), app=app), values)

    def __repr__(self) -> str:
        return f"chord([{', '.join(map(repr, self.tasks))}], {self.body!r})"


def _nothing(builder: GraphBuilder, feed: Feed, result: GroupResult[Any]) -> Feed:
    """Behind an empty group: the next one is given an empty list."""
    before = builder.spread(feed)
    return Feed("order" if before.kind != "error" else "error", before.ids, args=([],), result=result)
