"""xmap, xstarmap and chunks: one job that calls its task for many elements."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, TypeVar, Unpack

from pgqueue.canvas.builder import Built, Feed, GraphBuilder
from pgqueue.canvas.chains import group
from pgqueue.canvas.eager_steps import EagerSteps
from pgqueue.canvas.parts import Canvas, part_of, read_rest
from pgqueue.canvas.sender import Application, Sender
from pgqueue.canvas.signatures import Signature, maybe_signature
from pgqueue.codec import decode_args, encode_call
from pgqueue.errors import ValidationError
from pgqueue.options.options import CallOptions, check_call_options

__all__ = ["chunks", "xmap", "xstarmap"]

R_co = TypeVar("R_co", covariant=True)


class _Repeated(Signature[R_co]):
    """Calls of one task, one after another, in one job of that task."""

    __slots__ = ()
    _over: ClassVar[str]

    def __init__(
        self, task: Any, it: Iterable[Any], app: Sender | Application | None = None, **options: Unpack[CallOptions]
    ) -> None:
        check_call_options(options, f"{self.subtask_type}")
        inner = maybe_signature(task, app)
        kwargs = {"task": inner, "it": list(it)}
        super().__init__(inner.task, (), kwargs, options, True, app or inner.app)

    def _merge(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: CallOptions
    ) -> tuple[Sequence[Any], Mapping[str, Any], CallOptions]:
        """The call of the task itself; what the worker does with it is an option."""
        merged: Any = {**self.kwargs["task"].options, **self.options, **options, "over": self._over}
        return (self.kwargs["it"],), {}, merged

    def clone(
        self, args: Sequence[Any] | None = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> Any:
        """Return a copy with more options; arguments are ignored."""
        check_call_options(options, f"{self.subtask_type}")
        merged: Any = {**self.options, **options}
        return self.replace(options=merged)

    partial = clone

    def _build(
        self, builder: GraphBuilder, feed: Feed, options: Mapping[str, Any] | None = None, group_id: str | None = None
    ) -> Built:
        call = self._merge((), {}, options or {})  # type: ignore[arg-type] # checked by the call
        return builder.add(self.task, *call, True, feed, group_id)

    def _kwargs_to_dict(self) -> dict[str, Any]:
        return {"task": self.kwargs["task"].to_dict(), "it": _plain_list(self.kwargs["it"])}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], app: Sender | Application | None = None) -> "Signature[Any]":
        """Return what to_dict() described."""
        return read_rest(cls(part_of(values, "task"), _read_list(part_of(values, "it")), app), values)

    def __repr__(self) -> str:
        stars = "*" if self._over == "starmap" else ""
        return f"[{self.task}({stars}x) for x in {_short(self.kwargs['it'])}]"


@Signature.register_type()
class xmap(_Repeated[R_co]):  # noqa: N801 - Celery's name
    """task(x) for each element, in one job, whose result is the list of what the calls return.

    Args:
        task: a signature without arguments; its options are the job's.
        it: the elements.
        app: the application, if the signature has none.
        options: of apply_async.
    """

    __slots__ = ()
    _over = "map"


@Signature.register_type()
class xstarmap(_Repeated[R_co]):  # noqa: N801 - Celery's name
    """task(*x) for each element, in one job; see xmap."""

    __slots__ = ()
    _over = "starmap"


@Signature.register_type()
class chunks(Canvas[R_co]):  # noqa: N801 - Celery's name
    """task(*x) for each element, `n` of them in each job: a group of xstarmaps.

    Args:
        task: a signature without arguments; its options are the jobs'.
        it: the elements.
        n: how many calls a job makes.
        app: the application, if the signature has none.
        options: of each job; task_id is the id of the group.
    """

    __slots__ = ()
    _parts = ("task",)

    def __init__(
        self,
        task: Any,
        it: Iterable[Any],
        n: int,
        app: Sender | Application | None = None,
        **options: Unpack[CallOptions],
    ) -> None:
        check_call_options(options, "chunks")
        if not isinstance(n, int) or isinstance(n, bool) or n < 1:
            raise ValidationError(f"chunks: n: expected how many calls a job makes, at least 1, got {n!r}")
        kwargs = {"task": maybe_signature(task, app), "it": list(it), "n": n}
        super().__init__("pgqueue.chunks", (), kwargs, options, True, app)

    def group(self) -> "group[list[R_co]]":
        """Return the group that it stands for."""
        task, it, n = (self.kwargs[key] for key in ("task", "it", "n"))
        return group((xstarmap(task, part, self._app) for part in _cut(it, n)), app=self._app).replace(
            options=self.options
        )

    def _build(
        self, builder: GraphBuilder, feed: Feed, options: Mapping[str, Any] | None = None, group_id: str | None = None
    ) -> Built:
        return self.group()._build(builder, feed, options, group_id)

    def _eager(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions) -> EagerSteps:
        return self.group()._eager((), {}, options)

    def freeze(self, _id: str | None = None) -> Any:
        """Not possible: the jobs are cut when they are sent; freeze group() instead."""
        raise ValidationError("chunks: freeze its group(), and send that")

    def _kwargs_to_dict(self) -> dict[str, Any]:
        return {**self.kwargs, "task": self.kwargs["task"].to_dict(), "it": _plain_list(self.kwargs["it"])}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], app: Sender | Application | None = None) -> "Signature[Any]":
        """Return what to_dict() described."""
        task, it, n = (part_of(values, key) for key in ("task", "it", "n"))
        return read_rest(chunks(task, _read_list(it), n, app=app), values)

    def __repr__(self) -> str:
        return f"{self.kwargs['task'].task}.chunks({_short(self.kwargs['it'])}, {self.kwargs['n']})"


def _cut(it: Sequence[Any], n: int) -> Iterator[list[Any]]:
    whole = iter(it)
    while part := list(islice(whole, n)):
        yield part


def _plain_list(it: Sequence[Any]) -> Any:
    return json.loads(encode_call(it, {})[0] or "[]")


def _read_list(it: Any) -> list[Any]:
    return decode_args(json.dumps(it))


def _short(it: Sequence[Any]) -> str:
    text = repr(it)
    return text if len(text) <= 100 else f"{text[:97]}..."
