"""Which job runs when, and where: priorities, order, due times, unknown tasks, several applications and schemas."""

import threading
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import PgQueue
from pgqueue.store.schema import migrate
from tests.support.process import wait_until
from tests.worker.conftest import Rows
from tests.worker.gate import Gate, visit


@pytest.fixture
def ran() -> list[Any]:
    """What ran, in order."""
    return []


def test_higher_priorities_run_first_and_equals_in_the_order_of_their_enqueue(app: PgQueue, ran: list[Any]) -> None:
    @app.task
    def note(priority: int, n: int) -> None:
        ran.append((priority, n))

    expected = []
    results = []
    for n in range(3):
        for priority in (0, 9, 4):
            results.append(note.apply_async([priority, n], priority=priority))
            expected.append((priority, n))
    with app.worker(pool="solo", burst=True) as worker:
        assert worker.wait(60)
    assert ran == sorted(expected, key=lambda job: (-job[0], job[1]))


def test_jobs_of_one_queue_run_in_order_however_they_were_enqueued(app: PgQueue, ran: list[Any], dsn: str) -> None:
    @app.task
    def note(n: int) -> None:
        ran.append(n)

    note.delay(0)
    app.enqueue_many([note.s(n) for n in range(1, 500)])
    with psycopg.connect(dsn) as conn, app.using(conn):
        for n in range(500, 520):
            note.delay(n)
        conn.commit()
    note.delay(520)
    with app.worker(pool="solo", burst=True) as worker:
        assert worker.wait(60)
    assert ran == list(range(521))


def test_countdown_and_eta_hold_a_job_back_and_due_jobs_run_in_their_order(app: PgQueue, rows: Rows) -> None:
    @app.task
    def note() -> str:
        return datetime.now(UTC).isoformat()

    with app.worker(pool="threads", concurrency=1):
        far = note.apply_async(eta=datetime.now(UTC) + timedelta(hours=1))
        later = note.apply_async(countdown=0.6)
        soon = note.apply_async(eta=datetime.now(UTC) + timedelta(seconds=0.2))
        past = note.apply_async(eta=datetime.now(UTC) - timedelta(days=1))
        ends = [datetime.fromisoformat(result.get(timeout=30)) for result in (past, soon, later)]
        assert ends == sorted(ends)
    for result in (soon, later):
        row = rows.job(result.id)
        assert row["started_at"] >= row["run_at"]
    assert rows.job(far.id)["state"] == "scheduled"
    assert far.state == "PENDING"


def test_an_unknown_task_is_left_to_a_worker_that_has_it(
    app: PgQueue, dsn: str, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    other = PgQueue("other", dsn=dsn)
    other.conf.update(worker_poll_interval=0.05)

    @other.task(name="only.there")
    def only_there() -> str:
        return "found"

    @app.task
    def known(n: int) -> int:
        return n

    unknown = [app.send_task("only.there") for _ in range(5)]
    with app.worker(pool="threads", concurrency=1):
        assert [known.delay(n).get(timeout=30) for n in range(5)] == list(range(5))
        wait_until(lambda: {rows.job(result.id)["attempt"] for result in unknown} == {0}, what="they are given back")
        assert {rows.job(result.id)["state"] for result in unknown} == {"available"}
        with other.worker(pool="threads", concurrency=1):
            assert [result.get(timeout=30) for result in unknown] == ["found"] * 5
    assert {(rows.job(r.id)["attempt"], rows.job(r.id)["lost"]) for r in unknown} == {(1, 0)}
    warnings = [record.getMessage() for record in caplog.records if "only.there" in record.getMessage()]
    assert len(warnings) == 1
    other.close()


def test_two_applications_on_one_schema_leave_each_other_alone(app: PgQueue, dsn: str) -> None:
    second = PgQueue("second", dsn=dsn)

    @app.task(name="first.task")
    def first_task(n: int) -> str:
        return f"first {n}"

    @second.task(name="second.task")
    def second_task(n: int) -> str:
        return f"second {n}"

    with app.worker(pool="threads", concurrency=2), second.worker(pool="threads", concurrency=2):
        results = [(first_task.delay(n), second_task.delay(n)) for n in range(50)]
        assert [(a.get(timeout=30), b.get(timeout=30)) for a, b in results] == [
            (f"first {n}", f"second {n}") for n in range(50)
        ]
    second.close()


def test_of_two_applications_on_one_queue_neither_waits_for_a_poll(app: PgQueue, dsn: str) -> None:
    """The worker that answers for a queue may be one that has not the task: it hands over to the next one."""
    second = PgQueue("second", dsn=dsn)

    @app.task(name="first.task")
    def first_task(n: int) -> int:
        return n

    @second.task(name="second.task", bind=True, max_retries=3)
    def second_task(self: Any, n: int) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=0.01)
        return n

    app.conf.worker_poll_interval = second.conf.worker_poll_interval = 3600
    with app.worker(pool="threads", concurrency=1), second.worker(pool="threads", concurrency=1):
        for n in range(5):
            assert second_task.delay(n).get(timeout=60) == n
            assert first_task.delay(n).get(timeout=60) == n
            app.send_task("nobody.knows")
    second.close()


def test_a_worker_that_stops_hands_over_to_another_that_waits(app: PgQueue, dsn: str, rows: Rows) -> None:
    second = PgQueue("test", dsn=dsn)
    app.task(name="t")(abs)
    second.task(name="t")(abs)
    app.conf.worker_poll_interval = second.conf.worker_poll_interval = 3600
    answers = """select split_part(a.application_name, '/', 2)::bigint as id
                 from pg_locks l join pg_stat_activity a using (pid)
                 where l.classid = hashtext('pgqueue')::oid and l.mode = 'ExclusiveLock' and l.granted"""
    waits = """select 1 from pg_stat_activity where application_name = 'pgqueue/' || %s
               and state = 'idle' and query ~ 'fall_asleep'"""
    first = app.worker(pool="threads", concurrency=1)
    with first:
        wait_until(lambda: rows.execute(answers) == [{"id": first.lease.worker_id}], what="the first one answers")
        with second.worker(pool="threads", concurrency=1) as other:
            wait_until(lambda: rows.execute(waits, [other.lease.worker_id]), what="the second one waits")
            first.stop()
            wait_until(lambda: rows.execute(answers) == [{"id": other.lease.worker_id}], what="the second one answers")
    second.close()


def test_what_a_long_transaction_enqueued_runs_as_soon_as_it_commits(app: PgQueue, dsn: str, rows: Rows) -> None:
    """Thousands of places have passed meanwhile: it is a straggler, and the look that its end wakes goes back."""

    @app.task(name="t")
    def t(n: int) -> int:
        return n

    app.conf.worker_poll_interval = 3600
    wake_lock = "select 1 from pg_locks where classid = hashtext('pgqueue')::oid and mode = 'ExclusiveLock' and granted"

    def asleep() -> bool:
        return bool(rows.execute(wake_lock))

    with psycopg.connect(dsn) as conn, app.worker(pool="threads", concurrency=2):
        wait_until(asleep)
        with app.using(conn):  # it will notify when it commits
            late = t.delay(1)
        for _ in range(3):
            assert app.enqueue_many([t.s(n) for n in range(5000)])[-1].get(timeout=60) == 4999
        wait_until(asleep)
        conn.commit()
        rows.until(late.id, "succeeded")  # not get(), which wakes the worker once more


def test_schemas_in_one_database_do_not_see_each_other(app: PgQueue, dsn: str) -> None:
    migrate(dsn, schema="billing")
    billing = PgQueue("billing", dsn=dsn, schema="billing")

    @app.task(name="same.name")
    def here() -> str:
        return "here"

    @billing.task(name="same.name")
    def there() -> str:
        return "there"

    with app.worker(pool="threads", concurrency=1), billing.worker(pool="threads", concurrency=1):
        results = [(here.delay(), there.delay()) for _ in range(20)]
        assert {(a.get(timeout=30), b.get(timeout=30)) for a, b in results} == {("here", "there")}
        assert app.AsyncResult(results[0][1].id).state == "PENDING", "not known here"
    billing.close()


def test_a_worker_serves_its_queues_only(app: PgQueue, rows: Rows) -> None:
    @app.task
    def note() -> None: ...

    mail, default = note.apply_async(queue="mail"), note.delay()
    with app.worker(pool="threads", concurrency=1, queues=["mail", "other"], exclude_queues=["other"]) as worker:
        mail.get(timeout=30)
        assert worker.plan.queues == ("mail",)
        assert rows.job(default.id)["state"] == "available"


def test_a_full_pool_does_not_hold_up_another(app: PgQueue, gate: Gate) -> None:
    @app.task(pool="solo")
    def wait(address: str) -> str:
        return visit(address)

    @app.task(pool="threads")
    def value(n: int) -> int:
        return n

    with app.worker(pool="threads:1,solo"):
        held = [wait.delay(gate.address) for _ in range(5)]
        visitor = gate.next()
        assert [value.delay(n).get(timeout=30) for n in range(20)] == list(range(20))
        visitor.let_go("done")
        for _ in range(4):
            gate.next().let_go("done")
        assert [result.get(timeout=30) for result in held] == ["done"] * 5


def test_thousands_of_coroutines_beside_an_idle_pool_wait_for_no_poll(app: PgQueue, rows: Rows) -> None:
    app.conf.update(worker_poll_interval=3600)

    @app.task
    async def value(n: int) -> int:
        return n

    @app.task
    def beside(n: int) -> int:
        return n

    with app.worker(pool="threads:4,loop:200"):
        beside.delay(0).get(timeout=30)
        app.enqueue_many([value.s(n) for n in range(5_000)])
        ended = "select count(*) as n from pgqueue.finished_jobs where state = 'succeeded'"
        wait_until(lambda: rows.execute(ended)[0]["n"] == 5_001, what="all have run")


def test_a_look_goes_past_the_backlog_of_a_full_pool_without_a_poll(app: PgQueue, gate: Gate, rows: Rows) -> None:
    app.conf.update(worker_poll_interval=3600)

    @app.task
    def wait(address: str) -> str:
        return visit(address)

    @app.task
    async def value(n: int) -> int:
        return n

    with app.worker(pool="threads:1,loop:2"):
        held = app.enqueue_many([wait.s(gate.address) for _ in range(2_000)])
        visitor = gate.next()
        assert [value.delay(n).get(timeout=30) for n in range(5)] == list(range(5))
        late = app.enqueue_many([value.s(n) for n in range(50)])
        assert [result.get(timeout=30) for result in late] == list(range(50))
        rows.execute("delete from pgqueue.live_jobs where state = 'available'")
        claimed = rows.execute("select id from pgqueue.live_jobs")
        for _ in claimed[1:]:
            visitor.let_go("done")
            visitor = gate.next()
        visitor.let_go("done")
        assert held[0].get(timeout=30) == "done"


def test_two_workers_share_one_queue_and_no_job_runs_twice(app: PgQueue, dsn: str, rows: Rows) -> None:
    second = PgQueue("test", dsn=dsn)
    lock, seen = threading.Lock(), list[int]()

    def note(n: int) -> None:
        with lock:
            seen.append(n)

    app.task(name="note")(note)
    second.task(name="note")(note)
    app.enqueue_many([app.signature("note", [n]) for n in range(2_000)])
    with (
        app.worker(pool="threads", concurrency=2, burst=True) as one,
        second.worker(pool="threads", concurrency=2, burst=True) as two,
    ):
        assert one.wait(60)
        assert two.wait(60)
    assert sorted(seen) == list(range(2_000))
    states = rows.execute("select state, attempt, count(*) as n from pgqueue.all_jobs group by 1, 2")
    assert states == [{"state": "succeeded", "attempt": 1, "n": 2_000}]
    second.close()
