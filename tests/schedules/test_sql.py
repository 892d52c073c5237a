"""Schedules as SQL sees them: what is refused, what an edit does, one job per tick."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from pgqueue.store.schedules import Move, fire_schedules, fire_ticks, next_wake
from pgqueue.store.statement import Queries, run
from pgqueue.timing.cron import check_expression
from pgqueue.worker.scheduler import fire_batch

QUERIES = Queries("pgqueue")
NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def db(dsn: str) -> Any:
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def upsert(db: psycopg.Connection[Any], name: str = "s", **given: Any) -> int:
    """pgqueue.upsert_schedule with a task that is not checked."""
    values = {"task": "t", "check_task": False, **given}
    if not {"cron", "every", "once_at", "solar"} & values.keys():
        values["cron"] = "* * * * *"
    named = ", ".join(f"{key} => %({key})s" for key in values)
    statement = f"select pgqueue.upsert_schedule(name => %(name)s, {named})"
    row = db.execute(statement.encode(), {"name": name, **values}).fetchone()
    assert row is not None
    return int(row[0])


def one(db: psycopg.Connection[Any], statement: str, *params: Any) -> Any:
    row = db.execute(statement.encode(), params).fetchone()
    return None if row is None else row[0] if len(row) == 1 else row


BAD_CRON = [
    *("", "* * * *", "* * * * * * *", "@every", "@reboot", "60 * * * *", "*/0 * * * *", "5-1 * * * *", "1-100 * * * *"),
    *("a-b * * * *", "1,,2 * * * *", "*/-1 * * * *", "1/99999999999 * * * *", "0 0 30 2 *", "0 0 31 4,6,9,11 *"),
    *(
        "１ * * * *",
        "* * * * *\n",
        "* * * * fri#6",
        "* * 15w * *",
        "h * * * *",
        "* * * * * 60",
        "*" * 2000,
        "* * L2 * *",
    ),
    *("? * * * *", "* * * 13 *", "* * 0 * *", "* * * * 8", "0-60/2 * * * *", "/5 * * * *", "5- * * * *", "* * * mon *"),
]
GOOD_CRON = [
    *("* * * * *", "*/5 0-23/2 1,15 jan-MAR,12 mon-FRI", "0 0 L * *", "0 0 ? * 5#3", "0 0 * * L5", "@daily", "@Hourly"),
    *("0\t0 29 2 *", "0 0 30 2 mon", "5/10 * * * *", "* * * * * */10", " 0 0 * * 7 ", "0 0 31 1-12 *", "1-1 * * * *"),
]


@pytest.mark.parametrize("cron", BAD_CRON)
def test_sql_refuses_the_cron_that_python_refuses(db: psycopg.Connection[Any], cron: str) -> None:
    with pytest.raises(errors.InvalidParameterValue, match=r"^cron: ") as caught:
        upsert(db, cron=cron)
    assert "\n" not in (caught.value.diag.message_primary or "")
    with pytest.raises(ValueError, match=r"expected|'|never"):
        check_expression(cron)
    assert one(db, "select count(*) from pgqueue.schedules") == 0


@pytest.mark.parametrize("cron", GOOD_CRON)
def test_sql_takes_the_cron_that_python_takes(db: psycopg.Connection[Any], cron: str) -> None:
    upsert(db, cron=cron)
    check_expression(cron)
    assert fire_batch(db, QUERIES) == (1, 0)
    assert one(db, "select problem is null and next_run_at is not null from pgqueue.schedules")


@pytest.mark.parametrize(
    ("given", "field"),
    [
        ({"name": ""}, "name"),
        ({"name": "a\nb"}, "name"),
        ({"task": "a b"}, "task"),
        ({"args": "{}"}, "args"),
        ({"kwargs": "[]"}, "kwargs"),
        ({"options": Jsonb({"quue": 1})}, "options"),
        ({"options": Jsonb({"queue": "a b"})}, "options: queue"),
        ({"options": Jsonb({"priority": 10})}, "options: priority"),
        ({"options": Jsonb({"expires": -1})}, "options: expires"),
        ({"options": Jsonb({"expires": "soon"})}, "options: expires"),
        ({"options": Jsonb({"max_retries": 1001})}, "options: max_retries"),
        ({"options": Jsonb({"headers": {"scheduled_for": 1}})}, "options: headers"),
        ({"options": Jsonb({"ignore_result": 1})}, "options: ignore_result"),
        ({"options": Jsonb([])}, "options"),
        ({"cron": "* * * * *", "every": timedelta(seconds=1)}, "cron: give exactly one"),
        ({"every": timedelta(0)}, "every"),
        ({"every": timedelta(days=4000)}, "every"),
        ({"once_at": datetime(2020, 1, 1, tzinfo=UTC)}, "once_at"),
        ({"solar": "moonrise 0 0"}, "solar"),
        ({"timezone": "UTC+25"}, "timezone"),
        ({"timezone": "Mars/Base"}, "timezone"),
        ({"timezone": "PST"}, "timezone"),
        ({"timezone": ""}, "timezone"),
        ({"start_at": NOON, "end_at": NOON - timedelta(days=1)}, "end_at"),
        ({"jitter": timedelta(days=2)}, "jitter"),
        ({"catch_up": "some"}, "catch_up"),
        ({"catch_up_limit": 0}, "catch_up_limit"),
        ({"starting_deadline": timedelta(0)}, "starting_deadline"),
        ({"overlap": "never"}, "overlap"),
        ({"task": "nobody.has", "check_task": True}, "task"),
    ],
)
def test_what_is_wrong_is_refused_with_its_field(
    db: psycopg.Connection[Any], given: dict[str, Any], field: str
) -> None:
    name = given.pop("name", "s")
    with pytest.raises(errors.InvalidParameterValue, match=f"^{field}"):
        upsert(db, name, **given)
    assert one(db, "select count(*) from pgqueue.schedules") == 0


def test_a_plain_update_is_checked_too_and_planned_anew(db: psycopg.Connection[Any]) -> None:
    upsert(db, cron="0 0 1 1 *")
    assert fire_batch(db, QUERIES) == (1, 0)
    with pytest.raises(errors.InvalidParameterValue, match=r"^cron: hour"):
        db.execute("update pgqueue.schedules set cron = '0 25 * * *'")
    with pytest.raises(errors.InvalidParameterValue, match=r"^options: "):
        db.execute("update pgqueue.schedules set options = '{\"priority\": -1}'")
    assert fire_batch(db, QUERIES) == (0, 0)
    db.execute("update pgqueue.schedules set cron = '* * * * *'")
    assert fire_batch(db, QUERIES)[0] == 1
    soon = one(db, "select next_run_at - now() <= interval '1 minute' from pgqueue.schedules")
    assert soon


def test_an_edit_wakes_schedulers_and_what_changes_no_tick_does_not(dsn: str, db: psycopg.Connection[Any]) -> None:
    with psycopg.connect(dsn, autocommit=True) as listener:
        listener.execute(QUERIES["listen_schedules"])
        for statement, told in (
            ("select pgqueue.upsert_schedule('s', 't', '* * * * *', check_task => false)", True),
            ("update pgqueue.schedules set timezone = 'Europe/Berlin'", True),
            ("select pgqueue.pause_schedule('s')", False),
            ("select pgqueue.resume_schedule('s')", True),
            ("select pgqueue.remove_schedule('s')", False),
        ):
            db.execute(statement.encode())
            db.execute("select pg_notify('pgqueue/schedules', 'end')")
            heard: list[str] = []
            for notify in listener.notifies(timeout=10):
                heard.append(notify.payload)
                if notify.payload == "end":
                    break
            assert heard == (["", "end"] if told else ["end"]), statement


def test_a_tick_becomes_one_job_with_its_options_and_its_planned_time(db: psycopg.Connection[Any]) -> None:
    options = {"queue": "slow", "priority": 7, "expires": 60, "headers": {"x": 1}, "time_limit": 5, "max_retries": 2}
    schedule_id = upsert(db, every=timedelta(seconds=30), args="[1]", kwargs='{"a": 2}', options=Jsonb(options))
    moves = [Move(schedule_id, NOON, NOON, None, NOON, None, [(NOON, True)])]
    assert run(db, fire_schedules(QUERIES, moves)) == 1
    assert run(db, fire_schedules(QUERIES, moves)) == 0  # sent again: nothing
    job = db.execute(
        "select task, queue, priority, args, kwargs, options, headers, state, expires_at - enqueued_at"
        " from pgqueue.all_jobs"
    ).fetchall()
    assert job == [
        (
            *("t", "slow", 7, [1], {"a": 2}, {"time_limit": 5, "max_retries": 2}),
            {"x": 1, "schedule": "s", "scheduled_for": "2026-06-01T12:00:00.000000+00:00"},
            *("available", timedelta(seconds=60)),
        )
    ]


def test_jitter_delays_the_same_tick_by_the_same_time(db: psycopg.Connection[Any]) -> None:
    schedule_id = upsert(db, jitter=timedelta(hours=1), options=Jsonb({"countdown": 60}))
    far = datetime.now(UTC).replace(microsecond=0)
    ticks = [far + timedelta(minutes=n) for n in range(5)]
    run(db, fire_ticks(QUERIES, schedule_id, ticks))
    first = db.execute("select run_at from pgqueue.all_jobs order by headers ->> 'scheduled_for'").fetchall()
    db.execute("delete from pgqueue.schedule_ticks")
    db.execute("delete from pgqueue.live_jobs")
    run(db, fire_ticks(QUERIES, schedule_id, ticks))
    again = db.execute("select run_at from pgqueue.all_jobs order by headers ->> 'scheduled_for'").fetchall()
    assert again == first
    delays = {at - tick for (at,), tick in zip(first, ticks, strict=True)}
    assert len(delays) == 5
    assert all(timedelta(seconds=60) <= delay <= timedelta(hours=1, seconds=60) for delay in delays)


def test_schedulers_share_what_is_due_and_nothing_runs_twice(dsn: str, db: psycopg.Connection[Any]) -> None:
    db.execute(
        "select pgqueue.upsert_schedule('s' || n, 't', '* * * * *', check_task => false) from generate_series(1, 700) n"
    )
    while fire_batch(db, QUERIES)[0]:
        pass
    (due,) = db.execute("select max(next_run_at) + interval '1 second' from pgqueue.schedules").fetchone() or (None,)
    start = threading.Barrier(4)
    totals: list[int] = []

    def schedule() -> None:
        with psycopg.connect(dsn, autocommit=True) as connection:
            start.wait()
            idle = fired = 0
            while idle < 3:
                looked, count = fire_batch(connection, QUERIES, due)
                fired += count
                idle += not looked
            totals.append(fired)

    threads = [threading.Thread(target=schedule) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    jobs = one(db, "select count(*), count(distinct headers ->> 'schedule') from pgqueue.all_jobs")
    assert jobs == (sum(totals), 700)
    ticks = "select count(distinct (headers ->> 'schedule', headers ->> 'scheduled_for')) from pgqueue.all_jobs"
    assert one(db, ticks) == jobs[0]


def test_a_locked_schedule_is_left_to_whoever_holds_it(dsn: str, db: psycopg.Connection[Any]) -> None:
    upsert(db, "mine")
    upsert(db, "free")
    with psycopg.connect(dsn) as editor:
        editor.execute("update pgqueue.schedules set jitter = '1 second' where name = 'mine'")
        assert fire_batch(db, QUERIES)[0] == 1
        assert run(db, next_wake(QUERIES)) < 0
    assert fire_batch(db, QUERIES)[0] == 1


@pytest.mark.parametrize(
    "zone", ["EST5EDT", "Etc/GMT+5", "CET", "UTC", "America/Argentina/Buenos_Aires", "Asia/Kolkata"]
)
def test_time_zones_by_their_names(db: psycopg.Connection[Any], zone: str) -> None:
    upsert(db, timezone=zone)
    assert fire_batch(db, QUERIES) == (1, 0)
    assert one(db, "select problem from pgqueue.schedules") is None


def test_overlap_looks_at_the_last_job(db: psycopg.Connection[Any]) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    for overlap in ("allow", "skip", "queue"):
        upsert(db, overlap, every=timedelta(minutes=1), overlap=overlap)
    db.execute("update pgqueue.schedules set anchor_at = %s", [begin])
    db.execute("update pgqueue.schedules set plan_from = %s, wake_at = %s", [begin] * 2)

    def look(seconds: float) -> dict[str, int]:
        """Jobs by schedule, after a look so many seconds later."""
        fire_batch(db, QUERIES, begin + timedelta(seconds=seconds))
        counts = "select headers ->> 'schedule', count(*) from pgqueue.all_jobs group by 1"
        return dict(db.execute(counts.encode()).fetchall())

    assert look(0) == {}
    assert look(60) == {"allow": 1, "skip": 1, "queue": 1}
    assert look(120) == {"allow": 2, "skip": 1, "queue": 1}
    assert look(180) == {"allow": 3, "skip": 1, "queue": 1}
    db.execute(
        "with ended as (delete from pgqueue.live_jobs returning *) insert into pgqueue.finished_jobs"
        " (id, seq, enqueued_at, finished_at, delete_after, attempt, priority, lost, state, queue, task, headers)"
        " select id, seq, enqueued_at, now(), 'infinity', 1, 0, 0, 'succeeded', queue, task, headers from ended"
    )
    assert look(185) == {"allow": 3, "skip": 1, "queue": 2}  # the one that waited, a tick of two minutes
    assert look(240) == {"allow": 4, "skip": 2, "queue": 2}
    skipped = "select s.name, count(*) from pgqueue.schedule_ticks k join pgqueue.schedules s on s.id = k.schedule_id"
    rows = db.execute((skipped + " where k.job_id is null group by 1 order by 1").encode()).fetchall()
    assert rows == [("queue", 1), ("skip", 2)]


def test_a_look_goes_back_only_so_far(db: psycopg.Connection[Any]) -> None:
    upsert(db)
    db.execute("update pgqueue.schedules set wake_at = now() - interval '2 minutes'")
    assert fire_batch(db, QUERIES, None, 60.0) == (0, 0)
    assert run(db, next_wake(QUERIES, 60.0)) > 0 > run(db, next_wake(QUERIES))
    assert fire_batch(db, QUERIES, None, 180.0)[0] == 1


def test_a_schedule_with_very_many_ticks_leaves_the_others_to_the_next_batch(db: psycopg.Connection[Any]) -> None:
    begin = datetime(2026, 1, 1, tzinfo=UTC)
    for name in ("a", "b"):
        upsert(db, name, every=timedelta(seconds=1), catch_up="all", catch_up_limit=10_000)
    db.execute("update pgqueue.schedules set plan_from = %s, anchor_at = %s, wake_at = %s", [begin] * 3)
    db.execute("update pgqueue.schedules set plan_from = %s, wake_at = %s", [begin] * 2)
    assert fire_batch(db, QUERIES, begin + timedelta(days=1)) == (1, 10_000)
    assert fire_batch(db, QUERIES, begin + timedelta(days=1)) == (1, 10_000)
    assert fire_batch(db, QUERIES, begin + timedelta(days=1)) == (0, 0)


def test_a_pause_and_a_removal_end_the_ticks(db: psycopg.Connection[Any]) -> None:
    upsert(db, every=timedelta(seconds=1))
    fire_batch(db, QUERIES)
    assert one(db, "select pgqueue.pause_schedule('s')")
    assert fire_batch(db, QUERIES, datetime.now(UTC) + timedelta(days=1)) == (0, 0)
    assert one(db, "select next_run_at is null and not enabled from pgqueue.schedules")
    assert one(db, "select pgqueue.resume_schedule('s')")
    fire_batch(db, QUERIES)
    assert fire_batch(db, QUERIES, datetime.now(UTC) + timedelta(days=1)) == (1, 1)
    assert one(db, "select pgqueue.remove_schedule('s')")
    assert one(db, "select count(*) from pgqueue.schedule_ticks") == 0
    for verb in ("pause", "resume", "remove"):
        assert one(db, f"select pgqueue.{verb}_schedule('none')") is False
    assert one(db, "select pgqueue.run_schedule('none')") is None


def test_an_upsert_keeps_a_pause_unless_it_says_otherwise(db: psycopg.Connection[Any]) -> None:
    upsert(db)
    db.execute("select pgqueue.pause_schedule('s')")
    upsert(db, cron="0 * * * *")
    assert one(db, "select enabled, cron from pgqueue.schedules") == (False, "0 * * * *")
    upsert(db, cron="0 * * * *", enabled=True)
    assert one(db, "select enabled from pgqueue.schedules") is True


@pytest.mark.parametrize("column", ["start_at", "end_at", "anchor_at"])
@pytest.mark.parametrize("instant", ["99999-01-01", "0044-01-01 BC", "infinity"])
def test_an_instant_that_python_cannot_hold_is_refused(
    conn: psycopg.Connection[Any], column: LiteralString, instant: str
) -> None:
    statement = sql.SQL("insert into pgqueue.schedules (name, task, every, {}) values ('s', 't', '1 hour', %s)")
    with pytest.raises(
        psycopg.errors.InvalidParameterValue, match=f"{column}: an instant between the years 1970 and 9000"
    ):
        conn.execute(statement.format(sql.Identifier(column)), [instant])
    conn.rollback()
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="once_at: an instant between"):
        conn.execute("insert into pgqueue.schedules (name, task, once_at) values ('s', 't', %s)", [instant])
    conn.rollback()


def test_a_run_by_hand_does_not_let_ticks_overlap(conn: psycopg.Connection[Any]) -> None:
    conn.execute("set pgqueue.check_task = off")
    conn.execute("insert into pgqueue.schedules (name, task, every, overlap) values ('s', 't', '1 hour', 'skip')")
    first = conn.execute("select pgqueue.run_schedule('s')").fetchone()
    second = conn.execute("select pgqueue.run_schedule('s')").fetchone()
    assert first != second
    assert conn.execute("select last_job_id from pgqueue.schedules").fetchone() == first
