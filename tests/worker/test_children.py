"""Children of a worker: replaced after so many jobs or so much memory, added under load, lost with their job."""

import os
import signal

import pytest

from pgqueue import PgQueue, WorkerLostError
from pgqueue.worker.plan import make_plan
from pgqueue.worker.worker import Worker
from tests.support.process import REPOSITORY, wait_until
from tests.worker.conftest import TASKS, Rows, Send, StartWorker
from tests.worker.gate import Gate


def test_a_child_is_replaced_after_its_number_of_tasks(start_worker: StartWorker, send: Send, rows: Rows) -> None:
    start_worker("-P", "processes", "-c", "1", "--max-tasks-per-child", "3")
    results = [send("where") for _ in range(9)]
    pids = [result.get(timeout=60)["pid"] for result in results]
    assert [len(set(pids[n : n + 3])) for n in (0, 3, 6)] == [1, 1, 1]
    assert len(set(pids)) == 3
    assert {(rows.job(r.id)["attempt"], rows.job(r.id)["lost"]) for r in results} == {(1, 0)}


def test_a_child_that_uses_too_much_memory_is_replaced_after_its_job(start_worker: StartWorker, send: Send) -> None:
    start_worker("-P", "processes", "-c", "1", "--max-memory-per-child", str(200 * 1024))
    first = send("swallow", 200).get(timeout=30)
    wait_until(lambda: send("where").get(timeout=30)["pid"] != first, what="another child runs jobs")


def test_a_child_that_starts_above_its_limit_of_memory_runs_a_job_before_it_is_replaced(
    start_worker: StartWorker, send: Send
) -> None:
    worker = start_worker("-P", "processes", "-c", "1", "--max-memory-per-child", "1024")
    worker.expect("lies below what a child needs to start")
    assert "replaced" not in worker.output
    pids = []
    for _ in range(2):
        pids.append(send("where").get(timeout=60)["pid"])
        wait_until(lambda: worker.output.count("replaced after its job") >= len(pids), what="it is replaced")
    assert pids[0] != pids[1]
    assert worker.output.count("lies below") == 1


def test_transactions_of_jobs_that_have_ended_are_forgotten(
    dsn: str, rows: Rows, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows.execute("create table ledger (id bigint generated always as identity, amount int, pid int)")
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    monkeypatch.chdir(REPOSITORY)
    app = PgQueue("tests", dsn=dsn)

    @app.task(name=f"{TASKS}.deposit", transactional=True)
    def deposit(amount: int) -> None: ...

    with Worker(app, make_plan(app, spec=f"{TASKS}:app", pool="processes", concurrency=1)) as worker:
        results = [deposit.delay(n) for n in range(3)]
        assert [result.get(timeout=60) for result in results] == [0, 1, 2]
        (station,) = worker.pools["processes"].stations
        wait_until(lambda: not station.sent and station.done == 3, what="the worker knows of their ends")
        assert station.transactions == {}
    app.close()


def test_autoscale_adds_children_while_all_are_busy(start_worker: StartWorker, send: Send, gate: Gate) -> None:
    start_worker("-P", "processes", "--autoscale", "3,1")
    results = [send("hold", gate.address) for _ in range(4)]
    visitors = gate.take(3)
    assert len({visitor.pid for visitor in visitors}) == 3
    assert gate.empty, "three are the most"
    for visitor in visitors:
        visitor.let_go("done")
    gate.next().let_go("done")
    assert [result.get(timeout=30) for result in results] == ["done"] * 4


def test_a_lost_attempt_is_repeated_until_the_job_counts_as_poison(
    start_worker: StartWorker, send: Send, rows: Rows
) -> None:
    worker = start_worker("-P", "processes", "-c", "1", conf={"worker_lost_limit": 2})
    result = send("die")
    row = rows.end_of(result.id)
    assert (row["state"], row["attempt"], row["lost"]) == ("failed", 2, 2)
    assert row["error_type"] == "pgqueue.errors.WorkerLostError"
    assert "killed by signal 9" in row["error"]
    assert [attempt["outcome"] for attempt in rows.attempts(result.id)] == ["lost", "lost"]
    assert isinstance(result.result, WorkerLostError)
    assert send("echo", 1).get(timeout=30) == 1
    worker.expect("died")


def test_at_most_once_ends_with_its_child(start_worker: StartWorker, send: Send, gate: Gate, rows: Rows) -> None:
    start_worker("-P", "processes", "-c", "1")
    row = rows.end_of(send("die_once").id)
    assert (row["state"], row["attempt"]) == ("failed", 1)
    assert "at most once" in row["error"]
    again = send("hold", gate.address)
    visitor = gate.next()
    os.kill(visitor.pid, signal.SIGKILL)
    gate.next().let_go("the second time")
    assert again.get(timeout=30) == "the second time"
    assert (rows.job(again.id)["attempt"], rows.job(again.id)["lost"]) == (2, 1)
    once = send("hold_once", gate.address)
    os.kill(gate.next().pid, signal.SIGKILL)
    assert rows.end_of(once.id)["state"] == "failed"


def test_jobs_that_only_waited_in_a_dead_child_lose_nothing(
    start_worker: StartWorker, send: Send, gate: Gate, rows: Rows
) -> None:
    start_worker("-P", "processes", "-c", "1")
    for n in range(50):
        send("echo", n)
    send("echo", "learned").get(timeout=30)
    send("hold_once", gate.address)
    visitor = gate.next()
    waiting = [send("echo", n) for n in range(20)]
    rows.until(waiting[-1].id, "running")
    os.kill(visitor.pid, signal.SIGKILL)
    assert [result.get(timeout=30) for result in waiting] == list(range(20))
    assert {(rows.job(r.id)["attempt"], rows.job(r.id)["lost"]) for r in waiting} == {(1, 0)}


@pytest.mark.parametrize("outside_python", [False, True])
def test_the_end_of_a_child_is_noticed_while_something_that_it_forked_lives(
    start_worker: StartWorker, send: Send, gate: Gate, rows: Rows, outside_python: bool
) -> None:
    worker = start_worker("-P", "processes", "-c", "1")
    result = send("fork_and_die", gate.address, outside_python)
    left_behind = gate.next()
    assert result.get(timeout=30) == "again"
    assert (rows.job(result.id)["attempt"], rows.job(result.id)["lost"]) == (2, 1)
    worker.send_signal(signal.SIGTERM)
    left_behind.let_go()
    assert worker.wait() == 0


def test_a_task_reports_its_own_state_and_meta(
    start_worker: StartWorker, send: Send, sender: PgQueue, gate: Gate, rows: Rows
) -> None:
    start_worker("-P", "processes", "-c", "1")
    result = send("report_progress", gate.address)
    visitor = gate.next()
    wait_until(lambda: result.state == "HALFWAY", what="the state is seen while the task runs")
    assert result.info == {"done": 50}
    assert rows.job(result.id)["progress"] == {"state": "HALFWAY", "meta": {"done": 50}}
    assert rows.job(result.id)["state"] == "running"
    assert not result.ready()
    visitor.let_go("done")
    assert result.get(timeout=30) == "done"
    assert result.state == "SUCCESS"


def test_what_a_task_starts_answers_signals(start_worker: StartWorker, send: Send) -> None:
    start_worker("-P", "processes", "-c", "1")
    assert send("end_programs").get(timeout=90) == [-signal.SIGTERM, -signal.SIGINT, -signal.SIGTERM]
