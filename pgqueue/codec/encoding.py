"""Arguments and results to JSON text; the way back is decoding.py.

What JSON lacks travels as a tagged object, {"__type__": "datetime", "__value__": "2026-01-31T12:00:00+01:00"}, readable
in SQL; a user's own dict that has the key "__type__" is wrapped so that it comes back as it was. Tuples come back as
lists, enum members as their values, dataclasses and pydantic models as plain objects, unless the receiving task's
signature says otherwise (coercion.py). Subclasses of str, int, float, dict and list are stored as what they extend.
"""

import json
import math
import sys
from base64 import b64encode
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields, is_dataclass
from datetime import date, datetime, time, timedelta, tzinfo
from decimal import Decimal
from enum import Enum
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo

from pgqueue.errors import EncodingError, LimitExceeded, ValidationError

__all__ = ["MAX_BYTES", "MAX_DEPTH", "encode_call", "encode_headers", "encode_result"]

MAX_BYTES = 1024 * 1024
MAX_HEADER_BYTES = 64 * 1024
MAX_DEPTH = 100

TYPE, VALUE, ZONE = "__type__", "__value__", "zone"
_SCALARS = frozenset({str, int, float, bool, type(None)})
_is_plain = _SCALARS.issuperset
_are_strings = frozenset({str}).issuperset


def _encoder() -> Callable[[Any], str]:
    """json's C encoder, built once; JSONEncoder.encode builds one per call, half of the time for small values."""
    portable = json.JSONEncoder(ensure_ascii=False, check_circular=False, allow_nan=False, separators=(",", ":"))
    make: Any = getattr(json.encoder, "c_make_encoder", None)
    try:
        iterate = make(None, portable.default, json.encoder.encode_basestring, None, ":", ",", False, False, False)
        if "".join(iterate([1.5, "a"], 0)) == '[1.5,"a"]':
            return lambda value: "".join(iterate(value, 0))
    except TypeError:  # another Python, with another signature or none at all
        pass
    return portable.encode


_encode = _encoder()


def encode_call(
    args: Sequence[Any], kwargs: Mapping[str, Any], limit: int = MAX_BYTES
) -> tuple[str | None, str | None]:
    """Encode the arguments of one call.

    Args:
        args: positional arguments.
        kwargs: keyword arguments.
        limit: most bytes that both texts may take together.

    Returns:
        JSON text of a list and of an object; None for whichever is empty.

    Raises:
        EncodingError: a value has no JSON form; the message names its path, as in ``args[0]['prices'][3]``.
        LimitExceeded: too large, nested too deep, or an int of too many digits.
    """
    args_text = _dump(args if type(args) is list else list(args), "args", limit) if args else None
    if not kwargs:
        return args_text, None
    kwargs_text = _dump(kwargs if type(kwargs) is dict else dict(kwargs), "kwargs", limit)
    if args_text is not None and _size(args_text) + _size(kwargs_text) > limit:
        raise _too_large("args and kwargs", limit)
    return args_text, kwargs_text


def encode_result(value: Any, limit: int = MAX_BYTES) -> str | None:
    """Encode what a task returned, or the meta data of a custom state.

    Args:
        value: anything that has a JSON form; None gives None.
        limit: most bytes of the text.

    Returns:
        JSON text, or None.

    Raises:
        EncodingError, LimitExceeded: as in encode_call; paths begin with ``result``.
    """
    return None if value is None else _dump(value, "result", limit)


def encode_headers(headers: Mapping[str, Any] | None, limit: int = MAX_HEADER_BYTES) -> str | None:
    """Encode a job's headers; no headers give None. Errors as in encode_call, paths begin with ``headers``."""
    return _dump(dict(headers), "headers", limit) if headers else None


def _dump(value: Any, root: str, limit: int) -> str:
    kind = type(value)
    if kind in _SCALARS:
        plain = True
    elif kind is list:
        plain = _is_plain(map(type, value))
    elif kind is dict:
        plain = _is_plain(map(type, value.values())) and _are_strings(map(type, value)) and TYPE not in value
    else:
        plain = False
    if not plain:
        value = _Walk(root, limit).run(value)
    try:
        text = _encode(value)
    except ValueError:  # NaN, infinity, or more digits than Python prints: find out where
        _Walk(root, limit).run(value)
        raise
    if text.isascii():
        size = len(text)
    else:
        try:
            size = len(text.encode())
        except UnicodeEncodeError:
            _Walk(root, limit).run(value)
            raise
    if size > limit:
        raise _too_large(root, limit, size)
    if plain and "\\u0000" in text:
        _Walk(root, limit).run(value)
    return text


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _too_large(root: str, limit: int, size: int | None = None) -> LimitExceeded:
    found = f" {size:,} bytes of JSON," if size else ""
    return LimitExceeded(
        f"{root}:{found} more than the limit of {limit:,} bytes; keep large data elsewhere and pass its key"
    )


class _Refused(Exception):
    """A value was refused; path steps are added while the walk unwinds."""

    def __init__(self, reason: str, error: type[ValidationError] = EncodingError) -> None:
        super().__init__(reason)
        self.error = error
        self.steps: list[str] = []


class _Walk:
    """One pass over a value that is not made of plain scalars: checks everything, gives what json can print."""

    def __init__(self, root: str, limit: int) -> None:
        self.root = root
        self.limit = limit
        self.budget = limit // 2  # every node takes two bytes at least: bounds lists that contain each other many times

    def run(self, value: Any) -> Any:
        try:
            return self.walk(value, 0, False)
        except _Refused as refused:
            path = self.root + "".join(reversed(refused.steps))
            raise refused.error(f"{path}: {refused}") from None

    def walk(self, value: Any, depth: int, hashable: bool) -> Any:
        kind = type(value)
        if kind is str:
            return self.string(value)
        if kind is int or kind is bool or value is None:
            return value if kind is not int else self.integer(value)
        if kind is float:
            return self.float(value)
        if depth > MAX_DEPTH:
            raise _Refused(f"nested deeper than {MAX_DEPTH} levels, or contains itself", LimitExceeded)
        if kind is list or kind is tuple:
            return self.sequence(value, depth, hashable)
        if kind is dict:
            return self.mapping(value, depth)
        to_value = _TAGGED.get(kind)
        if to_value is not None:
            return to_value(value)
        return self.other(value, depth, hashable)

    def string(self, value: str) -> str:
        if "\0" in value:
            raise _Refused("a NUL character (\\x00), which PostgreSQL cannot store; remove it, or pass bytes")
        if not value.isascii():
            try:
                value.encode()
            except UnicodeEncodeError as error:
                raise _Refused(f"a lone surrogate ({value[error.start]!a}), which is no valid Unicode text") from None
        return value

    def integer(self, value: int) -> int:
        if value.bit_length() > 2000:  # fewer digits than any limit that Python accepts
            try:
                repr(value)
            except ValueError:
                limit = sys.get_int_max_str_digits()
                raise _Refused(f"an int of more than {limit:,} digits", LimitExceeded) from None
        return value

    def float(self, value: float) -> float:
        if not math.isfinite(value):
            raise _Refused(f"{value!r} has no JSON form; pass None, or a Decimal")
        return value

    def spend(self, count: int) -> None:
        self.budget -= count
        if self.budget < 0:
            raise _too_large(self.root, self.limit)

    def sequence(self, value: Sequence[Any], depth: int, hashable: bool) -> Any:
        self.spend(len(value) + 1)
        items = []
        for index, item in enumerate(value):
            try:
                items.append(self.walk(item, depth + 1, hashable))
            except _Refused as refused:
                refused.steps.append(f"[{index}]")
                raise
        return {TYPE: "tuple", VALUE: items} if hashable else items

    def mapping(self, value: Mapping[Any, Any], depth: int) -> Any:
        self.spend(len(value) + 1)
        found = {}
        for key, item in value.items():
            if type(key) is not str:
                if not isinstance(key, str):
                    raise _Refused(f"the key {_short(key)} is no str, and JSON has no other keys")
                key = str.__str__(key)
            try:
                found[self.string(key)] = self.walk(item, depth + 1, False)
            except _Refused as refused:
                refused.steps.append(f"[{_short(key)}]")
                raise
        return {TYPE: "dict", VALUE: found} if TYPE in found else found

    def collection(self, value: set[Any] | frozenset[Any], depth: int, tag: str) -> Any:
        self.spend(len(value) + 1)
        items = []
        for item in value:
            try:
                items.append(self.walk(item, depth + 1, True))
            except _Refused as refused:
                refused.steps.append(f"{{{_short(item)}}}")
                raise
        return {TYPE: tag, VALUE: sorted(items, key=repr)}

    def other(self, value: Any, depth: int, hashable: bool) -> Any:
        if isinstance(value, Enum):
            return self.walk(value.value, depth + 1, hashable)
        if isinstance(value, set):
            return self.collection(value, depth, "set")
        if isinstance(value, frozenset):
            return self.collection(value, depth, "frozenset")
        for base, plain in _BASES:
            if isinstance(value, base):
                return self.walk(plain(value), depth, hashable)
        for base, to_value in _TAGGED.items():
            if isinstance(value, base):
                return to_value(value)
        kind = type(value)
        if hashable:
            raise _Refused(f"{_name(kind)} inside a set has no JSON form that can go back into a set")
        if is_dataclass(value) and kind is not type:
            return self.mapping({field.name: getattr(value, field.name) for field in fields(value)}, depth)
        if callable(getattr(kind, "model_dump", None)) and callable(getattr(kind, "model_validate", None)):
            try:
                dumped = value.model_dump(mode="python", round_trip=True)
            except Exception as error:
                raise _Refused(f"{_name(kind)} does not dump: {error}") from error
            return self.mapping(dumped, depth)
        raise _Refused(f"{_name(kind)} has no JSON form{_hint(value)}")


def _short(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."


def _name(kind: type) -> str:
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def _hint(value: object) -> str:
    if callable(getattr(value, "item", None)) and hasattr(value, "dtype"):
        return "; pass value.item() or .tolist()"
    if isinstance(value, (bytearray, memoryview)):
        return "; pass bytes(value)"
    if hasattr(value, "_meta") or hasattr(value, "_sa_instance_state"):
        return "; pass its primary key and load it in the task"
    if callable(getattr(value, "keys", None)):
        return "; pass dict(value)"
    if hasattr(value, "__iter__"):
        return "; pass list(value)"
    return "; pass str, int, float, bool, None, list, dict, a dataclass or a pydantic model"


def _tag(name: str, value: Any, zone: tzinfo | None = None) -> dict[str, Any]:
    key = zone.key if isinstance(zone, ZoneInfo) else None
    return {TYPE: name, VALUE: value} if key is None else {TYPE: name, VALUE: value, ZONE: key}


def _from_time(value: time) -> dict[str, Any]:
    zone = value.tzinfo
    if zone is not None and value.utcoffset() is None and (not isinstance(zone, ZoneInfo) or zone.key is None):
        raise _Refused("a time whose tzinfo gives no offset")
    return _tag("time", time.isoformat(value), zone)


def _from_timedelta(value: timedelta) -> dict[str, Any]:
    micro = f".{value.microseconds:06}" if value.microseconds else ""
    return _tag("timedelta", f"P{value.days}DT{value.seconds}{micro}S")


_TAGGED: dict[type, Callable[[Any], dict[str, Any]]] = {
    datetime: lambda value: _tag("datetime", datetime.isoformat(value), value.tzinfo),
    date: lambda value: _tag("date", date.isoformat(value)),
    time: _from_time,
    timedelta: _from_timedelta,
    Decimal: lambda value: _tag("decimal", str(value)),
    UUID: lambda value: _tag("uuid", str(value)),
    bytes: lambda value: _tag("bytes", b64encode(value).decode("ascii")),
}
_BASES: tuple[tuple[type, Callable[[Any], Any]], ...] = (
    (str, str.__str__),
    (int, int.__int__),
    (float, float.__float__),
    (list, lambda value: list.copy(value)),
    (tuple, lambda value: tuple.__getitem__(value, slice(None))),
    (dict, lambda value: dict(dict.items(value))),
)
