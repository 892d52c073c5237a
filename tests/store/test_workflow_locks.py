"""Who waits for whom: sessions that end, resolve, cancel and extend the same workflow at once."""

from pgqueue.store import workflows
from tests.store.graph import Graph

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
