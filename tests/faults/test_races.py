"""Cancel against claim, run, retry and finish, in whatever order they happen to come: one end for each job."""

import random
import threading

import pytest

from tests.faults.conftest import LONG, Stage

pytestmark = pytest.mark.faults

JOBS = 10_000 if LONG else 3_000


def test_a_cancelled_job_ends_once_whatever_it_was_doing(stage: Stage) -> None:  # fault 40
    stage.worker("-c", "2", lease=3)
    signature = stage.app.signature
    tasks = ("plain", "retrying", "charge", "acharge")
    random.seed(40)
    asked: dict[str, str] = {}

    def cancel(ids: list[str], terminate: bool) -> None:
        for at in range(0, len(ids), 20):
            asked.update(stage.app.control.revoke(ids[at : at + 20], terminate=terminate))

    with stage.load() as load:
        results = stage.app.enqueue_many([signature(random.choice(tasks), (number,)) for number in range(JOBS)])
        ids = [str(result.id) for result in results]
        doomed = random.sample(ids, JOBS * 2 // 3)
        threads = [
            threading.Thread(target=cancel, args=(doomed[: JOBS // 3], False)),
            threading.Thread(target=cancel, args=(doomed[JOBS // 3 :], True)),
            threading.Thread(target=cancel, args=(random.sample(doomed, JOBS // 3), True)),
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    jobs = stage.finish(load, may_fail=tasks, timeout=600 if LONG else 60)
    assert {jobs[job_id].state for job_id in ids} <= {"succeeded", "cancelled"}
    assert all(jobs[job_id].state == "succeeded" for job_id in load.acknowledged)
    assert any(jobs[job_id].state == "cancelled" for job_id in doomed)
    for job_id in set(ids) - set(doomed):
        assert jobs[job_id].state == "succeeded", "nobody cancelled it"
    for job_id, outcome in asked.items():
        if outcome == "cancelled":
            assert jobs[job_id].state == "cancelled", "what was reported as cancelled has not run to its end"


def test_a_running_job_is_stopped_and_its_transaction_undone(stage: Stage) -> None:  # fault 40
    stage.worker("-c", "2", lease=3)
    with stage.load() as load:
        held = [stage.send("hold", stage.gate), stage.send("hold_charge", stage.gate)]
        for job_id in held:
            stage.pid_of(job_id)
        assert stage.app.control.revoke(held) == dict.fromkeys(held, "running")
        assert stage.app.control.revoke(held, terminate=True) == dict.fromkeys(held, "asked")
        stage.wait("they were stopped", lambda: all(stage.state(job_id) == "cancelled" for job_id in held))
        load.more()
    jobs = stage.finish(load, may_fail=("hold", "hold_charge"))
    assert all(jobs[job_id].state == "cancelled" for job_id in held)
