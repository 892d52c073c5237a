"""Rebuild dataclasses, pydantic models, enums and tuples from decoded arguments, as a task's type hints ask for.

A Task prepares its coercer once (coercer_for); most tasks need none. Values that already fit are left alone, and so are
plain hints: an int stays an int under `x: float`, as in an ordinary call.
"""

import inspect
import types
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from functools import cache
from typing import Any

from pgqueue.errors import ArgumentsError

__all__ = ["Coercion", "coercer_for"]

Convert = Callable[[Any], Any]


class Coercion:
    """Converters of one function's parameters; called with decoded arguments, it returns converted ones."""

    def __init__(
        self,
        positional: list[tuple[str, Convert | None]],
        named: dict[str, Convert | None],
        rest: Convert | None,
        rest_named: Convert | None,
    ) -> None:
        self._positional = positional
        self._named = named
        self._rest = rest
        self._rest_named = rest_named

    def __call__(self, args: list[Any], kwargs: dict[str, Any]) -> tuple[list[Any], dict[str, Any]]:
        """Convert the arguments of one call.

        Args:
            args: positional arguments, without `self`.
            kwargs: keyword arguments.

        Returns:
            New positional and keyword arguments.

        Raises:
            ArgumentsError: a value does not fit its parameter's type; the message names the parameter.
        """
        known = self._positional
        args = [
            self._convert(*(known[at] if at < len(known) else ("*args", self._rest)), value)
            for at, value in enumerate(args)
        ]
        kwargs = {
            name: self._convert(name, self._named.get(name, self._rest_named), value) for name, value in kwargs.items()
        }
        return args, kwargs

    @staticmethod
    def _convert(name: str, convert: Convert | None, value: Any) -> Any:
        if convert is None:
            return value
        try:
            return convert(value)
        except (TypeError, ValueError) as error:
            raise ArgumentsError(f"argument {name}: {' '.join(str(error).split())}") from error


def coercer_for(function: Callable[..., Any], skip_first: bool = False) -> Coercion | None:
    """Prepare the conversion of a function's arguments.

    Args:
        function: a task's function. Hints that cannot be resolved (names imported for type checkers only) are skipped.
        skip_first: the first parameter is the task itself (bind=True).

    Returns:
        A callable (args, kwargs) -> (args, kwargs), or None when no parameter needs conversion.
    """
    try:
        parameters = list(inspect.signature(function).parameters.values())[1 if skip_first else 0 :]
    except (TypeError, ValueError):
        return None
    hints = _hints_of(function)
    positional: list[tuple[str, Convert | None]] = []
    named: dict[str, Convert | None] = {}
    rest = rest_named = None
    for parameter in parameters:
        convert = _converter(hints.get(parameter.name))
        if parameter.kind is parameter.VAR_POSITIONAL:
            rest = convert
        elif parameter.kind is parameter.VAR_KEYWORD:
            rest_named = convert
        else:
            if parameter.kind is not parameter.KEYWORD_ONLY:
                positional.append((parameter.name, convert))
            if parameter.kind is not parameter.POSITIONAL_ONLY:
                named[parameter.name] = convert
    if not any([rest, rest_named, *named.values(), *(convert for _, convert in positional)]):
        return None
    return Coercion(positional, named, rest, rest_named)


def _hints_of(owner: Any) -> dict[str, Any]:
    if inspect.isroutine(owner):
        owner = inspect.unwrap(owner)
    try:
        return typing.get_type_hints(owner)
    except Exception:  # a name that only type checkers import: take the other hints one by one
        found = {}
        for name, hint in getattr(owner, "__annotations__", {}).items():
            one = types.SimpleNamespace(__annotations__={name: hint})
            module = inspect.getmodule(owner)
            try:
                found.update(typing.get_type_hints(one, getattr(owner, "__globals__", None) or vars(module)))
            except Exception:  # noqa: S112 - what cannot be resolved is not converted
                continue
        return found


def _converter(hint: Any) -> Convert | None:
    if isinstance(hint, typing.NewType):
        return _converter(hint.__supertype__)
    if hasattr(hint, "__value__") and not isinstance(hint, type):  # type X = …
        return _converter(hint.__value__)
    origin, parts = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Annotated:
        return _converter(parts[0])
    if origin is typing.Union or origin is types.UnionType:
        return _union(parts)
    kind = origin or hint
    if not isinstance(kind, type):
        return None
    if is_dataclass(kind):
        return _Fields(kind)
    if callable(getattr(kind, "model_validate", None)) and callable(getattr(kind, "model_dump", None)):
        return _model(kind)
    if issubclass(kind, Enum):
        return _member(kind)
    if issubclass(kind, tuple):
        return _tuple(kind, parts)
    if issubclass(kind, (list, set, frozenset)) or kind in _SEQUENCES:
        return _items(kind, _converter(parts[0]) if parts else None)
    if issubclass(kind, dict) or kind in _MAPPINGS:
        return _mapping(*(map(_converter, parts) if len(parts) == 2 else (None, None)))
    return None


_SEQUENCES: tuple[Any, ...] = (
    typing.get_origin(typing.Sequence[Any]),
    typing.get_origin(typing.Iterable[Any]),
    typing.get_origin(typing.Collection[Any]),
    typing.get_origin(typing.MutableSequence[Any]),
    typing.get_origin(typing.AbstractSet[Any]),
)
_MAPPINGS: tuple[Any, ...] = (
    typing.get_origin(typing.Mapping[Any, Any]),
    typing.get_origin(typing.MutableMapping[Any, Any]),
)


def _union(parts: tuple[Any, ...]) -> Convert | None:
    converters = [found for part in parts if (found := _converter(part)) is not None]
    plain = tuple(part for part in parts if isinstance(part, type) and _converter(part) is None)
    if not converters:
        return None

    def convert(value: Any) -> Any:
        if value is None or type(value) in plain:
            return value
        failure: Exception | None = None
        for attempt in converters:
            try:
                found = attempt(value)
            except (TypeError, ValueError) as error:
                failure = error
                continue
            if found is not value:
                return found
        if failure is not None and not isinstance(value, plain):
            raise failure
        return value

    return convert


def _model(kind: Any) -> Convert:
    def convert(value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        try:
            return kind.model_validate(value, by_name=True)  # stored under the names of the fields, not their aliases
        except TypeError:  # pydantic before 2.11
            return kind.model_validate(value)

    return convert


def _member(kind: type[Enum]) -> Convert:
    return lambda value: value if isinstance(value, kind) else kind(value)


def _items(kind: Any, convert: Convert | None) -> Convert | None:
    if convert is None:
        return None
    return lambda value: (
        type(value)(convert(item) for item in value) if isinstance(value, (list, set, frozenset)) else value
    )


def _mapping(convert_key: Convert | None, convert: Convert | None) -> Convert | None:
    if convert_key is None and convert is None:
        return None

    def same(value: Any) -> Any:
        return value

    to_key, to_value = convert_key or same, convert or same
    return lambda value: (
        {to_key(key): to_value(item) for key, item in value.items()} if isinstance(value, dict) else value
    )


def _tuple(kind: Any, parts: tuple[Any, ...]) -> Convert:
    names: Sequence[str] | None = getattr(kind, "_fields", None)
    if names is not None:
        hints = _hints_of(kind)
        each = [_converter(hints.get(name)) for name in names]
    else:
        each = [_converter(part) for part in parts if part is not Ellipsis]
    repeated = each[0] if len(parts) == 2 and parts[1] is Ellipsis else None

    def convert(value: Any) -> Any:
        if not isinstance(value, list):
            return value
        found = [
            item if (one := each[at] if at < len(each) else repeated) is None else one(item)
            for at, item in enumerate(value)
        ]
        return kind(*found) if names is not None else tuple(found)

    return convert


class _Fields:
    """Builds one dataclass; its fields' converters are looked up at first use, for classes that contain themselves."""

    def __init__(self, kind: Any) -> None:
        self._kind = kind

    def __call__(self, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        converters = _field_converters(self._kind)
        unknown = value.keys() - converters.keys()
        if unknown:
            raise TypeError(f"{self._kind.__qualname__} has no field {min(unknown)!r}")
        found = {}
        for name, item in value.items():
            init, convert = converters[name]
            if init:
                found[name] = item if convert is None else convert(item)
        return self._kind(**found)


@cache
def _field_converters(kind: Any) -> Mapping[str, tuple[bool, Convert | None]]:
    hints = _hints_of(kind)
    return {field.name: (field.init, _converter(hints.get(field.name))) for field in fields(kind)}
