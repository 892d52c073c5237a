"""app.schedules: edits and looks from Python, sync and async, inside and outside of transactions."""

import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import PgQueue, UnknownSchedule, UnknownTask, ValidationError
from pgqueue.schedules import Backfill, crontab, schedule
from pgqueue.worker.scheduler import fire_batch
from tests.support.process import wait_until

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def shop(dsn: str) -> Iterator[PgQueue]:
    app = PgQueue("shop", dsn=dsn, timezone="Europe/Berlin")

    @app.task(name="shop.bill", queue="money", priority=3, expires=90)
    def bill(tenant: int = 0) -> int:
        return tenant

    yield app
    app.close()


def jobs(dsn: str) -> list[tuple[Any, ...]]:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "select task, queue, priority, kwargs, headers ->> 'schedule', headers ->> 'scheduled_for'"
            " from pgqueue.all_jobs order by seq"
        ).fetchall()


def test_a_schedule_is_kept_as_it_was_given(shop: PgQueue) -> None:
    shop.schedules.upsert("tenant-42", task="shop.bill", schedule="0 9 1 * *", kwargs={"tenant": 42}, jitter=60)
    found = shop.schedules.get("tenant-42")
    assert (found.task, found.kwargs, found.timing.cron, found.timing.timezone) == (
        *("shop.bill", {"tenant": 42}, "0 9 1 * *"),
        "Europe/Berlin",
    )
    assert found.options == {"queue": "money", "priority": 3, "expires": 90.0}
    assert (found.catch_up, found.overlap, found.jitter, found.enabled, found.owner) == (
        "one",
        "allow",
        60.0,
        True,
        None,
    )
    assert found.next_run_at is not None
    assert found.next_run_at > datetime.now(UTC)
    shop.schedules.upsert(
        "tenant-42", task=shop.tasks["shop.bill"], schedule=30, options={"queue": "slow", "countdown": 5}
    )
    found = shop.schedules.get("tenant-42")
    assert (found.timing.every, found.timing.cron, found.kwargs) == (30.0, None, {})
    assert (found.options["queue"], found.options["countdown"]) == ("slow", 5.0)
    assert [each.name for each in shop.schedules.list()] == ["tenant-42"]


BAD: list[tuple[dict[str, Any], str]] = [
    ({"schedule": "61 * * * *"}, "schedule: minute"),
    ({"schedule": 0}, "schedule: expected an interval"),
    ({"schedule": datetime(2020, 1, 1, tzinfo=UTC)}, "schedule: an instant in the future is needed"),
    ({"schedule": object()}, "schedule: expected cron text"),
    ({"timezone": "UTC+25"}, "timezone: "),
    ({"timezone": "Mars/Base"}, "timezone: "),
    ({"timezone": 3}, "timezone: "),
    ({"jitter": -1}, "jitter: "),
    ({"jitter": 1e9}, "jitter: "),
    ({"catch_up": "some"}, "catch_up: "),
    ({"catch_up_limit": 0}, "catch_up_limit: "),
    ({"starting_deadline": 0}, "starting_deadline: "),
    ({"overlap": None}, "overlap: "),
    ({"start_at": "soon"}, "start_at: "),
    ({"start_at": NOON, "end_at": NOON - timedelta(days=1)}, "end_at: "),
    ({"options": {"priority": 10}}, "priority: "),
    ({"options": {"eta": NOON}}, "options: eta"),
    ({"options": {"task_id": "x"}}, "options: task_id"),
    ({"nonsense": 1}, "nonsense: "),
    ({"args": [object()]}, "args"),
]


@pytest.mark.parametrize(("given", "said"), BAD)
def test_what_is_wrong_is_refused_with_its_field_at_once(shop: PgQueue, given: dict[str, Any], said: str) -> None:
    shop.schedules.list()  # the connection is there
    began = time.process_time()
    with pytest.raises((ValidationError, TypeError)) as caught:
        shop.schedules.upsert("s", task="shop.bill", **{"schedule": "* * * * *", **given})
    assert time.process_time() - began < 0.05
    assert said in str(caught.value)
    assert shop.schedules.list() == []


@pytest.mark.parametrize("name", ["", "a" * 256, "a\nb", "a\0b", None])
def test_wrong_names(shop: PgQueue, name: Any) -> None:
    with pytest.raises(ValidationError, match=r"^name: "):
        shop.schedules.upsert(name, task="shop.bill", schedule=1)


def test_a_task_that_nobody_has_is_refused_unless_it_is_wanted(shop: PgQueue) -> None:
    with pytest.raises(UnknownTask, match=r"task: 'other\.task' is registered .* pass check_task=False"):
        shop.schedules.upsert("s", task="other.task", schedule=1)
    assert shop.schedules.list() == []
    shop.schedules.upsert("s", task="other.task", schedule=1, check_task=False)


def test_unknown_names(shop: PgQueue) -> None:
    known = shop.schedules
    for act in (known.get, known.pause, known.resume, known.remove, known.run, known.history):
        with pytest.raises(UnknownSchedule, match="there is no schedule 'none'"):
            act("none")


@pytest.mark.parametrize("name", [None, 3, b"s"])
def test_what_is_no_name_finds_nothing(shop: PgQueue, name: Any) -> None:
    shop.schedules.upsert("s", task="shop.bill", schedule=1)
    known = shop.schedules
    for act in (known.get, known.pause, known.resume, known.remove, known.run, known.history):
        with pytest.raises(ValidationError, match="name: expected a text, got "):
            act(name)
    with pytest.raises(ValidationError, match="name: expected a text, got "):
        known.backfill(name, NOON, NOON)
    for odd in ("s\0", "\ud800", "", "x" * 10_000):
        with pytest.raises(UnknownSchedule, match="there is no schedule '"):
            known.get(odd)


@pytest.mark.parametrize("limit", [0, -1, 100_001, True, "5", None])
def test_the_history_has_a_limit(shop: PgQueue, limit: Any) -> None:
    shop.schedules.upsert("s", task="shop.bill", schedule=1)
    with pytest.raises(ValidationError, match="limit: expected a whole number from 1 to 100,000, got "):
        shop.schedules.history("s", limit)


def test_an_edit_takes_part_in_a_transaction(shop: PgQueue, dsn: str) -> None:
    with psycopg.connect(dsn) as connection:
        shop.schedules.upsert("s", task="shop.bill", schedule=1, connection=connection)
        connection.rollback()
        assert shop.schedules.list() == []
        with shop.using(connection):
            shop.schedules.upsert("s", task="shop.bill", schedule=1)
            shop.schedules.pause("s")
        connection.commit()
    assert not shop.schedules.get("s").enabled


def test_run_enqueues_now_beside_the_ticks(shop: PgQueue, dsn: str) -> None:
    shop.schedules.upsert("s", task="shop.bill", schedule="0 0 1 1 *", kwargs={"tenant": 7})
    result = shop.schedules.run("s")
    assert jobs(dsn) == [("shop.bill", "money", 3, {"tenant": 7}, "s", None)]
    assert shop.schedules.get("s").last_job_id == result.id
    assert shop.schedules.history("s") == []


def test_backfill_enqueues_each_tick_once(shop: PgQueue, dsn: str) -> None:
    shop.schedules.upsert("s", task="shop.bill", schedule="0 * * * *")
    begin, end = datetime(2026, 3, 29), datetime(2026, 3, 29, 23, 59)  # noqa: DTZ001 - in the schedule's zone
    assert shop.schedules.backfill("s", begin, end, dry_run=True) == Backfill(23, 23)
    assert jobs(dsn) == []
    seen: list[tuple[int, int]] = []
    assert shop.schedules.backfill("s", begin, end, on_progress=lambda *done: seen.append(done)) == Backfill(23, 23)
    assert seen == [(23, 23)]
    assert shop.schedules.backfill("s", begin, end, dry_run=True) == Backfill(23, 0)
    assert shop.schedules.backfill("s", begin, end + timedelta(hours=1)) == Backfill(24, 1)
    made = jobs(dsn)
    assert len(made) == len({job[5] for job in made}) == 24
    assert made[0][5] == "2026-03-28T23:00:00.000000+00:00"
    assert {tick.state for tick in shop.schedules.history("s", 30)} == {"available"}
    with pytest.raises(ValidationError, match="to: it is before from"):
        shop.schedules.backfill("s", end, begin)
    with pytest.raises(ValidationError, match="from: it is in the future"):
        shop.schedules.backfill("s", datetime.now(UTC) + timedelta(days=1), datetime.now(UTC))


def test_backfill_ends_now_and_has_a_limit(shop: PgQueue) -> None:
    shop.schedules.upsert("s", task="shop.bill", schedule=schedule(3600, relative=True))
    now = datetime.now(UTC)
    assert shop.schedules.backfill("s", now - timedelta(hours=2), now + timedelta(days=9), dry_run=True).ticks == 2
    shop.schedules.upsert("grid", task="shop.bill", schedule=3600)
    assert shop.schedules.backfill("grid", now - timedelta(days=9), now + timedelta(days=9), dry_run=True).ticks == 0
    shop.schedules.upsert("s", task="shop.bill", schedule=schedule(1, relative=True))
    with pytest.raises(ValidationError, match="more than 100,000 ticks"):
        shop.schedules.backfill("s", now - timedelta(days=2), now)


def test_a_tick_that_backfill_took_is_not_run_again(shop: PgQueue, dsn: str) -> None:
    shop.schedules.upsert("s", task="shop.bill", schedule="* * * * *")
    with psycopg.connect(dsn, autocommit=True) as connection:
        fire_batch(connection, shop.queries)
        tick = shop.schedules.get("s").next_run_at
        assert tick is not None
        connection.execute(
            "insert into pgqueue.schedule_ticks select id, next_run_at, null, now() from pgqueue.schedules"
        )
        assert fire_batch(connection, shop.queries, tick) == (1, 0)


@pytest.mark.asyncio
async def test_the_same_for_async_code(dsn: str) -> None:
    with PgQueue("shop", dsn=dsn) as app:
        known = app.schedules
        await known.aupsert("s", task="t", schedule=crontab(minute=0), check_task=False)
        with pytest.raises(UnknownTask):
            await known.aupsert("u", task="t", schedule=1)
        await known.apause("s")
        assert not (await known.aget("s")).enabled
        await known.aresume("s")
        result = await known.arun("s")
        assert (await known.alist())[0].last_job_id == result.id
        begin = datetime(2026, 6, 1, tzinfo=UTC)
        seen: list[tuple[int, int]] = []
        until = begin + timedelta(hours=3)
        assert await known.abackfill("s", begin, until, on_progress=lambda *done: seen.append(done)) == Backfill(4, 4)
        assert seen == [(4, 4)]
        ticks = await known.ahistory("s", 3)
        assert [tick.tick.astimezone(UTC).hour for tick in ticks] == [3, 2, 1]
        assert {tick.state for tick in ticks} == {"available"}
        assert await known.abackfill("s", begin, begin + timedelta(hours=3), dry_run=True) == Backfill(4, 0)
        await known.aremove("s")
        for act in (known.aget, known.ahistory):
            with pytest.raises(UnknownSchedule):
                await act("s")


def test_a_worker_runs_schedules_and_an_edit_takes_effect_at_once(dsn: str) -> None:
    app = PgQueue("shop", dsn=dsn, worker_poll_interval=0.05)
    seen: list[tuple[datetime | None, int]] = []

    @app.task(name="shop.note", bind=True)
    def note(self: Any, number: int) -> None:
        seen.append((self.request.scheduled_for, number))

    with app, app.worker(pool="threads"):
        app.schedules.upsert("yearly", task=note, schedule="0 0 1 1 *", args=[1])
        wait_until(lambda: _planned(dsn, "yearly"), what="the schedule is planned")
        with psycopg.connect(dsn, autocommit=True) as connection:
            connection.execute("update pgqueue.schedules set cron = '* * * * * *', timezone = 'UTC'")
        wait_until(lambda: len(seen) >= 2, what="its ticks run")
        app.schedules.pause("yearly")
    ticks = [tick for tick, number in seen]
    assert all(tick is not None and tick.microsecond == 0 for tick in ticks)
    assert len(ticks) == len(set(ticks))


def _planned(dsn: str, name: str) -> bool:
    with psycopg.connect(dsn) as connection:
        row = connection.execute("select next_run_at from pgqueue.schedules where name = %s", [name]).fetchone()
    return row is not None and row[0] is not None
