"""claim_jobs and first_places: what a look takes, leaves, and says of itself."""

import psycopg
import pytest

from pgqueue.store import claims, workers
from pgqueue.worker.lanes import END, FRONT, Lanes
from tests.store.store import Store


def test_priority_goes_first_then_the_place_in_line(store: Store) -> None:
    worker = store.worker()
    given = [(priority, store.enqueue(priority=priority)) for priority in (0, 5, 9, 5, 0, 9)]
    expected = [job_id for _, job_id in sorted(given, key=lambda item: -item[0])]
    assert [store.claim(worker, 1)[0].job.id for _ in given] == expected
    assert store.claim(worker) == []


def test_a_claim_takes_only_its_lanes_and_no_more_than_its_limit(store: Store) -> None:
    worker = store.worker()
    mail, slow = store.enqueue_many(3, queue="mail"), store.enqueue_many(2, queue="slow")
    assert [a.job.id for a in store.claim(worker, 2, queues=["mail", "none"])] == mail[:2]
    assert [a.job.id for a in store.claim(worker, 9, queues=["mail"])] == mail[2:]
    assert store.states(slow) == ["available"] * 2


def test_lanes_are_taken_in_the_order_given_and_cut_within_the_last(store: Store) -> None:
    worker = store.worker()
    a, b = store.enqueue_many(3, queue="a"), store.enqueue_many(3, queue="b")
    taken = store.claim(worker, 4, ranges=[("b", 0, 0, END), ("a", 0, 0, END)])
    assert {attempt.job.id for attempt in taken} == {*b, a[0]}


def test_ranges_exclude_both_their_ends(store: Store) -> None:
    worker = store.worker()
    ids = store.enqueue_many(5)
    places = [store.live(job_id)["seq"] for job_id in ids]
    taken = store.claim(worker, ranges=[("default", 0, places[0], places[3])])
    assert [attempt.job.id for attempt in taken] == ids[1:3]


def test_excluded_tasks_stay_where_they_are(store: Store) -> None:
    worker = store.worker()
    slow, fast = store.enqueue("slow"), store.enqueue("fast")
    assert [a.job.id for a in store.claim(worker, 5, excluded=["slow", "other"])] == [fast]
    assert store.live(slow)["attempt"] == 0


def test_what_was_given_back_comes_first(store: Store) -> None:
    worker = store.worker()
    ids = store.enqueue_many(4)
    taken = store.claim(worker, 2)
    store.release(taken)
    ranges = [("default", 0, FRONT, 0), ("default", 0, 0, END)]
    assert [store.claim(worker, 1, ranges=ranges)[0].job.id for _ in ids] == ids


def test_a_claimed_job_says_all_that_its_run_needs(store: Store) -> None:
    worker = store.worker()
    job_id = store.enqueue("t", args="[1]", kwargs='{"a": 1}', headers="{}", options='{"o": 1}', expires_in=60.0)
    (attempt,) = store.claim(worker)
    job, row = attempt.job, store.live(job_id)
    assert (job.id, job.task, job.queue, job.priority, job.attempt, job.lost) == (job_id, "t", "default", 0, 1, 0)
    assert (job.args, job.kwargs, job.headers, job.options) == ("[1]", '{"a": 1}', "{}", '{"o": 1}')
    assert (job.expires_at, job.expired, job.run_at) == (row["expires_at"], None, None)
    assert (row["state"], row["worker_id"], row["claim_token"]) == ("running", worker, attempt.token)
    assert row["started_at"] is not None


def test_an_expired_job_is_claimed_and_marked(store: Store) -> None:
    job_id = store.enqueue(expires_in=60.0)
    store.rows("update pgqueue.live_jobs set expires_at = now() - interval '1 s'")
    (attempt,) = store.claim(store.worker())
    assert (attempt.job.id, attempt.job.expired) == (job_id, True)


def test_a_limit_of_nothing_claims_nothing(store: Store) -> None:
    job_id = store.enqueue()
    look, taken = store.look(store.worker(), 0)
    assert (look.last_seq, taken) == (1, [])
    assert store.states([job_id]) == ["available"]


@pytest.mark.parametrize("kind", ["unknown", "lost"])
def test_a_worker_that_is_not_registered_or_was_lost_claims_nothing(store: Store, kind: str) -> None:
    job_id = store.enqueue()
    worker = store.worker()
    if kind == "lost":
        store.expire(worker)
        store.rescue()
    with pytest.raises(psycopg.Error) as refused:
        store.claim(worker + (kind == "unknown"))
    assert refused.value.sqlstate == "PGQ01"
    assert store.states([job_id]) == ["available"]
    assert store.run(workers.renew_lease(store.queries, worker, 30, 0, 0)).asked == (None if kind == "lost" else [])


def test_due_jobs_are_claimed_and_the_look_tells_when_the_next_one_is(store: Store) -> None:
    worker = store.worker()
    due, _ = store.enqueue(delay=10.0), store.enqueue(delay=1000.0)
    store.rows("update pgqueue.live_jobs set run_at = now() where id = %s", [due])
    look, taken = store.look(worker)
    assert [attempt.job.id for attempt in taken] == [due]
    assert look.due_in is not None
    assert 900 < look.due_in <= 1000


def test_a_window_bounds_how_far_back_due_jobs_are_looked_for(store: Store) -> None:
    worker = store.worker()
    job_id = store.enqueue(delay=10.0)
    store.rows("update pgqueue.live_jobs set run_at = now() - interval '5 minutes'")
    assert store.claim(worker, window=60) == []
    assert [attempt.job.id for attempt in store.claim(worker, window=None)] == [job_id]


def test_a_due_job_whose_row_is_held_does_not_make_the_claimer_hurry(store: Store) -> None:
    worker = store.worker()
    held = store.enqueue(delay=10.0)
    store.rows("update pgqueue.live_jobs set run_at = now() - interval '1 s'")
    other = store.session()
    with other.conn.transaction():
        other.rows("select from pgqueue.live_jobs for update")
        look, taken = store.look(worker)
        assert taken == []
        assert look.due_in is not None
        assert 0 < look.due_in <= 0.05
    assert [attempt.job.id for attempt in store.claim(worker)] == [held]


def test_a_look_reports_no_place_before_one_was_drawn(store: Store) -> None:
    worker = store.worker()
    assert store.look(worker)[0].last_seq == 0
    store.enqueue()
    assert store.look(worker)[0].last_seq == 1


def test_whoever_drew_a_place_before_a_look_has_a_lower_id_than_the_look(store: Store) -> None:
    """The snapshot's own xmax is not such a bound: it may be below the ids of open transactions."""
    worker = store.worker()
    writers = [store.session() for _ in range(3)]
    ids = []
    for writer in writers:
        writer.conn.autocommit = False
        writer.enqueue()
        ids.append(int(writer.value("select pg_current_xact_id()::text")))
    look, _ = store.look(worker)
    assert look.last_seq == 3
    assert ids[2] < look.look_xid
    # Listed as open or not yet taken, as the snapshot has it.
    assert all(xid in look.open_transactions()[0] or xid >= look.open_transactions()[1] for xid in ids)
    for number, writer in enumerate(writers, 1):
        writer.conn.commit()
        open_ones, unused = store.look(worker)[0].open_transactions()
        assert [xid for xid in ids if xid in open_ones] == ids[number:]
        assert unused > look.look_xid


def test_a_session_that_only_reads_does_not_hold_the_bound_back(store: Store) -> None:
    worker = store.worker()
    reader = store.session()
    reader.conn.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
    with reader.conn.transaction():
        reader.rows("select * from pgqueue.live_jobs")
        look, _ = store.look(worker)
        open_ones, unused = store.look(worker)[0].open_transactions()
        assert open_ones == []
        assert unused > look.look_xid


def test_first_places_are_of_all_jobs_still_available_even_while_somebody_takes_them(store: Store) -> None:
    worker = store.worker()
    store.enqueue_many(4)
    store.enqueue(priority=3)
    lanes = [("default", 0, 0), ("default", 3, 0), ("default", 9, 0), ("default", 0, 4), ("other", 0, 0)]
    ask = claims.first_places(store.queries, lanes, [])
    assert store.run(ask) == [1, 5, None, None, None]
    other = store.session()
    with other.conn.transaction(force_rollback=True):
        other.claim(worker, 2)
        assert store.run(ask) == [1, 5, None, None, None]
    other.claim(worker, 2)
    assert store.run(ask) == [2, None, None, None, None]


def test_first_places_pass_over_tasks_that_will_never_be_taken(store: Store) -> None:
    store.enqueue("unknown")
    store.enqueue("known")
    assert store.run(claims.first_places(store.queries, [("default", 0, 0)], ["unknown"])) == [2]


def test_every_claim_commits_asynchronously_and_leaves_the_session_as_it_was(store: Store) -> None:
    with store.conn.transaction():
        store.claim(store.worker())
        assert store.value("show synchronous_commit") == "off"
    assert store.value("show synchronous_commit") == "on"


def test_a_claimer_of_lanes_takes_each_job_once(store: Store) -> None:
    worker = store.worker()
    ids = store.enqueue_many(30) + store.enqueue_many(30, queue="b", priority=4)
    lanes, taken = Lanes(["default", "b"]), list[str]()
    while len(taken) < len(ids):
        ranges, kind = lanes.plan()
        look, attempts = store.look(worker, 7, ranges=ranges)
        lanes.learn(kind, look, [attempt.job for attempt in attempts], len(attempts) < 7, 0.001)
        assert attempts
        taken += [attempt.job.id for attempt in attempts]
    assert sorted(taken) == sorted(ids)
