"""Validators of settings: they take what a user wrote and give the value to keep, or raise ValueError.

The parse_ functions read the text of an environment variable; what they cannot read they return as it is, for the
validator to refuse.
"""

import logging
import re
from collections.abc import Callable, Iterable, Mapping
from datetime import timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pgqueue.config.dsn import refuse_other_databases
from pgqueue.options.values import QUEUE_NAME

Check = Callable[[Any], Any]

_SCHEMA_NAME = re.compile(r"[a-z_][a-z0-9_]{0,47}")
# schemas that others own, and words that would need quotes in every query a user types
_RESERVED = frozenset(
    {
        "all",
        "and",
        "any",
        "array",
        "as",
        "case",
        "check",
        "column",
        "constraint",
        "create",
        "default",
        "desc",
        "distinct",
        "do",
        "else",
        "end",
        "except",
        "false",
        "for",
        "foreign",
        "from",
        "grant",
        "group",
        "having",
        "in",
        "information_schema",
        "into",
        "limit",
        "not",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "primary",
        "public",
        "references",
        "returning",
        "select",
        "some",
        "table",
        "then",
        "to",
        "true",
        "union",
        "unique",
        "user",
        "using",
        "when",
        "where",
        "window",
        "with",
    }
)


def _expected(what: str, value: object) -> ValueError:
    shown = repr(value)
    return ValueError(f"expected {what}, got {shown if len(shown) <= 60 else shown[:57] + '...'}")


def text(value: Any) -> str:
    if not isinstance(value, str) or not value:
        raise _expected("a text", value)
    return value


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise _expected("true or false", value)
    return value


def whole(low: int, high: int) -> Check:
    def check(value: Any) -> int:
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise _expected(f"a whole number between {low:,} and {high:,}", value)
        return value

    return check


def seconds(low: float, high: float) -> Check:
    def check(value: Any) -> float:
        if isinstance(value, timedelta):
            value = value.total_seconds()
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
            raise _expected(f"seconds as a number between {low:g} and {high:,.0f}", value)
        return float(value)

    return check


def optional(check: Check) -> Check:
    return lambda value: None if value is None else check(value)


def one_of(*choices: Any) -> Check:
    def check(value: Any) -> Any:
        for choice in choices:
            if value == choice and type(value) is type(choice):
                return choice
        raise _expected(" or ".join(map(repr, choices)), value)

    return check


def only(choice: Any, reason: str) -> Check:
    def check(value: Any) -> Any:
        if value != choice or type(value) is not type(choice):
            raise ValueError(f"only {choice!r} is supported: {reason}")
        return choice

    return check


def names(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
        raise _expected("a list of names", value)
    return tuple(text(item) for item in value)


def queue(value: Any) -> str:
    if not isinstance(value, str) or not QUEUE_NAME.fullmatch(value):
        raise _expected("a queue name of 1 to 128 characters out of A-Z a-z 0-9 _ . : -", value)
    return value


def queues(value: Any) -> tuple[str, ...]:
    if isinstance(value, str):
        value = [value]
    if not isinstance(value, Iterable) or isinstance(value, (bytes, Mapping)):
        raise _expected("a list of queue names", value)
    found = []
    for item in value:
        if not isinstance(item, str) and isinstance(getattr(item, "routing_key", None), str):
            raise ValueError(f"kombu's Queue objects describe exchanges; write the name {item.name!r}")
        found.append(queue(item))
    return tuple(dict.fromkeys(found))


def schema(value: Any) -> str:
    if not isinstance(value, str) or not _SCHEMA_NAME.fullmatch(value):
        raise _expected("a name of 1 to 48 characters out of a-z 0-9 _, no digit first", value)
    if value.startswith("pg_") or value in _RESERVED:
        raise ValueError(f"{value!r} is reserved by PostgreSQL; choose another name")
    return value


def zone(value: Any) -> str:
    key = value.key if isinstance(value, ZoneInfo) else value
    if not isinstance(key, str):
        raise _expected("the name of a time zone such as 'Europe/Berlin'", value)
    try:
        ZoneInfo(key)
    except (ValueError, OSError, KeyError):
        raise _expected("the name of a time zone such as 'Europe/Berlin'", value) from None
    return key


def dsn(value: Any) -> str:
    if not isinstance(value, str) or not value.strip():
        raise ValueError("expected a connection string such as postgresql://user@host/database")
    refuse_other_databases(value)
    return value


def credentials(value: Any) -> Any:
    if not callable(value):
        raise ValueError("expected a callable that returns the password, or a dict of connection parameters")
    return value


def json_only(value: Any) -> str:
    if value not in ("json", "application/json"):
        raise ValueError(f"only 'json' is supported, got {value!r}: pass ids, or values the codec knows")
    return "json"


def json_list(value: Any) -> tuple[str, ...]:
    return tuple(dict.fromkeys(json_only(item) for item in names(value)))


def routes(value: Any) -> Any:
    """A dict, a list of pairs, dicts and routers, a function, a router, or a dotted path; tasks/routing.py reads it."""
    if value is None:
        return ()
    if isinstance(value, (str, Mapping)) or callable(value) or callable(getattr(value, "route_for_task", None)):
        value = [value]
    if not isinstance(value, Iterable):
        raise _expected("a dict, a list, a function or a dotted path", value)
    found: list[Any] = []
    for item in value:
        if isinstance(item, Mapping):
            found.extend(map(_route_pair, item.items()))
        elif isinstance(item, (tuple, list)):
            found.append(_route_pair(item))
        elif (isinstance(item, str) and item) or callable(item) or callable(getattr(item, "route_for_task", None)):
            found.append(item)
        else:
            raise _expected("a route: a dict, a pair, a function or a dotted path", item)
    return tuple(found)


def _route_pair(pair: Any) -> tuple[Any, dict[str, Any]]:
    if len(pair) != 2 or not isinstance(pair[0], (str, re.Pattern)) or not pair[0]:
        raise _expected("a pair of a task name, glob or compiled pattern, and a route", pair)
    target = {"queue": pair[1]} if isinstance(pair[1], str) else pair[1]
    if not isinstance(target, Mapping):
        raise _expected("a queue name or a dict of options", pair[1])
    declined = sorted({"exchange", "exchange_type", "routing_key", "delivery_mode", "binding_key"} & target.keys())
    if declined:
        raise ValueError(
            f"there are no exchanges, {declined[0]!r} of route {pair[0]!r} means nothing; write {{'queue': …}}"
        )
    if "queue" in target:
        queue(target["queue"])
    return pair[0], dict(target)


def annotations(value: Any) -> Any:
    """A dict, an object with annotate(task), or a list of both; tasks/routing.py applies them."""
    if value is None:
        return ()
    if isinstance(value, (str, Mapping)) or callable(getattr(value, "annotate", None)):
        value = [value]
    if not isinstance(value, Iterable):
        raise _expected("a dict, a list, or an object with annotate(task)", value)
    found = tuple(value)
    for item in found:
        if isinstance(item, Mapping):
            for name, options in item.items():
                if not isinstance(name, str) or not isinstance(options, Mapping):
                    raise _expected("a dict of task name to a dict of options", item)
        elif not isinstance(item, str) and not callable(getattr(item, "annotate", None)):
            raise _expected("a dict, or an object with annotate(task)", item)
    return found


_BEAT_KEYS = frozenset(
    {
        *("task", "schedule", "args", "kwargs", "options", "relative", "timezone", "start_at", "end_at", "jitter"),
        *("catch_up", "catch_up_limit", "starting_deadline", "overlap"),
    }
)


def beat_schedule(value: Any) -> dict[str, dict[str, Any]]:
    """Name to entry; what an entry holds is checked together with its task, when a worker starts."""
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise _expected("a dict of name to entry", value)
    from pgqueue.timing.recurrence import timing_of  # noqa: PLC0415 - most programs have no schedules

    found = {}
    for name, entry in value.items():
        if not isinstance(name, str) or not isinstance(entry, Mapping):
            raise _expected("a dict of name to entry, which is a dict", {name: entry})
        for key in ("task", "schedule"):
            if key not in entry:
                raise ValueError(f"{name!r}: {key} is missing")
        if unknown := sorted(map(str, entry.keys() - _BEAT_KEYS)):
            raise ValueError(f"{name!r}: there is no key {unknown[0]!r}; known are {', '.join(sorted(_BEAT_KEYS))}")
        try:
            timing_of(entry["schedule"], "UTC")
        except ValueError as error:
            raise ValueError(f"{name!r}: schedule: {error}") from None
        found[name] = dict(entry)
    return found


def level(value: Any) -> str:
    known = logging.getLevelNamesMapping()
    if isinstance(value, int) and not isinstance(value, bool) and value in known.values():
        return logging.getLevelName(value)
    if not isinstance(value, str) or value.upper() not in known:
        raise _expected("a logging level such as 'WARNING'", value)
    return value.upper()


def postgres_broker(value: Any) -> str:
    return dsn(value.removeprefix("sqla+") if isinstance(value, str) else value)


def parse_text(value: str) -> Any:
    return value


def parse_flag(value: str) -> Any:
    known = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}
    return known.get(value.strip().lower(), value)


def parse_number(value: str) -> Any:
    stripped = value.strip()
    if stripped.lower() in ("", "none"):
        return None
    try:
        return int(stripped) if re.fullmatch(r"[+-]?[0-9]+", stripped) else float(stripped)
    except ValueError:
        return value


def parse_names(value: str) -> Any:
    return [part.strip() for part in value.split(",") if part.strip()]
