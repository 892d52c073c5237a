"""Workflows as the database runs them: joins, failures, skips, timers, events, cancelling, running on, mending."""

import json
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from typing import Any
from uuid import UUID

import psycopg
import pytest

from pgqueue.codec import encode_result
from pgqueue.graph import EdgePolicy, NewStep, NewWorkflow
from pgqueue.job import NewJob, new_job_id
from pgqueue.store import families, jobs, workflows
from tests.store.graph import BOOM, Graph
from tests.store.store import Store


def test_a_chain_passes_results_on(graph: Graph) -> None:
    graph.step("a").step("b", ["a"], inputs="value", args="[10]").step("c", ["b"], kind="order").enqueue()
    assert graph.states == {"a": "available", "b": "waiting", "c": "waiting"}
    graph.finish(graph.claim()["a"], {"x": 1})
    b = graph.claim()["b"]
    assert b.job.args is not None
    assert json.loads(b.job.args) == [{"x": 1}, 10]
    graph.finish(b)
    assert graph.claim()["c"].job.args is None


def test_a_join_waits_for_all_and_keeps_their_order(graph: Graph) -> None:
    names = [f"m{n}" for n in range(5)]
    for name in names:
        graph.step(name)
    graph.step("body", names, inputs="list", args='["own"]').enqueue()
    found = graph.claim()
    for name in reversed(names):
        assert graph.states["body"] == "waiting"
        graph.finish(found[name], name.upper())
    body = graph.claim()["body"]
    assert json.loads(body.job.args or "") == [["M0", "M1", "M2", "M3", "M4"], "own"]
    assert graph.state == "running"
    graph.finish(body)
    assert graph.state == "succeeded"


def test_members_that_end_in_one_batch_count_once_each(graph: Graph) -> None:
    graph.step("a").step("b").step("body", ["a", "b"], inputs="list").enqueue()
    graph.store.finish(list(graph.claim().values()))
    assert list(graph.claim()) == ["body"]


def test_results_by_name_and_by_place(graph: Graph) -> None:
    graph.step("a").step("b").step("by_name", ["a", "b"], inputs="names", kwargs='{"own": 0}')
    graph.step("by_place", ["b", "a"], inputs="args", args="[0]").enqueue()
    for name, attempt in graph.claim().items():
        graph.finish(attempt, name.upper())
    found = graph.claim()
    assert json.loads(found["by_name"].job.kwargs or "") == {"a": "A", "b": "B", "own": 0}
    assert json.loads(found["by_place"].job.args or "") == ["B", "A", 0]


def test_a_nested_list_is_gathered_by_the_database(graph: Graph) -> None:
    graph.step("a").step("b").step("both", ["a", "b"], run="gather").step("c")
    graph.step("body", ["both", "c"], inputs="list").enqueue()
    assert graph.run({"a": '1 \\ " é', "b": [], "c": None})[:3] == ["a", "b", "c"]
    assert graph.outcome("both")[0] == '["1 \\\\ \\" \\u00e9", []]'
    assert graph.states["body"] == "succeeded"


def test_a_step_of_the_database_hands_a_text_on_as_it_is(graph: Graph) -> None:
    graph.step("a").step("same", ["a"], run="pass").step("b", ["same"], inputs="value").enqueue()
    graph.finish(graph.claim()["a"], 'a "text"')
    assert json.loads(graph.claim()["b"].job.args or "") == ['a "text"']


def test_a_failure_passes_down_a_chain_of_any_length(graph: Graph) -> None:
    graph.step("s0")
    for n in range(1, 300):
        graph.step(f"s{n}", [f"s{n - 1}"], inputs="value")
    graph.enqueue()
    assert graph.run(failing=["s1"]) == ["s0", "s1"]
    assert set(list(graph.states.values())[1:]) == {"failed"}
    assert graph.outcome("s299")[1] == BOOM
    assert graph.state == "failed"


def test_a_failed_member_fails_the_join_at_once_and_only_once(graph: Graph) -> None:
    graph.step("a").step("b").step("body", ["a", "b"], inputs="list").step("next", ["body"], inputs="value")
    graph.step("alert", ["a", "b", "body", "next"], inputs="error", kind="error").enqueue()
    found = graph.claim()
    graph.fail(found["a"])
    assert graph.states["body"] == graph.states["next"] == "failed"
    alert = graph.claim()["alert"]
    story = json.loads(alert.job.args or "")[0]
    assert (story["task_id"], story["task"], story["error"]["message"]) == (graph.ids["a"], "a", "boom")
    graph.fail(found["b"])
    assert graph.claim() == {}
    error = json.loads(graph.outcome("body")[1])
    assert error["type"] == "pgqueue.errors.ChordError"
    assert error["message"] == f"Dependency {graph.ids['a']} raised E: boom"


def test_a_failure_goes_through_layers_of_joins_once(graph: Graph) -> None:
    layer = ["a"]
    graph.step("a")
    for depth in range(25):  # of paths to the last layer there are 3 ** 25
        above, layer = layer, [f"{depth}.{n}" for n in range(3)]
        for name in layer:
            graph.step(name, above, inputs="list")
    graph.enqueue()
    assert graph.run(failing=["a"]) == ["a"]
    assert set(graph.states.values()) == {"failed"}


def test_the_error_callback_of_a_body_hears_of_its_members(graph: Graph) -> None:
    graph.step("a").step("body", ["a"], inputs="list").step("alert", ["body"], inputs="error", kind="error").enqueue()
    graph.fail(graph.claim()["a"])
    story = json.loads(graph.claim()["alert"].job.args or "")[0]
    assert (story["task_id"], story["error"]["type"]) == (graph.ids["body"], "pgqueue.errors.ChordError")


def test_the_error_callback_of_a_link_does_not_hear_of_earlier_links(graph: Graph) -> None:
    graph.step("a").step("b", ["a"], inputs="value").step("alert", ["b"], inputs="error", kind="error").enqueue()
    assert graph.run(failing=["a"]) == ["a"]
    assert graph.states == {"a": "failed", "b": "failed", "alert": "skipped"}


def test_an_error_callback_is_skipped_when_all_is_well(graph: Graph) -> None:
    graph.step("a").step("b", ["a"]).step("alert", ["a", "b"], inputs="error", kind="error").enqueue()
    assert graph.run() == ["a", "b"]
    assert graph.states["alert"] == "skipped"
    assert graph.state == "succeeded"


@pytest.mark.parametrize(("policy", "given"), [("value", {"type": "E", "message": "boom"}), ("ignore", None)])
def test_an_edge_may_let_a_failure_pass(graph: Graph, policy: EdgePolicy, given: Any) -> None:
    graph.step("a").step("b", ["a"], inputs="value", policy=policy).enqueue()
    graph.fail(graph.claim()["a"])
    b = graph.claim()["b"]
    assert json.loads(b.job.args or "") == [given]
    graph.finish(b)
    assert graph.state == "succeeded"


def test_a_cancelled_member(graph: Graph) -> None:
    graph.step("a").step("b", ["a"]).step("c").step("body", ["b", "c"], inputs="list").enqueue()
    store = graph.store
    store.run(jobs.cancel_jobs(store.queries, [graph.ids["a"]], False, 60))
    assert graph.states == {"a": "cancelled", "b": "cancelled", "c": "available", "body": "failed"}


def test_a_cancelled_step_that_waits_stays_ended(graph: Graph) -> None:
    graph.step("a").step("both", ["a"], run="gather").step("b", ["both"], inputs="value").enqueue()
    store = graph.store
    store.run(jobs.cancel_jobs(store.queries, [graph.ids["both"]], False, 60))
    assert graph.run() == ["a"]
    assert graph.states == {"a": "succeeded", "both": "cancelled", "b": "cancelled"}


def test_an_expired_and_a_lost_member(graph: Graph) -> None:
    graph.step("a").step("b").step("after_a", ["a"]).step("after_b", ["b"]).enqueue()
    found = graph.claim()
    graph.store.finish([found["a"]], "expired")
    graph.store.lose([found["b"]], limit=1)
    assert graph.states == {"a": "expired", "b": "failed", "after_a": "cancelled", "after_b": "failed"}
    assert graph.state == "failed"


def test_a_workflow_of_which_a_part_was_cancelled_is_not_a_success(graph: Graph) -> None:
    graph.step("a").step("b", ["a"]).enqueue()
    store = graph.store
    store.run(jobs.cancel_jobs(store.queries, [graph.ids["a"]], False, 60))
    assert graph.state == "cancelled"
    other = Graph(store).step("a").step("b", ["a"], policy="ignore").enqueue()
    store.run(jobs.cancel_jobs(store.queries, [other.ids["a"]], False, 60))
    other.run()
    assert other.state == "succeeded"


def test_a_skipped_parent_counts_as_done_unless_all_are(graph: Graph) -> None:
    graph.step("a").step("b").step("one", ["a"]).step("both", ["a", "b"], inputs="list").step("last", ["one"]).enqueue()
    found = graph.claim()
    graph.store.finish([found["a"]], "skipped")
    assert graph.states["one"] == graph.states["last"] == "skipped"
    graph.finish(found["b"], "B")
    assert json.loads(graph.claim()["both"].job.args or "") == [[None, "B"]]


@pytest.mark.parametrize(("answer", "runs"), [(True, True), ("no", True), (False, False), (None, False), ([], False)])
def test_a_condition_decides_whether_a_step_runs(graph: Graph, answer: Any, runs: bool) -> None:
    graph.step("a").step("ask", ["a"], inputs="value").step("b", ["a"], inputs="value", also=[("ask", "when")])
    graph.step("after", ["b"], inputs="value").step("both", ["a", "b"], inputs="list").enqueue()
    ran = graph.run({"ask": answer})
    assert ("b" in ran, "after" in ran, "both" in ran) == (runs, runs, True)
    assert graph.states["b"] == ("succeeded" if runs else "skipped")
    assert graph.state == "succeeded"


def test_a_condition_is_false_where_python_says_so(store: Store) -> None:
    answers: list[Any] = [True, False, None, 7, 0, -1.5, 0.0, -0.0, "no", "", [0], [], (), {"a": None}, {}]
    answers += [{"__type__": "decimal", "__value__": "0"}, {"__type__": "set"}, b"\0", b"", {0}, set(), frozenset({1})]
    answers += [frozenset(), timedelta(0), timedelta(microseconds=1), -timedelta(days=1), time(0), date(1970, 1, 1)]
    answers += [datetime(1970, 1, 1, tzinfo=UTC), UUID(int=0)]
    answers += map(Decimal, ("0", "-0", "0.00", "0E+3", "-0E-12", "0.01", "-3", "1E+3", "1E-3", "NaN", "Infinity"))
    for answer in answers:
        refused = store.value("select pgqueue.is_refusal('succeeded', %s)", [encode_result(answer)])
        assert refused is (not answer), answer


def test_a_condition_that_fails_fails_its_step(graph: Graph) -> None:
    graph.step("a").step("ask", ["a"]).step("b", ["a"], also=[("ask", "when")]).enqueue()
    assert graph.run(failing=["ask"]) == ["a", "ask"]
    assert graph.states["b"] == "failed"


def test_what_a_condition_refused_stays_so_when_the_workflow_runs_on(graph: Graph) -> None:
    graph.step("a").step("ask", ["a"], policy="ignore").step(
        "b", ["a"], policy="ignore", also=[("ask", "when")]
    ).enqueue()
    assert graph.run({"ask": False}, failing=["a"]) == ["a", "ask"]
    store = graph.store
    store.run(workflows.retry_workflow(store.queries, graph.id))
    assert graph.run() == ["a"]
    assert graph.states["b"] == "skipped"


def test_a_retry_keeps_what_the_step_was_given(graph: Graph) -> None:
    graph.step("a").step("b", ["a"], inputs="value").enqueue()
    graph.finish(graph.claim()["a"], "A")
    graph.store.retry([graph.claim()["b"]])
    again = graph.claim()["b"]
    assert json.loads(again.job.args or "") == ["A"]
    graph.store.retry([again], changes='{"args": "[5]"}')
    assert json.loads(graph.claim()["b"].job.args or "") == [5]


def test_a_delay_counts_from_the_release(graph: Graph) -> None:
    graph.step("a").step("b", ["a"], delay=3600.0).enqueue()
    graph.finish(graph.claim()["a"])
    assert graph.states["b"] == "scheduled"
    due = graph.store.value(
        "select run_at > clock_timestamp() + interval '59 minutes' from pgqueue.live_jobs where id = %s",
        [graph.ids["b"]],
    )
    assert due


def test_a_sleep_ends_when_it_is_due(graph: Graph) -> None:
    graph.step("a").step("nap", ["a"], run="sleep", delay=3600.0).step("b", ["nap"]).enqueue()
    graph.run()
    assert graph.states["nap"] == "scheduled"
    graph.make_due("nap")
    assert graph.run() == ["b"]
    assert graph.states["nap"] == "succeeded"


def test_an_event_resolves_a_step(graph: Graph) -> None:
    graph.step("a").step("ok", ["a"], run="wait").step("b", ["ok"], inputs="value").enqueue()
    graph.run()
    assert graph.states["ok"] == "waiting"
    graph.resolve("ok", '{"by": "ann"}')
    assert json.loads(graph.claim()["b"].job.args or "") == [{"by": "ann"}]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="resolved before"):
        graph.resolve("ok")


def test_an_early_event_is_kept_and_a_second_refused(graph: Graph) -> None:
    graph.step("a").step("ok", ["a"], run="wait", delay=5.0).step("b", ["ok"], inputs="value").enqueue()
    graph.resolve("ok")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="resolved before"):
        graph.resolve("ok", '"no"')
    graph.finish(graph.claim()["a"])
    assert json.loads(graph.claim()["b"].job.args or "") == ["yes"]


def test_an_early_event_outlives_a_failure(graph: Graph) -> None:
    graph.step("a").step("ok", ["a"], run="wait").step("b", ["ok"], inputs="value").enqueue()
    graph.resolve("ok")
    graph.run(failing=["a"])
    store = graph.store
    store.run(workflows.retry_workflow(store.queries, graph.id))
    assert graph.run() == ["a", "b"]
    assert graph.outcome("ok")[0] == '"yes"'


def test_an_event_that_nobody_waits_for(graph: Graph) -> None:
    graph.step("a").enqueue()
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="waits for no event 'ok'"):
        graph.resolve("ok")


def test_a_wait_runs_out(graph: Graph) -> None:
    graph.step("ok", run="wait", delay=3600.0).step("b", ["ok"], inputs="value", policy="value").enqueue()
    graph.make_due("ok")
    b = graph.claim()["b"]
    assert json.loads(b.job.args or "")[0]["type"] == "pgqueue.errors.EventTimeout"
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="time is over"):
        graph.resolve("ok")


def test_a_deadline_cancels_what_is_left(graph: Graph) -> None:
    graph.step("a").step("b", ["a"]).enqueue(deadline_in=3600.0)
    store = graph.store
    store.rows("update pgqueue.live_jobs set run_at = clock_timestamp() where task = 'pgqueue.deadline'")
    graph.claim()
    assert graph.state == "cancelled"
    assert graph.states == {"a": "cancelled", "b": "cancelled"}
    assert store.value("select count(*) from pgqueue.live_jobs") == 0


DEADLINES = "select count(*) from pgqueue.live_jobs where task = 'pgqueue.deadline'"


def test_a_deadline_ends_what_is_due_with_it(graph: Graph) -> None:
    graph.step("ok", run="wait", delay=3600.0).step("nap", run="sleep", delay=3600.0).step("b", ["ok", "nap"])
    graph.enqueue(deadline_in=3600.0)
    store = graph.store
    plain = store.enqueue("plain")
    store.rows("update pgqueue.live_jobs set run_at = clock_timestamp() where state = 'scheduled'")
    assert [one.job.id for one in store.claim(graph.worker)] == [plain]
    assert set(graph.states.values()) == {"cancelled"}
    assert graph.state == "cancelled"


def test_a_timer_that_cannot_end_stops_neither_claims_nor_other_timers(graph: Graph) -> None:
    graph.step("bad", run="sleep", delay=3600.0).step("nap", run="sleep", delay=3600.0).step("b", ["nap"]).enqueue()
    store = graph.store
    graph.make_due("bad")
    graph.make_due("nap")
    store.rows(
        "insert into pgqueue.workflow_results (job_id, workflow_id, state, finished_at)"
        " values (%s, %s, 'failed', now())",
        [graph.ids["bad"], graph.id],
    )
    assert list(graph.claim()) == ["b"]
    later = "select run_at > clock_timestamp() + interval '50 seconds' from pgqueue.live_jobs where id = %s"
    assert store.value(later, [graph.ids["bad"]])


def test_a_deadline_goes_with_the_last_step(graph: Graph) -> None:
    graph.step("a").step("b", ["a"]).step("alert", ["b"], inputs="error", kind="error").enqueue(deadline_in=3600.0)
    store = graph.store
    graph.finish(graph.claim()["a"])
    graph.step("later", ["a"]).enqueue()
    found = graph.claim()
    graph.finish(found["b"])
    assert store.value(DEADLINES) == 1
    graph.fail(found["later"])
    assert store.value(DEADLINES) == 0
    assert graph.state == "failed"
    assert len(store.run(workflows.list_edges(store.queries, graph.id))) == 3
    assert store.run(families.children_of(store.queries, graph.ids["b"], "-infinity")) == []
    assert store.run(workflows.mend_workflows(store.queries)) == 0
    # What is run on after that, or gets more steps, has none.
    assert store.run(workflows.retry_workflow(store.queries, graph.id)) == 1
    graph.step("last", ["later"]).enqueue()
    assert graph.run() == ["later", "last"]
    assert graph.state == "succeeded"
    store.rows("update pgqueue.workflows set created_at = created_at - interval '1 day'")
    store.rows("update pgqueue.workflow_results set finished_at = finished_at - interval '1 day'")
    assert store.run(workflows.prune_workflows(store.queries, 100)) == 1
    assert store.value("select count(*) from pgqueue.workflow_joins") == 0


def test_a_deadline_outlives_what_is_run_on_before_the_end(graph: Graph) -> None:
    graph.step("a").step("b").enqueue(deadline_in=3600.0)
    store = graph.store
    found = graph.claim()
    graph.fail(found["a"])
    store.run(workflows.retry_workflow(store.queries, graph.id))
    graph.finish(found["b"])
    assert store.value(DEADLINES) == 1
    assert graph.run() == ["a"]
    assert store.value(DEADLINES) == 0


def test_a_deadline_in_the_hands_of_a_claim_is_left_to_it(graph: Graph) -> None:
    graph.step("a").enqueue(deadline_in=3600.0)
    store = graph.store
    claimer, a = store.session(), graph.claim()["a"]
    with claimer.conn.transaction():
        claimer.rows("select from pgqueue.live_jobs where task = 'pgqueue.deadline' for update")
        done = store.session()
        assert done.start(lambda: done.finish([a]), store).result(10) == []
    store.rows("update pgqueue.live_jobs set run_at = clock_timestamp()")
    assert graph.claim() == {}
    assert store.value(DEADLINES) == 0
    assert graph.state == "succeeded"


def test_cancelling_a_workflow(graph: Graph) -> None:
    graph.step("a").step("b").step("body", ["a", "b"], inputs="list").enqueue()
    a = graph.store.claim(graph.worker, 1)[0]
    store = graph.store
    assert store.run(workflows.cancel_workflow(store.queries, graph.id)) == 3
    assert store.run(workflows.cancel_workflow(store.queries, graph.id)) == 0
    assert store.value("select cancel_asked from pgqueue.live_jobs where id = %s", [a.job.id])
    store.finish([a], "cancelled")
    assert set(graph.states.values()) == {"cancelled"}
    assert graph.state == "cancelled"


def test_a_failed_workflow_runs_on_from_where_it_failed(graph: Graph) -> None:
    graph.step("a").step("b").step("body", ["a", "b"], inputs="list").step("last", ["body"], inputs="value")
    graph.step("alert", ["a", "b", "body", "last"], inputs="error", kind="error").enqueue()
    store = graph.store
    assert graph.run(failing=["b"]) == ["a", "b", "alert"]
    assert store.run(workflows.retry_workflow(store.queries, graph.id)) == 3
    assert graph.state == "running"
    assert graph.run() == ["b", "body", "last"]
    assert json.loads(graph.outcome("body")[0]) == "body"
    assert graph.states["alert"] == "skipped"
    assert graph.state == "succeeded"
    assert store.run(workflows.retry_workflow(store.queries, graph.id)) == 0


def test_a_join_counts_afresh_when_it_fails_twice(graph: Graph) -> None:
    graph.step("a").step("b").step("body", ["a", "b"], inputs="list").enqueue()
    found = graph.claim()
    store = graph.store
    graph.fail(found["a"])
    store.run(workflows.retry_workflow(store.queries, graph.id))
    graph.finish(found["b"], "B")
    assert graph.run(failing=["a"]) == ["a"]
    store.run(workflows.retry_workflow(store.queries, graph.id))
    assert graph.run() == ["a", "body"]


def test_a_callback_that_failed_is_called_again(graph: Graph) -> None:
    graph.step("a").step("alert", ["a"], inputs="error", kind="error").enqueue()
    assert graph.run(failing=["a", "alert"]) == ["a", "alert"]
    store = graph.store
    store.run(jobs.revive_jobs(store.queries, [graph.ids["alert"]]))
    again = graph.claim()["alert"]
    assert json.loads(again.job.args or "")[0]["task_id"] == graph.ids["a"]
    graph.finish(again)
    assert graph.states == {"a": "failed", "alert": "succeeded"}


def test_a_callback_that_nothing_calls_for_any_more_ends(graph: Graph) -> None:
    graph.step("a").step("alert", ["a"], inputs="error", kind="error").step("b").enqueue()
    store = graph.store
    store.cancel([graph.ids["alert"]])
    assert graph.run(failing=["b"]) == ["a", "b"]
    store.run(workflows.retry_workflow(store.queries, graph.id))
    assert graph.run() == ["b"]
    assert graph.states["alert"] == "skipped"
    assert graph.state == "succeeded"


def test_a_callback_that_came_along_is_not_called_again_for_what_stays(graph: Graph) -> None:
    graph.step("a").step("b").step("alert", ["a", "b"], inputs="error", kind="error").enqueue()
    assert graph.run(failing=["a", "b"]) == ["a", "b", "alert"]
    store = graph.store
    store.run(jobs.revive_jobs(store.queries, [graph.ids["b"]]))
    assert graph.run() == ["b"]
    assert graph.states == {"a": "failed", "b": "succeeded", "alert": "skipped"}


def test_one_job_of_a_workflow_revived(graph: Graph) -> None:
    graph.step("a").step("b", ["a"], inputs="value").enqueue()
    graph.run(failing=["a"])
    store = graph.store
    assert store.run(jobs.revive_jobs(store.queries, [graph.ids["a"]])) == [graph.ids["a"]]
    assert graph.run() == ["a", "b"]
    assert graph.state == "succeeded"


def _saga(graph: Graph) -> Graph:
    graph.step("pay").step("ship", ["pay"]).step("tell", ["ship"])
    graph.step("settle", ["pay", "ship", "tell"], run="settle", kind="order", policy="ignore")
    graph.step("recall", ["settle"], kind="order", policy="ignore", compensates="ship")
    graph.step("refund", ["settle", "recall"], kind="order", policy="ignore", compensates="pay")
    return graph.enqueue()


def test_compensations_run_backwards(graph: Graph) -> None:
    assert _saga(graph).run(failing=["tell"]) == ["pay", "ship", "tell", "recall", "refund"]
    assert graph.state == "failed"


def test_only_what_succeeded_is_compensated(graph: Graph) -> None:
    assert _saga(graph).run(failing=["ship"]) == ["pay", "ship", "refund"]
    assert graph.states["recall"] == "skipped"


def test_nothing_is_compensated_when_all_is_well(graph: Graph) -> None:
    assert _saga(graph).run() == ["pay", "ship", "tell"]
    assert graph.states["recall"] == graph.states["refund"] == "skipped"
    assert graph.state == "succeeded"


def test_a_compensation_may_be_given_what_it_undoes(graph: Graph) -> None:
    graph.step("pay").step("settle", ["pay"], run="settle", kind="order", policy="ignore").step("other")
    graph.step("refund", ["pay"], inputs="names", policy="ignore", compensates="pay", also=[("settle", "order")])
    graph.enqueue()
    store = graph.store
    found = graph.claim()
    graph.finish(found["pay"], 17)
    assert graph.states["refund"] == "skipped"
    graph.finish(found["other"])
    assert store.run(workflows.cancel_workflow(store.queries, graph.id)) == 0
    assert graph.state == "succeeded"


def test_a_last_step_that_fails_is_compensated_for(graph: Graph) -> None:
    graph.step("pay").step("ship", ["pay"])
    graph.step("settle", ["pay", "ship"], run="settle", kind="order", policy="ignore")
    graph.step("recall", ["ship"], inputs="names", policy="ignore", compensates="ship", also=[("settle", "order")])
    graph.step("refund", ["pay"], inputs="names", policy="ignore", compensates="pay", also=[("settle", "order")])
    graph.enqueue()
    assert graph.run({"pay": 17}, failing=["ship"]) == ["pay", "ship", "refund"]
    assert graph.states["recall"] == "skipped"


def test_a_compensation_that_nothing_calls_for_stays_away_when_the_workflow_runs_on(graph: Graph) -> None:
    store = _saga(graph).store
    store.cancel([graph.ids["refund"]])
    assert graph.run() == ["pay", "ship", "tell"]
    store.run(workflows.retry_workflow(store.queries, graph.id))
    assert graph.run() == []
    assert graph.states["refund"] == "skipped"
    assert graph.state == "succeeded"


def test_a_step_revived_below_one_that_failed_is_stopped_again(graph: Graph) -> None:
    graph.step("a").step("b", ["a"], inputs="value").step("c", ["b"]).enqueue()
    graph.run(failing=["a"])
    store = graph.store
    store.run(jobs.revive_jobs(store.queries, [graph.ids["b"]]))
    assert graph.run() == []
    assert graph.states == {"a": "failed", "b": "failed", "c": "failed"}
    store.run(jobs.revive_jobs(store.queries, [graph.ids["a"]]))
    assert graph.run() == ["a", "b", "c"]


def test_a_failed_compensation_does_not_stop_the_others(graph: Graph) -> None:
    assert _saga(graph).run(failing=["tell", "recall"]) == ["pay", "ship", "tell", "recall", "refund"]


def test_a_compensated_workflow_runs_again_from_what_was_undone(graph: Graph) -> None:
    _saga(graph).run(failing=["tell"])
    store = graph.store
    store.run(workflows.retry_workflow(store.queries, graph.id))
    assert sorted(graph.run()) == ["pay", "ship", "tell"]
    assert graph.state == "succeeded"


def test_an_event_that_came_need_not_come_again(graph: Graph) -> None:
    graph.step("pay").step("ok", ["pay"], run="wait", kind="order").step("ship", ["ok"])
    graph.step("settle", ["pay", "ok", "ship"], run="settle", kind="order", policy="ignore")
    graph.step("refund", ["settle"], kind="order", policy="ignore", compensates="pay").enqueue()
    graph.run()
    graph.resolve("ok")
    assert graph.run(failing=["ship"]) == ["ship", "refund"]
    store = graph.store
    store.run(workflows.retry_workflow(store.queries, graph.id))
    assert graph.run() == ["pay", "ship"]
    assert graph.state == "succeeded"


@pytest.mark.parametrize("policy", ["stop", "ignore"])
def test_what_runs_again_waits_for_what_was_undone_before_it(graph: Graph, policy: EdgePolicy) -> None:
    graph.step("pay").step("pack", ["pay"], policy=policy).step("wrap", ["pack"]).step("ship", ["wrap"], inputs="args")
    graph.step("settle", ["pay", "pack", "wrap", "ship"], run="settle", kind="order", policy="ignore")
    graph.step("refund", ["settle"], kind="order", policy="ignore", compensates="pay").enqueue()
    store = graph.store
    assert graph.run(failing=["ship"]) == ["pay", "pack", "wrap", "ship", "refund"]
    # Without money nothing is shipped, unless the edge said that it may be.
    store.run(workflows.retry_workflow(store.queries, graph.id))
    assert graph.run(failing=["pay"]) == ["pay"] + ["ship"] * (policy == "ignore")
    store.run(workflows.retry_workflow(store.queries, graph.id))
    assert graph.run() == (["pay", "ship"] if policy == "stop" else ["pay"])
    assert graph.state == "succeeded"
    assert len(store.run(workflows.list_edges(store.queries, graph.id))) == 9


def test_a_cancelled_saga_is_compensated(graph: Graph) -> None:
    _saga(graph)
    graph.finish(graph.claim()["pay"])
    store = graph.store
    store.run(workflows.cancel_workflow(store.queries, graph.id))
    assert graph.run() == ["refund"]


def test_steps_are_added_while_it_runs(graph: Graph) -> None:
    graph.step("a").step("b").enqueue()
    found = graph.claim()
    graph.finish(found["a"], "A")
    graph.step("after_both", ["a", "b"], inputs="list").step("after_a", ["a"], inputs="value").enqueue()
    assert graph.states["after_a"] == "available"
    graph.finish(found["b"], "B")
    given = {name: json.loads(one.job.args or "") for name, one in graph.claim().items()}
    assert given == {"after_both": [["A", "B"]], "after_a": ["A"]}


def test_steps_are_not_added_to_strangers(graph: Graph) -> None:
    graph.step("a").enqueue()
    stranger = Graph(graph.store, new_job_id())
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="there is none of this id"):
        stranger.step("b").enqueue()
    other = Graph(graph.store).step("x").enqueue()
    other.ids["a"] = graph.ids["a"]
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="that it does not have"):
        other.step("b", ["a"]).enqueue()


def test_an_edge_added_while_its_parent_finishes_is_not_missed(graph: Graph) -> None:
    graph.step("a").enqueue()
    a = graph.claim()["a"]
    adding = graph.store.session()
    finishing = graph.store.session()
    with adding.conn.transaction():
        added = Graph(adding, graph.id)
        added.ids["a"] = graph.ids["a"]
        added.step("b", ["a"], inputs="value").enqueue()
        done = finishing.start(lambda: graph.finish(a, "A", finishing), graph.store)
    done.result(10)
    graph.ids.update(added.ids)
    assert json.loads(graph.claim()["b"].job.args or "") == ["A"]


def test_members_that_end_in_two_transactions_at_once(graph: Graph) -> None:
    graph.step("a").step("b").step("body", ["a", "b"], inputs="list").enqueue()
    found = graph.claim()
    first, second = graph.store.session(), graph.store.session()
    with first.conn.transaction():
        graph.finish(found["a"], "A", first)
        done = second.start(lambda: graph.finish(found["b"], "B", second), graph.store)
    done.result(10)
    assert json.loads(graph.claim()["body"].job.args or "") == [["A", "B"]]


def test_a_step_deleted_by_hand_counts_as_cancelled(graph: Graph) -> None:
    graph.step("a").step("b").step("body", ["a", "b"], inputs="list").enqueue()
    store = graph.store
    store.rows("delete from pgqueue.live_jobs where id = %s", [graph.ids["a"]])
    assert store.run(workflows.mend_workflows(store.queries)) == 1
    assert graph.states["body"] == "failed"
    assert graph.run() == ["b"]
    assert store.run(workflows.mend_workflows(store.queries)) == 0


def test_results_are_there_when_the_finished_job_is_gone(graph: Graph) -> None:
    graph.step("a").step("b", ["a"], inputs="value").enqueue()
    graph.finish(graph.claim()["a"], "A")
    graph.store.run(jobs.forget_job(graph.store.queries, graph.ids["a"]))
    assert json.loads(graph.claim()["b"].job.args or "") == ["A"]


def test_old_workflows_are_removed_when_they_are_over(graph: Graph) -> None:
    store = graph.store
    graph.step("a").step("b", ["a"]).enqueue()
    running = Graph(store).step("x", run="wait").enqueue()
    graph.run()
    store.rows("update pgqueue.workflows set created_at = created_at - interval '1 day'")
    assert store.run(workflows.prune_workflows(store.queries, 100)) == 0
    store.rows("update pgqueue.workflow_results set finished_at = finished_at - interval '1 day'")
    assert store.run(workflows.prune_workflows(store.queries, 100)) == 1
    left = store.rows(
        "select (select count(*) from pgqueue.workflows), (select count(*) from pgqueue.workflow_edges),"
        " (select count(*) from pgqueue.workflow_joins), (select count(*) from pgqueue.workflow_results)"
    )
    assert left == [(1, 0, 1, 0)]
    assert running.state == "running"


def test_a_rollback_leaves_nothing(graph: Graph) -> None:
    store = graph.store
    with store.conn.transaction(force_rollback=True):
        graph.step("a").step("b", ["a"]).enqueue()
    assert store.rows("select count(*) from pgqueue.workflows union all select count(*) from pgqueue.live_jobs") == [
        (0,),
        (0,),
    ]


def test_the_id_of_a_step_is_taken_as_long_as_its_workflow_is_kept(graph: Graph) -> None:
    graph.step("a").step("b", ["a"]).enqueue()
    graph.run()
    store = graph.store
    store.run(jobs.forget_job(store.queries, graph.ids["a"]))
    again = NewJob(id=graph.ids["a"], task="t", queue="default", own_id=True)
    assert store.run(jobs.insert_job(store.queries, again)) is False


def test_a_part_that_was_undone_runs_again_whole(graph: Graph) -> None:
    graph.step("first").step("pay", ["first"]).step("ship", ["pay"])
    graph.step("settle", ["first", "pay", "ship"], run="settle", kind="order", policy="ignore")
    graph.step("refund", ["settle"], kind="order", policy="ignore", compensates="pay")
    graph.name_none("first").enqueue()
    assert graph.run(failing=["ship"]) == ["first", "pay", "ship", "refund"]
    store = graph.store
    store.run(workflows.retry_workflow(store.queries, graph.id))
    assert graph.run() == ["first", "pay", "ship"]
    assert graph.state == "succeeded"


def test_one_of_two_failed_parents_revived_does_not_release_the_join(graph: Graph) -> None:
    graph.step("a").step("b").step("body", ["a", "b"], inputs="list").enqueue()
    graph.run(failing=["a", "b"])
    store = graph.store
    store.run(jobs.revive_jobs(store.queries, [graph.ids["a"]]))
    assert graph.run() == ["a"]
    assert graph.states == {"a": "succeeded", "b": "failed", "body": "failed"}
    store.run(jobs.revive_jobs(store.queries, [graph.ids["b"]]))
    assert graph.run() == ["b", "body"]
    assert json.loads(graph.outcome("body")[0]) == "body"


@pytest.mark.parametrize("other", ["succeeds", "fails"])
def test_a_callback_that_is_replaced_has_heard_enough(graph: Graph, other: str) -> None:
    graph.step("a").step("b").step("alert", ["a", "b"], inputs="error", kind="error").enqueue()
    found = graph.claim()
    graph.fail(found["a"])
    alert = graph.claim()["alert"]
    store = graph.store
    stand_in = NewJob(new_job_id(), "stand_in", "default")
    made = NewWorkflow(graph.id, [NewStep(stand_in)], [])
    replacement = {**workflows.workflow_parameters(made, 60, existing=True), "last_id": stand_in.id}
    assert store.run(workflows.replace_job(store.queries, alert.job.id, alert.token, replacement)) == []
    graph.ids["stand_in"] = stand_in.id
    if other == "fails":
        graph.fail(found["b"])
    else:
        graph.finish(found["b"])
    assert graph.states["alert"] == "waiting"
    assert graph.run({"stand_in": "told"}) == ["stand_in"]
    assert graph.states["alert"] == "succeeded"
    assert json.loads(graph.outcome("alert")[0]) == "told"


def test_a_job_asked_to_stop_that_is_replaced_is_cancelled_with_what_replaces_it(graph: Graph) -> None:
    graph.step("a").enqueue()
    store = graph.store
    a = graph.claim()["a"]
    store.run(jobs.cancel_jobs(store.queries, [a.job.id], True, 60))
    stand_in = NewJob(new_job_id(), "t", "default")
    made = NewWorkflow(new_job_id(), [NewStep(stand_in)], [])
    replacement = {**workflows.workflow_parameters(made, 60, existing=True), "last_id": stand_in.id}
    assert store.run(workflows.replace_job(store.queries, a.job.id, a.token, replacement)) == []
    assert store.states([a.job.id, stand_in.id]) == ["cancelled", "cancelled"]
