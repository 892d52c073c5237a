"""Options of tasks and of single calls: which exist, what their values must be, and what of Celery is declined."""

import json
import math
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta
from difflib import get_close_matches
from typing import Any, Literal, NamedTuple, TypedDict
from zoneinfo import ZoneInfo

from pgqueue.codec import encode_headers
from pgqueue.declined_options import DECLINED_CALL_OPTIONS, DECLINED_TASK_OPTIONS
from pgqueue.errors import ConfigurationError, LimitExceeded, UnsupportedOption, ValidationError
from pgqueue.job import as_job_id
from pgqueue.retry import MAX_DELAY_SECONDS, RetryPolicy
from pgqueue.validation import QUEUE_NAME
from pgqueue.validation import pool as validated_pool

__all__ = [
    "MAX_RETRIES",
    "CallOptions",
    "ReadCall",
    "RetryOptions",
    "TaskOptions",
    "as_pool",
    "check_call_options",
    "check_retry_options",
    "check_task_options",
    "instant",
    "policy_of",
    "read_call",
    "task_identity",
]

MAX_RETRIES = 1000
RESERVED_HEADERS = frozenset({"task_id"})


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
    throws: Iterable[type[BaseException]]
    ignore_result: bool
    store_errors_even_if_ignored: bool
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


# values


def seconds(value: Any, low: float = 0.0) -> float:
    """Seconds as a float from a number or a timedelta; ValueError unless finite, >= low and <= 10 years."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected seconds or a timedelta, got {_short(value)}")
    if not math.isfinite(value) or not low <= value <= MAX_DELAY_SECONDS:
        raise ValueError(f"expected {low:g} seconds to 10 years, got {value:g}")
    return float(value)


def _limit(value: Any) -> float | None:
    return None if value is None else seconds(value, 0.001)


def _queue(value: Any) -> str:
    if not isinstance(value, str) or not QUEUE_NAME.fullmatch(value):
        raise ValueError(f"expected 1 to 128 characters out of A-Z a-z 0-9 _ . : -, got {_short(value)}")
    return value


def _priority(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9:
        raise ValueError(f"expected a whole number from 0 to 9 (9 runs first), got {_short(value)}")
    return int(value)


def _retries(value: Any) -> int:
    if value is None:
        return MAX_RETRIES
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_RETRIES:
        raise ValueError(
            f"expected a whole number from 0 to {MAX_RETRIES:,}, or None for {MAX_RETRIES:,}, got {_short(value)}"
        )
    return int(value)


def _flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected True or False, got {_short(value)}")
    return value


def _errors(value: Any) -> tuple[type[BaseException], ...]:
    found = (value,) if isinstance(value, type) else tuple(value)
    for kind in found:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise ValueError(f"expected exception classes, got {_short(kind)}")
    return found


def _backoff(value: Any) -> float | bool:
    if isinstance(value, bool):
        return value
    return seconds(value)


def _retry_kwargs(value: Any) -> dict[str, Any]:
    unknown = set(value) - {"max_retries", "countdown"}
    if unknown:
        raise ValueError(f"expected max_retries and countdown, got {sorted(map(str, unknown))[0]!r}")
    checks: dict[str, Callable[[Any], Any]] = {"max_retries": _retries, "countdown": seconds}
    return {name: checks[name](item) for name, item in value.items()}


def _transactional(value: Any) -> Any:
    if isinstance(value, bool) or callable(value):
        return value
    raise ValueError(f"expected True, False, or a callable that makes a Session or Connection, got {_short(value)}")


def task_name(value: Any) -> str:
    """A task's name: 1 to 255 characters, none of them white space or a control character."""
    if not isinstance(value, str) or not 0 < len(value) <= 255:
        raise ValueError(f"expected a name of 1 to 255 characters, got {_short(value)}")
    if not value.isprintable() or any(character.isspace() for character in value):
        raise ValueError(f"expected a name without spaces and control characters, got {_short(value)}")
    return str(value)


def as_pool(value: Any) -> str | None:
    """The worker's name of a pool; ValueError when there is none of this name."""
    if value is None or value == "loop":
        return value  # type: ignore[no-any-return] # just compared
    found = validated_pool(value)
    return "loop" if found == "eventloop" else found


_TASK_CHECKS: dict[str, Callable[[Any], Any]] = {
    "name": task_name,
    "queue": _queue,
    "priority": _priority,
    "expires": lambda value: None if value is None else seconds(value),
    "max_retries": _retries,
    "default_retry_delay": seconds,
    "autoretry_for": _errors,
    "dont_autoretry_for": _errors,
    "retry_kwargs": _retry_kwargs,
    "retry_backoff": _backoff,
    "retry_backoff_max": seconds,
    "retry_jitter": _flag,
    "throws": _errors,
    "ignore_result": _flag,
    "store_errors_even_if_ignored": _flag,
    "time_limit": _limit,
    "soft_time_limit": _limit,
    "acks_late": _flag,
    "transactional": _transactional,
    "pool": as_pool,
    "typing": _flag,
    "result_expires": lambda value: None if value is None else seconds(value, 1),
}


def policy_of(options: Mapping[str, Any], max_retries: int) -> RetryPolicy:
    """The retry policy of checked task options; `max_retries` is the default."""
    explicit = options.get("retry_kwargs", {})
    return RetryPolicy(
        explicit.get("max_retries", max_retries),
        explicit.get("countdown", options.get("default_retry_delay", 180.0)),
        options.get("retry_backoff", False),
        options.get("retry_backoff_max", 600.0),
        options.get("retry_jitter", True),
        options.get("autoretry_for", ()),
        options.get("dont_autoretry_for", ()),
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
        raise ValidationError(f"task_id: expected a text, got {_short(value)}")
    if not 0 < len(text) <= 255:
        raise LimitExceeded(f"task_id: 1 to 255 characters are needed, got {len(text)}")
    if "\0" in text or not text.isprintable():
        raise ValidationError(f"task_id: expected printable characters, got {_short(value)}")
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
        queue = None if value is None else _queue(value)
        name, value = "priority", get("priority")
        priority = None if value is None else _priority(value)
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
        expires_in, expires_at = _expiry(value, zone)
        overrides = {}
        for name, check in (("time_limit", _limit), ("soft_time_limit", _limit)):
            if name in options:
                overrides[name] = check(options[name])
        for name, read in (("max_retries", _retries), ("ignore_result", _flag)):
            if get(name) is not None:
                overrides[name] = read(options[name])
    except (ValueError, TypeError) as error:
        raise ValidationError(f"{name}: {error}") from None
    if overrides:
        _check_limits(overrides.get("soft_time_limit", soft), overrides.get("time_limit", hard), "", ValidationError)
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
        raise ValidationError(f"headers: expected a dict, got {_short(value)}")
    reserved = sorted(RESERVED_HEADERS & value.keys())
    if reserved:
        raise ValidationError(f"headers: {reserved[0]!r} is reserved; choose another name")
    return dict(value)


def _check_limits(soft: float | None, hard: float | None, where: str, error: type[Exception]) -> None:
    if soft is not None and hard is not None and soft > hard:
        raise error(f"{where}soft_time_limit ({soft:g} s) is longer than time_limit ({hard:g} s)")


def instant(value: Any, zone: ZoneInfo) -> datetime:
    """An aware datetime from a datetime or ISO text; a naive one is in `zone`. ValueError when it is neither."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"expected a datetime or its ISO text, got {_short(value)}") from None
    if not isinstance(value, datetime):
        raise ValueError(f"expected a datetime or its ISO text, got {_short(value)}")
    if value.utcoffset() is None:
        value = value.replace(tzinfo=zone)
    if not 1970 <= value.year <= 9000:
        raise ValueError(f"expected an instant between the years 1970 and 9000, got {value.isoformat()}")
    at: datetime = value.astimezone(UTC)
    return at


def _expiry(value: Any, zone: ZoneInfo) -> tuple[float | None, datetime | None]:
    if value is None:
        return None, None
    if isinstance(value, datetime | str):
        at = instant(value, zone)
        return (0.0, None) if at <= datetime.now(UTC) else (None, at)
    if isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < 0:
        return 0.0, None
    return seconds(value), None


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
