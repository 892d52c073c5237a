"""JSON text back to arguments and results; see encoding.py for the form."""

import json
import re
import sys
from base64 import b64decode
from collections.abc import Callable
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from pgqueue.codec.encoding import TYPE, VALUE, ZONE
from pgqueue.errors import EncodingError, LimitExceeded

__all__ = ["decode_args", "decode_headers", "decode_kwargs", "decode_result"]

_scan = json.JSONDecoder().scan_once  # type: ignore[attr-defined] # json documents it, typeshed leaves it out


def _zone(value: Any) -> ZoneInfo | None:
    try:
        return ZoneInfo(value[ZONE]) if ZONE in value else None
    except (ZoneInfoNotFoundError, TypeError, ValueError, OSError):
        return None  # this machine does not know the zone: the offset is all there is


def _to_datetime(value: Any) -> datetime:
    found = datetime.fromisoformat(value[VALUE])
    zone = _zone(value)
    if zone is not None:
        for fold in (0, 1):
            local = found.replace(tzinfo=zone, fold=fold)
            if local.utcoffset() == found.utcoffset():
                return local
    return found


def _to_time(value: Any) -> time:
    found = time.fromisoformat(value[VALUE])
    zone = _zone(value)
    return found if zone is None else found.replace(tzinfo=zone)


_DURATION = re.compile(r"P(-?\d+)DT(\d+)(?:\.(\d{6}))?S")


def _to_timedelta(value: Any) -> timedelta:
    found = _DURATION.fullmatch(value[VALUE])
    if found is None:
        raise ValueError("expected P<days>DT<seconds>S")
    return timedelta(int(found[1]), int(found[2]), int(found[3] or 0))


_REVIVE: dict[str, Callable[[Any], Any]] = {
    "datetime": _to_datetime,
    "date": lambda value: date.fromisoformat(value[VALUE]),
    "time": _to_time,
    "timedelta": _to_timedelta,
    "decimal": lambda value: Decimal(value[VALUE]),
    "uuid": lambda value: UUID(value[VALUE]),
    "bytes": lambda value: b64decode(value[VALUE], validate=True),
    "set": lambda value: set(map(_revive, value[VALUE])),
    "frozenset": lambda value: frozenset(map(_revive, value[VALUE])),
    "tuple": lambda value: tuple(map(_revive, value[VALUE])),
    "dict": lambda value: {key: _revive(item) for key, item in value[VALUE].items()},
}


def _revive(value: Any) -> Any:
    if type(value) is list:
        return [_revive(item) for item in value]
    if type(value) is not dict:
        return value
    tag = value.get(TYPE)
    if type(tag) is str and VALUE in value and tag in _REVIVE:
        try:
            return _REVIVE[tag](value)
        except EncodingError:
            raise
        except (ValueError, TypeError, AttributeError, ArithmeticError) as error:
            raise EncodingError(f"{_excerpt(value[VALUE])} is no {tag}: {error}") from None
    return {key: _revive(item) for key, item in value.items()}


def decode_args(text: str | None) -> list[Any]:
    """Positional arguments from their JSON text; None gives an empty list.

    Raises:
        EncodingError: the text is no JSON list, or a tagged value in it is malformed (both only by direct SQL).
        LimitExceeded: nested too deep, or an int of too many digits.
    """
    if text is None:
        return []
    found = _load(text)
    if type(found) is not list:
        raise EncodingError(f"args: expected a JSON list, got {_excerpt(text)}")
    return found


def decode_kwargs(text: str | None) -> dict[str, Any]:
    """Keyword arguments from their JSON text; None gives an empty dict. Errors as in decode_args."""
    if text is None:
        return {}
    found = _load(text)
    if type(found) is not dict:
        raise EncodingError(f"kwargs: expected a JSON object, got {_excerpt(text)}")
    return found


def decode_headers(text: str | None) -> dict[str, Any]:
    """A job's headers from their JSON text; None gives an empty dict. Errors as in decode_args."""
    return decode_kwargs(text)


def decode_result(text: str | None) -> Any:
    """A result, or the meta data of a custom state, from its JSON text; None gives None. Errors as in decode_args."""
    return None if text is None else _load(text)


def _load(text: str) -> Any:
    try:
        try:
            found, end = _scan(text, 0)
        except StopIteration:
            end = -1
        if end != len(text):  # white space around it, or no JSON at all
            found = json.loads(text)
        return _revive(found) if '"__type__"' in text else found
    except RecursionError:
        raise LimitExceeded("JSON nested deeper than Python can read") from None
    except EncodingError:
        raise
    except ValueError as error:
        if "digits" in str(error):
            raise LimitExceeded(f"an int of more than {sys.get_int_max_str_digits():,} digits") from None
        raise EncodingError(f"no valid JSON: {error}") from None


def _excerpt(value: object) -> str:
    text = ascii(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
