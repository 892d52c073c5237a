"""A burst ends when nothing is left: no sooner, no later, and it says so when it could not do all."""

from typing import Any

from pgqueue import PgQueue
from pgqueue.worker.burst import Burst
from tests.worker.conftest import Rows, Send, StartWorker
from tests.worker.gate import Gate, call_at, visit


def test_it_waits_for_its_own_retries_that_are_due_soon_but_not_for_later_ones(app: PgQueue, rows: Rows) -> None:
    app.conf.worker_poll_interval = 3600

    @app.task(bind=True, max_retries=5)
    def twice(self: Any, seconds: float) -> int:
        if self.request.retries < 2:
            raise self.retry(countdown=seconds)
        return int(self.request.retries)

    soon, late = [twice.delay(0.3) for _ in range(3)], twice.delay(3600)
    with app.worker(pool="threads", concurrency=2, burst=True) as worker:
        assert worker.wait(60)
        assert worker.failure is None
    assert [rows.job(result.id)["state"] for result in soon] == ["succeeded"] * 3
    assert rows.job(late.id)["state"] == "scheduled"


def test_it_waits_for_what_others_make_available_while_it_works(app: PgQueue, rows: Rows, gate: Gate) -> None:
    app.conf.worker_poll_interval = 3600

    @app.task
    def hold(address: str) -> str:
        return visit(address)

    @app.task(transactional=True)
    def call(address: str) -> None:
        call_at(address)

    hold.delay(gate.address)
    with app.worker(pool="threads", concurrency=2, burst=True) as worker:
        visitor = gate.next()
        call.delay(gate.address)
        gate.next()
        visitor.let_go("done")
        assert worker.wait(60)
    assert {row["state"] for row in rows.execute("select state from pgqueue.all_jobs")} == {"succeeded"}


def test_a_job_whose_task_is_unknown_is_left_and_told_of(
    start_worker: StartWorker, send: Send, sender: PgQueue
) -> None:
    known, unknown = send("echo", 1), sender.send_task("nobody.knows")
    sender.send_task("nobody.knows", queue="not_served")
    worker = start_worker("-P", "solo", "-Q", "default", "--burst", wait=False)
    assert worker.wait() == 1
    assert "jobs are left whose tasks are unknown here: nobody.knows" in worker.output
    assert known.get(timeout=30) == 1
    assert unknown.state == "PENDING"


class Pool:
    """A pool with so many jobs."""

    def __init__(self, load: int) -> None:
        self.load = load


class Completer:
    """A completer with so many outcomes to write."""

    def __init__(self) -> None:
        self.pending = 0
        self.retries_due = 0.0


def test_a_look_counts_only_if_nothing_was_in_hand_before_it() -> None:
    pool, completer = Pool(1), Completer()
    did: list[str] = []
    burst = Burst(
        {"threads": pool},  # type: ignore[dict-item]  # what it looks at
        completer,  # type: ignore[arg-type]  # what it looks at
        lambda: did.append("look"),
        lambda: did.append("end"),
    )
    burst.before_look()
    pool.load, completer.pending = 0, 1
    burst.found_nothing()
    burst.after_write()
    assert did == []
    burst.before_look()
    completer.pending = 0
    burst.found_nothing()
    assert did == [], "what was written meanwhile may be a job again"
    burst.after_write()
    assert did == ["look"]
    burst.before_look()
    burst.found_nothing()
    assert did == ["look", "end"]
