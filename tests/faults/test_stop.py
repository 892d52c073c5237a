"""SIGTERM under load: claim no more, give back what waits, finish what runs; asked twice, give that back too."""

import signal

import pytest

from tests.faults.conftest import Stage

pytestmark = pytest.mark.faults

RUNNING = "select count(*) from pgqueue.live_jobs where state = 'running'"


def test_term_gives_back_what_waits_and_finishes_what_runs(stage: Stage) -> None:  # fault 8
    worker = stage.worker("-c", "2")
    with stage.load() as load:
        held = [stage.send("hold", stage.gate), stage.send("hold_charge", stage.gate)]
        for job_id in held:
            stage.pid_of(job_id)
        stage.wait("jobs wait behind the held ones", lambda: stage.value(RUNNING) >= 2)
        worker.send_signal(signal.SIGTERM)
        # While the load goes on, nothing but the two is claimed any more.
        stage.wait("all others are given back", lambda: stage.value(RUNNING) == 2)
        load.more(200)
        assert stage.value(RUNNING) == 2
        assert worker.process.poll() is None
        stage.open_gate()
        assert worker.wait() == 0
        assert [stage.state(job_id) for job_id in held] == ["succeeded"] * 2
        assert stage.value("select count(*) from pgqueue.workers where stopped_at is not null") == 1
        stage.worker("-c", "2")
    jobs = stage.finish(load)
    assert all(jobs[job_id].attempt == 1 for job_id in held)


def test_a_second_term_gives_back_at_once(stage: Stage) -> None:  # fault 8
    worker = stage.worker("-c", "2")
    with stage.load() as load:
        held = [stage.send("hold", stage.gate), stage.send("hold_charge", stage.gate)]
        for job_id in held:
            stage.pid_of(job_id)
        worker.send_signal(signal.SIGTERM)
        stage.wait("the first one is heard", lambda: stage.value(RUNNING) == 2)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert stage.value(RUNNING) == 0
        assert stage.query(
            "select distinct state, attempt, lost from pgqueue.live_jobs where id = any (%s::uuid[])", held
        ) == [("available", 0, 0)]
        stage.worker("-c", "2")
        load.more()
    stage.finish(load)


def test_the_grace_period_ends(stage: Stage) -> None:  # fault 8
    worker = stage.worker("-c", "2", worker_shutdown_timeout="1")
    with stage.load() as load:
        held = stage.send("hold", stage.gate)
        stage.pid_of(held)
        worker.send_signal(signal.SIGTERM)
        assert worker.wait() == 0
        assert stage.state(held) == "available"
        stage.worker("-c", "2")
    stage.finish(load)
