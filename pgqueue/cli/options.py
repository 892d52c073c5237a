"""Kinds of option values that several commands take."""

import json
import math
from collections.abc import Callable
from datetime import datetime
from typing import Any

import click

from pgqueue.options.values import QUEUE_NAME

__all__ = [
    "DURATION",
    "INSTANT",
    "JSON_ARRAY",
    "JSON_OBJECT",
    "LIMIT_SECONDS",
    "QUEUES",
    "Checked",
    "instant",
    "job_id",
]


class Checked(click.ParamType[Any]):
    """An option whose text a function checks and converts; its ValueError is the message."""

    def __init__(self, name: str, convert: Callable[[str], Any]) -> None:
        self.name = name
        self._convert = convert

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if not isinstance(value, str):
            return value
        try:
            return self._convert(value)
        except (ValueError, TypeError) as error:
            self.fail(str(error), param, ctx)


def _queues(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    found: list[str] = []
    for name in names:
        if not QUEUE_NAME.fullmatch(name):
            raise ValueError(f"{name[:60]!r} is no queue: 1 to 128 characters out of A-Z a-z 0-9 _ . : -")
        if name in found:
            raise ValueError(f"queue {name!r} is named twice")
        found.append(name)
    return found


def _duration(text: str) -> float:
    from pgqueue.cli.output import seconds_of  # noqa: PLC0415 - not needed by --help

    return seconds_of(text)


def _limit(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0.001 <= seconds <= 30 * 86_400:
        raise ValueError(f"{text!r} is no number of seconds between 0.001 and 2592000")
    return seconds


def _json_of(kind: type, example: str) -> Checked:
    def convert(text: str) -> Any:
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"no JSON ({error}); write {example}") from None
        if not isinstance(value, kind):
            raise ValueError(f"a JSON {'array' if kind is list else 'object'} is needed, such as {example}")
        return value

    return Checked("json", convert)


def instant(text: str) -> datetime:
    try:
        return datetime.fromisoformat(text)
    except ValueError:
        raise ValueError(f"{text!r} is no instant such as 2030-01-31T09:00:00+01:00") from None


QUEUES = Checked("queues", _queues)
DURATION = Checked("duration", _duration)
LIMIT_SECONDS = Checked("seconds", _limit)
INSTANT = Checked("instant", instant)
JSON_ARRAY = _json_of(list, "'[1, 2]'")
JSON_OBJECT = _json_of(dict, "'{\"name\": 1}'")


def job_id(text: str) -> str:
    """Return the id of a job as kept in the database, for an id as people give it.

    Raises:
        ValueError: empty, or longer than 255 characters.
    """
    from pgqueue.job import as_job_id  # noqa: PLC0415 - not needed by --help

    if not text.strip() or len(text) > 255 or "\0" in text:
        raise ValueError("not an id: 1 to 255 characters are needed")
    return as_job_id(text)[0]
