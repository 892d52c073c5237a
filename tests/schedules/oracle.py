"""What a cron expression means, minute by minute: slow, and too simple to be wrong in the same way as the code."""

import calendar
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

_NAMES = {
    3: {name.lower(): number for number, name in enumerate(calendar.month_abbr) if name},
    4: {"sun": 0, "mon": 1, "tue": 2, "wed": 3, "thu": 4, "fri": 5, "sat": 6},
}
_RANGES = ((0, 59), (0, 23), (1, 31), (1, 12), (0, 7))
MINUTE = timedelta(minutes=1)


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
    """A year of a zone, every minute of it."""

    def __init__(self, zone: str, year: int) -> None:
        info = ZoneInfo(zone)
        self.begin = datetime(year, 1, 1, tzinfo=UTC)
        self.end = datetime(year + 1, 1, 1, tzinfo=UTC)
        self.shown: dict[tuple[int, int], list[tuple[datetime, datetime]]] = {}  # (hour, minute): readings, instants
        self.missing: list[tuple[datetime, datetime]] = []  # readings that were skipped, and the instant after them
        self.shifts: list[datetime] = []
        latest = None
        seen: set[datetime] = set()
        self.repeated: set[datetime] = set()  # instants at which a reading came for the second time
        for number in range((self.end - self.begin) // MINUTE):
            instant = self.begin + number * MINUTE
            wall = instant.astimezone(info).replace(tzinfo=None)
            self.shown.setdefault((wall.hour, wall.minute), []).append((wall, instant))
            if wall in seen:
                self.repeated.add(instant)
            seen.add(wall)
            if latest is not None and wall != latest + MINUTE:
                self.shifts.append(instant)
                while (latest := latest + MINUTE) < wall:
                    self.missing.append((latest, instant))
            latest = wall

    def ticks(self, expression: str, both_days: bool = False) -> list[datetime]:
        """All ticks of the year, in order."""
        minute, hour, day, month, weekday = expression.lower().split()
        either = not both_days and day[0] not in "*?" and weekday[0] not in "*?"
        days: dict[date, bool] = {}

        def on(wall: datetime) -> bool:
            known = days.get(wall.date())
            if known is None:
                two = _matches(2, day, wall.day, wall), _matches(4, weekday, wall.isoweekday() % 7, wall)
                known = _matches(3, month, wall.month, wall) and (any(two) if either else all(two))
                days[wall.date()] = known
            return known

        any_day = datetime(2000, 1, 1)  # noqa: DTZ001 - only where the field is a minute or an hour
        times = {
            (h, m)
            for h in range(24)
            for m in range(60)
            if _matches(0, minute, m, any_day) and _matches(1, hour, h, any_day)
        }
        found = {instant for time in times for wall, instant in self.shown.get(time, ()) if on(wall)}
        if not any(sign in minute + hour for sign in "*/"):
            found -= self.repeated
            found |= {instant for wall, instant in self.missing if (wall.hour, wall.minute) in times and on(wall)}
        return sorted(found)
