"""Schedulers that are killed, stopped, many, late, or on clocks that jump: each tick becomes one job."""

import random
import signal
import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgqueue import PgQueue
from pgqueue.store.schema import migrate
from pgqueue.store.statement import Queries
from pgqueue.worker.scheduler import fire_batch
from tests.faults.conftest import LONG
from tests.support.cluster import Cluster
from tests.support.process import REPOSITORY, CommandLine, wait_until

pytestmark = [pytest.mark.faults, pytest.mark.slow]

QUERIES = Queries("pgqueue")
START = datetime(2026, 10, 24, 22, tzinfo=UTC)  # the long day of Europe/Berlin
DAY = timedelta(days=1)


def simulate(dsn: str, name: str, **columns: Any) -> None:
    """A schedule that was made and planned at START, on a clock that stands there."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table if not exists simulated (now timestamptz)")
        connection.execute("delete from simulated")
        connection.execute("insert into simulated values (%s)", [START])
        statement = sql.SQL(
            "insert into pgqueue.schedules (name, task, created_at, {}) values (%s, 't', %s, {})"
        ).format(
            sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join([sql.Placeholder()] * len(columns))
        )
        connection.execute("set pgqueue.check_task = off")
        connection.execute(statement, [name, START, *columns.values()])
        connection.execute("update pgqueue.schedules set plan_from = %s, wake_at = %s", [START, START])


def dealt_with(connection: psycopg.Connection[Any]) -> datetime:
    """Up to where the schedule's ticks became jobs."""
    row = connection.execute("select coalesce(last_run_at, plan_from) from pgqueue.schedules").fetchone()
    assert row is not None
    return row[0]  # type: ignore[no-any-return] # a column


def ticks(dsn: str, name: str) -> list[datetime]:
    """The planned instants of a schedule's jobs, in order."""
    with psycopg.connect(dsn) as connection:
        rows = connection.execute(
            "select (headers ->> 'scheduled_for')::timestamptz from pgqueue.all_jobs"
            " where headers ->> 'schedule' = %s order by 1",
            [name],
        ).fetchall()
    return [row[0].astimezone(UTC) for row in rows]


@pytest.mark.timeout(600)
def test_a_day_of_seconds_with_schedulers_killed_and_stopped(dsn: str, spawn: Callable[..., CommandLine]) -> None:
    """86,400 ticks in simulated time: each exactly once, in the order of their time."""
    simulate(dsn, "seconds", every="1 second", catch_up="all", catch_up_limit=10_000)
    dice = random.Random(20261121)

    def scheduler() -> CommandLine:
        return spawn(sys.executable, "-m", "tests.faults.schedulers", dsn, cwd=REPOSITORY, env={"PYTHONPATH": "."})

    def story() -> str:
        """What there is to see when the ticks do not go on."""
        with psycopg.connect(dsn) as look:
            rows = look.execute(
                "select next_run_at, last_run_at, wake_at, problem, clock_timestamp() from pgqueue.schedules"
            )
            sessions = look.execute(
                "select pid, state, wait_event, xact_start, state_change, left(query, 80) from pg_stat_activity"
                " where datname = current_database()"
            )
            seen = [*rows.fetchall(), *sessions.fetchall()]
        said = [f"{each.pid} {each.process.poll()} {each in stopped}: {each.output[-500:]}" for each in running]
        return "\n".join(["schedulers go on", *map(str, seen), *said])

    # Whoever is stopped with the row in hand is ended after five seconds.
    stops = 0.1 if LONG else 0.06
    running = [scheduler() for _ in range(4)]
    for each in running:
        each.expect("is ready")
    stopped: list[CommandLine] = []
    killed = paused = 0
    with psycopg.connect(dsn, autocommit=True) as clock:
        now = START
        while now < START + DAY:
            now = min(START + DAY, now + timedelta(seconds=dice.choice([1, 7, 60, 300, 900])))
            clock.execute("update simulated set now = %s", [now])
            # What is made up for has a limit; nothing here may lag behind by so much.
            wait_until(lambda: dealt_with(clock) > now - timedelta(hours=2), timeout=120, what=story)  # noqa: B023
            fate = dice.random()
            if fate < 0.05:
                victim = running.pop(dice.randrange(len(running)))
                victim.kill_all()
                running.append(scheduler())
                killed += 1
            elif fate < 0.05 + stops and len(stopped) < 3:
                victim = running[dice.randrange(len(running))]
                if victim not in stopped:
                    victim.send_signal(signal.SIGSTOP)
                    stopped.append(victim)
                    paused += 1
            elif fate < 0.3 and stopped:
                stopped.pop(0).send_signal(signal.SIGCONT)
            stopped = [each for each in stopped if each in running]
        for each in stopped:
            each.send_signal(signal.SIGCONT)
        wait_until(lambda: dealt_with(clock) == now, timeout=120, what=story)
    assert killed > 3
    assert paused > 3
    assert ticks(dsn, "seconds") == [START + timedelta(seconds=n) for n in range(1, 86_401)]


def test_schedulers_stopped_in_the_middle_of_a_tick_hold_nobody_up(dsn: str) -> None:
    """One has locked the row and falls silent: the server ends its session, another one takes the tick."""
    simulate(dsn, "s", every="1 minute")
    with psycopg.connect(dsn) as silent, psycopg.connect(dsn, autocommit=True) as other:
        locked = silent.execute("select id from pgqueue.due_schedules(10, %s, null)", [START + timedelta(minutes=1)])
        assert len(locked.fetchall()) == 1
        assert fire_batch(other, QUERIES, START + timedelta(minutes=1)) == (0, 0)
        wait_until(lambda: fire_batch(other, QUERIES, START + timedelta(minutes=1)) == (1, 1), what="it is taken")
        with pytest.raises(psycopg.errors.IdleInTransactionSessionTimeout):
            silent.execute("select 1")
    assert ticks(dsn, "s") == [START + timedelta(minutes=1)]


@pytest.mark.parametrize(
    ("zone", "cron", "begin", "hours", "count"),
    [
        ("Europe/Berlin", "30 2 * * *", "2026-03-28T23:00", 23, 1),
        ("Europe/Berlin", "30 2 * * *", "2026-10-24T22:00", 25, 1),
        ("Europe/Berlin", "0 * * * *", "2026-10-24T22:00", 25, 25),
        ("Europe/Berlin", "*/15 2 * * *", "2026-10-24T22:00", 25, 8),
        ("America/Santiago", "30 0 * * *", "2026-09-06T04:00", 23, 1),
        ("America/Santiago", "0 0 * * *", "2026-09-06T04:00", 23, 1),
        ("Australia/Lord_Howe", "15 2 * * *", "2026-10-03T13:30", 24, 1),
        ("Australia/Lord_Howe", "45 1 * * *", "2026-04-04T13:00", 24, 1),
    ],
)
def test_on_the_days_when_clocks_are_set(dsn: str, zone: str, cron: str, begin: str, hours: int, count: int) -> None:
    start = datetime.fromisoformat(begin).replace(tzinfo=UTC) - timedelta(seconds=1)
    simulate(dsn, "s", cron=cron, timezone=zone)
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update pgqueue.schedules set plan_from = %s, wake_at = %s", [start, start])
        for minute in range(hours * 60 + 1):
            fire_batch(connection, QUERIES, start + timedelta(minutes=minute))
    assert len(ticks(dsn, "s")) == count


def test_after_a_day_without_schedulers_one_job_runs_not_1440(dsn: str) -> None:
    later = START + DAY + timedelta(seconds=30)
    for name, policy, count in (("one", "one", 1), ("skip", "skip", 1), ("all", "all", 100)):
        simulate(dsn, name, cron="* * * * *", catch_up=policy)
        with psycopg.connect(dsn, autocommit=True) as connection:
            while fire_batch(connection, QUERIES, START)[0]:
                pass  # it is planned, and then nobody looks for a day
            while fire_batch(connection, QUERIES, later)[0]:
                pass
        found = ticks(dsn, name)
        assert len(found) == count
        assert found[-1] == START + DAY


def test_a_clock_of_the_database_that_jumps_back_repeats_nothing(dsn: str) -> None:
    simulate(dsn, "s", every="1 second", catch_up="all")
    with psycopg.connect(dsn, autocommit=True) as connection:
        for second in (*range(60), *range(-540, 120)):  # ten minutes back
            fire_batch(connection, QUERIES, START + timedelta(seconds=second))
        connection.execute("update pgqueue.schedules set anchor_at = %s", [START])  # planned anew in the past
        connection.execute("update pgqueue.schedules set plan_from = %s, wake_at = %s", [START, START])
        fire_batch(connection, QUERIES, START + timedelta(seconds=121))
    found = ticks(dsn, "s")
    assert found == [START + timedelta(seconds=n) for n in range(1, 122)]


def test_the_clocks_of_workers_do_not_matter(dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler whose own clock is an hour ahead plans and fires by the database's."""

    class Ahead(datetime):
        @classmethod
        def now(cls, tz: Any = None) -> "Ahead":
            return super().now(tz) + timedelta(hours=1)

    for module in ("pgqueue.worker.scheduler", "pgqueue.worker.moves", "pgqueue.timing.recurrence"):
        monkeypatch.setattr(f"{module}.datetime", Ahead, raising=False)
    with PgQueue("shop", dsn=dsn) as app, psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("select extract(minute from now() at time zone 'utc')::int").fetchone()
        assert row
        # Ten minutes from now, so that no tick falls due while the test runs.
        app.schedules.upsert("s", task="t", schedule=f"{(row[0] + 10) % 60} * * * *", timezone="UTC", check_task=False)
        assert fire_batch(connection, QUERIES) == (1, 0)
        planned = "select next_run_at - now() between '0 s' and '10 minutes' from pgqueue.schedules"
        assert connection.execute(planned).fetchone() == (True,)
        assert fire_batch(connection, QUERIES) == (0, 0)


def test_ticks_go_on_after_the_server_was_gone(private_server: Cluster, spawn_cli: Callable[..., CommandLine]) -> None:
    dsn = private_server.create_database("gone")
    migrate(dsn)
    with PgQueue("shop", dsn=dsn) as app:
        app.schedules.upsert("s", task="t", schedule="* * * * * *", check_task=False)
        spawn_cli("beat", env={"PGQUEUE_DSN": dsn}, cwd=REPOSITORY).expect("is ready")
        wait_until(lambda: ticks(dsn, "s"), what="ticks come")
        private_server.stop("immediate")
        private_server.start()
        before = len(ticks(dsn, "s"))
        wait_until(lambda: len(ticks(dsn, "s")) > before + 1, what="ticks go on")
    found = ticks(dsn, "s")
    assert len(found) == len(set(found))


def test_eight_schedulers_one_of_them_suspended(dsn: str, spawn_cli: Callable[..., CommandLine]) -> None:
    """Real processes: the one on duty is stopped, the ticks go on, and none comes twice when it is back."""
    with PgQueue("shop", dsn=dsn) as app:
        app.schedules.upsert("s", task="t", schedule="* * * * * *", catch_up="all", check_task=False)
        beats = [spawn_cli("beat", env={"PGQUEUE_DSN": dsn}, cwd=REPOSITORY) for _ in range(8)]
        for beat in beats:
            beat.expect("is ready")
        wait_until(lambda: len(ticks(dsn, "s")) >= 2, what="ticks come")
        with psycopg.connect(dsn) as connection:
            row = connection.execute(
                "select w.pid from pg_locks l join pg_stat_activity a using (pid)"
                " join pgqueue.workers w on a.application_name = 'pgqueue/' || w.id"
                " where l.locktype = 'advisory' and l.classid = hashtext('pgqueue/scheduler')::oid"
            ).fetchone()
        assert row is not None
        on_duty = next(beat for beat in beats if beat.pid == row[0])
        on_duty.send_signal(signal.SIGSTOP)
        before = len(ticks(dsn, "s"))
        wait_until(lambda: len(ticks(dsn, "s")) >= before + 4, what="ticks go on")
        on_duty.send_signal(signal.SIGCONT)
        beats[-1 if on_duty is beats[0] else 0].kill_all()
        before = len(ticks(dsn, "s"))
        wait_until(lambda: len(ticks(dsn, "s")) >= before + 3, what="ticks still go on")
        app.schedules.pause("s")
    found = ticks(dsn, "s")
    assert found == [found[0] + timedelta(seconds=n) for n in range(len(found))]
