"""A call put aside: task name, arguments and options, to be completed, sent, stored as JSON and sent later."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any, Generic, Protocol, TypeVar, Unpack, cast

from pgqueue.codec import decode_args, decode_kwargs, encode_call
from pgqueue.eager import EagerResult
from pgqueue.errors import ConfigurationError, ValidationError
from pgqueue.options import CallOptions, check_call_options
from pgqueue.results import AsyncResult

__all__ = ["Sender", "Signature", "signature"]

R_co = TypeVar("R_co", covariant=True)


class Sender(Protocol):
    """An application, as far as it sends signatures."""

    def send(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> AsyncResult[Any]: ...

    async def asend(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> AsyncResult[Any]: ...

    def apply(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> EagerResult[Any]: ...


@dataclass(frozen=True, slots=True, init=False)
class Signature(Generic[R_co]):
    """A call of a task that was not made yet.

    Attributes:
        task: name of the task.
        args, kwargs: its arguments; those given at the call come before `args` and over `kwargs`, as in Celery.
        options: of apply_async.
        immutable: arguments given at the call are ignored (si()).
    """

    task: str
    args: tuple[Any, ...]
    kwargs: Mapping[str, Any]
    options: CallOptions
    immutable: bool
    app: Sender | None = field(repr=False, compare=False)

    def __init__(
        self,
        task: str,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
        options: CallOptions | None = None,
        immutable: bool = False,
        app: Sender | None = None,
    ) -> None:
        # Straight into the slots: a third of what a frozen dataclass takes, and enqueue_many is given 100,000 of them.
        _set_task(self, task)
        _set_args(self, args)
        _set_kwargs(self, kwargs or {})
        _set_options(self, options or {})
        _set_immutable(self, immutable)
        _set_app(self, app)

    @property
    def name(self) -> str:
        """Name of the task."""
        return self.task

    def set(self, immutable: bool | None = None, **options: Unpack[CallOptions]) -> "Signature[R_co]":
        """Return a copy with more options; the names are those of apply_async."""
        check_call_options(options, f"signature of {self.task!r}")
        merged = cast(CallOptions, {**self.options, **options})
        return replace(self, options=merged, immutable=self.immutable if immutable is None else immutable)

    def clone(
        self, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None, **options: Unpack[CallOptions]
    ) -> "Signature[R_co]":
        """Return a copy with more arguments and options, merged as at the call."""
        check_call_options(options, f"signature of {self.task!r}")
        merged = self._merge(args, kwargs, options)
        return replace(self, args=tuple(merged[0]), kwargs=dict(merged[1]), options=merged[2])

    partial = clone

    def _merge(
        self, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: CallOptions
    ) -> tuple[Sequence[Any], Mapping[str, Any], CallOptions]:
        merged = cast(CallOptions, {**self.options, **options}) if options else self.options
        if self.immutable or not (args or kwargs):
            return self.args, self.kwargs, merged
        return (*(args or ()), *self.args), {**self.kwargs, **(kwargs or {})}, merged

    @property
    def _sender(self) -> Sender:
        if self.app is None:
            raise ConfigurationError(f"the signature of {self.task!r} belongs to no application; pass app=…")
        return self.app

    def delay(self, *args: Any, **kwargs: Any) -> AsyncResult[R_co]:
        """Enqueue the call, completed by these arguments."""
        return self._sender.send(self.task, *self._merge(args, kwargs, {}))

    async def adelay(self, *args: Any, **kwargs: Any) -> AsyncResult[R_co]:
        """delay() for async code."""
        return await self._sender.asend(self.task, *self._merge(args, kwargs, {}))

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

    def to_dict(self) -> dict[str, Any]:
        """Return the signature as a dict that json.dumps takes; from_dict() gives it back.

        Raises:
            EncodingError, LimitExceeded: an argument has no JSON form.
            ValidationError: it holds a connection.
        """
        if self.options.get("connection") is not None:
            raise ValidationError("signature: a connection cannot be stored; pass it at the call")
        args, kwargs = encode_call(self.args, self.kwargs)
        return {
            "task": self.task,
            "args": json.loads(args or "[]"),
            "kwargs": json.loads(kwargs or "{}"),
            "options": {name: _plain(value) for name, value in self.options.items()},
            "subtask_type": None,
            "immutable": self.immutable,
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any], app: Sender | None = None) -> "Signature[Any]":
        """Return the signature that to_dict() described.

        Args:
            values: the dict; of Celery's own the single tasks are understood.
            app: the application that will send it.

        Raises:
            ValidationError: it is no such dict.
        """
        if not isinstance(values, Mapping) or not isinstance(values.get("task"), str):
            raise ValidationError("signature: expected a dict with the key 'task'")
        if values.get("subtask_type"):
            raise ValidationError(f"signature: {values['subtask_type']!r} is a workflow; those are not in this release")
        options = dict(values.get("options") or {})
        check_call_options(options, f"signature of {values['task']!r}")
        try:
            args = decode_args(json.dumps(list(values.get("args") or ())))
            kwargs = decode_kwargs(json.dumps(dict(values.get("kwargs") or {})))
        except (TypeError, ValueError) as error:
            raise ValidationError(f"signature: args and kwargs are no JSON: {error}") from None
        return Signature(
            values["task"], tuple(args), kwargs, cast(CallOptions, options), bool(values.get("immutable")), app
        )


_set_task, _set_args, _set_kwargs, _set_options, _set_immutable, _set_app = (
    vars(Signature)[name].__set__ for name in ("task", "args", "kwargs", "options", "immutable", "app")
)


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return value.total_seconds() if isinstance(value, timedelta) else value


def signature(
    varies: "str | Mapping[str, Any] | Signature[Any]",
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    options: CallOptions | None = None,
    *,
    app: Sender | None = None,
    immutable: bool = False,
) -> Signature[Any]:
    """Make a signature, also of a task that is defined elsewhere.

    Args:
        varies: the task's name, a dict as Signature.to_dict makes it, or a signature, which is completed.
        args, kwargs, options, immutable: of the signature.
        app: the application that will send it; a signature needs one before it can be sent.
    """
    if isinstance(varies, Signature):
        return varies.clone(args, kwargs, **(options or {}))
    if isinstance(varies, Mapping):
        return Signature.from_dict(varies, app)
    check_call_options(options or {}, f"signature of {varies!r}")
    return Signature(varies, tuple(args), dict(kwargs or {}), options or CallOptions(), immutable, app)
