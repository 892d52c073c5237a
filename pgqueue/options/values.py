"""Values of options: each function takes what a user wrote and gives the value to keep, or raises ValueError."""

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from pgqueue.retry import MAX_DELAY_SECONDS

__all__ = [
    "MAX_RETRIES",
    "QUEUE_NAME",
    "as_pool",
    "backoff",
    "exceptions",
    "expiry",
    "flag",
    "instant",
    "limit",
    "pool",
    "priority_number",
    "queue_name",
    "retry_count",
    "retry_kwargs",
    "seconds",
    "short",
    "task_name",
    "transactional",
]

MAX_RETRIES = 1000
QUEUE_NAME = re.compile(r"[A-Za-z0-9_.:-]{1,128}")


def seconds(value: Any, low: float = 0.0) -> float:
    """Seconds as a float from a number or a timedelta; ValueError unless finite, >= low and <= 10 years."""
    if isinstance(value, timedelta):
        value = value.total_seconds()
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"expected seconds or a timedelta, got {short(value)}")
    if not low <= value <= MAX_DELAY_SECONDS:
        raise ValueError(f"expected {low:g} seconds to 10 years, got {short(value)}")
    return float(value)


def limit(value: Any) -> float | None:
    return None if value is None else seconds(value, 0.001)


def queue_name(value: Any) -> str:
    if not isinstance(value, str) or not QUEUE_NAME.fullmatch(value):
        raise ValueError(f"expected 1 to 128 characters out of A-Z a-z 0-9 _ . : -, got {short(value)}")
    return value


def priority_number(value: Any) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= 9:
        raise ValueError(f"expected a whole number from 0 to 9 (9 runs first), got {short(value)}")
    return int(value)


def retry_count(value: Any) -> int:
    if value is None:
        return MAX_RETRIES
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_RETRIES:
        raise ValueError(
            f"expected a whole number from 0 to {MAX_RETRIES:,}, or None for {MAX_RETRIES:,}, got {short(value)}"
        )
    return int(value)


def flag(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError(f"expected True or False, got {short(value)}")
    return value


def exceptions(value: Any) -> tuple[type[BaseException], ...]:
    found = (value,) if isinstance(value, type) else tuple(value)
    for kind in found:
        if not isinstance(kind, type) or not issubclass(kind, BaseException):
            raise ValueError(f"expected exception classes, got {short(kind)}")
    return found


def backoff(value: Any) -> float | bool:
    if isinstance(value, bool):
        return value
    return seconds(value)


def retry_kwargs(value: Any) -> dict[str, Any]:
    unknown = set(value) - {"max_retries", "countdown"}
    if unknown:
        raise ValueError(f"expected max_retries and countdown, got {sorted(map(str, unknown))[0]!r}")
    checks: dict[str, Callable[[Any], Any]] = {"max_retries": retry_count, "countdown": seconds}
    return {name: checks[name](item) for name, item in value.items()}


def retry_policy(value: Any) -> Any:
    if value is None or callable(value):
        return value
    raise ValueError(f"expected a callable (attempt, error, elapsed, request), got {short(value)}")


def transactional(value: Any) -> Any:
    if isinstance(value, bool) or callable(value):
        return value
    raise ValueError(f"expected True, False, or a callable that makes a Session or Connection, got {short(value)}")


def task_name(value: Any) -> str:
    """A task's name: 1 to 255 characters, none of them white space or a control character."""
    if not isinstance(value, str) or not 0 < len(value) <= 255:
        raise ValueError(f"expected a name of 1 to 255 characters, got {short(value)}")
    if not value.isprintable() or any(character.isspace() for character in value):
        raise ValueError(f"expected a name without spaces and control characters, got {short(value)}")
    return str(value)


def pool(value: Any) -> str:
    known = {"prefork": "processes", "processes": "processes", "threads": "threads", "solo": "solo"}
    known |= {"loop": "loop", "asyncio": "loop"}
    if value in ("gevent", "eventlet", "custom"):
        raise ValueError(f"there is no pool {value!r}: use threads, or write the tasks as coroutines (async def)")
    if not isinstance(value, str) or value not in known:
        raise ValueError(f"expected 'processes' (prefork), 'threads', 'loop' or 'solo', got {short(value)}")
    return known[value]


def as_pool(value: Any) -> str | None:
    """The worker's name of a pool; ValueError when there is none of this name."""
    if value is None or value == "loop":
        return value  # type: ignore[no-any-return] # just compared
    found = pool(value)
    return "loop" if found == "eventloop" else found


def instant(value: Any, zone: ZoneInfo) -> datetime:
    """An aware datetime from a datetime or ISO text; a naive one is in `zone`. ValueError when it is neither."""
    if isinstance(value, str):
        try:
            value = datetime.fromisoformat(value)
        except ValueError:
            raise ValueError(f"expected a datetime or its ISO text, got {short(value)}") from None
    if not isinstance(value, datetime):
        raise ValueError(f"expected a datetime or its ISO text, got {short(value)}")
    if value.utcoffset() is None:
        value = value.replace(tzinfo=zone)
    if not 1970 <= value.year <= 9000:
        raise ValueError(f"expected an instant between the years 1970 and 9000, got {value.isoformat()}")
    at: datetime = value.astimezone(UTC)
    return at


def _is_instant(text: str) -> bool:
    try:
        datetime.fromisoformat(text)
    except ValueError:
        return False
    return True


def expiry(value: Any, zone: ZoneInfo) -> tuple[float | None, datetime | None]:
    if value is None:
        return None, None
    if isinstance(value, str) and not _is_instant(value):
        raise ValueError(f"expected seconds, a timedelta, or a datetime or its ISO text, got {short(value)}")
    if isinstance(value, datetime | str):
        at = instant(value, zone)
        return (0.0, None) if at <= datetime.now(UTC) else (None, at)
    if isinstance(value, int | float) and not isinstance(value, bool) and -math.inf < value < 0:
        return 0.0, None
    return seconds(value), None


def short(value: object) -> str:
    try:
        text = repr(value)
    except ValueError:  # an int of more digits than Python prints
        text = f"{type(value).__name__} of too many digits"
    return text if len(text) <= 60 else f"{text[:57]}..."
