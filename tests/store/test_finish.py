"""Every way out of `running`, its fence, and what it leaves behind; cancel, revive, partitions."""

import json
from collections.abc import Callable
from typing import Any

import psycopg
import pytest

from pgqueue.store import claims, jobs, workers
from pgqueue.worker.lanes import END, FRONT
from tests.store.store import Attempt, Store, listened

Ending = Callable[[Store, list[Attempt]], Any]


def _lose(store: Store, attempts: list[Attempt]) -> list[str]:
    ended = store.lose(attempts)
    return [attempt.job.id for attempt in attempts if attempt.job.id not in ended]


ENDINGS: dict[str, Ending] = {
    "finish": lambda store, attempts: store.finish(attempts),
    "fail": lambda store, attempts: store.finish(attempts, "failed", error='{"type": "E"}'),
    "retry": lambda store, attempts: store.retry(attempts),
    "release": lambda store, attempts: store.release(attempts),
    "lose": _lose,
}


def claimed(store: Store, count: int = 1, **fields: Any) -> list[Attempt]:
    """Jobs that run."""
    store.enqueue_many(count, **fields)
    return store.claim(store.worker())


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_ending_is_fenced_by_its_token_and_happens_once(store: Store, ending: str) -> None:
    end = ENDINGS[ending]
    right, wrong = claimed(store, 2)
    forged = Attempt(wrong.job, wrong.token + 1)
    assert end(store, [forged, right]) == [wrong.job.id]
    assert store.live(wrong.job.id)["claim_token"] == wrong.token
    before = store.states([right.job.id])
    assert end(store, [right]) == [right.job.id]
    assert store.states([right.job.id]) == before
    assert len(store.attempts(right.job.id)) == (ending in {"fail", "retry", "lose"})


@pytest.mark.parametrize("first", ENDINGS)
def test_no_ending_follows_another_of_the_same_attempt(store: Store, first: str) -> None:
    (attempt,) = claimed(store)
    ENDINGS[first](store, [attempt])
    state = store.states([attempt.job.id])
    for second in ENDINGS.values():
        assert second(store, [attempt]) == [attempt.job.id]
        assert store.states([attempt.job.id]) == state


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_old_attempt_cannot_end_a_new_one(store: Store, ending: str) -> None:
    (old,) = claimed(store)
    store.release([old])
    (new,) = store.claim(store.worker())
    assert ENDINGS[ending](store, [old]) == [old.job.id]
    assert store.live(old.job.id)["claim_token"] == new.token


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_row_that_is_gone_leaves_the_rest_of_its_batch_alone(store: Store, ending: str) -> None:
    attempts = claimed(store, 5)
    store.rows("delete from pgqueue.live_jobs where id = %s", [attempts[2].job.id])
    assert ENDINGS[ending](store, attempts) == [attempts[2].job.id]
    rest = [attempt.job.id for attempt in attempts if attempt is not attempts[2]]
    assert "running" not in store.states(rest)
    assert store.rows("select from pgqueue.all_jobs where id = %s", [attempts[2].job.id]) == []


@pytest.mark.parametrize("ending", ENDINGS)
def test_a_job_named_twice_in_a_batch_ends_once(store: Store, ending: str) -> None:
    (attempt,) = claimed(store)
    assert ENDINGS[ending](store, [attempt, attempt]) == []
    assert len(store.states([attempt.job.id])) == 1
    assert len(store.attempts(attempt.job.id)) <= 1


@pytest.mark.parametrize("ending", ENDINGS)
def test_an_empty_batch_is_no_error(store: Store, ending: str) -> None:
    assert ENDINGS[ending](store, []) == []


# --- finish


def test_a_finished_job_keeps_its_story_and_its_result(store: Store) -> None:
    given: dict[str, Any] = {
        "args": "[1]",
        "kwargs": '{"a": 1}',
        "headers": '{"h": 1}',
        "options": '{"o": 1}',
        "priority": 3,
    }
    (attempt,) = claimed(store, **given)
    live = store.live(attempt.job.id)
    fence = [attempt.fence]
    assert store.run(claims.finish_jobs(store.queries, fence, "succeeded", ['{"r": "\\u00e9"}'], None, None, 90)) == []
    row = store.finished(attempt.job.id)
    assert (row["state"], row["result"], row["error"], row["traceback"]) == (
        "succeeded",
        '{"r": "\\u00e9"}',
        None,
        None,
    )
    for name in ("id", "seq", "enqueued_at", "started_at", "worker_id", "attempt", "queue", "task", *given):
        assert row[name] == live[name], name
    assert store.value("select delete_after - finished_at = '90 s' from pgqueue.finished_jobs")
    assert store.attempts(attempt.job.id) == []


def test_a_job_kept_for_ever_lies_in_the_partition_that_is_never_dropped(store: Store) -> None:
    attempts = claimed(store)
    store.finish(attempts, keep=None)
    assert store.value("select tableoid::regclass::text from pgqueue.finished_jobs") == "pgqueue.finished_jobs_forever"


def test_a_failure_is_kept_with_its_attempt(store: Store) -> None:
    (attempt,) = claimed(store)
    error = json.dumps({"type": "E", "message": "m"})
    store.run(claims.finish_jobs(store.queries, [attempt.fence], "failed", [None], [error], ["trace\nback"], 60))
    row = store.finished(attempt.job.id)
    assert (row["state"], row["result"], row["error"], row["traceback"]) == ("failed", None, error, "trace\nback")
    assert store.rows("select attempt, outcome, error::text, traceback, worker_id from pgqueue.attempts") == [
        (1, "failed", error, "trace\nback", row["worker_id"])
    ]


@pytest.mark.parametrize("state", ["cancelled", "expired"])
def test_other_outcomes_are_no_failed_attempts(store: Store, state: str) -> None:
    attempts = claimed(store)
    store.finish(attempts, state)
    assert store.finished(attempts[0].job.id)["state"] == state
    assert store.attempts(attempts[0].job.id) == []


def test_only_waiters_are_told(store: Store) -> None:
    waited, other = claimed(store, 2)
    store.run(jobs.mark_waited_for(store.queries, waited.job.id))
    ear = store.session()
    ear.rows('listen "pgqueue/results"')
    ear.rows("listen pgqueue")
    store.finish([waited, other])
    assert listened(ear.conn) == [waited.job.id]


@pytest.mark.parametrize(
    ("state", "result", "sqlstate"),
    [("running", "1", "23514"), ("done", "1", "23514"), ("succeeded", "{", "22P02"), (None, "1", "23502")],
)
def test_one_bad_row_refuses_its_batch_and_no_other(store: Store, state: str, result: str, sqlstate: str) -> None:
    good, bad = claimed(store, 2)
    fence = [good.fence, bad.fence]
    with pytest.raises(psycopg.Error) as refused:
        store.run(claims.finish_jobs(store.queries, fence, state, ["1", result], None, None, 60))
    assert refused.value.sqlstate == sqlstate
    assert store.states([good.job.id, bad.job.id]) == ["running"] * 2
    assert store.finish([good]) == []
    assert store.finish([bad], "failed", error="{}") == []


@pytest.mark.parametrize(
    ("ids", "tokens", "lost"),
    [("{}", "{}", 0), ("{%s}", "{}", 1), ("{%s}", "{null}", 1), ("{}", "{1}", 0), (None, None, 0)],
)
def test_arrays_of_unlike_length_end_nothing(store: Store, ids: str | None, tokens: str | None, lost: int) -> None:
    (attempt,) = claimed(store)
    named = ids.replace("%s", attempt.job.id) if ids is not None else None
    for call in (
        "select pgqueue.finish_jobs(%s::uuid[], %s::bigint[], 'succeeded', '{1}', null, null, '1 day')",
        "select pgqueue.retry_jobs(%s::uuid[], %s::bigint[], '{0}', null, null, null, '1 day')",
        "select pgqueue.release_jobs(%s::uuid[], %s::bigint[], '1 day')",
    ):
        assert len(store.value(call, [named, tokens])) == lost
    assert store.states([attempt.job.id]) == ["running"]


# --- retry


def test_a_retry_waits_for_its_time_in_a_new_place(store: Store) -> None:
    now, later = claimed(store, 2)
    store.run(
        claims.retry_jobs(
            store.queries, [now.fence, later.fence], [0, 60.0], ['{"type": "E"}'] * 2, [None] * 2, [None] * 2, 60
        )
    )
    rows = [store.live(attempt.job.id) for attempt in (now, later)]
    assert [row["state"] for row in rows] == ["available", "scheduled"]
    assert all(
        row["attempt"] == 1 and row["worker_id"] is row["claim_token"] is row["started_at"] is None for row in rows
    )
    assert rows[0]["seq"] > later.job.seq
    assert store.value(
        "select run_at between now() + '59 s' and now() + '60 s' from pgqueue.live_jobs where state = 'scheduled'"
    )
    assert store.attempts(now.job.id) == [(1, "retried")]
    assert [attempt.job.attempt for attempt in store.claim(store.worker())] == [2]


def test_a_retry_may_change_the_job(store: Store) -> None:
    (attempt,) = claimed(store, args="[1]", kwargs='{"a": 1}', options='{"o": 1}', expires_in=3600.0)
    changes = {"args": [2], "kwargs": {}, "queue": "slow", "priority": 4, "options": {"p": 2}, "expires_in": 60}
    store.retry([attempt], changes=json.dumps(changes))
    row = store.live(attempt.job.id)
    assert (row["args"], row["kwargs"], row["queue"], row["priority"]) == ("[2]", None, "slow", 4)
    assert json.loads(row["options"]) == {"p": 2}
    assert store.value("select expires_at between now() + '59 s' and now() + '60 s' from pgqueue.live_jobs")


def test_a_retry_without_changes_changes_nothing(store: Store) -> None:
    (attempt,) = claimed(store, args="[1]", kwargs='{"a": 1}', options='{"o": 1}', expires_in=3600.0, priority=2)
    names = ("args", "kwargs", "queue", "priority", "options", "expires_at", "enqueued_at", "headers")
    before = store.live(attempt.job.id)
    store.retry([attempt])
    after = store.live(attempt.job.id)
    assert [after[name] for name in names] == [before[name] for name in names]


@pytest.mark.parametrize("give_back", ["retry", "release"])
def test_a_job_that_was_asked_to_stop_is_not_given_back(store: Store, give_back: str) -> None:
    asked, other = claimed(store, 2)
    assert store.cancel([asked.job.id], terminate=True) == {asked.job.id: "asked"}
    assert ENDINGS[give_back](store, [asked, other]) == []
    assert store.finished(asked.job.id)["state"] == "cancelled"
    assert store.live(other.job.id)["state"] == "available"


# --- release


def test_released_jobs_are_first_in_line_in_their_old_order_with_no_attempt_spent(store: Store) -> None:
    worker = store.worker()
    ids = store.enqueue_many(5)
    attempts = store.claim(worker, 4)
    store.release(attempts[2:])
    store.release(attempts[:2])
    assert [store.live(job_id)["attempt"] for job_id in ids] == [0] * 5
    ranges = [("default", 0, FRONT, 0), ("default", 0, 0, END)]
    again = store.claim(worker, ranges=ranges)
    assert [attempt.job.id for attempt in again] == ids
    store.release(again)
    assert [attempt.job.id for attempt in store.claim(worker, ranges=ranges)] == ids


# --- lose, rescue


def test_a_lost_attempt_is_spent_and_the_third_loss_ends_the_job(store: Store) -> None:
    worker = store.worker()
    job_id = store.enqueue()
    for number in (1, 2):
        (attempt,) = store.claim(worker)
        assert store.lose([attempt]) == {job_id: "available"}
        row = store.live(job_id)
        assert (row["attempt"], row["lost"], row["worker_id"]) == (number, number, None)
        assert row["seq"] < 0
    (attempt,) = store.claim(worker)
    assert store.lose([attempt]) == {job_id: "failed"}
    row = store.finished(job_id)
    assert (row["state"], row["lost"], row["attempt"]) == ("failed", 3, 3)
    assert json.loads(row["error"]) == {"type": "pgqueue.errors.WorkerLostError", "message": "killed; lost 3 times"}
    assert store.attempts(job_id) == [(1, "lost"), (2, "lost"), (3, "lost")]
    said = store.rows("select error->>'message' from pgqueue.attempts where job_id = %s order by attempt", [job_id])
    assert said == [("killed; lost once",), ("killed; lost 2 times",), ("killed; lost 3 times",)]


def test_a_job_that_runs_at_most_once_ends_with_its_worker(store: Store) -> None:
    worker = store.worker(once=["pay"])
    pay, mail = store.enqueue("pay"), store.enqueue("mail")
    attempts = store.claim(worker)
    assert store.record(attempts) == {pay, mail}
    store.expire(worker)
    assert store.rescue() == {pay: "failed", mail: "available"}
    assert "at most once" in json.loads(store.finished(pay)["error"])["message"]


def test_what_was_claimed_and_had_not_begun_goes_back_as_if_never_claimed(store: Store) -> None:
    worker = store.worker(once=["pay"])
    pay, mail, asked = store.enqueue("pay"), store.enqueue("mail"), store.enqueue("mail")
    assert [attempt.job.careful for attempt in store.claim(worker)] == [None] * 3
    store.cancel([asked], terminate=True)
    store.expire(worker)
    assert store.rescue(limit=1) == {pay: "available", mail: "available", asked: "cancelled"}
    heir = store.worker(once=["pay"])
    again = store.claim(heir)
    assert [(a.job.id, a.job.attempt, a.job.lost) for a in again] == [(pay, 1, 0), (mail, 1, 0)]
    assert [attempt.job.careful for attempt in again] == [True, True], "one of them may be what killed the worker"
    assert store.attempts(mail) == []


def test_a_careful_job_counts_as_lost_only_when_it_was_recorded(store: Store) -> None:
    job_id = store.enqueue()
    for _ in range(3):  # claimed ahead again and again
        worker = store.worker()
        (attempt,) = store.claim(worker)
        store.expire(worker)
        assert store.rescue(limit=1) == {job_id: "available"}
    worker = store.worker()
    (attempt,) = store.claim(worker)
    assert store.record([attempt]) == {job_id}
    assert store.record([attempt]) == {job_id}, "once more, should its answer have been lost"
    store.expire(worker)
    assert store.rescue(limit=2) == {job_id: "available"}
    worker = store.worker()
    assert store.record([attempt]) == set(), "it is no longer its own"
    (attempt,) = store.claim(worker)
    assert (attempt.job.attempt, attempt.job.lost) == (2, 1)
    assert store.retry([attempt]) == []
    (attempt,) = store.claim(worker)
    store.expire(worker)
    assert store.rescue(limit=2) == {job_id: "available"}, "the record was of an earlier attempt"


def test_a_lost_job_that_was_asked_to_stop_is_cancelled_and_its_waiter_told(store: Store) -> None:
    (attempt,) = claimed(store)
    store.run(jobs.mark_waited_for(store.queries, attempt.job.id))
    store.cancel([attempt.job.id], terminate=True)
    ear = store.session()
    ear.rows('listen "pgqueue/results"')
    ear.rows("listen pgqueue")
    assert store.lose([attempt]) == {attempt.job.id: "cancelled"}
    assert store.finished(attempt.job.id)["state"] == "cancelled"
    assert listened(ear.conn) == [attempt.job.id]


def test_a_lease_that_ran_out_while_the_server_was_down_begins_anew_with_it(store: Store) -> None:
    worker = store.worker()
    job_id = store.enqueue()
    store.record(store.claim(worker))
    # Last heard of two hours before the server started; by its length, the lease lasted until an hour ago.
    last = """update pgqueue.workers set heartbeat_at = pg_postmaster_start_time() - interval '2 hours',
              lease_expires_at = pg_postmaster_start_time() - interval '2 hours' + %s * """
    length = "(clock_timestamp() - pg_postmaster_start_time() + interval '1 hour')"
    store.rows(last + length, [1.0])
    assert store.rescue() == {}
    renew = workers.renew_lease(store.queries, store.worker(), 60, 0, 0)
    assert not store.run(renew).dead_wait
    store.rows(last + "(clock_timestamp() - pg_postmaster_start_time())", [0.5])
    assert store.run(renew).dead_wait
    assert store.rescue() == {job_id: "available"}


def test_a_dead_worker_is_rescued_in_batches_and_once(store: Store) -> None:
    dead, alive = store.worker(name="dead"), store.worker(name="alive")
    lost, kept = store.enqueue_many(5), store.enqueue_many(2, queue="other")
    store.claim(dead)
    store.claim(alive, queues=["other"])
    store.expire(dead)
    sizes = []
    while found := store.run(claims.rescue_jobs(store.queries, 3, 2, 60)):
        assert {worker for worker, _, _ in found} == {"dead"}
        sizes.append(len(found))
    assert sizes == [2, 2, 1]
    assert store.states(lost + kept) == ["available"] * 5 + ["running"] * 2
    assert store.value(
        "select rescued_at is not null and lost_at is not null from pgqueue.workers where id = %s", [dead]
    )
    assert store.value("select lost_at is null from pgqueue.workers where id = %s", [alive])
    assert store.rescue() == {}


def test_the_sessions_of_a_dead_worker_end_with_it_and_free_its_rows(store: Store) -> None:
    worker = store.worker()
    job_id = store.enqueue()
    store.claim(worker)
    zombie = psycopg.connect(store.dsn, application_name=f"pgqueue/{worker}")
    stranger = psycopg.connect(store.dsn, application_name=f"pgqueue/{worker + 1}")
    zombie.execute("select from pgqueue.live_jobs for update")
    stranger.execute("select 1")
    store.expire(worker)
    assert store.rescue() == {job_id: "available"}
    with pytest.raises(psycopg.OperationalError):
        zombie.execute("select 1")
    stranger.execute("select 1")
    zombie.close()
    stranger.close()


def test_a_job_whose_row_is_locked_is_rescued_later_and_keeps_no_other_from_it(store: Store) -> None:
    dead = store.worker()
    ids = store.enqueue_many(3)
    store.record(store.claim(dead)[:1])
    store.expire(dead)
    rescued = "select rescued_at is not null from pgqueue.workers"
    with psycopg.connect(store.dsn) as other:
        other.execute("select 1 from pgqueue.live_jobs where id = %s for update", [ids[1]])
        assert store.rescue() == {ids[0]: "available", ids[2]: "available"}
        assert store.rescue() == {}
        assert not store.value(rescued)
    assert store.rescue() == {ids[1]: "available"}
    assert store.value(rescued)


def test_a_worker_that_signs_off_with_jobs_in_hand_is_rescued_at_once(store: Store) -> None:
    worker = store.worker()
    job_id = store.enqueue()
    store.claim(worker)
    assert not store.run(workers.stop_worker(store.queries, worker, 7))
    assert store.rows("select stopped_at, finished from pgqueue.workers") == [(None, 7)]
    assert store.rescue() == {job_id: "available"}


def test_a_worker_that_has_signed_off_claims_no_more(store: Store) -> None:
    worker = store.worker()
    store.enqueue()
    assert store.run(workers.stop_worker(store.queries, worker, 0))
    with pytest.raises(psycopg.Error, match="has stopped"):
        store.claim(worker)


def test_a_claim_that_is_under_way_at_the_sign_off_is_given_back(store: Store) -> None:
    worker = store.worker()
    job_id = store.enqueue()
    claiming, watching = store.session(), store.session()
    claiming.rows("begin")
    claiming.claim(worker)
    stopping = store.start(lambda: store.run(workers.stop_worker(store.queries, worker, 0)), watching)
    assert not stopping.done()
    claiming.rows("commit")
    assert not stopping.result(30)
    assert store.rescue() == {job_id: "available"}


def test_a_worker_that_signed_off_is_not_rescued(store: Store) -> None:
    worker = store.worker()
    store.run(workers.stop_worker(store.queries, worker, 0))
    store.expire(worker)
    assert store.rescue() == {}
    assert store.value("select lost_at is null from pgqueue.workers")


def test_a_lease_is_renewed_and_tells_which_jobs_to_stop(store: Store) -> None:
    worker, other = store.worker(lease=1), store.worker()
    mine, theirs = store.enqueue(), store.enqueue(queue="o")
    store.claim(worker)
    store.claim(other, queues=["o"])
    store.cancel([mine, theirs], terminate=True)
    assert store.run(workers.renew_lease(store.queries, worker, 3600, 4, 5)).asked == [mine]
    assert store.rows(
        "select running, finished, lease_expires_at > now() + '50 min' from pgqueue.workers where id = %s", [worker]
    ) == [(4, 5, True)]


# --- cancel, revive


def test_queued_jobs_are_cancelled_and_running_ones_only_asked(store: Store) -> None:
    worker = store.worker()
    running = store.enqueue(queue="r")
    store.claim(worker, queues=["r"])
    available, scheduled = store.enqueue(), store.enqueue(delay=60.0)
    unknown = "00000000-0000-0000-0000-000000000000"
    ids = [running, available, scheduled, available, unknown]
    queued = {available: "cancelled", scheduled: "cancelled"}
    assert store.cancel(ids) == {**queued, running: "running"}
    assert not store.live(running)["cancel_asked"]
    ear = store.session()
    ear.rows("listen pgqueue")
    assert store.cancel(ids, terminate=True) == {running: "asked"}
    assert listened(ear.conn) == [f"c{worker}"]
    assert store.live(running)["cancel_asked"]
    assert [store.finished(job_id)["state"] for job_id in queued] == ["cancelled"] * 2
    assert store.cancel([]) == {}


def test_a_cancelled_job_tells_its_waiter_and_is_never_claimed(store: Store) -> None:
    job_id = store.enqueue()
    store.run(jobs.mark_waited_for(store.queries, job_id))
    ear = store.session()
    ear.rows('listen "pgqueue/results"')
    ear.rows("listen pgqueue")
    store.cancel([job_id])
    assert listened(ear.conn) == [job_id]
    assert store.claim(store.worker()) == []


@pytest.mark.parametrize("state", ["failed", "cancelled", "expired", "succeeded"])
def test_only_what_did_not_succeed_gets_a_new_life(store: Store, state: str) -> None:
    (attempt,) = claimed(store, args="[1]", priority=2, expires_in=60.0)
    store.finish([attempt], state, error='{"type": "E"}' if state == "failed" else None)
    if state == "succeeded":
        assert store.revive([attempt.job.id]) == []
        store.finished(attempt.job.id)
        return
    assert store.revive([attempt.job.id, attempt.job.id]) == [attempt.job.id]
    row = store.live(attempt.job.id)
    assert (row["state"], row["attempt"], row["lost"], row["args"], row["priority"]) == ("available", 0, 0, "[1]", 2)
    assert (row["expires_at"], row["claim_token"], row["cancel_asked"]) == (None, None, False)
    assert store.revive([attempt.job.id]) == []


# --- partitions


def test_partitions_are_made_once_and_take_the_rows_of_their_day(store: Store) -> None:
    assert store.value("select pgqueue.ensure_partitions(40)") == 0
    assert store.value("select pgqueue.ensure_partitions(42)") == 4
    attempts = claimed(store)
    store.finish(attempts, keep=41 * 86_400.0)
    day = store.value("select to_char((now() at time zone 'UTC')::date + 41, 'YYYYMMDD')")
    assert store.value("select tableoid::regclass::text from pgqueue.finished_jobs") == f"pgqueue.finished_jobs_{day}"


def test_without_a_partition_a_finish_says_so_and_changes_nothing(store: Store) -> None:
    attempts = claimed(store)
    with pytest.raises(psycopg.errors.CheckViolation, match="no partition of relation"):
        store.finish(attempts, keep=80 * 86_400.0)
    assert store.states([attempts[0].job.id]) == ["running"]


def test_partitions_are_made_beside_an_idle_reader_and_by_one_at_a_time(store: Store) -> None:
    reader, maker = store.session(), store.session()
    reader.conn.autocommit = False
    reader.rows("select * from pgqueue.finished_jobs")
    assert store.value("select pgqueue.ensure_partitions(41)") == 2
    with maker.conn.transaction():
        assert maker.value("select pgqueue.ensure_partitions(42)") == 2
        assert store.value("select pgqueue.ensure_partitions(43)") == 0
        assert store.finish(claimed(store)) == []
