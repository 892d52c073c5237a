"""What a schedule is to be, checked before anything is written: given to upsert(), or declared by the code."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any, cast
from uuid import UUID

from pgqueue.canvas.signatures import Signature
from pgqueue.canvas.submission import build
from pgqueue.config.conf import Conf
from pgqueue.config.validation import beat_schedule
from pgqueue.enqueueing.client import Client
from pgqueue.errors import ConfigurationError, PgQueueError, ValidationError
from pgqueue.graph import NewWorkflow
from pgqueue.options.values import flag, instant, seconds, short
from pgqueue.tasks.task import Task
from pgqueue.timing.recurrence import Timing, crontab, schedule, timing_of
from pgqueue.timing.zones import zone_of

__all__ = ["Definitions", "checked"]

# Options of apply_async that name a single job, or its transaction.
_OF_ONE_JOB = {
    "task_id": "each tick makes a job of its own",
    "eta": "the tick is its eta; give countdown, or start_at",
    "on_duplicate": "each tick makes a job of its own",
    "connection": "pass it to upsert()",
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
        try:
            configured = beat_schedule(self._conf.beat_schedule)  # once more: what it holds may have been changed
        except ValueError as error:
            raise ConfigurationError(f"beat_schedule: {error}") from None
        for name, entry in {**configured, **self._declared}.items():
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
            name, entry["task"], every, entry.get("args"), entry.get("kwargs"), entry.get("options"), details
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
        args: Sequence[Any] | None,
        kwargs: Mapping[str, Any] | None,
        options: Mapping[str, Any] | None,
        details: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Check everything; returns the parameters of the query upsert_schedule."""
        unknown = sorted(details.keys() - _DETAILS)
        if unknown:
            raise ValidationError(f"{unknown[0]}: there is no such option; known are {', '.join(sorted(_DETAILS))}")
        if not isinstance(name, str) or not 0 < len(name) <= 255 or not name.isprintable():
            raise ValidationError(f"name: expected 1 to 255 printable characters, got {short(name)}")
        task = getattr(task, "name", task)
        if not isinstance(task, str):
            raise ValidationError(f"task: expected a task or its name, got {short(task)}")
        zone_name = self._conf.timezone if details.get("timezone") is None else details["timezone"]
        zone = checked("timezone", zone_of, zone_name)
        timing: Timing = checked("schedule", timing_of, every, zone.key)
        found: dict[str, Any] = {
            "name": name,
            "task": task,
            **{key: getattr(timing, key) for key in ("cron", "every", "once_at", "solar", "match_both_days")},
            "timezone": zone.key,
            "anchor_at": timing.anchor_at,
        }
        for key in ("start_at", "end_at"):
            value = details.get(key)
            found[key] = None if value is None else checked(key, instant, value, zone)
        if found["start_at"] and found["end_at"] and found["end_at"] < found["start_at"]:
            raise ValidationError("end_at: it is before start_at")
        found["jitter"] = checked("jitter", _within, 0 if details.get("jitter") is None else details["jitter"], 86_400)
        found["catch_up"] = checked("catch_up", _one_of, details.get("catch_up", "one"), ("skip", "one", "all"))
        found["overlap"] = checked("overlap", _one_of, details.get("overlap", "allow"), ("allow", "skip", "queue"))
        found["catch_up_limit"] = checked("catch_up_limit", _count, details.get("catch_up_limit", 100))
        deadline = details.get("starting_deadline")
        found["starting_deadline"] = None if deadline is None else checked("starting_deadline", seconds, deadline, 1)
        for key in ("enabled", "check_task"):
            found[key] = None if details.get(key) is None else checked(key, flag, details[key])
        found["check_task"] = found["check_task"] is not False and task not in self._tasks
        if not isinstance(args, Sequence | None) or isinstance(args, str | bytes):
            raise ValidationError(f"args: expected a list or tuple, got {type(args).__name__}")
        for key, given in (("kwargs", kwargs), ("options", options)):
            if not isinstance(given, Mapping | None):
                raise ValidationError(f"{key}: expected a dict, got {type(given).__name__}")
        return {**found, **self._call(task, args or (), kwargs or {}, options or {})}

    def _call(
        self, task: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: Mapping[str, Any]
    ) -> dict[str, str]:
        """Check a call as apply_async does; returns its columns as JSON."""
        for option, reason in _OF_ONE_JOB.items():
            if options.get(option) is not None:
                raise ValidationError(f"options: {option} is not for schedules: {reason}")
        kept: dict[str, Any] = {}
        if "linked" in options:
            # What was kept before is given back.
            kept["linked"] = options["linked"]
            options = {name: value for name, value in options.items() if name != "linked"}
            if options.get("link") or options.get("link_error"):
                raise ValidationError("options: linked: give link and link_error, or what they made before")
        if options.get("link") or options.get("link_error"):
            call = Signature[Any](task, tuple(args), kwargs, cast(Any, options), app=cast(Any, self._client))
            workflow = build(call, None, None, {}).workflow
            job = workflow.steps[0].job
            kept["linked"] = _linked(workflow, self._client.results.keep())
        else:
            job = self._client.prepare(task, args, kwargs, dict(options)).job  # type: ignore[arg-type] # checked there
        kept.update({"queue": job.queue, "priority": job.priority, **json.loads(job.options or "{}")})
        if job.headers:
            kept["headers"] = json.loads(job.headers)
        if job.delay:
            kept["countdown"] = job.delay
        if job.expires_in is not None or job.expires_at is not None:
            kept["expires"] = job.expires_in if job.expires_at is None else job.expires_at.isoformat()
        return {"args": job.args or "[]", "kwargs": job.kwargs or "{}", "options": json.dumps(kept, sort_keys=True)}


def _linked(workflow: NewWorkflow, keep: float | None) -> dict[str, Any]:
    """The steps that follow each job, numbered from 1, and what they wait for; the job itself is 0."""
    places = {step.job.id: place for place, step in enumerate(workflow.steps)}
    groups: dict[str, str] = {}
    steps = []
    for step in workflow.steps[1:]:
        job = step.job
        if job.own_id:
            raise ValidationError(
                f"options: link: task_id of {job.task!r} is not for schedules: {_OF_ONE_JOB['task_id']}"
            )
        own = json.loads(job.options or "{}")
        if "group_id" in own:
            # The same whenever it is declared.
            own["group_id"] = groups.setdefault(own["group_id"], str(UUID(int=len(groups) + 1)))
        found = {
            **{name: getattr(job, name) for name in ("task", "queue", "priority", "args", "kwargs", "headers")},
            **{"options": json.dumps(own) if own else None, "delay": job.delay, "expires_in": job.expires_in},
            **{name: value.isoformat() for name in ("eta", "expires_at") if (value := getattr(job, name)) is not None},
            **{"inputs": step.inputs, "run": step.run},
        }
        steps.append({name: value for name, value in found.items() if value is not None})
    edges = [[places[edge.parent_id], places[edge.child_id], *edge[2:]] for edge in workflow.edges]
    return {"steps": steps, "edges": edges, "keep": keep}


_CALL_KEYS = frozenset({"task", "schedule", "args", "kwargs", "options"})
_DETAILS = frozenset({"timezone", "start_at", "end_at", "jitter", "enabled", "check_task", *_POLICY})


def checked(field: str, read: Callable[..., Any], *values: Any) -> Any:
    try:
        return read(*values)
    except (ValueError, TypeError, KeyError, OSError, OverflowError) as error:
        raise ValidationError(f"{field}: {error}") from None


def _within(value: Any, high: float) -> float:
    found = seconds(value)
    if found > high:
        raise ValueError(f"expected 0 to {high:g} seconds, got {found:g}")
    return found


def _one_of(value: Any, known: Sequence[str]) -> Any:
    if value not in known:
        raise ValueError(f"expected {', '.join(known)}, got {short(value)}")
    return value


def _count(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= 10_000:
        raise ValueError(f"expected a whole number from 1 to 10,000, got {short(value)}")
    return value
