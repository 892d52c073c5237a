"""Named queries for drivers with numbered placeholders and binary types (asyncpg)."""

import re
from datetime import datetime
from typing import Any

from pgqueue.store.statement import Statement

__all__ = ["numbered"]

_PLACEHOLDER = re.compile(r"%\((\w+)\)s(::)?|%s(::)?|%%")


def numbered(statement: Statement[Any]) -> tuple[str, list[Any]]:
    """Return the SQL with $1, $2 … and the values in their order.

    Where the query names a type, the value travels as text and PostgreSQL converts it: what a user taught the
    connection about uuid, json or timestamps then makes no difference.
    """
    params = statement.params
    named = params if isinstance(params, dict) else {}
    unnamed = iter(()) if isinstance(params, dict) else iter(params)
    values: list[Any] = []

    def place(match: re.Match[str]) -> str:
        if match[0] == "%%":
            return "%"
        value = named[match[1]] if match[1] else next(unnamed)
        cast = match[2] or match[3]
        if not cast or isinstance(value, list):
            values.append(value)
            return f"${len(values)}{cast or ''}"
        values.append(_text(value))
        return f"${len(values)}::text::"

    return _PLACEHOLDER.sub(place, statement.sql), values


def _text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    return value.isoformat() if isinstance(value, datetime) else str(value)
