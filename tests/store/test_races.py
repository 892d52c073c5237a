"""Two sessions, every order: each fenced transition has one winner, and a job is never in two places.

The first session acts in an open transaction, the second one starts and is seen to wait for it, then the first commits
or rolls back. Nothing here depends on time.
"""

import functools
import itertools
import random
import time
from collections.abc import Callable, Iterator
from typing import Any

import psycopg
import pytest

from pgqueue.job import NewJob, new_job_id
from pgqueue.store import claims, jobs
from pgqueue.worker.lanes import END
from tests.store.store import Attempt, Store

FAILED = '{"type": "E"}'


class Scene:
    """One running job, and everything that may be done to it."""

    def __init__(self, store: Store) -> None:
        self.worker = store.worker()
        self.job_id = store.enqueue()
        (self.attempt,) = store.claim(self.worker)
        store.expire(self.worker)

    def acts(self) -> dict[str, Callable[[Store], bool]]:
        """Name to an act that says whether it changed what becomes of the job."""
        attempt = self.attempt
        return {
            "finish": lambda store: not store.finish([attempt]),
            "fail": lambda store: not store.finish([attempt], "failed", error=FAILED),
            "retry": lambda store: not store.retry([attempt]),
            "release": lambda store: not store.release([attempt]),
            "lose": lambda store: bool(store.lose([attempt])),
            "rescue": lambda store: bool(store.rescue()),
            "delete": lambda store: bool(store.conn.execute("delete from pgqueue.live_jobs").rowcount),
        }


ACTS = ["finish", "fail", "retry", "release", "lose", "rescue", "delete"]
AFTER = {
    "finish": ["succeeded"],
    "fail": ["failed"],
    "retry": ["available"],
    "release": ["available"],
    "lose": ["available"],
    "rescue": ["available"],
    "delete": [],
}


@pytest.mark.parametrize("first", ACTS)
def test_of_two_transitions_of_an_attempt_the_first_wins(store: Store, first: str) -> None:
    one, two = store.session(), store.session()
    for second, commits in itertools.product(ACTS, [True, False]):
        said = f"{first}, {'commit' if commits else 'rollback'}, {second}"
        scene = Scene(store)
        acts = scene.acts()
        one.conn.execute("begin")
        assert acts[first](one), said
        waiting = two.start(functools.partial(acts[second], two), watched_by=store)
        skips = second == "rescue"  # it passes over what another holds
        deletes_what_is_left = second == "delete" and AFTER[first] == ["available"]
        assert waiting.done() == skips, said
        one.conn.execute("commit" if commits else "rollback")
        won = waiting.result(30)
        found = store.rows("select state from pgqueue.all_jobs where id = %s", [scene.job_id])
        if deletes_what_is_left or (not commits and not skips):
            assert won, said
            assert found == [(state,) for state in AFTER[second]], said
        elif commits:
            assert not won, said
            assert found == [(state,) for state in AFTER[first]], said
        else:
            assert found == [("running",)], said
        store.rows("delete from pgqueue.live_jobs")
        store.rows("delete from pgqueue.workers")


@pytest.mark.parametrize("second", ["finish", "fail", "retry", "release", "lose", "rescue"])
@pytest.mark.parametrize("first", ["cancel", "wait", "progress"])
def test_a_row_that_changes_while_an_ending_waits_for_it_ends_as_it_is_now(
    store: Store, first: str, second: str
) -> None:
    scene = Scene(store)
    one, two = store.session(), store.session()
    one.conn.execute("begin")
    if first == "cancel":
        assert one.cancel([scene.job_id], terminate=True) == {scene.job_id: "asked"}
    elif first == "wait":
        one.run(jobs.mark_waited_for(one.queries, scene.job_id))
    else:
        one.run(jobs.update_progress(one.queries, scene.job_id, scene.attempt.token, '{"state": "HALF"}'))
    acts = scene.acts()
    waiting = two.start(lambda: acts[second](two), watched_by=store)
    assert waiting.done() == (second == "rescue"), "a rescue comes back later"
    one.conn.execute("commit")
    assert waiting.result(30) == (second != "rescue")
    assert second != "rescue" or acts[second](two)
    # A wish to cancel that came first is never forgotten; what has ended by itself has ended.
    asked = first == "cancel" and second not in ("finish", "fail")
    assert store.states([scene.job_id]) == (["cancelled"] if asked else AFTER[second])


@pytest.mark.parametrize("first", ["finish", "fail", "retry", "release", "lose", "rescue", "delete"])
def test_a_cancel_that_comes_second_finds_the_job_as_it_is_then(store: Store, first: str) -> None:
    scene = Scene(store)
    one, two = store.session(), store.session()
    one.conn.execute("begin")
    assert scene.acts()[first](one)
    waiting = two.start(lambda: two.cancel([scene.job_id], terminate=True), watched_by=store)
    assert not waiting.done()
    one.conn.execute("commit")
    back = AFTER[first] == ["available"]
    assert waiting.result(30) == ({scene.job_id: "cancelled"} if back else {})
    found = store.rows("select state from pgqueue.all_jobs where id = %s", [scene.job_id])
    assert found == [(state,) for state in (["cancelled"] if back else AFTER[first])]


def test_cancel_and_claim_of_one_job_in_both_orders(store: Store) -> None:
    worker = store.worker()
    other = store.session()
    # The claim passes over a job that is being cancelled…
    job_id = store.enqueue()
    other.conn.execute("begin")
    assert other.cancel([job_id]) == {job_id: "cancelled"}
    assert store.claim(worker) == []
    other.conn.execute("commit")
    assert store.states([job_id]) == ["cancelled"]
    # … and takes it if the cancel comes to nothing.
    job_id = store.enqueue()
    other.conn.execute("begin")
    other.cancel([job_id])
    assert store.claim(worker) == []
    other.conn.execute("rollback")
    assert [attempt.job.id for attempt in store.claim(worker)] == [job_id]
    # A cancel waits for a claim and then finds the job running.
    job_id = store.enqueue()
    other.conn.execute("begin")
    (attempt,) = other.claim(worker)
    late = store.session()
    waiting = late.start(lambda: late.cancel([job_id], terminate=True), watched_by=store)
    assert not waiting.done()
    other.conn.execute("commit")
    assert waiting.result(30) == {job_id: "asked"}
    assert store.finish([attempt], "cancelled") == []
    assert store.states([job_id]) == ["cancelled"]


def test_a_waiter_that_marks_a_job_never_keeps_it_from_being_claimed_for_long(store: Store) -> None:
    """A claim skips the locked row: the commit that unlocks it must wake whoever went to sleep meanwhile."""
    worker, waiter, sleeper = store.worker(), store.session(), store.session()
    job_id = store.enqueue()
    sleeper.rows("listen pgqueue")
    assert sleeper.run(claims.fall_asleep(sleeper.queries, ["default"]))[2]
    waiter.conn.execute("begin")
    waiter.run(jobs.mark_waited_for(waiter.queries, job_id))
    assert store.claim(worker) == []
    waiter.conn.execute("commit")
    key = store.value("select pgqueue.queue_key('default')")
    assert next(sleeper.conn.notifies(timeout=30)).payload == f"w{key}"
    assert [attempt.job.id for attempt in store.claim(worker)] == [job_id]


def test_two_claims_take_different_jobs(store: Store) -> None:
    worker, other = store.worker(), store.session()
    ids = store.enqueue_many(6)
    other.conn.execute("begin")
    theirs = other.claim(worker, 3)
    ours = store.claim(worker, 6)
    other.conn.execute("commit")
    assert [attempt.job.id for attempt in theirs] == ids[:3]
    assert [attempt.job.id for attempt in ours] == ids[3:]


def test_a_rescue_sees_the_claim_that_came_before_it_and_refuses_the_one_after(store: Store) -> None:
    worker, zombie = store.worker(), store.session()
    first, second = store.enqueue(), store.enqueue()
    store.expire(worker)
    zombie.conn.execute("begin")
    zombie.claim(worker, 1)
    assert store.rescue() == {}  # its row is held: not rescued at half
    zombie.conn.execute("commit")
    rescuer = store.session()
    rescuer.conn.execute("begin")
    assert rescuer.rescue() == {first: "available"}
    waiting = zombie.start(lambda: zombie.claim(worker), watched_by=store)
    assert not waiting.done()
    rescuer.conn.execute("commit")
    with pytest.raises(psycopg.Error) as refused:
        waiting.result(30)
    assert refused.value.sqlstate == "PGQ01"
    assert store.states([first, second]) == ["available"] * 2


@pytest.mark.parametrize("commits", [True, False])
def test_an_own_id_is_enqueued_once_beside_a_finish_in_flight(store: Store, commits: bool) -> None:
    job = NewJob(id=new_job_id(), task="t", queue="default", own_id=True)
    store.run(jobs.insert_job(store.queries, job))
    attempts = store.claim(store.worker())
    one, two = store.session(), store.session()
    one.conn.execute("begin")
    one.finish(attempts)
    waiting = two.start(lambda: two.run(jobs.insert_job(two.queries, job)), watched_by=store)
    assert not waiting.done()
    one.conn.execute("commit" if commits else "rollback")
    assert waiting.result(30) is False
    assert store.states([job.id]) == ["succeeded" if commits else "running"]


@pytest.mark.parametrize("commits", [True, False])
def test_an_own_id_is_enqueued_once_beside_another_enqueue_in_flight(store: Store, commits: bool) -> None:
    job = NewJob(id=new_job_id(), task="t", queue="default", own_id=True)
    one, two = store.session(), store.session()
    one.conn.execute("begin")
    assert one.run(jobs.insert_job(one.queries, job)) is True
    waiting = two.start(lambda: two.run(jobs.insert_job(two.queries, job)), watched_by=store)
    assert not waiting.done()
    one.conn.execute("commit" if commits else "rollback")
    assert waiting.result(30) is not commits
    assert store.states([job.id]) == ["available"]


@pytest.mark.parametrize("commits", [True, False])
def test_a_revival_happens_once_and_beside_an_enqueue_of_the_same_id(store: Store, commits: bool) -> None:
    job = NewJob(id=new_job_id(), task="t", queue="default", own_id=True)
    store.run(jobs.insert_job(store.queries, job))
    store.cancel([job.id])
    one, two, three = store.session(), store.session(), store.session()
    one.conn.execute("begin")
    assert one.revive([job.id]) == [job.id]
    again = two.start(lambda: two.revive([job.id]), watched_by=store)
    insert = three.start(lambda: three.run(jobs.insert_job(three.queries, job)), watched_by=store)
    assert not again.done()
    assert not insert.done()
    one.conn.execute("commit" if commits else "rollback")
    assert again.result(30) == ([] if commits else [job.id])
    assert insert.result(30) is False
    assert store.states([job.id]) == ["available"]


def test_batches_in_opposite_order_do_not_deadlock(store: Store) -> None:
    worker = store.worker()
    store.enqueue_many(2)
    low, high = sorted(store.claim(worker), key=lambda attempt: attempt.job.id)
    one, two, holder = store.session(), store.session(), store.session()
    holder.conn.execute("begin")
    holder.rows("select from pgqueue.live_jobs where id = %s for update", [low.job.id])
    # Whatever order they are named in, both wait for the lower id, and hold nothing.
    first = one.start(lambda: one.finish([high, low]), watched_by=store)
    second = two.start(lambda: two.retry([low, high]), watched_by=store)
    assert store.rows("select id::text from pgqueue.live_jobs order by id for update skip locked") == [(high.job.id,)]
    holder.conn.execute("commit")
    assert sorted(map(len, (first.result(30), second.result(30)))) == [0, 2]


# --- many interleavings


class Turns:
    """A random choice that is written down, for the message of a failure."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.steps: list[str] = []

    def of(self, options: list[str]) -> str:
        self.steps.append(self.random.choice(options))
        return self.steps[-1]


def _interleave(store: Store, one: Store, two: Store, worker: int, turns: Turns) -> Iterator[tuple[str, Any]]:
    """Two sessions act on one job, the first one in an open transaction; yields what each did."""
    acts: dict[str, Callable[[Store, Attempt, str], Any]] = {
        "finish": lambda s, a, _: not s.finish([a]),
        "fail": lambda s, a, _: not s.finish([a], "failed", error=FAILED),
        "retry": lambda s, a, _: not s.retry([a]),
        "release": lambda s, a, _: not s.release([a]),
        "cancel": lambda s, _, job_id: s.cancel([job_id], terminate=True).get(job_id) == "cancelled",
        "ask": lambda s, _, job_id: s.cancel([job_id], terminate=False).get(job_id) == "cancelled",
        "claim": lambda s, _, __: not s.claim(worker, 1),
        "wait": lambda s, _, job_id: s.run(jobs.mark_waited_for(s.queries, job_id)),
    }
    job_id = store.enqueue()
    (attempt,) = store.claim(worker, 1)
    if turns.of(["running", "available"]) == "available":
        store.release([attempt])
    names = list(acts)
    first, second = turns.of(names), turns.of(names)
    one.conn.execute("begin")
    ended = first, acts[first](one, attempt, job_id)
    waiting = two._threads.submit(acts[second], two, attempt, job_id)
    if turns.of(["commit", "rollback"]) == "rollback":
        ended = first, False
    one.conn.execute(turns.steps[-1])
    yield ended
    yield second, waiting.result(30)
    yield job_id, None


def test_random_interleavings_leave_each_job_in_one_place(store: Store) -> None:
    """For twelve seconds; a failure names its seed and its steps."""
    one, two, worker = store.session(), store.session(), store.worker()
    until = time.monotonic() + 12
    while time.monotonic() < until:
        turns = Turns(random.randrange(2**32))
        said = f"seed {turns.seed}"
        (first, one_did), (second, two_did), (job_id, _) = _interleave(store, one, two, worker, turns)
        said = f"{said}: {turns.steps}"
        found = store.rows(
            """select state, (select count(*) from pgqueue.attempts where job_id = id)
               from pgqueue.all_jobs where id = %s""",
            [job_id],
        )
        assert len(found) == 1, said
        ((state, failures),) = found
        terminal = {"finish": "succeeded", "fail": "failed", "cancel": "cancelled", "ask": "cancelled"}
        ends = [name for name, did in ((first, one_did), (second, two_did)) if did and name in terminal]
        assert len(ends) <= 1 or (set(ends) <= {"cancel", "ask"}), said
        if ends:
            assert state == terminal[ends[0]], said
        retried = [did for name, did in ((first, one_did), (second, two_did)) if name in ("fail", "retry")]
        assert failures == sum(map(bool, retried)), said
        store.rows("delete from pgqueue.live_jobs where id = %s", [job_id])


def test_a_late_commit_is_found_whatever_was_claimed_meanwhile(store: Store) -> None:
    worker, writer = store.worker(), store.session()
    writer.conn.execute("begin")
    late = writer.enqueue()
    others = store.enqueue_many(3)
    assert [attempt.job.id for attempt in store.claim(worker)] == others
    writer.conn.execute("commit")
    assert [a.job.id for a in store.claim(worker, ranges=[("default", 0, 0, END)])] == [late]
