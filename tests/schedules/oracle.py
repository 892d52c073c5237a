"""What a cron expression means, minute by minute: slow, and too simple to be wrong in the same way as the code."""

import calendar
import functools
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_NAMES = {
    3: {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name},
    4: {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6},
}
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
MINUTE = timedelta(minutes=1)
EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def _number(text: str, field: int) -> int:
    return _NAMES.get(field, {}).get(text) or (0 if text == "sun" else int(text))


def _matches(field: int, text: str, value: int, day: datetime) -> bool:
    for part in text.split(","):
        if part == "l" and field == 2:
            if (day + timedelta(days=1)).month != day.month:
                return True
            continue
        if field == 4 and part.startswith("l"):
            if int(part[1:]) % 7 == value and (day + timedelta(days=7)).month != day.month:
                return True
            continue
        if field == 4 and "#" in part:
            weekday, nth = part.split("#")
            if _number(weekday, 4) % 7 == value and (day.day - 1) // 7 + 1 == int(nth):
                return True
            continue
        body, _, step = part.partition("/")
        low, high = _RANGES[field]
        if body not in ("*", "?"):
            first, _, last = body.partition("-")
            low = _number(first, field)
            high = _number(last, field) if last else high if step else low
        candidates = range(low, high + 1, int(step or 1))
        if value in candidates or (field == 4 and value == 0 and 7 in candidates):
            return True
    return False


class Year:
    """A year of a zone, every minute of it. Readings of the clock and instants are minutes since 1970."""

    def __init__(self, zone: str, year: int) -> None:
        info = ZoneInfo(zone)
        self.begin = datetime(year, 1, 1, tzinfo=UTC)
        self.end = datetime(year + 1, 1, 1, tzinfo=UTC)
        self._shown: dict[int, list[tuple[int, int]]] = {}  # minute of the day: readings, instants
        self._line: list[tuple[int, int]] = []  # all of them in order
        self._missing: list[tuple[int, int]] = []  # readings that were skipped, and the instant after them
        self._repeated: set[int] = set()  # instants at which a reading came for the second time
        self.shifts: list[datetime] = []
        latest = highest = None
        for instant in range((self.begin - EPOCH) // MINUTE, (self.end - EPOCH) // MINUTE):
            shown = datetime.fromtimestamp(instant * 60, info)
            reading = instant + shown.utcoffset() // MINUTE  # type: ignore[operator] # it has a zone
            self._line.append((reading, instant))
            self._shown.setdefault(reading % 1440, []).append((reading, instant))
            if latest is None or highest is None:
                latest = highest = reading
                continue
            if reading != latest + 1:
                self.shifts.append(EPOCH + instant * MINUTE)
                self._missing.extend((skipped, instant) for skipped in range(latest + 1, reading))
            latest = reading
            if reading > highest:
                highest = reading
            else:
                self._repeated.add(instant)

    def ticks(
        self, expression: str, both_days: bool = False, within: tuple[datetime, datetime] | None = None
    ) -> list[datetime]:
        """All ticks of the year in order, or those from one instant up to another."""
        minute, hour, day, month, weekday = expression.lower().split()
        either = not both_days and day[0] not in "*?" and weekday[0] not in "*?"

        @functools.cache
        def on(number: int) -> bool:
            """Whether a day, counted since 1970, is one of the expression's."""
            date = datetime(1970, 1, 1) + timedelta(days=number)  # noqa: DTZ001 - a reading of the clock
            two = _matches(2, day, date.day, date), _matches(4, weekday, date.isoweekday() % 7, date)
            return _matches(3, month, date.month, date) and (any(two) if either else all(two))

        any_day = datetime(2000, 1, 1)  # noqa: DTZ001 - only where the field is a minute or an hour
        minutes = [m for m in range(60) if _matches(0, minute, m, any_day)]
        times = {h * 60 + m for h in range(24) if _matches(1, hour, h, any_day) for m in minutes}
        if within is None:
            first, last = self._line[0][1], self._line[-1][1] + 1
            shown = [each for time in times for each in self._shown.get(time, ())]
        else:
            first, last = ((instant - EPOCH) // MINUTE for instant in within)
            start = self._line[0][1]
            stretch = self._line[max(first - start, 0) : max(last - start, 0)]
            shown = [each for each in stretch if each[0] % 1440 in times]
        found = {instant for reading, instant in shown if on(reading // 1440)}
        if not any(sign in minute + hour for sign in "*/"):
            found -= self._repeated
            missing = [each for each in self._missing if each[0] % 1440 in times and first <= each[1] < last]
            found |= {instant for reading, instant in missing if on(reading // 1440)}
        return [EPOCH + instant * MINUTE for instant in sorted(found)]
