"""What becomes of a schedule that is due: catch-up, deadlines, overlap."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgqueue.store.schedules import DueRow, Move
from pgqueue.worker.moves import move

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)
MINUTE = timedelta(minutes=1)


def row(**changes: Any) -> DueRow:
    """A schedule of each minute whose tick at noon is due."""
    made = DueRow(
        *(1, "s", "* * * * *", None, None, None, False, "UTC", None, None, NOON - timedelta(days=9), "one", 100, None),
        *("allow", NOON - timedelta(days=9), NOON, NOON - MINUTE, None, False, NOON + timedelta(milliseconds=5)),
    )
    return made._replace(**changes)


def late(**changes: Any) -> DueRow:
    """The same after a day without schedulers."""
    return row(now=NOON + timedelta(days=1), **changes)


def runs(made: Move) -> list[datetime]:
    return [tick for tick, run in made.ticks if run]


def test_a_tick_that_is_due_runs_and_the_next_is_planned() -> None:
    made = move(row())
    assert made.ticks == [(NOON, True)]
    assert (made.next, made.wake, made.last, made.problem) == (NOON + MINUTE, NOON + MINUTE, NOON, None)


def test_a_new_schedule_is_planned_from_its_creation_and_runs_nothing() -> None:
    made = move(row(next_run_at=None, last_run_at=None, plan_from=NOON + timedelta(milliseconds=3)))
    assert (made.ticks, made.next, made.wake) == ([], NOON + MINUTE, NOON + MINUTE)


def test_an_edit_made_while_nobody_scheduled_is_planned_from_the_edit() -> None:
    made = move(late(next_run_at=None, plan_from=NOON - MINUTE / 2))
    assert runs(made) == [NOON + timedelta(days=1)]


def test_after_a_day_only_one_runs() -> None:
    assert runs(move(late())) == [NOON + timedelta(days=1)]


def test_all_is_capped_and_takes_the_newest() -> None:
    found = runs(move(late(catch_up="all", catch_up_limit=30)))
    assert found == [NOON + timedelta(days=1) - n * MINUTE for n in range(29, -1, -1)]


def test_all_runs_all_when_they_are_few() -> None:
    assert len(runs(move(row(now=NOON + 5 * MINUTE, catch_up="all")))) == 6


def test_skip_drops_what_is_late_and_runs_what_is_not() -> None:
    assert runs(move(row(catch_up="skip", cron="0 * * * *", now=NOON + timedelta(seconds=61)))) == []
    assert runs(move(row(catch_up="skip", cron="0 * * * *", now=NOON + timedelta(seconds=59)))) == [NOON]
    made = move(row(catch_up="skip", cron="0 * * * *", now=NOON + timedelta(minutes=5)))
    assert made.next == NOON + timedelta(hours=1)


def test_a_deadline_drops_what_is_later() -> None:
    hourly = {"cron": "0 * * * *", "starting_deadline": 600.0}
    assert runs(move(row(now=NOON + timedelta(seconds=599), **hourly))) == [NOON]
    assert runs(move(row(now=NOON + timedelta(seconds=601), **hourly))) == []
    assert len(runs(move(late(catch_up="all", starting_deadline=600.0)))) == 11


def test_skip_while_the_last_one_runs() -> None:
    assert move(row(overlap="skip", busy=True)).ticks == [(NOON, False)]
    assert move(row(overlap="skip", busy=False)).ticks == [(NOON, True)]
    several = move(row(overlap="skip", catch_up="all", now=NOON + 2 * MINUTE))
    assert several.ticks == [(NOON, False), (NOON + MINUTE, False), (NOON + 2 * MINUTE, True)]


def test_queue_keeps_one_tick_for_the_end_of_the_last_job() -> None:
    waits = move(row(overlap="queue", busy=True))
    assert (waits.ticks, waits.queued, waits.last) == ([], NOON, NOON)
    assert waits.wake == row().now + timedelta(seconds=1)
    more = move(row(overlap="queue", busy=True, queued_at=NOON - MINUTE))
    assert (more.ticks, more.queued) == ([(NOON, False)], NOON - MINUTE)
    ended = move(row(overlap="queue", queued_at=NOON - MINUTE, next_run_at=NOON + MINUTE))
    assert (ended.ticks, ended.queued, ended.wake) == ([(NOON - MINUTE, True)], None, NOON + MINUTE)
    both = move(row(overlap="queue", queued_at=NOON - MINUTE))
    assert (both.ticks, both.queued) == ([(NOON - MINUTE, True)], NOON)


def test_an_instant_runs_once_and_then_it_is_over() -> None:
    once = row(cron=None, once_at=NOON, next_run_at=None, last_run_at=None, plan_from=NOON - MINUTE)
    made = move(once)
    assert (made.ticks, made.next, made.wake) == ([(NOON, True)], None, None)
    assert move(once._replace(last_run_at=NOON)).ticks == []


def test_the_end_is_the_end() -> None:
    made = move(row(end_at=NOON + MINUTE / 2))
    assert (runs(made), made.next, made.wake) == ([NOON], None, None)


def test_a_clock_that_went_back_repeats_no_tick() -> None:
    made = move(row(next_run_at=None, plan_from=NOON - timedelta(hours=1), last_run_at=NOON))
    assert made.ticks == []
    assert made.next == NOON + MINUTE


@pytest.mark.parametrize("changes", [{"cron": "61 * * * *"}, {"timezone": "Mars/Base"}, {"cron": "0 0 30 2 1"}])
def test_what_cannot_be_planned_here_is_tried_again_and_has_its_reason(changes: dict[str, Any]) -> None:
    made = move(row(next_run_at=None, **changes))
    if changes.get("cron") == "0 0 30 2 1":
        assert made.problem is None  # the weekday alone is enough
    else:
        assert made.wake == row().now + MINUTE
        assert made.problem is not None
        assert made.problem.startswith("cannot be planned: ")


def test_very_long_intervals_are_caught_up_with() -> None:
    begin = NOON - timedelta(days=9_000)
    made = move(
        row(
            every=300 * 86_400.0,
            cron=None,
            catch_up="all",
            catch_up_limit=10_000,
            plan_from=begin,
            anchor_at=begin,
            next_run_at=begin + timedelta(days=300),
            last_run_at=None,
        )
    )
    assert made.problem is None
    assert len(made.ticks) == 30
