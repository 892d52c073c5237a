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
