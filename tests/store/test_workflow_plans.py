"""Pinned plans of workflows: what a finish counts down and a claim reads is found by index, whatever else there is."""

import pytest

from pgqueue.graph import NewEdge, NewStep, NewWorkflow
from pgqueue.job import NewJob, new_job_id, new_job_ids
from pgqueue.store import families, workflows
from tests.store.graph import Graph
from tests.store.store import Store

pytestmark = pytest.mark.matrix

MEMBERS = 100


def others(store: Store, count: int) -> None:
    """Members of other chords, waiting and ended, by SQL."""
    store.rows(
        """with made as (
               select gen_random_uuid() as child, gen_random_uuid() as parent, gen_random_uuid() as workflow, n
               from generate_series(1, %s) n
           ), edges as (
               insert into pgqueue.workflow_edges select workflow, child, 0, parent, 'value', 'stop' from made
           ), joins as (
               insert into pgqueue.workflow_joins (job_id, workflow_id, state, total, remaining)
               select child, workflow, case when n %% 2 = 0 then 'waiting' else 'released' end, 1, 1 from made
           ), results as (
               insert into pgqueue.workflow_results (job_id, workflow_id, state, finished_at)
               select parent, workflow, 'succeeded', now() from made where n %% 2 = 1
           )
           insert into pgqueue.workflows (id, job_ids) select workflow, array[parent, child] from made""",
        [count],
    )


def analyze(store: Store) -> None:
    store.rows(
        "analyze pgqueue.live_jobs, pgqueue.finished_jobs, pgqueue.workflows, pgqueue.workflow_edges,"
        " pgqueue.workflow_joins, pgqueue.workflow_results"
    )


def chord(store: Store, worker: int, failing: bool = False) -> None:
    """A chord from its insert to its end."""
    ids = new_job_ids(MEMBERS + 2)
    *members, body, after = ids
    edges = [NewEdge(one, body, place) for place, one in enumerate(members)] + [NewEdge(body, after)]
    steps = [NewStep(NewJob(one, "t", "default")) for one in members]
    steps += [
        NewStep(NewJob(body, "t", "default"), None, "list"),
        NewStep(NewJob(after, "t", "default"), None, "value"),
    ]
    store.run(workflows.insert_workflow(store.queries, NewWorkflow(ids[0], steps, edges), 60))
    attempts = store.claim(worker, MEMBERS)
    assert len(attempts) == MEMBERS
    if failing:
        store.finish(attempts[:1], "failed", error='{"type": "E"}')
        store.finish(attempts[1:])
        return
    store.finish(attempts[: MEMBERS // 2])
    store.finish(attempts[MEMBERS // 2 :])
    for expected in (body, after):
        (attempt,) = store.claim(worker)
        assert attempt.job.id == expected
        store.finish([attempt])


def counted(store: Store) -> tuple[int, int]:
    """Sequential scans of all tables that matter, and index entries read of those of workflows."""
    store.rows("select pg_stat_force_next_flush()")
    (row,) = store.rows(
        """select (select coalesce(sum(t.seq_scan), 0)::int from pg_stat_user_tables t
                   where t.schemaname = 'pgqueue' and (t.relname like 'workflow%%' or t.relname = 'live_jobs'
                         or t.relname like 'finished_jobs%%')),
                  (select coalesce(sum(i.idx_tup_read), 0)::int from pg_stat_user_indexes i
                   where i.schemaname = 'pgqueue' and i.relname like 'workflow%%')"""
    )
    return row[0], row[1]


@pytest.mark.parametrize("known", ["none", "stale", "fresh"])
@pytest.mark.parametrize("size", [0, 20_000])
def test_chords_read_by_index_and_no_more_than_they_have(store: Store, size: int, known: str) -> None:
    store.rows("set jit = on")
    store.rows("set jit_above_cost = 0")
    worker = store.worker()
    if known == "stale":
        chord(store, worker)
        analyze(store)
    others(store, size)
    if known == "fresh":
        analyze(store)
    for _ in range(7):  # plans are made, and cached
        chord(store, worker)
        chord(store, worker, failing=True)
    scans, entries = counted(store)
    for _ in range(2):
        chord(store, worker)
    chord(store, worker, failing=True)
    more_scans, more_entries = counted(store)
    assert more_scans == scans
    assert more_entries - entries < 3 * 7 * MEMBERS


@pytest.mark.parametrize("how", ["replace", "add"])
def test_members_that_extend_a_chord_cost_the_same_in_a_large_one(store: Store, how: str) -> None:
    def read() -> int:
        store.rows("select pg_stat_force_next_flush()")
        scanned = store.value(
            "select sum(seq_tup_read)::int from pg_stat_user_tables"
            " where schemaname = 'pgqueue' and relname like 'workflow%'"
        )
        return int(scanned) + counted(store)[1]

    def entries_of(size: int) -> float:
        graph = Graph(store)
        for n in range(size):
            graph.step(f"m{n}")
        graph.step("body", [f"m{n}" for n in range(size)], inputs="list")
        graph.step("settle", [*graph.ids], run="settle", kind="order", policy="ignore").enqueue()
        attempts = store.claim(graph.worker, size)
        before = read()
        for attempt in attempts:
            new = NewStep(NewJob(new_job_id(), "t", "default"))
            more = NewWorkflow(graph.id, [new], [])
            if how == "replace":
                replacement = {**workflows.workflow_parameters(more, 60, existing=True), "last_id": new.job.id}
                assert store.run(workflows.replace_job(store.queries, attempt.job.id, attempt.token, replacement)) == []
            else:
                store.run(workflows.add_member(store.queries, more, 60, attempt.job.id, new.job.id))
                store.finish([attempt])
        store.finish(store.claim(graph.worker, size))
        after = read()
        (body,) = store.claim(graph.worker)
        assert body.job.id == graph.ids["body"]
        store.finish([body])
        assert graph.state == "succeeded"
        assert store.value("select steps from pgqueue.all_workflows where id = %s", [graph.id]) == 2 * size + 2
        return (after - before) / size

    # A snapshot of its own would keep versions of rows, which count too.
    for table in (
        "workflows",
        "workflow_joins",
        "workflow_edges",
        "workflow_results",
        "workflow_additions",
        "live_jobs",
    ):
        store.conn.execute(f"alter table pgqueue.{table} set (autovacuum_enabled = off)".encode())
    entries_of(20)  # plans are made, and cached
    small, large = entries_of(50), entries_of(300)
    assert large < 1.5 * small, (small, large)


@pytest.mark.parametrize("known", ["none", "stale", "fresh"])
def test_mending_reads_what_waits_and_nothing_of_what_is_over(store: Store, known: str) -> None:
    if known == "stale":
        analyze(store)
    others(store, 20_000)
    store.rows("update pgqueue.workflow_joins set state = 'ended'")
    store.rows("vacuum pgqueue.workflow_joins")
    if known == "fresh":
        analyze(store)
    Graph(store).step("a").step("b", ["a"]).enqueue()
    for _ in range(7):  # plans are made, and cached
        store.run(workflows.mend_workflows(store.queries))
    scans, entries = counted(store)
    assert store.run(workflows.mend_workflows(store.queries)) == 0
    more_scans, more_entries = counted(store)
    assert more_scans == scans
    assert more_entries - entries < 20


def test_mending_looks_at_each_waiting_join_once(store: Store) -> None:
    others(store, 20_000)
    analyze(store)
    (before,) = store.rows("select count(*) from pgqueue.workflow_joins where state = 'waiting'")[0]
    scans, entries = counted(store)
    store.run(workflows.mend_workflows(store.queries))
    more_scans, more_entries = counted(store)
    assert more_scans == scans
    assert more_entries - entries < 20 * before


@pytest.mark.parametrize("known", ["none", "stale", "fresh"])
def test_what_a_job_enqueued_is_found_by_index(store: Store, known: str) -> None:
    if known == "stale":
        analyze(store)
    parent = store.enqueue()
    children = [store.enqueue(parent_id=parent) for _ in range(3)]
    store.finish([one for one in store.claim(store.worker()) if one.job.id == children[0]])
    store.rows(
        """with made as (select gen_random_uuid() as id, case when n % 2 = 0 then gen_random_uuid() end as parent, n
                         from generate_series(1, 20000) n),
                lives as (insert into pgqueue.live_jobs (id, seq, enqueued_at, state, queue, task, parent_id)
                          select id, n, now(), 'available', 'q', 't', parent from made where n <= 10000)
           insert into pgqueue.finished_jobs (id, seq, enqueued_at, finished_at, delete_after, attempt, priority, lost,
                                              state, queue, task, parent_id)
           select id, n, now(), now(), now() + interval '1 minute', 1, 0, 0, 'succeeded', 'q', 't', parent
           from made where n > 10000"""
    )
    if known == "fresh":
        analyze(store)

    def read() -> int:
        store.rows("select pg_stat_force_next_flush()")
        return int(store.value("select sum(seq_tup_read)::int from pg_stat_user_tables where schemaname = 'pgqueue'"))

    before = read()
    for _ in range(7):  # past the point where the server chooses between plans
        assert store.run(families.children_of(store.queries, parent, "-infinity")) == children
    assert read() - before < 50, "a few rows of small tables"


def test_a_job_without_a_parent_is_no_entry_of_the_index(store: Store) -> None:
    store.enqueue_many(1_000)
    store.finish(store.claim(store.worker(), 1_000))
    sizes = store.rows(
        "select sum(pg_relation_size(i.indexrelid)), count(*) from pg_stat_user_indexes i"
        " where i.schemaname = 'pgqueue' and i.indexrelname like '%parent%' and i.relname not like 'workflow%'"
    )
    assert sizes[0][0] == 8192 * sizes[0][1], "the first page alone"
