"""One batch of ticks: how it is planned, how large it is, and what one schedule can do to the others."""

import logging
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue.store.statement import Queries
from pgqueue.worker.scheduler import fire_batch

QUERIES = Queries("pgqueue")
BEGIN = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def db(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("set pgqueue.check_task = off")
        yield connection


def fill(db: psycopg.Connection[Any], count: int, **columns: Any) -> None:
    """So many schedules of one tick a minute, whose first ticks are due at BEGIN."""
    values = {"catch_up": "one", "catch_up_limit": 100, **columns}
    db.execute(
        "insert into pgqueue.schedules (name, task, every, anchor_at, catch_up, catch_up_limit)"
        " select 's' || n, 't', '1 minute', %s, %s, %s from generate_series(1, %s) n",
        [BEGIN, values["catch_up"], values["catch_up_limit"], count],
    )
    db.execute("update pgqueue.schedules set plan_from = %s, wake_at = %s", [BEGIN - timedelta(seconds=1), BEGIN])


def test_a_batch_is_prepared_once_and_reads_schedules_by_their_index(db: psycopg.Connection[Any]) -> None:
    fill(db, 2000)
    db.execute("analyze")

    def scans() -> int:
        db.execute("select pg_stat_force_next_flush()")
        row = db.execute("select seq_scan from pg_stat_user_tables where relname = 'schedules'").fetchone()
        assert row is not None
        return int(row[0])

    before = scans()
    for minute in range(8):
        while fire_batch(db, QUERIES, BEGIN + timedelta(minutes=minute))[0]:
            pass
    assert scans() == before
    prepared = db.execute("select statement, generic_plans + custom_plans from pg_prepared_statements").fetchall()
    for name in ("due_schedules", "fire_schedules"):
        # One that has no tick yet has other parameters.
        assert 1 <= sum(f"pgqueue.{name}" in statement for statement, _ in prepared) <= 2
    jobs = db.execute("select count(*) from pgqueue.live_jobs").fetchone()
    assert jobs == (16_000,)


def test_a_pooler_that_knows_no_prepared_statements_gets_none(db: psycopg.Connection[Any]) -> None:
    db.prepare_threshold = None
    fill(db, 1)
    assert fire_batch(db, QUERIES, BEGIN) == (1, 1)
    assert db.execute("select count(*) from pg_prepared_statements").fetchone() == (0,)


def test_a_batch_after_an_outage_is_bounded(db: psycopg.Connection[Any]) -> None:
    """However many schedules have however many ticks: one transaction must not take until the server ends it."""
    fill(db, 20, catch_up="all", catch_up_limit=400)
    later = BEGIN + timedelta(days=1)
    first = fire_batch(db, QUERIES, later)
    assert first == (2, 800)
    total = first[1]
    while (batch := fire_batch(db, QUERIES, later))[0]:
        total += batch[1]
    assert total == 20 * 400


def test_one_that_cannot_be_enqueued_holds_up_no_other(
    db: psycopg.Connection[Any], caplog: pytest.LogCaptureFixture
) -> None:
    fill(db, 5)
    db.execute("update pgqueue.schedules set task = 'bad' where name = 's1'")
    db.execute("update pgqueue.schedules set plan_from = %s, wake_at = %s", [BEGIN - timedelta(seconds=1), BEGIN])
    db.execute(
        "create function refuse() returns trigger language plpgsql as $$begin raise 'not on sundays'; end$$;"
        " create trigger refuse before insert on pgqueue.live_jobs for each row when (new.task = 'bad')"
        " execute function refuse()"
    )
    with caplog.at_level(logging.WARNING):
        assert fire_batch(db, QUERIES, BEGIN) == (5, 4)
    assert "schedule 's1': cannot be enqueued: not on sundays" in caplog.text
    assert fire_batch(db, QUERIES, BEGIN) == (0, 0)
    problems = db.execute("select name, problem from pgqueue.schedules where problem is not null").fetchall()
    assert problems == [("s1", "cannot be enqueued: not on sundays")]
    db.execute("drop trigger refuse on pgqueue.live_jobs")
    assert fire_batch(db, QUERIES, BEGIN + timedelta(minutes=1))[1] == 5  # its own, too, a minute later
    assert db.execute("select count(*) from pgqueue.schedules where problem is not null").fetchone() == (0,)
