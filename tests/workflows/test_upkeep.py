"""Upkeep by workers: steps deleted by hand, workflows whose time is over."""

from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgqueue import PgQueue, TaskRevokedError, Workflow
from tests.support.process import wait_until


@pytest.fixture(autouse=True)
def often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgqueue.worker.maintenance.MEND_SECONDS", 0.05)
    monkeypatch.setattr("pgqueue.worker.maintenance.INTERVAL_SECONDS", 0.05)


def test_a_workflow_ends_whose_step_was_deleted(
    app: PgQueue, dsn: str, start: Callable[[], None], say: Any, caplog: pytest.LogCaptureFixture
) -> None:
    flow = Workflow()
    gone = flow.wait_for("gone")
    flow.step("stopped", say.s(), after=gone)
    flow.step("goes on", say.s("on"), after=gone, on_failure="ignore")
    result = flow.apply_async()
    with psycopg.connect(dsn) as connection:
        connection.execute("delete from pgqueue.live_jobs where id = %s", [result["gone"].id])
    assert {step.state for step in result.steps if step.name == "gone"} == {"deleted"}
    start()
    with pytest.raises(TaskRevokedError, match="the job was deleted"):
        result.get(timeout=20)
    assert {step.name: step.state for step in result.steps} == {
        "gone": "cancelled",
        "stopped": "cancelled",
        "goes on": "succeeded",
    }
    assert "1 steps of workflows were deleted by hand" in caplog.text


def test_workflows_go_when_their_time_is_over(app: PgQueue, dsn: str, start: Callable[[], None], say: Any) -> None:
    app.conf.update(result_expires=1)
    flow = Workflow()
    flow.step("a", say.s("a"))
    flow.step("b", say.s("b"), after="a")
    start()
    result = flow.apply_async()
    wait_until(lambda: result.progress is None, what="the workflow is removed")
    with psycopg.connect(dsn) as connection:
        left = connection.execute("select count(*) from pgqueue.workflow_results").fetchone()
    assert left == (0,)
