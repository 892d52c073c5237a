"""Retention drops whole days, and nobody waits for it."""

import threading
from collections.abc import Iterator
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql

from pgqueue.store.partitions import days_ahead, delete_older, drop_expired, ensure_partitions, list_partitions
from pgqueue.store.statement import Queries, run
from tests.support.cluster import Cluster
from tests.support.process import wait_until

QUERIES = Queries("pgqueue")
DAY = 86_400


@pytest.fixture
def keeper(dsn: str) -> Iterator[psycopg.Connection[Any]]:
    """The autocommit connection of the maintenance."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        yield connection


def add_day(connection: psycopg.Connection[Any], days_ago: int, table: str = "finished_jobs") -> str:
    """Make the partition of a day in the past, as ensure_partitions did then; its name."""
    row = connection.execute(
        "select %(table)s || to_char(d, '_YYYYMMDD'), d::timestamp at time zone 'UTC',"
        " (d + 1)::timestamp at time zone 'UTC' from (select (now() at time zone 'UTC')::date - %(ago)s as d) s",
        {"table": table, "ago": days_ago},
    ).fetchone()
    assert row is not None
    name, begin, end = row
    connection.execute(
        sql.SQL("create table pgqueue.{} partition of pgqueue.{} for values from ({}) to ({})").format(
            sql.Identifier(name), sql.Identifier(table), sql.Literal(begin), sql.Literal(end)
        )
    )
    return str(name)


def finish(connection: psycopg.Connection[Any], delete_after: LiteralString, task: str = "a") -> None:
    """Put one finished job there, kept until an SQL expression."""
    connection.execute(
        sql.SQL(
            "insert into pgqueue.finished_jobs"
            " (id, seq, enqueued_at, finished_at, delete_after, attempt, priority, lost, state, queue, task)"
            " values (gen_random_uuid(), 1, now(), now(), {}, 1, 0, 0, 'succeeded', 'default', %s)"
        ).format(sql.SQL(delete_after)),
        [task],
    )


def names(connection: psycopg.Connection[Any]) -> set[str]:
    """All partitions of single days, attached or not."""
    return {partition.name for partition in run(connection, list_partitions(QUERIES))}


@pytest.mark.parametrize(
    ("keep", "days"), [((None,), 3), ((1.0, None), 4), ((7.0 * DAY, 30.0 * DAY), 33), ((DAY + 1.0,), 5), ((), 3)]
)
def test_days_ahead_cover_the_longest_retention(keep: tuple[float | None, ...], days: int) -> None:
    assert days_ahead(*keep) == days


def test_ensure_makes_what_is_missing(keeper: psycopg.Connection[Any]) -> None:
    before = names(keeper)
    assert run(keeper, ensure_partitions(QUERIES, 40)) == 0
    assert run(keeper, ensure_partitions(QUERIES, 42)) == 4
    assert len(names(keeper) - before) == 4
    finish(keeper, "now() + interval '42 days'")
    keeper.execute("select 1 from pgqueue.all_jobs")


def test_expired_days_are_dropped_and_the_others_stay(keeper: psycopg.Connection[Any]) -> None:
    old, older = add_day(keeper, 1), add_day(keeper, 9, "attempts")
    finish(keeper, "now() - interval '1 day'", "expired")
    finish(keeper, "now() + interval '1 minute'", "kept")
    finish(keeper, "'infinity'", "for ever")
    before = names(keeper)
    done = drop_expired(keeper, QUERIES)
    assert sorted(done.dropped) == sorted([older, old])
    assert not done.left
    assert names(keeper) == before - {old, older}
    assert keeper.execute("select task from pgqueue.all_jobs order by 1").fetchall() == [("for ever",), ("kept",)]
    assert keeper.execute("show lock_timeout").fetchone() == ("0",)


def test_a_day_is_kept_until_its_last_moment(keeper: psycopg.Connection[Any]) -> None:
    today = next(partition for partition in run(keeper, list_partitions(QUERIES)) if not partition.expired)
    finish(keeper, "date_trunc('day', now() at time zone 'UTC') at time zone 'UTC'", "first")
    drop_expired(keeper, QUERIES)
    assert today.name in names(keeper)
    assert keeper.execute("select task from pgqueue.all_jobs").fetchall() == [("first",)]


def test_idle_reader_neither_stops_finishes_nor_loses_sight(keeper: psycopg.Connection[Any], dsn: str) -> None:
    old = add_day(keeper, 1)
    finish(keeper, "now() - interval '1 day'", "expired")
    with psycopg.connect(dsn) as reader:
        reader.execute("select count(*) from pgqueue.all_jobs")
        done = drop_expired(keeper, QUERIES, lock_timeout=0.05)
        assert not done.dropped
        assert "lock timeout" in done.left[old]
        with psycopg.connect(dsn, autocommit=True, options="-c lock_timeout=2s") as worker:
            finish(worker, "now() + interval '1 day'", "meanwhile")
        again = drop_expired(keeper, QUERIES, lock_timeout=0.05)  # the interrupted detach, still in use
        assert old in again.left
    assert drop_expired(keeper, QUERIES).dropped == [old]
    assert keeper.execute("select task from pgqueue.all_jobs").fetchall() == [("meanwhile",)]


def test_finishes_go_on_while_a_detach_waits(keeper: psycopg.Connection[Any], dsn: str, server: Cluster) -> None:
    old = add_day(keeper, 1)
    dropped: list[str] = []
    with psycopg.connect(dsn) as reader:
        reader.execute("select count(*) from pgqueue.all_jobs")
        dropper = threading.Thread(target=lambda: dropped.extend(drop_expired(keeper, QUERIES, 60).dropped))
        dropper.start()
        wait_until(
            lambda: server.execute(
                "select 1 from pg_stat_activity"
                " where wait_event_type = 'Lock' and query ilike '%%detach%%' and pid <> %s",
                (reader.info.backend_pid,),
            ),
            what="the detach waits",
        )
        with psycopg.connect(dsn, autocommit=True, options="-c lock_timeout=2s") as worker:
            finish(worker, "now() + interval '1 day'")
            assert worker.execute("select count(*) from pgqueue.all_jobs").fetchone() == (1,)
    dropper.join(30)
    assert dropped == [old]


def test_interrupted_detach_is_finalized(keeper: psycopg.Connection[Any], dsn: str) -> None:
    old = add_day(keeper, 1)
    with psycopg.connect(dsn) as reader, psycopg.connect(dsn, autocommit=True) as killed:
        reader.execute("select count(*) from pgqueue.all_jobs")
        killed.execute("set lock_timeout = '50ms'")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            killed.execute(
                sql.SQL("alter table pgqueue.finished_jobs detach partition pgqueue.{} concurrently").format(
                    sql.Identifier(old)
                )
            )
    assert [each.pending for each in run(keeper, list_partitions(QUERIES)) if each.name == old] == [True]
    assert drop_expired(keeper, QUERIES).dropped == [old]
    assert old not in names(keeper)


def test_detached_but_not_dropped_is_dropped(keeper: psycopg.Connection[Any]) -> None:
    old = add_day(keeper, 1)
    keeper.execute(
        sql.SQL("alter table pgqueue.finished_jobs detach partition pgqueue.{} concurrently").format(
            sql.Identifier(old)
        )
    )
    assert drop_expired(keeper, QUERIES).dropped == [old]


def test_two_at_once_leave_nothing_behind(keeper: psycopg.Connection[Any], dsn: str) -> None:
    old = {add_day(keeper, days) for days in range(1, 7)}
    failures: list[BaseException] = []

    def one() -> None:
        try:
            with psycopg.connect(dsn, autocommit=True) as connection:
                drop_expired(connection, QUERIES)
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    drop_expired(keeper, QUERIES)
    assert not old & names(keeper)


def test_delete_older_takes_rows_before_their_time(keeper: psycopg.Connection[Any]) -> None:
    finish(keeper, "now() + interval '1 day'", "old")
    keeper.execute("update pgqueue.finished_jobs set finished_at = now() - interval '3 hours'")
    finish(keeper, "now() + interval '1 day'", "new")
    deleted = sum(delete_older(keeper, QUERIES, each, 3600) for each in run(keeper, list_partitions(QUERIES)))
    assert deleted == 1
    assert keeper.execute("select task from pgqueue.all_jobs").fetchall() == [("new",)]
