"""A call put aside: task name, arguments and options, to be completed, sent, stored as JSON and sent later."""

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, ClassVar, Generic, TypeVar, Unpack, cast

from pgqueue.canvas.builder import Built, Feed, GraphBuilder
from pgqueue.canvas.eager_steps import EagerSteps, run_task
from pgqueue.canvas.keyed import Keyed
from pgqueue.canvas.links import callbacks
from pgqueue.canvas.sender import Application, Sender, sender_of
from pgqueue.canvas.stamping import Stampable, read_stamps
from pgqueue.codec import decode_args, decode_kwargs, encode_call
from pgqueue.eager import EagerResult
from pgqueue.errors import ConfigurationError, ValidationError
from pgqueue.job import new_job_id
from pgqueue.options.options import CallOptions, check_call_options
from pgqueue.results.result import AsyncResult

if TYPE_CHECKING:
    from pgqueue.canvas.chains import chain

__all__ = ["Sender", "Signature", "maybe_signature", "signature"]

R_co = TypeVar("R_co", covariant=True)
S = TypeVar("S")
AnySignature = TypeVar("AnySignature", bound="Signature[Any]")


@dataclass(slots=True, init=False)
class Signature(Stampable, Keyed, Generic[R_co]):
    """A call of a task that was not made yet. As in Celery, link(), set() and freeze() change the signature itself;
    clone() gives a copy; sig["options"] is sig.options.

    Attributes:
        task: name of the task.
        args, kwargs: its arguments; those given at the call come before `args` and over `kwargs`, as in Celery.
        options: of apply_async.
        immutable: arguments given at the call are ignored (si()).
    """

    TYPES: ClassVar[dict[str, type["Signature[Any]"]]] = {}
    subtask_type: ClassVar[str | None] = None

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: CallOptions
    immutable: bool
    _app: Sender | None = field(repr=False, compare=False)

    def __init__(
        self,
        task: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: CallOptions | None = None,
        immutable: bool = False,
        app: Sender | Application | None = None,
    ) -> None:
        self.task = task
        self.args = args
        self.kwargs = kwargs or {}
        self.options = options or {}
        self.immutable = immutable
        self._app = sender_of(app)

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[type[AnySignature]], type[AnySignature]]:
        """Class decorator: the dicts of this subtask_type are read by the class's from_dict()."""

        def register(kind: type[AnySignature]) -> type[AnySignature]:
            kind.subtask_type = name or kind.__name__
            cls.TYPES[kind.subtask_type] = kind
            return kind

        return register

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task

    @property
    def app(self) -> Sender | None:
        """What sends it."""
        return self._app

    @property
    def id(self) -> str | None:
        """The task_id that set() or freeze() gave it."""
        return self.options.get("task_id")

    # changing

    def set(self: AnySignature, immutable: bool | None = None, **options: Unpack[CallOptions]) -> AnySignature:
        """Add options; the names are those of apply_async. Returns the signature itself."""
        check_call_options(options, f"signature of {self.task!r}")
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        """Say whether arguments given at the call are ignored."""
        self.immutable = immutable

    def link(self, callback: AnySignature) -> AnySignature:
        """Add a callback: it is called with the result when the task succeeds. Returns the callback."""
        return self._append("link", callback)

    def link_error(self, errback: AnySignature) -> Any:
        """Add an error callback, called once if the task fails: as f(request, exc, traceback), or as f(task_id) if it
        does not take as many arguments beside its own. Returns the callback."""
        return self._append("link_error", errback)

    def on_error(self: AnySignature, errback: "Signature[Any]") -> AnySignature:
        """link_error() that returns the signature itself."""
        self.link_error(errback)
        return self

    def _append(self, option: str, callback: AnySignature) -> AnySignature:
        options = cast(dict[str, Any], self.options)
        found = callbacks(options, option)
        if callback not in found:
            options[option] = [*found, callback]
        return callback

    def freeze(self, _id: str | None = None) -> Any:
        """Give it its id now, and return the result that it will have. Send it once only."""
        self.options["task_id"] = self.options.get("task_id") or _id or new_job_id()
        return AsyncResult(str(self.options["task_id"]), self._sender.results)

    # copies

    def clone(
        self: AnySignature,
        args: Sequence[Any] | None = (),
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AnySignature:
        """Return a copy with more arguments and options, merged as at the call."""
        check_call_options(options, f"signature of {self.task!r}")
        merged = self._merge(args, kwargs, options)
        return self._copy(tuple(merged[0]), merged[1], merged[2])

    partial = clone

    def _copy(
        self: AnySignature, args: tuple[Any, ...], kwargs: Mapping[str, Any], options: CallOptions
    ) -> AnySignature:
        # Not by the constructor, which the canvases have their own of.
        copy = object.__new__(type(self))
        Signature.__init__(
            copy, self.task, args, self._copied(kwargs), cast(CallOptions, dict(options)), self.immutable, self._app
        )
        return copy

    def _copied(self, kwargs: Mapping[str, Any]) -> Mapping[str, Any]:
        return dict(kwargs)

    def replace(
        self: AnySignature,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        options: CallOptions | None = None,
    ) -> AnySignature:
        """Return a copy with other arguments or options instead of its own; None keeps them."""
        return self._copy(
            self.args if args is None else tuple(args),
            self.kwargs if kwargs is None else kwargs,
            self.options if options is None else options,
        )

    def _merge(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: CallOptions
    ) -> tuple[Sequence[Any], Mapping[str, Any], CallOptions]:
        merged = cast(CallOptions, {**self.options, **options}) if options else self.options
        if self.immutable or not (args or kwargs):
            return self.args, self.kwargs, merged
        return (*(args or ()), *self.args), {**self.kwargs, **(kwargs or {})}, merged

    # composing

    def __or__(self, other: "Signature[S]") -> "chain[S]":
        if not isinstance(other, Signature):
            return NotImplemented
        kind: Any = self.TYPES["chain"]
        return cast("chain[S]", kind(self, other))

    def __invert__(self) -> R_co:
        """Send it and wait for what it returns: ~sig."""
        return self.apply_async().get()

    def flatten_links(self) -> "list[Signature[Any]]":
        """Return the signature and, recursively, the callbacks linked to it."""
        found: list[Signature[Any]] = [self]
        for callback in self._linked("link"):
            found.extend(callback.flatten_links())
        return found

    def _linked(self, option: str) -> list[Any]:
        return [maybe_signature(one, self._app) for one in callbacks(self.options, option)]

    def _build(
        self, builder: GraphBuilder, feed: Feed, options: Mapping[str, Any] | None = None, group_id: str | None = None
    ) -> Built:
        """Add its steps to a workflow: after `feed`, with options over its own, as the last of a group's member."""
        merged: Mapping[str, Any] = {**self.options, **options} if options else self.options
        return builder.add(self.task, self.args, self.kwargs, merged, self.immutable, feed, group_id)

    def _eager(self, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions) -> EagerSteps:
        """Run inline: yields the calls, is sent their outcomes, returns its own."""
        sender = self._sender
        call = self._merge(args, kwargs, options)
        return run_task(sender, lambda linked: maybe_signature(linked, sender), self.task, *call)

    # sending

    @property
    def _sender(self) -> Sender:
        if self.app is None:
            raise ConfigurationError(f"the signature of {self.task!r} belongs to no application; pass app=…")
        return self.app

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R_co]:
        """Enqueue the call, completed by these arguments."""
        return self.apply_async(args, kwargs)

    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[R_co]:
        """delay() for async code."""
        return await self.aapply_async(args, kwargs)

    def apply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R_co]:
        """Enqueue the call; parameters and errors as in Task.apply_async."""
        return self._sender.send(self.task, *self._merge(args, kwargs, options))

    async def aapply_async(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> AsyncResult[R_co]:
        """apply_async() for async code."""
        return await self._sender.asend(self.task, *self._merge(args, kwargs, options))

    def apply(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        **options: Unpack[CallOptions],
    ) -> EagerResult[R_co]:
        """Run the call inline; see Task.apply."""
        return self._sender.apply(self.task, *self._merge(args, kwargs, options))

    def __call__(self, *args: Any, **kwargs: Any) -> R_co:
        """Run the call inline and return what the task returns."""
        value: R_co = self._sender.apply(self.task, *self._merge(args, kwargs, {})).get()
        return value

    # as text

    def to_dict(self) -> dict[str, Any]:
        """Return the signature as a dict that json.dumps takes; from_dict() gives it back.

        Raises:
            EncodingError, LimitExceeded: an argument has no JSON form.
            ValidationError: it holds a connection.
        """
        if self.options.get("connection") is not None:
            raise ValidationError("signature: a connection cannot be stored; pass it at the call")
        args, _ = encode_call(self.args, {})
        return {
            "task": self.task,
            "args": json.loads(args or "[]"),
            "kwargs": self._kwargs_to_dict(),
            "options": {name: _plain(value) for name, value in self.options.items()},
            "subtask_type": self.subtask_type,
            "immutable": self.immutable,
        }

    def _kwargs_to_dict(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads(encode_call((), self.kwargs)[1] or "{}")
        return found

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], app: Sender | Application | None = None) -> "Signature[Any]":
        """Return the signature that to_dict() described, whatever its kind.

        Args:
            values: the dict; Celery's own are understood.
            app: the application that will send it.

        Raises:
            ValidationError: it is no such dict.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("task"), str):
            raise ValidationError("signature: expected a dict with the key 'task'")
        kind = values.get("subtask_type")
        if kind and cls.subtask_type != kind:
            known = cls.TYPES.get(kind)
            if known is None:
                raise ValidationError(f"signature: there is no kind {kind!r}; known are {', '.join(sorted(cls.TYPES))}")
            return known.from_dict(values, app)
        options = read_options(values)
        try:
            args = decode_args(json.dumps(list(values.get("args") or ())))
            kwargs = decode_kwargs(json.dumps(dict(values.get("kwargs") or {})))
        except (TypeError, ValueError) as error:
            raise ValidationError(f"signature: args and kwargs are no JSON: {error}") from None
        return Signature(values["task"], tuple(args), kwargs, options, bool(values.get("immutable")), app)

    def __deepcopy__(self: AnySignature, memo: dict[int, Any]) -> AnySignature:
        return self.clone()

    def __reduce__(self) -> Any:
        """Pickled without its application: app.signature() gives it one."""
        return signature, (self.to_dict(),)

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """Return the call as text, with these arguments put before its own: `add(2, 2)`."""
        named = {**self.kwargs, **kwargs}.items()
        given = [*map(repr, (*args, *self.args)), *(f"{name}={value!r}" for name, value in named)]
        return f"{self.task}({', '.join(given)})"

    def __repr__(self) -> str:
        return self.reprcall()


def read_options(values: Mapping[str, Any]) -> CallOptions:
    """The options of a signature's dict, checked, stamps as ours are."""
    options = read_stamps(dict(values.get("options") or {}))
    check_call_options(options, f"signature of {values.get('task')!r}")
    return cast(CallOptions, options)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, Signature):
        return value.to_dict()
    if isinstance(value, list | tuple):
        return [_plain(one) for one in value]
    return value.total_seconds() if isinstance(value, timedelta) else value


def maybe_signature(value: Any, app: Sender | Application | None = None) -> Any:
    """A signature as it is, its dict as a signature, and None as None; errors as in signature()."""
    if value is None or isinstance(value, Signature):
        return value
    if isinstance(value, Mapping):
        return Signature.from_dict(value, app)
    if callable(getattr(value, "s", None)):  # the task itself
        return value.s()
    raise ValidationError(f"expected a signature such as task.s(1), got {type(value).__name__}")


def signature(
    varies: "str | Mapping[str, Any] | Signature[Any]",
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    options: CallOptions | None = None,
    *,
    app: Sender | Application | None = None,
    immutable: bool = False,
    **more: Unpack[CallOptions],
) -> Signature[Any]:
    """Make a signature, also of a task that is defined elsewhere.

    Args:
        varies: the task's name, a dict as Signature.to_dict makes it, or a signature, which is copied and completed.
        args, kwargs, options, immutable: of the signature; options may also be given by name.
        app: the application that will send it; a signature needs one before it can be sent.
    """
    chosen = cast(CallOptions, {**(options or {}), **more})
    if isinstance(varies, Signature):
        copy = varies.clone(args, kwargs, **chosen)
        copy._app = copy._app or sender_of(app)
        return copy
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app)
    check_call_options(chosen, f"signature of {varies!r}")
    return Signature(varies, tuple(args), dict(kwargs or {}), chosen, immutable, app)
