"""The sleep of a claimer: no nudge is lost, and none that comes when its session is gone ends the thread."""

import os
import threading

import psycopg
import pytest

from pgqueue import PgQueue
from pgqueue.worker.listener import Listener
from tests.support.process import wait_until
from tests.worker.conftest import Rows


def test_a_nudge_while_another_one_ends_the_sleep_is_not_lost(app: PgQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    listener = Listener(
        None, trusted=True, test_seconds=60, queries=app.queries, queues=["q"], poll_seconds=60, on_message=print
    )
    read = os.read

    def nudged_before(descriptor: int, length: int) -> bytes:
        listener.nudge()
        return read(descriptor, length)

    monkeypatch.setattr(os, "read", nudged_before)
    listener.nudge()
    listener.sleep(3600)
    monkeypatch.undo()
    sleeper = threading.Thread(target=listener.sleep, args=[3600], daemon=True)
    sleeper.start()
    listener.nudge()
    sleeper.join(30)
    assert not sleeper.is_alive()
    listener.end()


def test_a_claimer_that_learns_of_its_eviction_from_a_claim_outlives_its_lost_listener(
    app: PgQueue, rows: Rows, dsn: str
) -> None:
    app.conf.update(worker_heartbeat=1000, worker_lease=3600, worker_poll_interval=3600)

    @app.task
    def double(n: int) -> int:
        return 2 * n

    blocked = """select count(*) as n from pg_stat_activity
                 where datname = current_database() and wait_event_type = 'Lock' and query ~ 'claim_jobs'"""
    listening = """select pg_terminate_backend(pid, 30000) as ended from pg_stat_activity
                   where application_name = 'pgqueue/' || %s and query ~* '^(listen|select keys)'"""
    with app.worker(pool="threads", concurrency=1), psycopg.connect(dsn) as rescuer:
        assert double.delay(1).get(timeout=30) == 2
        evicted = rows.worker()["id"]
        rescuer.execute("select 1 from pgqueue.workers for update")
        rescuer.execute("update pgqueue.workers set lost_at = now()")
        result = double.delay(2)
        wait_until(lambda: rows.execute(blocked)[0]["n"] == 1, what="a claim waits for the rescuer")
        assert [row["ended"] for row in rows.execute(listening, [evicted])] == [True]
        rescuer.commit()
        assert result.get(timeout=30) == 4
        assert rows.worker()["id"] > evicted


def test_a_sleeping_worker_looks_once_for_each_job_that_wakes_it(app: PgQueue, rows: Rows, dsn: str) -> None:
    app.conf.update(worker_heartbeat=1000, worker_lease=3600, worker_poll_interval=3600)
    jobs = 20

    @app.task
    def double(n: int) -> int:
        return 2 * n

    with psycopg.connect(dsn, autocommit=True) as other:
        other.execute(
            "do $$begin execute format('alter database %I set track_functions = pl', current_database()); end$$"
        )
    asleep = "select count(*) as n from pg_locks where locktype = 'advisory' and classid = hashtext('pgqueue')::oid"
    unfinished = "select count(*) as n from pgqueue.live_jobs"
    with app.worker(pool="threads", concurrency=1):
        for number in range(jobs):
            wait_until(lambda: rows.execute(asleep)[0]["n"] == 1, what="the worker sleeps")
            double.delay(number)
            wait_until(lambda: rows.execute(unfinished)[0]["n"] == 0, what="the job is done")
    # Its sessions have told what they did when they ended.
    called = "select calls as n from pg_stat_user_functions where schemaname = 'pgqueue' and funcname = 'claim_jobs'"
    assert wait_until(lambda: rows.execute(called))[0]["n"] < jobs + 8
