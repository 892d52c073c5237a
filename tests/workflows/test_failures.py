"""What happens when a step does not succeed: policies, compensation, running on, events, time."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import PgQueue, TaskRevokedError, ValidationError, Workflow, chain, group
from pgqueue.errors import EventTimeout, GraphError, TimeoutError
from pgqueue.workflows.result import WorkflowResult
from tests.support.process import wait_until

Start = Callable[[], None]


def states(result: WorkflowResult) -> dict[str | None, str]:
    return {step.name: step.state for step in result.steps}


def test_a_failure_stops_what_follows(app: PgQueue, start: Start, say: Any, fail: Any, log: list[Any]) -> None:
    flow = Workflow()
    flow.step("a", fail.s())
    flow.step("b", say.s("b"), after="a")
    flow.step("beside", say.s("beside"))
    start()
    result = flow.delay()
    with pytest.raises(ValueError, match="boom") as caught:
        result.get(timeout=20)
    assert caught.value.__notes__[-1] == f"in step 'a' of workflow {result.id}"
    assert states(result) == {"a": "failed", "b": "failed", "beside": "succeeded"}
    values = result.get(propagate=False)
    assert isinstance(values["b"], ValueError)
    assert values["beside"] == "beside"


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(("policy", "given"), [("value", "boom"), ("ignore", None)])
def test_a_failure_may_be_let_pass(
    app: PgQueue, start: Start, say: Any, fail: Any, log: list[Any], policy: Any, given: Any, whole: bool
) -> None:
    flow = Workflow(on_failure=policy if whole else "stop")
    flow.step("a", fail.s())
    flow.step("b", say.s("b"))
    flow.step("join", say.s("join"), after=["a", "b"], on_failure=None if whole else {"a": policy})
    start()
    result = flow.delay()
    values = result.get(timeout=20)
    assert isinstance(values["a"], ValueError)
    error = log[-1][0]
    assert (error and error["message"]) == given
    assert log[-1][1:] == ("b", "join")
    assert result.state == "succeeded"


def test_a_policy_holds_for_each_member_of_a_group(
    app: PgQueue, start: Start, say: Any, fail: Any, log: list[Any]
) -> None:
    flow = Workflow()
    flow.step("a", fail.s())
    flow.step("nap", say.s("nap"))
    flow.step("many", group(chain(say.s(1), say.si(2)), say.s(3)), after=["nap", "a"], on_failure={"a": "ignore"})
    start()
    assert flow.delay().get(timeout=20)["many"] == [2, 3]
    assert sorted(map(repr, log)) == sorted(map(repr, [("fail",), ("nap",), ("nap", None, 1), (2,), ("nap", None, 3)]))


def test_an_error_callback_of_a_step(app: PgQueue, start: Start, fail: Any, log: list[Any]) -> None:
    @app.task(name="alert")
    def alert(task_id: str) -> None:
        log.append(("alert", task_id))

    flow = Workflow()
    flow.step("a", fail.s().on_error(alert.s()))
    start()
    result = flow.delay()
    result.get(timeout=20, propagate=False)
    assert log[1:] == [("alert", result["a"].id)]


# compensation


@pytest.fixture
def undo(app: PgQueue, log: list[Any]) -> Any:
    @app.task(name="undo")
    def undo(what: str, pay: Any = None) -> None:
        log.append(("undo", what, pay))

    return undo


def _order(say: Any, undo: Any, last: Any) -> Workflow:
    order = Workflow("order")
    pay = order.step("pay", say.s("paid"), compensate=undo.s("pay"))
    pick = order.step("pick", say.s("picked"), compensate=undo.s("pick"))
    pack = order.step("pack", say.s("packed"), after=[pay, pick])
    ship = order.step("ship", say.s("shipped"), after=pack, compensate=undo.s("ship"))
    order.step("tell", last, after=ship)
    return order


def test_what_was_done_is_undone_in_reverse_order(
    app: PgQueue, start: Start, say: Any, fail: Any, undo: Any, log: list[Any]
) -> None:
    start()
    result = _order(say, undo, fail.s()).delay()
    result.get(timeout=20, propagate=False)
    undone = [entry for entry in log if entry[0] == "undo"]
    assert undone[0] == ("undo", "ship", None)
    assert sorted(undone[1:], key=str) == [("undo", "pay", "paid"), ("undo", "pick", None)]
    assert result.state == "failed"

    log.clear()
    fail.mend()
    assert result.retry() > 0
    assert result.get(timeout=20)["tell"] == "mended"
    assert sorted(entry[-1] for entry in log) == ["paid", "picked", "shipped", "shipped"]
    assert [entry for entry in log if entry[0] == "undo"] == []
    assert states(result)["pay.undo"] == "skipped"


def test_nothing_is_undone_when_all_is_well(app: PgQueue, start: Start, say: Any, undo: Any, log: list[Any]) -> None:
    start()
    result = _order(say, undo, say.s("told")).delay()
    result.get(timeout=20)
    assert result.state == "succeeded"
    assert [entry for entry in log if entry[0] == "undo"] == []


def test_a_compensation_is_retried_and_its_failure_shown(app: PgQueue, start: Start, say: Any, fail: Any) -> None:
    tries: list[int] = []

    @app.task(name="shaky", bind=True)
    def shaky(self: Any) -> str:
        tries.append(self.request.retries)
        if self.request.retries < 2:
            raise self.retry(countdown=0, max_retries=5)
        return "undone"

    flow = Workflow()
    flow.step("a", say.s("a"), compensate=shaky.s())
    flow.step("b", say.s("b"), compensate=fail.s())
    flow.step("c", fail.s(), after=["a", "b"])
    start()
    result = flow.delay()
    values = result.get(timeout=20, propagate=False)
    assert tries == [0, 1, 2]
    assert values["a.undo"] == "undone"
    assert states(result)["b.undo"] == "failed"


def test_a_cancelled_workflow_is_undone(app: PgQueue, start: Start, say: Any, undo: Any, log: list[Any]) -> None:
    flow = Workflow()
    flow.step("pay", say.s("paid"), compensate=undo.s("pay"))
    flow.wait_for("ok", after="pay")
    flow.step("ship", say.s(), after="ok")
    start()
    result = flow.delay()
    assert result["pay"].get(timeout=20) == "paid"
    assert result.cancel() == 2
    with pytest.raises(TaskRevokedError):
        result.get(timeout=20)
    assert log[1:] == [("undo", "pay", "paid")]
    assert result.state == "cancelled"
    assert result.cancel() == 0

    assert result.retry() == 2
    result.resolve("ok", "yes")
    assert result.get(timeout=20)["ship"] == "yes"
    assert log[2:] == [("paid",), ("yes",)]
    assert result.state == "succeeded"


# running on


def test_a_failed_workflow_runs_on(app: PgQueue, start: Start, say: Any, fail: Any, log: list[Any]) -> None:
    flow = Workflow()
    flow.step("a", say.s("a"))
    flow.step("b", fail.s(), after="a")
    flow.step("c", say.s("c"), after=["a", "b"])
    start()
    result = flow.delay()
    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=20)
    fail.mend()
    assert result.retry() == 2
    assert result.get(timeout=20) == {"a": "a", "b": "mended", "c": "c"}
    assert log == [("a",), ("fail", "a"), ("fail", "a"), ("a", "mended", "c")]
    assert result.retry() == 0


# events and time


def test_an_event_before_and_after_its_step_is_reached(app: PgQueue, start: Start, say: Any, log: list[Any]) -> None:
    flow = Workflow()
    flow.step("a", say.s("a"))
    flow.wait_for("early", timeout=timedelta(days=3), after="a")
    flow.wait_for("late", after="early")
    flow.step("b", say.s("b"), after=["early", "late"])
    result = flow.delay()
    app.resolve(result.id, "early", {"by": "ann"})
    with pytest.raises(ValidationError, match="resolved before"):
        result.resolve("early", {"by": "bob"})
    with pytest.raises(ValidationError, match="waits for no event 'other'"):
        app.resolve(result.id, "other")
    start()
    assert result["early"].get(timeout=20) == {"by": "ann"}
    with pytest.raises(TimeoutError, match="workflow"):
        result.get(timeout=0)
    result.resolve("late")
    assert result.get(timeout=20)["b"] == "b"
    assert log[-1] == ({"by": "ann"}, None, "b")
    with pytest.raises(ValidationError, match="resolved before, or its time is over"):
        result.resolve("late")


def test_an_event_that_does_not_come(app: PgQueue, start: Start, say: Any, log: list[Any]) -> None:
    flow = Workflow()
    flow.wait_for("ok", timeout=0.05)
    flow.step("anyway", say.s("anyway"), after="ok", on_failure="value")
    flow.step("never", say.s("never"), after="ok")
    start()
    result = flow.delay()
    with pytest.raises(EventTimeout, match="ok: nobody resolved it"):
        result.get(timeout=20)
    assert states(result) == {"ok": "failed", "anyway": "succeeded", "never": "failed"}
    assert log[0][0]["type"] == "pgqueue.errors.EventTimeout"


def test_an_event_that_did_not_come_may_be_waited_for_again(app: PgQueue, start: Start, say: Any) -> None:
    flow = Workflow()
    flow.wait_for("ok", timeout=0.05)
    flow.step("b", say.s(), after="ok")
    start()
    result = flow.delay()
    with pytest.raises(EventTimeout):
        result.get(timeout=20)
    with psycopg.connect(app.conf.dsn) as connection, app.using(connection):
        assert result.retry() == 2
        result.resolve("ok", "at last")
        connection.commit()
    assert result.get(timeout=20) == {"ok": "at last", "b": "at last"}


def test_a_sleep_passes_nothing(app: PgQueue, start: Start, say: Any, log: list[Any]) -> None:
    flow = Workflow()
    flow.step("a", say.s("a"))
    nap = flow.sleep(0.05, after="a")
    flow.sleep(timedelta(milliseconds=10), after=nap)
    flow.step("b", say.s("b"), after=["sleep-2", "a"])
    start()
    flow.delay().get(timeout=20)
    assert log == [("a",), ("a", "b")]


def test_a_deadline_ends_what_waits(app: PgQueue, start: Start, say: Any) -> None:
    flow = Workflow(deadline=timedelta(milliseconds=50))
    flow.step("a", say.s("a"))
    flow.wait_for("never", after="a")
    start()
    result = flow.delay()
    with pytest.raises(TaskRevokedError):
        result.get(timeout=20)
    assert result.state == "cancelled"


# transactions


def test_a_workflow_exists_if_the_caller_commits(app: PgQueue, dsn: str, say: Any) -> None:
    flow = Workflow()
    flow.step("a", say.s("a"))
    flow.wait_for("ok", after="a")
    with psycopg.connect(dsn) as connection:
        with app.using(connection):
            lost = flow.apply_async()
            app.resolve(lost.id, "ok")
            assert lost.state == "running"
            with pytest.raises(RuntimeError, match="still open"):
                lost.get(timeout=1)
        connection.rollback()
        assert lost.state == "unknown"
        with app.using(connection):
            kept = flow.apply_async()
        assert kept.state == "unknown"
        with pytest.raises(TimeoutError, match="did not end"):
            app.WorkflowResult(kept.id).get(timeout=0.02, interval=0.01)
        connection.commit()
    assert kept.state == "running"


def test_what_is_done_to_a_workflow_takes_part_too(app: PgQueue, dsn: str) -> None:
    flow = Workflow("whole", app=app)
    flow.wait_for("ok")
    result = flow.apply_async()
    with psycopg.connect(dsn) as connection:
        with app.using(connection):
            result.resolve("ok", 1)
            assert result.results == {"ok": 1}
        connection.rollback()
        assert result.results == {}
        with app.using(connection):
            assert app.workflows.cancel(result.id) == 1
            more = app.workflows.list(states="cancelled", name="whole")
            assert [each.id for each in more] == [result.id]
        connection.rollback()
        with app.using(connection), pytest.raises(ValidationError, match="waits for no event"):
            result.resolve("no")
    assert result.state == "running"


def test_a_transactional_step_adds_steps_or_not(app: PgQueue, start: Start, say: Any) -> None:
    @app.task(name="adds", bind=True, transactional=True)
    def adds(self: Any, fails: bool) -> None:
        more = app.workflow(self.request.workflow_id)
        more.step("more", say.s("more"), after="adds")
        more.apply_async()
        if fails:
            raise ValueError("boom")

    start()
    for fails in (True, False):
        flow = Workflow()
        flow.step("adds", adds.s(fails))
        result = flow.apply_async()
        result.get(timeout=20, propagate=False)
        assert ("more" in result.results) is not fails


def test_only_states_that_exist_are_listed(app: PgQueue) -> None:
    with pytest.raises(ValidationError, match="'done' is none"):
        app.workflows.list(states=["done"])
    assert app.workflows.list(name="a%b*") == []
    assert app.workflows.get("nothing") is None
    assert app.WorkflowResult("nothing").state == "unknown"


def test_a_deadlock_with_a_step_that_ends_is_no_error(app: PgQueue, dsn: str) -> None:
    flow = Workflow(app=app)
    flow.wait_for("ok")
    result = flow.apply_async()
    with psycopg.connect(dsn) as other:
        # This session holds what resolve() needs second, and then wants what it took first.
        other.execute("select from pgqueue.live_jobs where id = %s for update", [result["ok"].id])
        other.execute("set deadlock_timeout = '10min'")
        with ThreadPoolExecutor(1) as threads:
            waits = "select count(*) from pg_locks where not granted"
            cancelled = threads.submit(result.cancel)
            with psycopg.connect(dsn, autocommit=True) as third:
                wait_until(lambda: third.execute(waits).fetchone() != (0,), what="cancel() waits for the step")
                other.execute("select from pgqueue.workflows where id = %s for update", [result.id])
            other.rollback()
            assert cancelled.result(20) == 1
    assert result.state == "cancelled"


@pytest.mark.parametrize("first", [True, False], ids=["beside-others", "the-first-ones"])
def test_steps_that_are_added_are_undone_before_those_that_they_waited_for(
    app: PgQueue, start: Start, say: Any, fail: Any, undo: Any, log: list[Any], first: bool
) -> None:
    flow = Workflow(deadline=timedelta(hours=1))
    flow.step("pay", say.s("paid"), compensate=undo.s("pay") if first else None)
    flow.step("pack", say.s("packed"), after="pay")
    flow.wait_for("go", after="pack")
    start()
    result = flow.delay()
    assert result["pack"].get(timeout=20) == "packed"

    more = app.workflow(result.id)
    more.step("gift", say.s("given"), after="pack", compensate=undo.s("gift"))
    more.step("wrap", say.s("wrapped"), after="gift")
    more.step("bow", say.s("tied"), after="wrap", compensate=undo.s("bow"))
    more.apply_async()
    again = app.workflow(result.id)
    again.step("card", say.s("written"), after=["bow", "pay"], compensate=undo.s("card"))
    again.step("post", fail.s(), after="card")
    added = again.apply_async()
    with pytest.raises(ValueError, match="boom"):
        added["post"].get(timeout=20)
    assert [entry for entry in log if entry[0] == "undo"] == []  # not all has ended

    result.resolve("go", 1)
    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=20)
    done = ["card", "bow", "gift", *(["pay"] if first else [])]
    assert [entry[1] for entry in log if entry[0] == "undo"] == done
    assert {name: state for name, state in states(result).items() if name and name.endswith(".undo")} == {
        f"{name}.undo": "succeeded" for name in done
    }

    log.clear()
    fail.mend()
    assert result.retry() > 0
    assert result.get(timeout=20)["post"] == "mended"
    assert result.state == "succeeded"
    assert [entry for entry in log if entry[0] == "undo"] == []
    assert set(states(result).values()) == {"succeeded", "skipped"}
    with psycopg.connect(app.dsn) as connection:
        assert connection.execute("select task from pgqueue.live_jobs").fetchall() == []  # the deadline is gone, too
    late = app.workflow(result.id)
    late.step("late", say.s(), compensate=undo.s("late"))
    with pytest.raises(GraphError, match="it is over"):
        late.apply_async()


def test_a_step_added_after_another_one_failed_is_undone_too(
    app: PgQueue, start: Start, say: Any, fail: Any, undo: Any, log: list[Any]
) -> None:
    flow = Workflow()
    flow.step("fails", fail.s())
    flow.wait_for("go")
    start()
    result = flow.delay()
    with pytest.raises(ValueError, match="boom"):
        result["fails"].get(timeout=20)
    more = app.workflow(result.id)
    more.step("pay", say.s("paid"), compensate=undo.s("pay"))
    assert more.apply_async()["pay"].get(timeout=20) == "paid"
    result.resolve("go", 1)
    result.get(timeout=20, propagate=False)
    assert log[-1] == ("undo", "pay", "paid")


def test_callbacks_of_a_compensation_that_is_added_run_and_an_added_step_may_wait_for_one(
    app: PgQueue, start: Start, say: Any, fail: Any, undo: Any, log: list[Any]
) -> None:
    @app.task(name="alert")
    def alert(task_id: str) -> None:
        log.append(("alert", task_id))

    @app.task(name="broken")
    def broken() -> None:
        raise ArithmeticError("broken")

    flow = Workflow(app=app)
    flow.wait_for("go")
    start()
    result = flow.delay()
    more = app.workflow(result.id)
    more.step("a", say.s("a"), compensate=undo.si("a").set(link=say.si("linked")))
    more.step("b", say.s("b"), compensate=fail.si().on_error(alert.s()))
    more.step("c", broken.s())
    more.apply_async()
    again = app.workflow(result.id)
    again.step("after", say.si("after"), after="a.undo")
    again.apply_async()
    result.resolve("go", 1)
    with pytest.raises(ArithmeticError, match="broken"):
        result.get(timeout=20)
    ended = {entry[0] for entry in log}
    assert {"undo", "linked", "fail", "alert", "after"} <= ended
    assert {result_state for name, result_state in states(result).items() if name == "after"} == {"succeeded"}
