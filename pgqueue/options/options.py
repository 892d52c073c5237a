"""Options of tasks and of single calls: which exist, what their values must be, and what of Celery is declined."""

import json
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

from pgqueue.codec import encode_headers
from pgqueue.declined.options import DECLINED_CALL_OPTIONS, DECLINED_TASK_OPTIONS
from pgqueue.errors import ConfigurationError, LimitExceeded, UnsupportedOption, ValidationError
from pgqueue.job import as_job_id
from pgqueue.options.values import (
    as_pool,
    backoff,
    exceptions,
    expiry,
    flag,
    instant,
    limit,
    priority_number,
    queue_name,
    retry_count,
    retry_kwargs,
    retry_policy,
    seconds,
    short,
    task_name,
    transactional,
)
from pgqueue.retry import MAX_DELAY_SECONDS, Policy, RetryPolicy

__all__ = [
    "CallOptions",
    "ReadCall",
    "RetryOptions",
    "TaskOptions",
    "check_call_options",
    "check_retry_options",
    "check_task_options",
    "policy_of",
    "read_call",
    "task_identity",
]

RESERVED_HEADERS = frozenset({"task_id", "schedule", "scheduled_for"})


class TaskOptions(TypedDict, total=False):
    """What @app.task takes; names, units and meaning as in Celery. See PgQueue.task."""

    name: str
    queue: str
    priority: int
    expires: float | timedelta | None
    max_retries: int | None
    default_retry_delay: float | timedelta
    autoretry_for: Iterable[type[BaseException]]
    dont_autoretry_for: Iterable[type[BaseException]]
    retry_kwargs: Mapping[str, Any]
    retry_backoff: bool | float
    retry_backoff_max: float
    retry_jitter: bool
    retry_policy: Policy | None
    throws: Iterable[type[BaseException]]
    ignore_result: bool
    time_limit: float | None
    soft_time_limit: float | None
    acks_late: bool
    transactional: bool | Callable[[], Any]
    pool: Literal["processes", "threads", "eventloop", "loop", "solo", "prefork"] | None
    typing: bool
    result_expires: float | timedelta | None


class CallOptions(TypedDict, total=False):
    """What apply_async, send_task and Signature.set take; see Task.apply_async."""

    task_id: str | None
    countdown: float | timedelta | None
    eta: datetime | str | None
    expires: float | timedelta | datetime | None
    priority: int | None
    queue: str | None
    headers: Mapping[str, Any] | None
    ignore_result: bool | None
    time_limit: float | None
    soft_time_limit: float | None
    max_retries: int | None
    link: Any  # a signature, its dict, or a list of them
    link_error: Any
    stamps: Mapping[str, Any] | None
    over: Literal["map", "starmap"]  # of task.map() and task.starmap()
    connection: Any
    on_duplicate: Literal["raise", "return"]


class RetryOptions(TypedDict, total=False):
    """What Task.retry takes besides its own parameters: options of the next attempt."""

    expires: float | timedelta | datetime | None
    priority: int | None
    queue: str | None
    ignore_result: bool | None
    time_limit: float | None
    soft_time_limit: float | None


# Options of which one value is what happens anyway.
_FIXED: dict[str, tuple[Any, str]] = {
    "serializer": ("json", "values travel as JSON"),
    "track_started": (True, "that a job runs, and where, is always recorded"),
    "reject_on_worker_lost": (True, "set acks_late=False on tasks that must not run again"),
    "store_errors_even_if_ignored": (True, "errors are kept with their jobs"),
    "pydantic": (True, "models are validated where the signature names them"),
}
_TASK_NAMES = frozenset(TaskOptions.__annotations__)
_CALL_NAMES = frozenset(CallOptions.__annotations__)
_RETRY_NAMES = frozenset(RetryOptions.__annotations__)


def check_task_options(options: Mapping[str, Any], where: str) -> dict[str, Any]:
    """Check the options of a task.

    Args:
        options: as given to @app.task or by task_annotations; `bind` is not among them.
        where: begins the messages.

    Returns:
        The options with their values in one form (seconds, tuples).

    Raises:
        UnsupportedOption: an option of Celery that is not honoured.
        ConfigurationError: an unknown name or a wrong value.
    """
    found = {}
    for name, value in options.items():
        if name in _FIXED:
            _check_fixed(where, name, value)
            continue
        if name not in _TASK_NAMES:
            raise _unknown(where, name, DECLINED_TASK_OPTIONS, _TASK_NAMES)
        try:
            found[name] = _TASK_CHECKS[name](value)
        except (ValueError, TypeError) as error:
            raise ConfigurationError(f"{where}: {name}: {error}") from None
    _check_limits(found.get("soft_time_limit"), found.get("time_limit"), f"{where}: ", ConfigurationError)
    return found


def check_call_options(options: Mapping[str, Any], where: str) -> None:
    """Refuse names that are no options of a call; the values are checked when it is made."""
    if options.keys() <= _CALL_NAMES:
        return
    for name, value in options.items():
        if name in _FIXED:
            _check_fixed(where, name, value)
        elif name not in _CALL_NAMES:
            raise _unknown(where, name, DECLINED_CALL_OPTIONS, _CALL_NAMES)


def check_retry_options(options: Mapping[str, Any], where: str) -> None:
    """Refuse names that are no options of a retry."""
    for name in options.keys() - _RETRY_NAMES:
        if name in _CALL_NAMES:
            raise UnsupportedOption(f"{where}: {name} is not supported: it belongs to the job for good")
        raise _unknown(where, name, DECLINED_CALL_OPTIONS, _RETRY_NAMES)


def _check_fixed(where: str, name: str, value: Any) -> None:
    only, reason = _FIXED[name]
    if value != only:
        raise UnsupportedOption(f"{where}: {name}={value!r} is not supported: {reason}")


def _unknown(where: str, name: str, declined: Mapping[str, str], known: Iterable[str]) -> ConfigurationError:
    if name in declined:
        return UnsupportedOption(f"{where}: {name} is not supported: {declined[name]}")
    near = get_close_matches(name, known, 1)
    hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(known))}"
    return ConfigurationError(f"{where}: there is no option {name!r}{hint}")


_TASK_CHECKS: dict[str, Callable[[Any], Any]] = {
    "name": task_name,
    "queue": queue_name,
    "priority": priority_number,
    "expires": lambda value: None if value is None else seconds(value),
    "max_retries": retry_count,
    "default_retry_delay": seconds,
    "autoretry_for": exceptions,
    "dont_autoretry_for": exceptions,
    "retry_kwargs": retry_kwargs,
    "retry_backoff": backoff,
    "retry_backoff_max": seconds,
    "retry_jitter": flag,
    "retry_policy": retry_policy,
    "throws": exceptions,
    "ignore_result": flag,
    "time_limit": limit,
    "soft_time_limit": limit,
    "acks_late": flag,
    "transactional": transactional,
    "pool": as_pool,
    "typing": flag,
    "result_expires": lambda value: None if value is None else seconds(value, 1),
}


def policy_of(options: Mapping[str, Any], max_retries: int) -> RetryPolicy:
    """The retry policy of checked task options; `max_retries` is the default.

    A policy of its own decides alone: it is asked about every error, and ends when it says so.
    """
    explicit = options.get("retry_kwargs", {})
    decide = options.get("retry_policy")
    return RetryPolicy(
        explicit.get("max_retries", max_retries),
        explicit.get("countdown", options.get("default_retry_delay", 180.0)),
        options.get("retry_backoff", False),
        options.get("retry_backoff_max", 600.0),
        options.get("retry_jitter", True),
        options.get("autoretry_for", () if decide is None else (Exception,)),
        options.get("dont_autoretry_for", ()),
        decide,
    )


# one call


class ReadCall(NamedTuple):
    """The options of one call, checked; None means: not given."""

    queue: str | None
    priority: int | None
    headers: str | None
    options: str | None
    delay: float | None
    eta: datetime | None
    expires_in: float | None
    expires_at: datetime | None
    job_id: str | None
    task_id: str | None


def task_identity(value: Any) -> tuple[str, str, bool]:
    """A caller's task_id as (what he calls it, the job's UUID, whether it was mapped); ValidationError when unfit."""
    text = str(value) if not isinstance(value, bytes) else ""
    if not isinstance(value, str) and type(value).__name__ != "UUID":
        raise ValidationError(f"task_id: expected a text, got {short(value)}")
    if not 0 < len(text) <= 255:
        raise LimitExceeded(f"task_id: 1 to 255 characters are needed, got {len(text)}")
    if "\0" in text or not text.isprintable():
        raise ValidationError(f"task_id: expected printable characters, got {short(value)}")
    job_id, mapped = as_job_id(text)
    return (text if mapped else job_id), job_id, mapped


def read_call(options: Mapping[str, Any], zone: ZoneInfo, soft: float | None, hard: float | None) -> ReadCall:
    """Check the options of one call.

    Args:
        options: task's, route's and call's, merged.
        zone: of naive instants.
        soft, hard: the task's own limits, which the call's are compared with.

    Raises:
        ValidationError: a wrong value; the message begins with its name.
    """
    get = options.get
    name = ""
    try:
        name, value = "queue", get("queue")
        queue = None if value is None else queue_name(value)
        name, value = "priority", get("priority")
        priority = None if value is None else priority_number(value)
        name, value = "countdown", get("countdown")
        delay = None if value is None else seconds(value)
        name, eta = "eta", get("eta")
        if eta is not None:
            if delay is not None:
                raise ValueError("give countdown or eta, not both")
            eta = instant(eta, zone)
            if eta > datetime.now(UTC) + timedelta(seconds=MAX_DELAY_SECONDS):
                raise ValueError("expected at most 10 years from now")
        name, value = "expires", get("expires")
        expires_in, expires_at = expiry(value, zone)
        overrides: dict[str, Any] = {}
        for name, check in (("time_limit", limit), ("soft_time_limit", limit)):
            if name in options:
                overrides[name] = check(options[name])
        name, value = "over", get("over")
        if value is not None:
            if value not in ("map", "starmap"):
                raise ValueError("call task.map() or task.starmap()")
            overrides[name] = value
        for name, read in (("max_retries", retry_count), ("ignore_result", flag)):
            if get(name) is not None:
                overrides[name] = read(options[name])
    except (ValueError, TypeError) as error:
        raise ValidationError(f"{name}: {error}") from None
    if overrides:
        _check_limits(overrides.get("soft_time_limit", soft), overrides.get("time_limit", hard), "", ValidationError)
    if get("stamps"):
        overrides["stamps"] = _stamps(options["stamps"])
    headers, job_id, task_id = _headers(get("headers")), None, None
    if get("task_id") is not None:
        task_id, job_id, mapped = task_identity(options["task_id"])
        if mapped:
            headers["task_id"] = task_id
    return ReadCall(
        queue,
        priority,
        encode_headers(headers),
        json.dumps(overrides) if overrides else None,
        delay or None,
        eta,
        expires_in,
        expires_at,
        job_id,
        task_id,
    )


def _headers(value: Any) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise ValidationError(f"headers: expected a dict, got {short(value)}")
    reserved = sorted(RESERVED_HEADERS & value.keys())
    if reserved:
        raise ValidationError(f"headers: {reserved[0]!r} is reserved; choose another name")
    return dict(value)


def _stamps(value: Any) -> Any:
    if not isinstance(value, Mapping):
        raise ValidationError(f"stamps: expected a dict, got {short(value)}")
    return json.loads(encode_headers({"stamps": value}) or "{}")["stamps"]


def _check_limits(soft: float | None, hard: float | None, where: str, error: type[Exception]) -> None:
    if soft is not None and hard is not None and soft > hard:
        raise error(f"{where}soft_time_limit ({soft:g} s) is longer than time_limit ({hard:g} s)")
