"""When a schedule ticks: what a user writes, what a row holds, and the instants of both.

Ticks of an interval lie on a grid: anchor + n x interval. The anchor is start_at, else the moment when the schedule was
created; the first tick is start_at itself, else one interval after the creation. Restarts and edits do not move the
grid.
"""

import functools
import importlib
import itertools
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pgqueue.errors import UnsupportedOption
from pgqueue.options.values import instant, short
from pgqueue.timing.cron import MAX_LENGTH, check_expression, cron_for, fires
from pgqueue.timing.zones import zone_of

__all__ = ["Timing", "crontab", "schedule", "solar", "timing_of"]

MAX_NUMBERS = 1000  # in one field of crontab(); more of them are an expression that is too long
MIN_INTERVAL = 0.1
MAX_INTERVAL = 3660 * 86_400.0
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_DAY = timedelta(days=1)


# what a user writes


class crontab:  # noqa: N801 - Celery's name
    """A cron expression by its fields, as in Celery.

    Args:
        minute, hour, day_of_week, day_of_month, month_of_year: numbers, texts of cron, or collections of numbers. Days
            of month and of week must both match if both are given, as in Celery; the text "0 0 13 * 5" takes either, as
            in cron.
        app: taken and not used.

    Raises:
        ValueError: a field is wrong; the message names it.
    """

    def __init__(
        self,
        minute: Any = "*",
        hour: Any = "*",
        day_of_week: Any = "*",
        day_of_month: Any = "*",
        month_of_year: Any = "*",
        *,
        nowfun: Any = None,
        app: Any = None,
    ) -> None:
        _refuse_clock("crontab", nowfun)
        fields = (
            _field("minute", minute, 0, 59),
            _field("hour", hour, 0, 23),
            _field("day_of_month", day_of_month, 1, 31),
            _field("month_of_year", month_of_year, 1, 12),
            _field("day_of_week", day_of_week, 0, 6),
        )
        self.expression = check_expression(" ".join(fields))

    @classmethod
    def from_string(cls, expression: str) -> "crontab":
        """Return the crontab of five fields in cron's order."""
        fields = check_expression(expression).split()
        if len(fields) != 5:
            raise ValueError(f"expected five fields, got {expression[:60]!r}")
        minute, hour, day_of_month, month_of_year, day_of_week = fields
        return cls(minute, hour, day_of_week, day_of_month, month_of_year)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, crontab) and other.expression == self.expression

    def __hash__(self) -> int:
        return hash(self.expression)

    def __repr__(self) -> str:
        return f"<crontab: {self.expression}>"


_AROUND_COMMAS = re.compile(r"\s*,\s*")
_WEEKDAYS = ("sunday", "monday", "tuesday", "wednesday", "thursday", "friday", "saturday")


def _field(name: str, value: Any, low: int, high: int) -> str:
    """One field of crontab() as cron writes it."""
    if isinstance(value, int) and not isinstance(value, bool):
        value = [value]
    if isinstance(value, str):
        text = _AROUND_COMMAS.sub(",", value.strip().lower())
    else:
        if isinstance(value, Iterable) and not isinstance(value, bytes | Mapping):
            value = list(itertools.islice(value, MAX_NUMBERS))
        if not isinstance(value, list) or not value:
            raise ValueError(f"{name}: expected a number, a text or numbers, got {short(value)}")
        if any(isinstance(item, bool) or not isinstance(item, int | str) for item in value):
            raise ValueError(f"{name}: expected numbers, got {short(value)}")
        text = ",".join(sorted((_printed(item) for item in value), key=lambda each: (len(each), each)))
    if len(text) > MAX_LENGTH:
        raise ValueError(f"{name}: expected at most {MAX_LENGTH} characters, got {len(text)}")
    if not text or any(character.isspace() for character in text):
        raise ValueError(f"{name}: {short(text)} is no value, range or step")
    if name == "day_of_week":
        for day in _WEEKDAYS:
            text = text.replace(day, day[:3])
    return ",".join(_unwrapped(name, part, low, high) for part in text.split(","))


def _printed(item: int | str) -> str:
    return item.strip().lower() if isinstance(item, str) else short(item)


def _unwrapped(name: str, part: str, low: int, high: int) -> str:
    """Celery lets a range go over the end: "fri-mon", "22-4"."""
    body, slash, step = part.partition("/")
    first, dash, last = body.partition("-")
    if not dash:
        return part
    names = [day[:3] for day in _WEEKDAYS] if name == "day_of_week" else []
    try:
        begin, end = (names.index(each) if each in names else int(each) for each in (first, last))
        every = int(step) if slash else 1
    except ValueError:
        return part
    if begin <= end or not (low <= begin <= high and low <= end <= high and every > 0):
        return part
    size = high - low + 1
    return ",".join(str(low + (begin - low + n) % size) for n in range(0, end - begin + size + 1, every))


class schedule:  # noqa: N801 - Celery's name
    """An interval, as in Celery.

    Args:
        run_every: seconds, or a timedelta.
        relative: the grid of ticks begins at midnight of 1970 in UTC, so that each minute ticks on the minute.
        app: taken and not used.

    Raises:
        ValueError: it is shorter than 0.1 seconds or longer than 3660 days.
    """

    def __init__(
        self, run_every: float | timedelta, relative: bool = False, *, nowfun: Any = None, app: Any = None
    ) -> None:
        _refuse_clock("schedule", nowfun)
        self.seconds = _interval(run_every)
        self.relative = relative

    def __repr__(self) -> str:
        return f"<schedule: {self.seconds:g} s>"


def _refuse_clock(kind: str, nowfun: object) -> None:
    if nowfun is not None:
        raise UnsupportedOption(
            f"{kind}: nowfun is not supported: the time is the database's; the entry's timezone names the zone"
        )


def _interval(value: Any) -> float:
    seconds = value.total_seconds() if isinstance(value, timedelta) else value
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        raise ValueError(f"expected seconds or a timedelta, got {short(value)}")
    if not MIN_INTERVAL <= seconds <= MAX_INTERVAL:
        raise ValueError(f"expected an interval of {MIN_INTERVAL} seconds to 3660 days, got {short(seconds)}")
    return float(seconds)


class solar:  # noqa: N801 - Celery's name
    """A position of the sun, as in Celery. Needs the extra `pgqueue[solar]` where schedulers run.

    Args:
        event: dawn_astronomical, dawn_nautical, dawn_civil, sunrise, solar_noon, sunset, dusk_civil, dusk_nautical or
            dusk_astronomical.
        lat, lon: degrees; north and east are positive.
        app: taken and not used.

    Raises:
        ValueError: there is no such event or place.
    """

    def __init__(self, event: str, lat: float, lon: float, *, nowfun: Any = None, app: Any = None) -> None:
        _refuse_clock("solar", nowfun)
        if not isinstance(event, str) or event not in _EVENTS:
            raise ValueError(f"solar: expected {', '.join(_EVENTS)}, got {short(event)}")
        for name, value, most in (("lat", lat, 90), ("lon", lon, 180)):
            if isinstance(value, bool) or not isinstance(value, int | float) or not -most <= value <= most:
                raise ValueError(f"solar: {name}: expected -{most} to {most} degrees, got {short(value)}")
        self.text = f"{event} {lat:.6f} {lon:.6f}"

    def __repr__(self) -> str:
        return f"<solar: {self.text}>"


# event: (how ephem asks for it, height of the sun in degrees, whether its middle counts)
_EVENTS: dict[str, tuple[str, str, bool]] = {
    "dawn_astronomical": ("next_rising", "-18", True),
    "dawn_nautical": ("next_rising", "-12", True),
    "dawn_civil": ("next_rising", "-6", True),
    "sunrise": ("next_rising", "-0:34", False),
    "solar_noon": ("next_transit", "0", False),
    "sunset": ("next_setting", "-0:34", False),
    "dusk_civil": ("next_setting", "-6", True),
    "dusk_nautical": ("next_setting", "-12", True),
    "dusk_astronomical": ("next_setting", "-18", True),
}


def _solar_after(text: str, instant: datetime) -> datetime | None:
    """The first event after an instant, to the second; none within a year: None."""
    try:
        ephem = importlib.import_module("ephem")
    except ModuleNotFoundError as error:
        raise ModuleNotFoundError("the sun needs ephem: pip install 'pgqueue[solar]'", name=error.name) from None
    event, latitude, longitude = text.split()
    method, horizon, centre = _EVENTS[event]
    observer = ephem.Observer()
    observer.lat, observer.lon, observer.horizon, observer.pressure, observer.elevation = (
        *(latitude, longitude, horizon),
        *(0, 0),
    )
    options = {} if event == "solar_noon" else {"use_center": centre}
    # Always from the same midnights: from another start the same event comes out a second earlier or later.
    midnight = instant.astimezone(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
    for _ in range(400):
        start = midnight
        while start < midnight + _DAY:
            observer.date = start.replace(tzinfo=None)
            try:
                found = getattr(observer, method)(ephem.Sun(), **options).datetime().replace(tzinfo=UTC)
            except ephem.CircumpolarError:
                break
            found = (found + timedelta(milliseconds=500)).replace(microsecond=0)
            if instant < found < midnight + _DAY:
                return found  # type: ignore[no-any-return] # ephem has no types
            start = found + timedelta(hours=1)
        midnight += _DAY
    return None


# what a row holds


@dataclass(frozen=True, slots=True)
class Timing:
    """When a schedule ticks. Exactly one of cron, every, once_at and solar is set.

    Attributes:
        cron: an expression that check_expression() made.
        every: seconds.
        once_at: the only tick.
        solar: event, latitude, longitude.
        match_both_days: of cron.
        timezone: of cron.
        start_at, end_at: no tick before, none after.
        anchor_at: where the grid of `every` begins; None: not created yet.
    """

    cron: str | None = None
    every: float | None = None
    once_at: datetime | None = None
    solar: str | None = None
    match_both_days: bool = False
    timezone: str = "UTC"
    start_at: datetime | None = None
    end_at: datetime | None = None
    anchor_at: datetime | None = None

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first tick after an instant; None when there is none."""
        if self.start_at is not None and instant < self.start_at:
            instant = self.start_at - _MICROSECOND
        found = self._next(instant)
        return None if found is None or (self.end_at is not None and found > self.end_at) else found

    def _next(self, instant: datetime) -> datetime | None:
        if self.cron is not None:
            return _cron_after(self.cron, self.timezone, self.match_both_days, instant.replace(microsecond=0))
        if self.every is not None:
            step = round(self.every * 1e6)
            anchor = ((self.anchor_at or self.start_at or instant) - _EPOCH) // _MICROSECOND
            passed = ((instant - _EPOCH) // _MICROSECOND - anchor) // step + 1
            return _EPOCH + timedelta(microseconds=anchor + max(passed, 0) * step)
        if self.once_at is not None:
            return self.once_at if self.once_at > instant else None
        return _solar_after(self.solar or "", instant)

    def ticks(self, after: datetime, until: datetime) -> Iterator[datetime]:
        """The ticks after one instant, up to another one, in order."""
        at: datetime | None = after
        while at is not None and (at := self.next_after(at)) is not None and at <= until:
            yield at

    def last_ticks(self, after: datetime, until: datetime, count: int) -> list[datetime]:
        """Return the newest ticks after one instant and up to another, at most `count`, oldest first.

        However many there were: a second's ticks of a year are not walked through.
        """
        whole = max(until - after, timedelta(seconds=1))
        width = timedelta(seconds=min(max((self.every or 1) * (count + 1), 1), whole.total_seconds()))
        while True:
            low = max(after, until - width)
            found = self._some(low, until, count)
            if len(found) <= count and low > after:
                width *= 2
                continue
            break
        if len(found) <= count:
            return found
        # More than enough lie after low, half as far back there were not: move it up where they are crowded.
        high = until
        while high - low > timedelta(seconds=1):
            found = self._some(low, until, 4 * count)
            if len(found) <= 4 * count:
                break
            middle = low + (high - low) / 2
            low, high = (middle, high) if len(self._some(middle, until, count)) > count else (low, middle)
        return list(self.ticks(low, until))[-count:]

    def _some(self, after: datetime, until: datetime, count: int) -> list[datetime]:
        """The first ticks of a stretch, one more than `count` at most."""
        found = []
        for tick in self.ticks(after, until):
            found.append(tick)
            if len(found) > count:
                break
        return found

    def described(self) -> str:
        """What a person calls it: the expression, "every 30 s", the instant."""
        if self.cron is not None:
            return self.cron
        if self.every is not None:
            return f"every {self.every:g} s"
        return f"once at {self.once_at:%Y-%m-%d %H:%M:%S%z}" if self.once_at is not None else (self.solar or "")


@functools.lru_cache(maxsize=65_536)
def _cron_after(expression: str, zone: str, both_days: bool, instant: datetime) -> datetime | None:
    # Many schedules tick together: the step is done once.
    return cron_for(expression, zone, both_days).next_after(instant)


def timing_of(value: Any, zone: str) -> Timing:
    """Read what a user gave as a schedule.

    Args:
        value: cron text, seconds or timedelta, datetime (one tick), crontab, schedule or solar; Celery's own are
        understood. zone: name of the time zone of cron and of naive instants.

    Raises:
        ValueError: it is none of these, or wrong; the message names the part.
    """
    if isinstance(value, str):
        timing = Timing(cron=check_expression(value), timezone=zone)
    elif isinstance(value, datetime):
        aware = value if value.tzinfo is not None else value.replace(tzinfo=zone_of(zone))
        timing = Timing(once_at=instant(aware, zone_of(zone)), timezone=zone)
    elif isinstance(value, crontab):
        timing = Timing(cron=value.expression, match_both_days=True, timezone=zone)
    elif isinstance(value, solar):
        timing = Timing(solar=value.text, timezone=zone)
    elif isinstance(value, schedule):
        timing = Timing(every=value.seconds, timezone=zone, anchor_at=_EPOCH if value.relative else None)
    elif isinstance(value, int | float | timedelta):
        timing = Timing(every=_interval(value), timezone=zone)
    else:
        timing = _of_celery(value, zone)
    if timing.cron is not None and not fires(timing.cron, timing.match_both_days):
        raise ValueError(f"{timing.cron!r} never fires")
    return timing


def _of_celery(value: Any, zone: str) -> Timing:
    """Schedules of Celery itself, known by their attributes."""
    if hasattr(value, "_orig_minute"):
        names = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")
        return timing_of(crontab(*(getattr(value, f"_orig_{name}") for name in names)), zone)
    if hasattr(value, "event") and hasattr(value, "lat"):
        return timing_of(solar(value.event, value.lat, value.lon), zone)
    if hasattr(value, "run_every"):
        return timing_of(schedule(value.run_every, bool(getattr(value, "relative", False))), zone)
    raise ValueError(
        f"expected cron text, seconds, a timedelta, a datetime, crontab, schedule or solar, got {type(value).__name__}"
    )
