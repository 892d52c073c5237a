"""Cron expressions: what may be written, and the instants they mean, across daylight saving time.

croniter walks over the clock on the wall; which instants those readings are, zone by zone, is decided here, as Vixie
cron distinguishes:

- An entry whose minute or hour holds a `*`, `?` or a step follows elapsed time: it ticks whenever the clock shows a
  reading that matches. `0 * * * *` ticks 25 times on the long day, 23 times on the short one.
- An entry with fixed hours and minutes ticks once per reading: one that does not exist is at the first instant after
  the gap, one that comes twice is the first. Readings of one gap share one tick.
"""

import functools
import re
import threading
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from pgqueue.timing.zones import zone_of

__all__ = ["MAX_LENGTH", "Cron", "check_expression", "cron_for", "fires"]

MAX_LENGTH = 1000
DAY = 86_400

_ALIASES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
_FIELDS = (
    ("minute", 0, 59),
    ("hour", 0, 23),
    ("day of month", 1, 31),
    ("month", 1, 12),
    ("day of week", 0, 7),
    ("second", 0, 59),
)
_MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
_WEEKDAYS = ("sun", "mon", "tue", "wed", "thu", "fri", "sat")
_LONGEST = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)
_ALLOWED = re.compile(r"[ \tA-Za-z0-9*?,/#-]*", re.ASCII)
_PART = re.compile(r"(?:(\*)|([0-9]{1,4})(?:-([0-9]{1,4}))?)(?:/([0-9]{1,4}))?", re.ASCII)
_SPECIAL_WEEKDAY = re.compile(r"[0-7]#[1-5]|l[0-7]", re.ASCII)
_NAMES = re.compile(r"\b[a-z]{3}\b")


def check_expression(text: object) -> str:
    """Check a cron expression, the same way as check_cron does in SQL.

    Args:
        text: five fields (minute, hour, day of month, month, day of week), a sixth of seconds at the end, or an alias
            such as @hourly. Lists, ranges, steps, names of months and days, 7 for Sunday, `?` for either day, `L` (the
            last day of the month), `fri#2` (the second Friday), `L5` (the last Friday).

    Returns:
        The expression, in lower case, with single spaces.

    Raises:
        ValueError: it is none; the message names the field.
    """
    if not isinstance(text, str):
        raise ValueError(f"expected a cron expression, got {type(text).__name__}")
    if len(text) > MAX_LENGTH:
        raise ValueError(f"expected at most {MAX_LENGTH} characters, got {len(text)}")
    expression = text.lower()
    if expression in _ALIASES:
        return expression
    if not _ALLOWED.fullmatch(expression):
        raise ValueError(f"expected five or six fields, or {', '.join(_ALIASES)}, got {text[:60]!r}")
    fields = expression.split()
    if len(fields) not in (5, 6):
        raise ValueError(
            "expected five fields (minute hour day month weekday), or six with seconds last,"
            f" got {len(fields)}: {text[:60]!r}"
        )
    days: list[int] = []
    months: set[int] = set()
    for number, field in enumerate(fields):
        for part in field.split(","):
            values = _values(number, field, part)
            if number == 2:
                days.append(values.start)
            elif number == 3:
                months.update(values)
    longest = max(_LONGEST[month - 1] for month in months)
    if fields[4] in ("*", "?") and min(days) > longest:
        raise ValueError(f"day of month: no such month has a day {min(days)}, so it never fires")
    return " ".join(fields)


def _values(number: int, field: str, part: str) -> range:
    """The numbers that one part of a field names."""
    name, low, high = _FIELDS[number]
    if field == "?" and number in (2, 4):
        return range(low, high + 1)
    plain = _numbers(number, part)
    if (number == 2 and part == "l") or (number == 4 and _SPECIAL_WEEKDAY.fullmatch(plain)):
        return range(28, 29)
    found = _PART.fullmatch(plain)
    if found is None:
        raise ValueError(f"{name}: {part[:60]!r} is no value, range or step")
    star, first, last, step = found.groups()
    begin = low if star else int(first)
    end = int(last) if last else high if star or step else begin
    if begin < low or end > high:
        raise ValueError(f"{name}: expected {low} to {high}, got {part!r}")
    if begin > end:
        raise ValueError(f"{name}: the range {part!r} ends before it begins")
    if step and not 1 <= int(step) <= high:
        raise ValueError(f"{name}: expected a step of 1 to {high}, got {part!r}")
    return range(begin, end + 1, int(step or 1))


def _numbers(number: int, part: str) -> str:
    """Names of months and days as numbers."""
    names, shift = {3: (_MONTHS, 1), 4: (_WEEKDAYS, 0)}.get(number, ((), 0))
    return _NAMES.sub(lambda found: str(names.index(found[0]) + shift) if found[0] in names else found[0], part)


def _spelled_out(number: int, field: str) -> str:
    """A field as a list of its numbers, which leaves croniter nothing to read in another way; `*` for all of them."""
    _, low, high = _FIELDS[number]
    found: set[int] = set()
    special: list[str] = []
    for part in field.split(","):
        plain = _numbers(number, part)
        if plain == "l" or _SPECIAL_WEEKDAY.fullmatch(plain):
            special.append(plain.replace("7#", "0#").replace("l7", "l0"))
        else:
            found.update(_values(number, field, part))
    if number == 4:
        high, found = 6, {value % 7 for value in found}
    if len(found) == high - low + 1:
        return "*"
    return ",".join([*map(str, sorted(found)), *special])


def _kinds(weekdays: str) -> list[str]:
    """The parts of a spelled-out field by their kinds: plain days, places such as 5#2, last ones such as l5."""
    kinds: dict[str, list[str]] = {}
    for part in weekdays.split(","):
        kinds.setdefault("#" if "#" in part else part[0] if part[0] == "l" else "", []).append(part)
    return [",".join(parts) for parts in kinds.values()]


def fires(expression: str, both_days: bool) -> bool:
    """Tell whether an expression ever ticks; check_expression() has found that its months have its days.

    Args:
        expression: checked.
        both_days: as of Cron.
    """
    fields = _ALIASES.get(expression, expression).replace("?", "*").split()
    if not both_days and not fields[2].startswith("*") and not fields[4].startswith("*"):
        return True
    days: set[int] = set()
    for part in fields[2].split(","):
        days.update(() if part == "l" else _values(2, fields[2], part))
    weekdays = [_numbers(4, part) for part in fields[4].split(",")]
    special = [part for part in weekdays if _SPECIAL_WEEKDAY.fullmatch(part)]
    for month in {month for part in fields[3].split(",") for month in _values(3, fields[3], part)}:
        for length in (28, 29) if month == 2 else (_LONGEST[month - 1],):
            found = {day for day in days if day <= length} | ({length} if "l" in fields[2].split(",") else set())
            # Each date falls on each day of the week, in one year or another.
            if found and len(special) < len(weekdays):
                return True
            if any(_is_place(part, day, length) for part in special for day in found):
                return True
    return False


def _is_place(part: str, day: int, length: int) -> bool:
    """Whether a day of a month may be the one that `fri#2` or `l5` means."""
    return day > length - 7 if part.startswith("l") else (day - 1) // 7 + 1 == int(part[-1])


class _Change(NamedTuple):
    """Where a zone's clocks are set: the instant, and the offsets from UTC before and after, all in seconds."""

    at: int
    before: int
    after: int


class Cron:
    """The ticks of an expression in a time zone.

    Args:
        expression: checked by check_expression().
        zone: name of the time zone.
        both_days: where day of month and day of week are both restricted, both must match (Celery's crontab), instead
            of either (cron).
    """

    def __init__(self, expression: str, zone: str, both_days: bool = False) -> None:
        from croniter import CroniterBadDateError, croniter  # noqa: PLC0415 - most programs have no use for it

        fields = _ALIASES.get(expression, expression).replace("?", "*").split()
        self._zone = zone_of(zone)
        self._key = self._zone.key
        self.follows_elapsed_time = any(sign in field for field in fields[:2] for sign in "*/")
        # A field with a star does not restrict: "0 0 */2 * mon" is a Monday with an odd date, as in cron.
        either = not both_days and not fields[2].startswith("*") and not fields[4].startswith("*")
        plain = [_spelled_out(number, field) for number, field in enumerate(fields)]
        # Where places such as fri#2 are asked for, croniter neither takes either day nor other weekdays beside them.
        weekdays = _kinds(plain[4])
        days = [(plain[2], "*"), *(("*", weekday) for weekday in weekdays)] if either else None
        if either and "*" in (plain[2], plain[4]):
            days = [("*", "*")]
        self._walks = []
        for day, weekday in days or [(plain[2], weekday) for weekday in weekdays]:
            text = " ".join([*plain[:2], day, plain[3], weekday, *plain[5:]])
            self._walks.append(croniter(text, 0.0, float, day_or=False))
        self._end = CroniterBadDateError
        self._lock = threading.Lock()

    def next_after(self, instant: datetime) -> datetime | None:
        """Return the first tick after an instant, in UTC; None when there is none within 50 years."""
        seconds = (instant - _EPOCH) // _SECOND
        found = self._elapsed(seconds) if self.follows_elapsed_time else self._fixed(seconds)
        return None if found is None else _EPOCH + timedelta(seconds=found)

    def _reading_after(self, wall: int) -> int | None:
        """The first reading after another that matches; readings are counted as if the zone were UTC."""
        found: list[int] = []
        with self._lock:
            for walk in self._walks:
                walk.set_current(float(wall), force=True)
                try:
                    found.append(int(walk.get_next(float)))
                except self._end:
                    continue
        return min(found, default=None)

    def _offset(self, at: int) -> int:
        offset = (_EPOCH + timedelta(seconds=at)).astimezone(self._zone).utcoffset()
        return int(offset.total_seconds()) if offset is not None else 0

    def _elapsed(self, after: int) -> int | None:
        offset = self._offset(after)
        wall = self._reading_after(after + offset)
        if wall is None:
            return None
        found = wall - offset
        while (change := self._next_change(after, found)) is not None:
            # Clocks that were set back show readings again that were passed already.
            if change.after < change.before or wall < change.at + change.after:
                wall = self._reading_after(change.at + change.after - 1)
                if wall is None:
                    return None
            found, after = wall - change.after, change.at
        return found

    def _fixed(self, after: int) -> int | None:
        wall: int | None = after + self._offset(after)
        while wall is not None and (wall := self._reading_after(wall)) is not None:
            found = self._first_instant(wall)
            if found > after:
                return found
        return None

    def _first_instant(self, wall: int) -> int:
        """The instant of a reading: the first of two, or the end of the gap in which it would be."""
        naive = datetime(1970, 1, 1, tzinfo=self._zone) + timedelta(seconds=wall)  # wall clock arithmetic
        offset = naive.utcoffset()
        found = wall - (int(offset.total_seconds()) if offset is not None else 0)
        at = found - DAY
        while (change := self._next_change(at, found)) is not None:
            if change.at + change.before <= wall < change.at + change.after:
                return change.at
            at = change.at
        return found

    def _next_change(self, after: int, until: int) -> _Change | None:
        """The first change of the zone's offset after an instant, and at the latest at another."""
        for year in range(_year(after), _year(until) + 1):
            changes = _changes_of(self._key, year)
            place = bisect_right(changes, after, key=lambda change: change.at)
            if place < len(changes):
                return changes[place] if changes[place].at <= until else None
        return None


_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_SECOND = timedelta(seconds=1)


def _year(at: int) -> int:
    return (_EPOCH + timedelta(seconds=at)).year


@functools.lru_cache(maxsize=4096)
def cron_for(expression: str, zone: str, both_days: bool) -> Cron:
    """Return the Cron of these arguments; kept, because reading an expression takes longer than a step of it."""
    return Cron(check_expression(expression), zone, both_days)


@functools.lru_cache(maxsize=4096)
def _changes_of(key: str, year: int) -> list[_Change]:
    """The changes of a zone's offset within a year of UTC."""
    zone = zone_of(key)

    def offset(at: int) -> int:
        found = datetime.fromtimestamp(at, zone).utcoffset()
        return int(found.total_seconds()) if found is not None else 0

    begin = int(datetime(year, 1, 1, tzinfo=UTC).timestamp())
    end = int(datetime(year + 1, 1, 1, tzinfo=UTC).timestamp())
    found = []
    before = offset(begin - 1)
    for day in range(begin, end, DAY):
        last = min(day + DAY, end) - 1
        while (after := offset(last)) != before:
            low, high = day - 1, last  # the offset is the old one at low, a new one at high
            while high - low > 1:
                middle = (low + high) // 2
                low, high = (middle, high) if offset(middle) == before else (low, middle)
            found.append(_Change(high, before, offset(high)))
            before = offset(high)
            day = high
        before = after
    return found
