"""Cron against an oracle that looks at every minute of a year, and the days on which clocks are set."""

import os
import time
from datetime import UTC, datetime, timedelta
from functools import cache
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pgqueue.timing.cron import Cron, check_expression
from tests.schedules.oracle import Year

# All ticks of all expressions, and more zones.
LONG = int(os.environ.get("PGQUEUE_FAULTS_REPEAT", "1")) > 1
ZONES = [
    ("Europe/Berlin", 2026),
    ("America/Santiago", 2026),  # a gap at midnight
    ("Australia/Lord_Howe", 2026),  # half an hour
    ("Africa/Casablanca", 2026),  # an hour less in Ramadan
    ("Asia/Beirut", 2026),  # a gap at midnight
    ("America/Havana", 2026),  # the same, and 01:00 twice
    ("America/Sao_Paulo", 2018),  # midnight gap, southern
    *([("Africa/Cairo", 2026), ("Asia/Kathmandu", 2026), ("UTC", 2026)] if LONG else ()),
]
MANY = 1000  # ticks of an expression in a year, of which all are looked at only here and there
EXPRESSIONS = [
    *("0 * * * *", "15,45 */2 * * *", "*/20 1-3 * * *", "7 2/3 * * *"),
    *(
        "30 2 * * *",
        "0 0 * * *",
        "30 0 * * *",
        "0 1 * * *",
        "45 1,2,3 * * *",
        "0 0-5 * * *",
        "59 23 * * *",
        "0 3 * * *",
    ),
    *("15 2 * * sun", "0 0 1 * *", "0 9 1 jan,jul *", "0 0 29 2 *", "0 0 L * *", "30 2 L * *", "0 12 * * fri#2"),
    *("0 0 * * L5", "0 0 13 * 5", "0 0 */2 * mon", "0 0 1-7 * */2", "0 6 * * 7", "0 6 * * mon-fri", "30 1 31 * *"),
    *("0 0 1-7 * fri#2", "0 0 * * 1,fri#1", "0 0 13 * L5", "0 0 L * 1", "0 0 * * fri#2,l5,mon", "0 0 31 2 fri#5,l1"),
    *("*/30 2 * * *", "* 0 * * sun", "0 2 8-14 3,11 *", "30 2 25 10 *", "*/30 2 25 10 *"),
]


@cache
def year(zone: str, number: int) -> Year:
    return Year(zone, number)


def ticks(cron: Cron, begin: datetime, end: datetime) -> list[datetime]:
    """What the code says, one step at a time."""
    found = []
    at: datetime | None = begin - timedelta(seconds=1)
    while at is not None and (at := cron.next_after(at)) is not None and at < end:
        found.append(at)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(("zone", "number"), ZONES)
def test_a_year_is_as_the_oracle_says(zone: str, number: int) -> None:
    that = year(zone, number)
    around = [(shift - timedelta(days=2), shift + timedelta(days=2)) for shift in that.shifts]
    for expression in EXPRESSIONS:
        cron, wanted = Cron(check_expression(expression), zone), that.ticks(expression)
        # Thousands of ticks: in one of the zones all of them, elsewhere those around each change of clocks.
        whole = LONG or len(wanted) < MANY or zone == "Europe/Berlin"
        for begin, end in [(that.begin, that.end)] if whole else around:
            assert ticks(cron, begin, end) == [tick for tick in wanted if begin <= tick < end], expression


@pytest.mark.parametrize(
    "expression", ["0 0 13 * 5", "0 0 */2 * mon", "0 12 13 * *", "0 0 L * 1", "0 0 1-8 * fri#2,mon"]
)
def test_both_days_as_celery_means_them(expression: str) -> None:
    that = year("Europe/Berlin", 2026)
    cron = Cron(check_expression(expression), "Europe/Berlin", both_days=True)
    assert ticks(cron, that.begin, that.end) == that.ticks(expression, both_days=True)


def _field(low: int, high: int) -> st.SearchStrategy[str]:
    number = st.integers(low, high).map(str)
    pair = st.tuples(st.integers(low, high), st.integers(low, high)).map(lambda p: f"{min(p)}-{max(p)}")
    step = st.integers(1, high).map(str)
    part = st.one_of(st.just("*"), number, pair, st.builds("{}/{}".format, pair, step), st.builds("*/{}".format, step))
    return st.lists(part, min_size=1, max_size=2).map(",".join)


@settings(max_examples=100 if LONG else 20, deadline=None)
@given(
    st.tuples(_field(0, 59), _field(0, 23), st.just("*"), st.just("*"), _field(0, 6)).map(" ".join),
    st.sampled_from(ZONES),
)
def test_any_expression_around_each_change_of_clocks(expression: str, zone: tuple[str, int]) -> None:
    that = year(*zone)
    cron = Cron(check_expression(expression), zone[0])
    for shift in that.shifts:
        begin, end = shift - timedelta(hours=5), shift + timedelta(hours=5)
        assert ticks(cron, begin, end) == that.ticks(expression, within=(begin, end))


@pytest.mark.parametrize(
    ("zone", "expression", "day", "wanted"),
    [
        ("Europe/Berlin", "30 2 * * *", "2026-03-29", ["2026-03-29T01:00"]),  # 02:30 does not exist: 03:00
        ("Europe/Berlin", "30 2 * * *", "2026-10-25", ["2026-10-25T00:30"]),  # the first of two
        ("America/Santiago", "30 0 * * *", "2026-09-06", ["2026-09-06T04:00"]),  # midnight does not exist
        ("America/Santiago", "30 23 * * *", "2026-04-04", ["2026-04-05T02:30"]),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-04", ["2026-10-03T15:30"]),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-05", ["2026-04-04T14:45"]),
        ("Africa/Casablanca", "30 2 * * *", "2026-03-22", ["2026-03-22T02:00"]),
    ],
)
def test_fixed_times_tick_once(zone: str, expression: str, day: str, wanted: list[str]) -> None:
    noon = datetime.fromisoformat(day).replace(hour=12, tzinfo=ZoneInfo(zone))
    begin, end = noon.replace(hour=0), noon.replace(hour=0) + timedelta(days=1)
    found = ticks(Cron(expression, zone), begin.astimezone(UTC), end.astimezone(UTC))
    assert found == [datetime.fromisoformat(each).replace(tzinfo=UTC) for each in wanted]


def test_the_long_day_has_25_hours_and_the_short_one_23() -> None:
    cron = Cron("0 * * * *", "Europe/Berlin")
    for begin, count in (("2026-10-24T22:00", 25), ("2026-03-28T23:00", 23)):
        at = datetime.fromisoformat(begin).replace(tzinfo=UTC)
        assert len(ticks(cron, at, at + timedelta(hours=count))) == count


def test_seconds_are_the_sixth_field() -> None:
    begin = datetime(2026, 5, 1, tzinfo=UTC)
    assert len(ticks(Cron("* * * * * */15", "UTC"), begin, begin + timedelta(minutes=3))) == 12
    assert ticks(Cron("30 2 * * * 5", "UTC"), begin, begin + timedelta(days=1)) == [
        begin.replace(hour=2, minute=30, second=5)
    ]


def test_a_tick_repeated_by_clocks_that_were_set_back_is_found_a_year_ahead_of_the_next() -> None:
    cron = Cron("*/30 2 25 10 *", "Europe/Berlin")
    first = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert cron.next_after(first) == datetime(2026, 10, 25, 1, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("expression", "field"),
    [
        ("", "five fields"),
        ("* * * *", "five fields"),
        ("* * * * * * *", "five fields"),
        ("@every", "got '@every'"),
        ("@reboot", "got '@reboot'"),
        ("60 * * * *", "minute: expected 0 to 59"),
        ("*/0 * * * *", "minute: expected a step"),
        ("5-1 * * * *", "minute: the range '5-1'"),
        ("1-100 * * * *", "minute: expected 0 to 59"),
        ("a-b * * * *", "minute: 'a-b'"),
        ("1,,2 * * * *", "minute: ''"),
        ("*/-1 * * * *", "minute: '*/-1'"),
        ("1/99999999999 * * * *", "minute: "),
        ("* 24 * * *", "hour: "),
        ("* * 0 * *", "day of month: "),
        ("* * * 13 *", "month: "),
        ("* * * foo *", "month: 'foo'"),
        ("* * * * 8", "day of week: "),
        ("* * * * fri#6", "day of week: "),
        ("* * 15w * *", "day of month: "),
        ("h * * * *", "minute: 'h'"),
        ("* * * * * 60", "second: "),
        ("0 0 30 2 *", "day of month: no such month has a day 30"),
        ("0 0 31 4,6 *", "day of month: no such month has a day 31"),
        ("１ * * * *", "got '１ "),
        ("* * * * *\n", "got '* * * * *"),
        ("* * * * *\0", "got '* * * * *"),
        ("*" * 10_000, "at most 1000"),
        (",".join("*" * 10_000), "at most 1000"),
    ],
)
def test_what_is_no_expression_is_refused_with_its_field(expression: str, field: str) -> None:
    began = time.process_time()
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - its text is looked at below
        check_expression(expression)
    assert time.process_time() - began < 0.01
    assert field in str(caught.value)


@pytest.mark.parametrize(
    "expression", ["@hourly", "*\t*  * * *", "0 0 ? * MON-Fri", "0 0 * * 7", "0 0 29 FEB *", "0 0 L * L5"]
)
def test_what_is_one_is_taken(expression: str) -> None:
    cron = Cron(check_expression(expression), "UTC")
    assert cron.next_after(datetime(2026, 1, 1, tzinfo=UTC)) is not None
