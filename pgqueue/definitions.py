"""What a schedule is to be, checked before anything is written: given to upsert(), or declared by the code."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pgqueue.client import Client
from pgqueue.config import Conf
from pgqueue.errors import PgQueueError, ValidationError
from pgqueue.option_values import instant, seconds, short
from pgqueue.recurrence import Timing, crontab, schedule, timing_of
from pgqueue.task import Task

__all__ = ["Definitions", "checked"]

# Options of apply_async that name a single job, or its transaction.
_OF_ONE_JOB = {
    "task_id": "each tick makes a job of its own",
    "eta": "the tick is its eta; give countdown, or start_at",
    "on_duplicate": "each tick makes a job of its own",
    "connection": "pass it to upsert()",
    "link": "let the task enqueue what follows",
    "link_error": "let the task enqueue what follows",
}
_POLICY = ("catch_up", "catch_up_limit", "starting_deadline", "overlap")


class Definitions:
    """Checks schedules for one application, and keeps those that its code declares.

    Args:
        conf: the settings.
        client: checks calls.
        tasks: the registry.
    """

    def __init__(self, conf: Conf, client: Client, tasks: Mapping[str, Task[..., Any]]) -> None:
        self._conf = conf
        self._client = client
        self._tasks = tasks
        self._declared: dict[str, dict[str, Any]] = {}

    def declare(self, name: str, entry: Mapping[str, Any]) -> None:
        """Note a schedule of the code; workers write it when they start. The entry is like one of beat_schedule.

        Raises:
            ValidationError: the name is taken by another entry.
        """
        if name in self._declared and self._declared[name] != dict(entry):
            raise ValidationError(f"schedule: {name!r} is declared twice; pass another name")
        self._declared[name] = dict(entry)

    def declarations(self) -> tuple[str, str, list[str]]:
        """Return what the code declares, beat_schedule included: fingerprint, JSON of the entries, and their names.

        Raises:
            ValidationError, ConfigurationError: an entry is wrong; the message names it.
        """
        entries = []
        for name, entry in {**self._conf.beat_schedule, **self._declared}.items():
            try:
                entries.append(self._entry(name, entry))
            except PgQueueError as error:
                raise type(error)(f"schedule {name!r}: {error}") from None
        entries.sort(key=lambda entry: str(entry["name"]))
        text = json.dumps(entries, default=datetime.isoformat)
        return hashlib.sha256(text.encode()).hexdigest()[:32], text, [str(entry["name"]) for entry in entries]

    def _entry(self, name: str, entry: Mapping[str, Any]) -> dict[str, Any]:
        details = {key: value for key, value in entry.items() if key not in _CALL_KEYS}
        every = entry["schedule"]
        if details.pop("relative", False) and isinstance(every, int | float | timedelta):
            every = schedule(every, relative=True)
        if "starting_deadline" not in details and isinstance(every, str | crontab):
            details["starting_deadline"] = self._conf.beat_cron_starting_deadline
        found = self.definition(
            name, entry["task"], every, entry.get("args") or (), entry.get("kwargs"), entry.get("options"), details
        )
        for unused in ("enabled", "check_task"):
            found.pop(unused)
        for column in ("args", "kwargs", "options"):
            found[column] = json.loads(found[column])
        found["declaration"] = hashlib.sha256(json.dumps(found, default=datetime.isoformat).encode()).hexdigest()[:32]
        return found

    def definition(
        self,
        name: str,
        task: str | Task[..., Any],
        every: Any,
        args: Sequence[Any],
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any] | None,
        details: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Check everything; returns the parameters of the query upsert_schedule."""
        unknown = sorted(details.keys() - _DETAILS)
        if unknown:
            raise ValidationError(f"{unknown[0]}: there is no such option; known are {', '.join(sorted(_DETAILS))}")
        if not isinstance(name, str) or not 0 < len(name) <= 255 or not name.isprintable():
            raise ValidationError(f"name: expected 1 to 255 printable characters, got {str(name)[:60]!r}")
        zone_name = self._conf.timezone if details.get("timezone") is None else details["timezone"]
        zone = ZoneInfo(checked("timezone", _zone, zone_name))
        timing: Timing = checked("schedule", timing_of, every, zone.key)
        found: dict[str, Any] = {
            "name": name,
            "task": getattr(task, "name", task),
            **{key: getattr(timing, key) for key in ("cron", "every", "once_at", "solar", "match_both_days")},
            "timezone": zone.key,
            "anchor_at": timing.anchor_at,
        }
        for key in ("start_at", "end_at"):
            value = details.get(key)
            found[key] = None if value is None else checked(key, instant, value, zone)
        if found["start_at"] and found["end_at"] and found["end_at"] < found["start_at"]:
            raise ValidationError("end_at: it is before start_at")
        found["jitter"] = checked("jitter", _within, details.get("jitter") or 0, 0, 86_400)
        found["catch_up"] = checked("catch_up", _one_of, details.get("catch_up", "one"), ("skip", "one", "all"))
        found["overlap"] = checked("overlap", _one_of, details.get("overlap", "allow"), ("allow", "skip", "queue"))
        found["catch_up_limit"] = checked("catch_up_limit", _count, details.get("catch_up_limit", 100))
        deadline = details.get("starting_deadline")
        found["starting_deadline"] = None if deadline is None else checked("starting_deadline", seconds, deadline, 1)
        if not (details.get("enabled") is None or isinstance(details["enabled"], bool)):
            raise ValidationError(f"enabled: True or False is needed, got {short(details['enabled'])}")
        found["enabled"] = details.get("enabled")
        found["check_task"] = details.get("check_task", True) and found["task"] not in self._tasks
        return {**found, **self._call(found["task"], args, kwargs or {}, options or {})}

    def _call(
        self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> dict[str, str]:
        """Check a call as apply_async does; returns its columns as JSON."""
        for option, reason in _OF_ONE_JOB.items():
            if options.get(option) is not None:
                raise ValidationError(f"options: {option} is not for schedules: {reason}")
        job = self._client.prepare(task, args, kwargs, dict(options)).job  # type: ignore[arg-type] # checked there
        kept: dict[str, Any] = {"queue": job.queue, "priority": job.priority, **json.loads(job.options or "{}")}
        if job.headers:
            kept["headers"] = json.loads(job.headers)
        if job.delay:
            kept["countdown"] = job.delay
        if job.expires_in is not None or job.expires_at is not None:
            kept["expires"] = job.expires_in if job.expires_at is None else job.expires_at.isoformat()
        return {"args": job.args or "[]", "kwargs": job.kwargs or "{}", "options": json.dumps(kept, sort_keys=True)}


_CALL_KEYS = frozenset({"task", "schedule", "args", "kwargs", "options"})
_DETAILS = frozenset({"timezone", "start_at", "end_at", "jitter", "enabled", "check_task", *_POLICY})


def checked(field: str, read: Callable[..., Any], *values: Any) -> Any:
    try:
        return read(*values)
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise ValidationError(f"{field}: {error}") from None


def _zone(value: Any) -> str:
    key = value.key if isinstance(value, ZoneInfo) else value
    try:
        return ZoneInfo(key).key
    except (ValueError, OSError, KeyError, TypeError):
        raise ValueError(f"expected the name of a time zone such as 'Europe/Berlin', got {str(key)[:60]!r}") from None


def _within(value: Any, low: float, high: float) -> float:
    found = seconds(value, low)
    if found > high:
        raise ValueError(f"expected {low:g} to {high:g} seconds, got {found:g}")
    return found


def _one_of(value: Any, known: Sequence[str]) -> Any:
    if value not in known:
        raise ValueError(f"expected {', '.join(known)}, got {str(value)[:60]!r}")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise ValueError(f"expected a whole number from 1 to 10,000, got {str(value)[:60]!r}")
    return value
