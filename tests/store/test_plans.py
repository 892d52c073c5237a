"""Pinned plans: each hot statement reads by index what it needs and no more, whatever the planner believes.

Counted are what the statements did, in the statistics of the tables, so that plans inside of functions count too:
sequential scans, and index entries read per job. Sessions are kept, so that their plans are cached.
"""

import itertools

import pytest

from pgqueue.job import NewJob
from pgqueue.store import claims, jobs
from pgqueue.worker.lanes import END, FRONT
from tests.store.store import Attempt, Store

pytestmark = pytest.mark.matrix

BATCH = 100
KEEP_ID = "00000000-0000-7000-8000-000000000001"


def fill(store: Store, available: int) -> None:
    """Live rows by SQL: some scheduled, the rest in three lanes; finished ones, too."""
    store.rows(
        """insert into pgqueue.live_jobs (id, seq, enqueued_at, run_at, priority, state, queue, task)
           select gen_random_uuid(), nextval('pgqueue.job_seq'), now(),
                  case when n %% 10 = 0 then now() + interval '1 day' end, n %% 2,
                  case when n %% 10 = 0 then 'scheduled' else 'available' end,
                  case when n %% 3 = 0 then 'other' else 'default' end, 't'
           from generate_series(1, %s) n""",
        [available],
    )
    store.rows(
        """insert into pgqueue.finished_jobs (id, seq, enqueued_at, finished_at, delete_after, attempt, priority, lost,
                                              state, queue, task)
           select gen_random_uuid(), n, now(), now(), now() + (n %% 5 + 1) * interval '1 day', 1, 0, 0,
                  'succeeded', 'default', 't'
           from generate_series(1, %s * 2) n""",
        [min(available, 10_000)],
    )


def counted(store: Store) -> dict[str, int]:
    """Sequential scans, and index entries read, of live and of finished jobs."""
    store.rows("select pg_stat_force_next_flush()")
    (row,) = store.rows(
        """select coalesce(sum(t.seq_scan) filter (where t.relname = 'live_jobs'), 0)::int,
                  coalesce(sum(t.seq_scan) filter (where t.relname like 'finished_jobs%%'), 0)::int,
                  (select sum(i.idx_tup_read) from pg_stat_user_indexes i where i.relname = 'live_jobs')::int,
                  (select sum(i.idx_tup_read) from pg_stat_user_indexes i where i.relname like 'finished_jobs%%')::int
           from pg_stat_user_tables t where t.schemaname = 'pgqueue'"""
    )
    return dict(zip(("live scans", "finished scans", "live entries", "finished entries"), row, strict=True))


def statistics(store: Store, kind: str) -> None:
    """What the planner believes: nothing, what was true of other tables, or the truth."""
    if kind == "stale":
        # As after ANALYZE of nearly empty tables that then grew.
        store.rows("truncate pgqueue.live_jobs, pgqueue.finished_jobs")
        store.enqueue_many(3)
        store.finish(store.claim(store.worker(), 1))
        store.rows("analyze pgqueue.live_jobs, pgqueue.finished_jobs, pgqueue.workers")
        store.rows("truncate pgqueue.attempts")
    elif kind == "fresh":
        store.rows("analyze pgqueue.live_jobs, pgqueue.finished_jobs, pgqueue.workers")


def round_of_work(store: Store, worker: int) -> None:
    """Every hot statement once, BATCH jobs each, on the same session."""
    store.enqueue_many(5 * BATCH + 1)
    store.enqueue()
    store.run(jobs.insert_job(store.queries, NewJob(KEEP_ID, "t", "default", own_id=True)))
    ranges = [("default", 1, 0, END), ("default", 0, FRONT, 0), ("default", 0, 0, END)]
    lanes = [("default", 1, 0), ("default", 0, 0)]
    for end in (store.finish, store.retry, store.release, store.lose):
        attempts: list[Attempt] = store.claim(worker, BATCH, ranges=ranges)
        assert len(attempts) == BATCH
        end(attempts)
        store.run(claims.first_places(store.queries, lanes, []))
    store.finish(store.claim(worker, BATCH, ranges=ranges), "failed", error="{}")
    store.cancel([store.claim(worker, 1, ranges=ranges)[0].job.id], terminate=True)


@pytest.mark.parametrize(
    ("size", "known"),
    [
        *itertools.product([0, 10, 10_000], ["none", "stale", "fresh"]),
        pytest.param(1_000_000, "stale", marks=pytest.mark.slow),
    ],
)
def test_hot_statements_read_by_index_and_no_more_than_they_take(store: Store, size: int, known: str) -> None:
    store.rows("alter table pgqueue.live_jobs set (autovacuum_enabled = off)")
    # What costs more than this makes the JIT compile: statements that take care switch it off themselves.
    store.rows("set jit = on")
    store.rows("set jit_above_cost = 0")
    worker = store.worker()
    if known == "stale":
        statistics(store, known)
        worker = store.worker()
        fill(store, size)
    else:
        fill(store, size)
        statistics(store, known)
    round_of_work(store, worker)  # plans are made, and cached
    before = counted(store)
    round_of_work(store, worker)
    spent = {name: after - before[name] for name, after in counted(store).items()}
    assert spent["live scans"] == 0, spent
    assert spent["finished scans"] == 0, spent
    # 5 batches claimed and ended, each row found a few times; the available index holds some dead entries, too.
    assert spent["live entries"] < 60 * BATCH, spent
    assert spent["finished entries"] < 2 * BATCH, spent


def test_a_plan_cached_on_a_small_table_holds_when_the_table_grows(store: Store) -> None:
    store.rows("alter table pgqueue.live_jobs set (autovacuum_enabled = off)")
    worker = store.worker()
    statistics(store, "stale")
    worker = store.worker()
    for _ in range(7):  # past the point where the server would choose between plans
        round_of_work(store, worker)
    fill(store, 20_000)
    before = counted(store)
    round_of_work(store, worker)
    spent = {name: after - before[name] for name, after in counted(store).items()}
    assert (spent["live scans"], spent["finished scans"]) == (0, 0), spent
    # Also the dead entries of seven rounds, several times; and yet far from each live row for each of a batch.
    assert spent["live entries"] < 400 * BATCH, spent


@pytest.mark.parametrize("known", ["none", "stale", "fresh"])
def test_a_reader_finds_a_job_by_its_id_wherever_it_is(store: Store, known: str) -> None:
    store.rows("alter table pgqueue.live_jobs set (autovacuum_enabled = off)")
    if known == "stale":
        statistics(store, known)
    fill(store, 10_000)
    if known == "fresh":
        statistics(store, known)
    live = store.enqueue()
    (attempt,) = store.claim(store.worker(), 1, ranges=[("default", 0, store.live(live)["seq"] - 1, END)])
    done = attempt.job.id
    store.finish([attempt])
    live = store.enqueue()
    wanted = [live, done, KEEP_ID]

    def read() -> None:
        for job_id in wanted:
            store.run(jobs.get_outcome(store.queries, job_id))
            store.run(jobs.get_job(store.queries, job_id))
            store.run(jobs.last_error(store.queries, job_id))

    assert [store.run(jobs.get_outcome(store.queries, job_id)) is not None for job_id in wanted] == [True, True, False]
    for _ in range(7):  # past the point where the server chooses between plans
        read()
    before = walked(store)
    read()
    assert walked(store) - before < 50, "a few rows of partitions that hold no more"


def test_a_reader_whose_plan_was_made_for_a_small_table_finds_a_job_when_it_has_grown(store: Store) -> None:
    store.rows("alter table pgqueue.live_jobs set (autovacuum_enabled = off)")
    statistics(store, "stale")
    for _ in range(7):
        store.run(jobs.get_outcome(store.queries, KEEP_ID))
        store.run(jobs.get_job(store.queries, KEEP_ID))
    fill(store, 10_000)
    before = walked(store)
    store.run(jobs.get_outcome(store.queries, KEEP_ID))
    store.run(jobs.get_job(store.queries, KEEP_ID))
    assert walked(store) - before < 50, "a few rows of partitions that hold no more"


def walked(store: Store) -> int:
    """Rows read by sequential scans; those of empty partitions cost nothing."""
    store.rows("select pg_stat_force_next_flush()")
    return int(store.value("select sum(seq_tup_read)::bigint from pg_stat_user_tables where schemaname = 'pgqueue'"))


def test_staging_takes_due_jobs_by_their_index(store: Store) -> None:
    fill(store, 10_000)
    store.rows("update pgqueue.live_jobs set run_at = now() where state = 'scheduled' and seq % 50 = 0")
    store.rows("analyze pgqueue.live_jobs")
    before = counted(store)
    due = store.value("select pgqueue.stage_jobs(now() - interval '1 minute', 50)")
    spent = {name: after - before[name] for name, after in counted(store).items()}
    assert due == 50
    assert spent["live scans"] == 0, spent
    assert spent["live entries"] < 6 * due, spent


def test_every_hot_function_binds_its_planner_settings_and_its_search_path(store: Store) -> None:
    hot = {"stage_jobs", "claim_jobs", "first_places", "finish_jobs", "retry_jobs", "release_jobs", "lose_jobs"}
    bound = dict(
        store.rows(
            """select p.proname, p.proconfig from pg_proc p join pg_namespace n on n.oid = p.pronamespace
               where n.nspname = 'pgqueue' and p.prolang = (select oid from pg_language where lanname = 'plpgsql')"""
        )
    )
    for name in hot | {"is_finished"}:
        assert {"jit=off", "enable_seqscan=off", "plan_cache_mode=force_generic_plan"} <= set(bound[name]), name
    for name, settings in bound.items():
        assert "search_path=pg_catalog, pgqueue, pg_temp" in settings, name
