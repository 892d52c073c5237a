"""Who waits for whom: sessions that end, resolve, cancel and extend the same workflow at once."""

import psycopg
import pytest

from pgqueue.graph import NewStep, NewWorkflow
from pgqueue.job import NewJob, new_job_id
from pgqueue.store import claims, workflows
from tests.store.graph import Graph
from tests.support.process import wait_until

LOOKER = "pgqueue_test_looker"
DEADLINE = "update pgqueue.live_jobs set run_at = clock_timestamp() where task = 'pgqueue.deadline'"


def test_a_timer_waits_for_nobodys_open_transaction(graph: Graph) -> None:
    graph.step("nap", run="sleep", delay=3600.0).step("ok", run="wait").step("b", ["nap", "ok"], inputs="list")
    graph.enqueue()
    store = graph.store
    user, claimer = store.session(), store.session()
    graph.make_due("nap")
    plain = store.enqueue("plain")
    with user.conn.transaction():
        user.run(workflows.resolve_event(user.queries, graph.id, "ok", "1"))
        looked = claimer.start(lambda: claimer.claim(graph.worker), store).result(10)
        assert [attempt.job.id for attempt in looked] == [plain]
        assert graph.states["nap"] == "scheduled"
    graph.make_due("nap")
    assert list(graph.claim()) == ["b"]


def test_an_event_waits_for_whoever_holds_its_step(graph: Graph) -> None:
    graph.step("ok", run="wait", delay=3600.0).step("b", ["ok"], inputs="value").enqueue()
    store = graph.store
    holder, user = store.session(), store.session()
    with holder.conn.transaction():
        holder.rows("select from pgqueue.live_jobs where id = %s for update", [graph.ids["ok"]])
        resolved = user.start(lambda: user.run(workflows.resolve_event(user.queries, graph.id, "ok", "1")), store)
        assert not resolved.done()
    resolved.result(10)
    assert graph.run() == ["b"]


def test_a_timer_that_fails_waits_for_nobody_who_adds_steps(graph: Graph) -> None:
    graph.step("ok", run="wait", delay=3600.0).step("a", ["ok"]).enqueue()
    store = graph.store
    user, claimer = store.session(), store.session()
    graph.make_due("ok")
    with user.conn.transaction():
        added = Graph(user, graph.id)
        added.ids["a"] = graph.ids["a"]
        added.step("b", ["a"]).enqueue()
        assert claimer.start(lambda: claimer.claim(graph.worker), store).result(10) == []
        assert graph.states["ok"] == "scheduled"
    graph.ids.update(added.ids)
    graph.make_due("ok")
    assert graph.run() == []
    assert graph.states == {"ok": "failed", "a": "failed", "b": "failed"}


def test_a_deadline_waits_for_nobody_who_adds_steps(graph: Graph) -> None:
    graph.step("a").step("b", ["a"]).enqueue(deadline_in=3600.0)
    store = graph.store
    user, claimer = store.session(), store.session()
    store.rows(DEADLINE)
    with user.conn.transaction():
        Graph(user, graph.id).step("c").enqueue()
        looked = claimer.start(lambda: claimer.claim(graph.worker), store).result(10)
        assert [attempt.job.id for attempt in looked] == [graph.ids["a"]]
    store.rows(DEADLINE)
    graph.claim()
    assert graph.states["b"] == "cancelled"


def test_timers_that_cannot_end_yet_keep_no_other_from_it(graph: Graph) -> None:
    graph.step("ok", run="wait")
    naps = [f"nap{n}" for n in range(5)]
    for nap in naps:
        graph.step(nap, run="sleep", delay=3600.0)
    graph.step("after", [*naps, "ok"]).enqueue()
    store = graph.store
    other = Graph(store).step("nap", run="sleep", delay=3600.0).step("b", ["nap"]).enqueue()
    user, claimer = store.session(), store.session()
    for nap in naps:
        graph.make_due(nap)
    other.make_due("nap")
    with user.conn.transaction():
        user.run(workflows.resolve_event(user.queries, graph.id, "ok", "1"))
        found = claimer.start(lambda: claimer.value("select pgqueue.stage_jobs('-infinity', 6)"), store)
        assert found.result(10) == 1
        assert other.states["nap"] == "succeeded"
        # They are not in the way of the next ones either.
        store.rows("update pgqueue.live_jobs set run_at = run_at + interval '1 hour' where run_at > clock_timestamp()")
        later = store.enqueue("later", delay=0.0)
        assert [attempt.job.id for attempt in store.claim(graph.worker)][-1] == later


def test_cancelling_waits_for_a_finish_and_not_the_other_way_round(graph: Graph) -> None:
    """Of the rows it locks the cancelling session is kept from one in the middle, with a step that waits before it."""
    graph.step("b").step("z").step("a").behind("b", ["a"]).enqueue()  # in the order of their ids
    store = graph.store
    found = graph.claim()
    holder, canceller, finisher = store.session(), store.session(), store.session()
    with holder.conn.transaction():
        holder.rows("select from pgqueue.live_jobs where id = %s for update", [graph.ids["z"]])
        cancelled = canceller.start(
            lambda: canceller.run(workflows.cancel_workflow(canceller.queries, graph.id)), store
        )
        finished = finisher.start(lambda: finisher.finish([found["a"]]), store)
        assert finished.result(10) == []
    assert cancelled.result(10) == 2
    assert graph.states == {"b": "cancelled", "z": "running", "a": "succeeded"}


def test_adding_steps_waits_for_a_finish_and_not_the_other_way_round(graph: Graph) -> None:
    graph.step("b").step("z").step("a").step("settle", ["b", "z", "a"], run="settle", kind="order", policy="ignore")
    graph.behind("b", ["a"]).enqueue()
    store = graph.store
    found = graph.claim()
    holder, adder, finisher = store.session(), store.session(), store.session()
    added = Graph(adder, graph.id)
    added.ids.update(graph.ids)
    with holder.conn.transaction():
        holder.rows("select from pgqueue.live_jobs where id = %s for update", [graph.ids["z"]])
        done = adder.start(lambda: added.step("c", ["b", "z"]).enqueue(), store)
        finished = finisher.start(lambda: finisher.finish([found["a"]]), store)
        assert finished.result(10) == []
    done.result(10)
    assert list(graph.claim()) == ["b"]


def test_what_is_released_while_a_workflow_is_run_on_is_counted(graph: Graph) -> None:
    graph.step("z").step("a").step("b", ["a"]).step("c", ["b"]).enqueue()
    store = graph.store
    found = graph.claim()
    store.cancel([graph.ids["c"]])
    holder, user, finisher = store.session(), store.session(), store.session()
    with finisher.conn.transaction():
        with holder.conn.transaction():
            holder.rows("select from pgqueue.live_jobs where id = %s for update", [graph.ids["z"]])
            retried = user.start(lambda: user.run(workflows.retry_workflow(user.queries, graph.id)), store)
            graph.finish(found["a"])
            graph.finish(graph.claim()["b"], session=finisher)
        # It waits for the end of b, of which it did not know when it began.
        wait_until(lambda: retried.done() or user.waits(store), what="the one who runs it on waits again")
    assert retried.result(10) == 1
    assert graph.run() == ["c"]


def test_a_job_counts_as_locked_when_a_step_behind_it_is(graph: Graph) -> None:
    graph.step("a").step("b").step("c", ["a"]).step("d", ["b"]).enqueue()
    store = graph.store
    found = graph.claim()
    ids = [found[name].job.id for name in "ab"]
    holder = store.session()
    with holder.conn.transaction():
        holder.rows("select from pgqueue.workflow_joins where job_id = %s for update", [graph.ids["d"]])
        assert store.run(claims.locked_jobs(store.queries, ids)) == {found["b"].job.id}
    assert store.run(claims.locked_jobs(store.queries, ids)) == set()


def test_neither_a_loss_nor_a_replacement_waits_long_for_a_locked_row(graph: Graph) -> None:
    graph.step("a").step("b").enqueue()
    store = graph.store
    found = graph.claim()
    holder, loser, replacer = store.session(), store.session(), store.session()
    new = NewStep(NewJob(new_job_id(), "t", "default"))
    more = workflows.workflow_parameters(NewWorkflow(graph.id, [new], []), 60, existing=True)
    replace = workflows.replace_job(replacer.queries, *found["b"].fence, {**more, "last_id": new.job.id})
    with holder.conn.transaction():
        holder.rows("select from pgqueue.live_jobs where id = %s for update", [graph.ids["a"]])
        holder.rows("select from pgqueue.workflows where id = %s for update", [graph.id])
        lost = loser.start(lambda: loser.lose([found["a"]]), store)
        replaced = replacer.start(lambda: replacer.run(replace), store)
        for waits in (lost, replaced):
            with pytest.raises(psycopg.errors.LockNotAvailable):
                waits.result(20)


def test_of_two_who_add_a_step_of_one_name_the_second_is_refused(graph: Graph) -> None:
    graph.step("a").enqueue()
    store = graph.store
    first, second = store.session(), store.session()
    with first.conn.transaction():
        Graph(first, graph.id).step("event", run="wait").enqueue()
        added = second.start(lambda: Graph(second, graph.id).step("event", run="wait").enqueue(), store)
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="step 'event': the name is used twice"):
        added.result(10)


def test_cancelling_and_replacing_lock_the_workflow_first(graph: Graph) -> None:
    graph.step("a").step("b", ["a"]).enqueue()
    store = graph.store
    a = graph.claim()["a"]
    holder, canceller, replacer = store.session(), store.session(), store.session()
    new = NewStep(NewJob(new_job_id(), "t", "default"))
    more = workflows.workflow_parameters(NewWorkflow(graph.id, [new], []), 60, existing=True)
    replace = workflows.replace_job(store.queries, a.job.id, a.token, {**more, "last_id": new.job.id})
    with holder.conn.transaction():
        holder.rows("select from pgqueue.workflows where id = %s for update", [graph.id])
        replaced = replacer.start(lambda: replacer.run(replace), store)
        # It waits, and holds nothing that the other one is going to need.
        store.rows("select from pgqueue.live_jobs where id = %s for update nowait", [a.job.id])
        cancelled = canceller.start(
            lambda: canceller.run(workflows.cancel_workflow(canceller.queries, graph.id)), store
        )
    assert cancelled.result(10) in (2, 3)
    assert replaced.result(10) == []
    assert store.states([*graph.ids.values(), new.job.id]) == ["cancelled"] * 3


def test_a_workflow_that_is_run_on_while_it_is_looked_at_is_kept(graph: Graph) -> None:
    graph.step("a").step("b", ["a"]).enqueue()
    graph.run(failing=["a"])
    store = graph.store
    store.rows("update pgqueue.workflows set created_at = created_at - interval '1 day'")
    store.rows("update pgqueue.workflow_results set finished_at = finished_at - interval '1 day'")
    # A policy that waits for the test stops the look in the middle, when it knows what it will see.
    store.rows(f"create role {LOOKER}")
    try:
        store.rows(
            "create function pgqueue.look() returns boolean language plpgsql as"
            " $$begin perform pg_advisory_xact_lock_shared(17); return true; end$$"
        )
        store.rows(f"grant usage on schema pgqueue to {LOOKER}")
        store.rows(f"grant all on all tables in schema pgqueue to {LOOKER}")
        store.rows("alter table pgqueue.workflows enable row level security")
        store.rows("create policy look on pgqueue.workflows using (pgqueue.look())")
        looker = store.session()
        looker.rows(f"set role {LOOKER}")
        with store.conn.transaction():
            store.rows("select pg_advisory_xact_lock(17)")
            pruned = looker.start(lambda: looker.run(workflows.prune_workflows(looker.queries, 100)), store)
            assert not pruned.done()
            other = store.session()
            other.run(workflows.retry_workflow(other.queries, graph.id))
        assert pruned.result(10) == 0
        assert graph.run() == ["a", "b"]
        assert graph.state == "succeeded"
    finally:
        store.rows(f"drop owned by {LOOKER}")
        store.rows(f"drop role {LOOKER}")
