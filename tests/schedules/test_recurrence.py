"""What a user may write for a schedule, and the ticks of intervals, instants and the sun."""

import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgqueue.timing.recurrence import Timing, crontab, schedule, solar, timing_of

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.mark.parametrize(
    ("made", "expression"),
    [
        (crontab(), "* * * * *"),
        (crontab(minute=30, hour=2), "30 2 * * *"),
        (crontab(minute=0, hour="*/3,8-17"), "0 */3,8-17 * * *"),
        (crontab(0, 0, day_of_week="sunday"), "0 0 * * sun"),
        (crontab(0, 0, day_of_week={1, 5}), "0 0 * * 1,5"),
        (crontab(0, 0, day_of_week="fri-mon"), "0 0 * * 5,6,0,1"),
        (crontab(0, "22-2"), "0 22,23,0,1,2 * * *"),
        (crontab(0, 0, day_of_month=[1, 15], month_of_year="*/3"), "0 0 1,15 */3 *"),
        (crontab.from_string("0 4 * * mon"), "0 4 * * mon"),
    ],
)
def test_crontab_takes_what_celerys_does(made: crontab, expression: str) -> None:
    assert made.expression == expression
    assert made == crontab.from_string(expression)
    assert hash(made) == hash(crontab.from_string(expression))


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"minute": 60}, "minute: expected 0 to 59"),
        ({"hour": "x"}, "hour: 'x'"),
        ({"minute": True}, "minute: expected a number"),
        ({"day_of_month": 32}, "day of month: "),
        ({"month_of_year": 0}, "month: "),
        ({"day_of_week": "someday"}, "day of week: "),
        ({"minute": 1.5}, "minute: expected a number"),
    ],
)
def test_wrong_fields_are_named(fields: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        crontab(**fields)


@pytest.mark.parametrize("value", [0, 1e-9, -1, 1e12, float("nan"), float("inf"), True, timedelta(0), timedelta.max])
def test_intervals_have_limits(value: Any) -> None:
    with pytest.raises(ValueError, match="expected"):
        timing_of(value, "UTC")


@pytest.mark.parametrize("value", [None, object(), [], b"* * * * *"])
def test_what_is_no_schedule_is_refused(value: Any) -> None:
    with pytest.raises(ValueError, match="expected cron text, seconds"):
        timing_of(value, "UTC")


def test_a_day_that_never_falls_on_its_weekday_is_refused() -> None:
    with pytest.raises(ValueError, match="never fires"):
        timing_of(crontab(0, 0, day_of_month=31, month_of_year="4", day_of_week=1), "UTC")


def test_the_grid_of_an_interval_survives_restarts() -> None:
    timing = Timing(every=30.0, anchor_at=NOON)
    assert timing.next_after(NOON) == NOON + timedelta(seconds=30)
    assert timing.next_after(NOON + timedelta(days=10, seconds=31)) == NOON + timedelta(days=10, seconds=60)
    assert timing.next_after(NOON - timedelta(seconds=1)) == NOON
    third = Timing(every=1 / 3, anchor_at=NOON)
    assert third.next_after(NOON + timedelta(microseconds=333_333)) == NOON + timedelta(microseconds=666_666)


def test_start_is_the_first_tick_of_an_interval_and_end_the_last() -> None:
    timing = Timing(every=60.0, start_at=NOON, end_at=NOON + timedelta(minutes=2), anchor_at=NOON)
    ticks = list(timing.ticks(NOON - timedelta(days=1), NOON + timedelta(days=1)))
    assert ticks == [NOON, NOON + timedelta(minutes=1), NOON + timedelta(minutes=2)]


def test_a_relative_interval_ticks_on_the_minute() -> None:
    timing = timing_of(schedule(60, relative=True), "UTC")
    assert timing.next_after(NOON + timedelta(seconds=17.5)) == NOON + timedelta(minutes=1)


def test_an_instant_ticks_once_and_naive_ones_are_in_the_zone() -> None:
    timing = timing_of(datetime(2026, 6, 1, 14), "Europe/Berlin")  # noqa: DTZ001 - that is what is tested
    assert list(timing.ticks(NOON - timedelta(days=1), NOON + timedelta(days=1))) == [NOON]


@pytest.mark.parametrize(
    ("timing", "span", "count"),
    [
        (Timing(cron="* * * * * *"), timedelta(days=400), 5),
        (Timing(cron="0 0 29 2 *"), timedelta(days=5000), 3),
        (Timing(cron="*/7 9 * * mon"), timedelta(days=60), 30),
        (Timing(every=0.5, anchor_at=NOON), timedelta(days=30), 100),
        (Timing(every=86_400.0, anchor_at=NOON), timedelta(days=3), 100),
    ],
)
def test_the_newest_ticks_are_found_without_walking_through_all(timing: Timing, span: timedelta, count: int) -> None:
    begin, end = NOON, NOON + span
    found = timing.last_ticks(begin, end, count)
    assert len(found) <= count
    assert found == sorted(found)
    assert all(begin < tick <= end for tick in found)
    following = timing.next_after(found[-1])
    assert following is None or following > end
    for one, two in itertools.pairwise(found):
        assert timing.next_after(one) == two
    if len(found) < count:
        assert timing.next_after(begin) == found[0]


def test_the_sun_rises_and_sets_once_a_day() -> None:
    pytest.importorskip("ephem")
    for event, hour in (("sunrise", 2), ("sunset", 19), ("solar_noon", 11), ("dawn_civil", 2), ("dusk_nautical", 20)):
        timing = timing_of(solar(event, 52.52, 13.405), "UTC")
        ticks = list(timing.ticks(NOON, NOON + timedelta(days=10)))
        assert len(ticks) == 10
        assert all(tick.microsecond == 0 and abs(tick.hour - hour) <= 1 for tick in ticks), event


def test_where_the_sun_does_not_set_its_next_setting_is_months_ahead() -> None:
    pytest.importorskip("ephem")
    timing = timing_of(solar("sunset", 78.2, 15.6), "UTC")
    tick = timing.next_after(NOON)
    assert tick is not None
    assert tick > NOON + timedelta(days=60)


@pytest.mark.parametrize("given", [("moonrise", 0, 0), ("sunset", 91, 0), ("sunset", 0, 181), ("sunset", True, 0)])
def test_wrong_places_and_events_are_named(given: tuple[Any, Any, Any]) -> None:
    with pytest.raises(ValueError, match="solar: "):
        solar(*given)


def test_celerys_own_objects_are_understood() -> None:
    class Crontab:
        _orig_minute, _orig_hour, _orig_day_of_week, _orig_day_of_month, _orig_month_of_year = "5", 4, "*", "*", "*"

    class Interval:
        run_every = timedelta(seconds=9)

    assert timing_of(Crontab(), "UTC").cron == "5 4 * * *"
    assert timing_of(Interval(), "UTC").every == 9.0
