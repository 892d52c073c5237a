"""What chain, group and chord have in common, and how their parts are read."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeVar, Unpack

from pgqueue.canvas.builder import Feed, GraphBuilder
from pgqueue.canvas.sender import Application, Sender
from pgqueue.canvas.signatures import Signature, maybe_signature, read_options
from pgqueue.canvas.stamping import StampingVisitor
from pgqueue.canvas.submission import apply, asubmit, submit
from pgqueue.errors import GraphError
from pgqueue.options.options import CallOptions, check_call_options
from pgqueue.results.result import AsyncResult

__all__ = ["LINKS", "Canvas", "after", "given", "listed", "part_of", "read_rest"]

R_co = TypeVar("R_co", covariant=True)

LINKS = ("link", "link_error")
_NOT_INHERITED = frozenset({*LINKS, "task_id", "stamps", "connection", "on_duplicate"})


class Canvas(Signature[R_co]):
    """What chain, group and chord have in common: they have parts, and calling them sends them."""

    __slots__ = ()
    _parts: ClassVar[tuple[str, ...]] = ()  # keys of kwargs that hold signatures

    def _members(self) -> Iterator[Signature[Any]]:
        for key in self._parts:
            found = self.kwargs[key]
            yield from found if isinstance(found, list) else () if found is None else (found,)

    @property
    def app(self) -> Sender | None:
        """What sends it: its own application, or the first one of its parts."""
        return self._app or next((member.app for member in self._members() if member.app is not None), None)

    def _copied(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        return {key: _cloned(value) if key in self._parts else value for key, value in kwargs.items()}

    def _kwargs_to_dict(self) -> dict[str, Any]:
        return {key: _dicts(value) if key in self._parts else value for key, value in self.kwargs.items()}

    def _inherited(self, merged: Mapping[str, Any], *left_out: str) -> dict[str, Any]:
        """Options that a canvas hands on to its first parts."""
        return {name: value for name, value in merged.items() if name not in _NOT_INHERITED and name not in left_out}

    def _fed(self, feed: Feed, builder: GraphBuilder) -> Feed:
        """What comes before, and the arguments that the canvas itself was given."""
        if not self.immutable:
            return feed._replace(args=(*feed.args, *self.args)) if self.args else feed
        if feed.kind == "error":
            return feed
        return builder.spread(feed)._replace(kind="order", args=(), kwargs={})

    def _of_nothing(self) -> Any:
        """The result of a canvas without parts, which needs no application; None for any other."""
        return None

    # sending: the parts, as one workflow

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R_co]:
        """Send it whole; `args` and `kwargs` go to the first task, or to each member of a group at its beginning.

        Options: of a chain for its first task, of a group for each member, of a chord for header and body (countdown
        and eta for the header alone); task_id, link and link_error for what ends last. Errors as in Task.apply_async,
        and GraphError.
        """
        check_call_options(options, f"{self.subtask_type}")
        found: AsyncResult[R_co] = self._of_nothing() or submit(self, args, kwargs, options)
        return found

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R_co]:
        """apply_async() for async code."""
        check_call_options(options, f"{self.subtask_type}")
        found: AsyncResult[R_co] = self._of_nothing() or await asubmit(self, args, kwargs, options)
        return found

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> Any:
        """Run all of it here and now, one call after another; nothing is stored."""
        check_call_options(options, f"{self.subtask_type}")
        return self._of_nothing() or apply(self, args, kwargs, options)

    def __call__(self, *args: Any, **kwargs: Any) -> AsyncResult[R_co]:  # type: ignore[override] # as in Celery
        """Send it; the arguments are those of the first task."""
        return self.apply_async(args, kwargs)

    def _stamp_parts(
        self, parts: Iterable[Signature[Any]], visitor: StampingVisitor | None, append: bool, stamps: Mapping[str, Any]
    ) -> None:
        for part in parts:
            part.stamp(visitor, append, **stamps)


def listed(tasks: Sequence[Any], app: Sender | Application | None) -> list[Signature[Any]]:
    if len(tasks) == 1 and not isinstance(tasks[0], Signature | Mapping) and not hasattr(tasks[0], "s"):
        if not isinstance(tasks[0], Iterable):
            raise GraphError(f"expected signatures such as task.s(1), got {type(tasks[0]).__name__}")
        tasks = list(tasks[0])
    # The type is asked first: headers are long.
    return [task if type(task) is Signature else maybe_signature(task, app) for task in tasks]


def after(found: Any, parent: Any) -> Any:
    """A result, with a parent for the first of its line."""
    first = found
    while first.parent is not None:
        first = first.parent
    first.parent = parent
    return found


def given(
    canvas: Canvas[Any], args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
) -> tuple[Sequence[Any], Mapping[str, Any], dict[str, Any]]:
    merged = {**canvas.options, **options}
    return ((), {}, merged) if canvas.immutable else ((*args, *canvas.args), kwargs, merged)


def _cloned(value: Any) -> Any:
    if isinstance(value, list):
        return [one.clone() for one in value]
    return value.clone() if isinstance(value, Signature) else value


def _dicts(value: Any) -> Any:
    if isinstance(value, list):
        return [one.to_dict() for one in value]
    return value.to_dict() if isinstance(value, Signature) else value


def part_of(values: Mapping[str, Any], key: str, default: Any = ()) -> Any:
    kwargs = values.get("kwargs")
    return kwargs.get(key, default) if isinstance(kwargs, Mapping) else default


def read_rest(canvas: Signature[Any], values: Mapping[str, Any]) -> Signature[Any]:
    canvas.options = read_options(values)
    canvas.args = tuple(values.get("args") or ())
    canvas.immutable = bool(values.get("immutable"))
    return canvas
