"""The functions of the schema against a model: whatever is done in whatever order, every job is in exactly one place.

The model knows of each job its state, attempts and losses; after each step the tables must say the same, and no state
may have been left that cannot be left.
"""

from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    rule,
    run_state_machine_as_test,
)

from pgqueue.job import NewJob, new_job_id
from pgqueue.store import jobs
from tests.store.store import Attempt, Store

TERMINAL = {"succeeded", "failed", "cancelled", "expired"}
LOST_LIMIT = 3


class Known:
    """What the model knows of a job."""

    def __init__(self, state: str) -> None:
        self.state = state
        self.attempt = self.lost = 0
        self.recorded = False
        self.token: int | None = None
        self.worker: int | None = None
        self.asked = False

    def ends(self, state: str) -> None:
        assert self.state not in TERMINAL
        self.state, self.token, self.worker = state, None, None

    def gives_back(self, state: str = "available") -> None:
        self.ends("cancelled" if self.asked else state)


class Life(RuleBasedStateMachine):
    """One database, many jobs."""

    store: Store

    jobs = Bundle("jobs")
    attempts = Bundle("attempts")

    def __init__(self) -> None:
        super().__init__()
        self.store.rows("truncate pgqueue.live_jobs, pgqueue.finished_jobs, pgqueue.attempts, pgqueue.workers")
        self.known: dict[str, Known] = {}
        self.workers = {self.store.worker(name=name, once=["once"]): True for name in "ab"}
        self.spent = 0  # attempts that must have a row of their own

    # --- in

    @rule(
        target=jobs, delayed=st.booleans(), task=st.sampled_from(["t", "t", "once"]), count=st.sampled_from([1, 1, 3])
    )
    def enqueue(self, delayed: bool, task: str, count: int) -> Any:
        ids = self.store.enqueue_many(count, task=task, delay=3600.0 if delayed else None)
        self.known |= {job_id: Known("scheduled" if delayed else "available") for job_id in ids}
        return multiple(*ids)

    @rule(job=jobs)
    def enqueue_own_id_again(self, job: str) -> None:
        new = NewJob(id=job, task="t", queue="default", own_id=True)
        fresh = job not in self.known
        assert self.store.run(jobs.insert_job(self.store.queries, new)) is fresh
        if fresh:
            self.known[job] = Known("available")

    @rule(target=jobs)
    def enqueue_own_id(self) -> str:
        job_id = new_job_id()
        self.enqueue_own_id_again(job_id)
        return job_id

    @rule(job=jobs)
    def advance_due(self, job: str) -> None:
        self.store.rows("update pgqueue.live_jobs set run_at = now() where id = %s and state = 'scheduled'", [job])
        self.store.rows("select pgqueue.stage_jobs('-infinity', 10)")
        if job in self.known and self.known[job].state == "scheduled":
            self.known[job].state = "available"

    # --- claim

    @rule(target=attempts, limit=st.integers(0, 4), which=st.integers(0, 1))
    def claim(self, limit: int, which: int) -> Any:
        worker = list(self.workers)[which % len(self.workers)]
        taken = self.store.claim(worker, limit)
        free = [job_id for job_id, known in self.known.items() if known.state == "available"]
        assert len(taken) == min(limit, len(free))
        for attempt in taken:
            known = self.known[attempt.job.id]
            assert known.state == "available"
            known.state, known.token, known.worker = "running", attempt.token, worker
            known.attempt += 1
            known.recorded = False
            assert (attempt.job.attempt, attempt.job.lost) == (known.attempt, known.lost)
        return multiple(*taken)

    # --- out

    def fenced(self, attempt: Attempt) -> Known | None:
        """What the model knows if this attempt is still the job's own."""
        known = self.known.get(attempt.job.id)
        return known if known is not None and known.token == attempt.token else None

    @rule(attempt=attempts, state=st.sampled_from(["succeeded", "failed", "cancelled", "expired"]))
    def finish(self, attempt: Attempt, state: str) -> None:
        lost = self.store.finish([attempt], state, error="{}" if state == "failed" else None)
        known = self.fenced(attempt)
        assert lost == ([] if known else [attempt.job.id])
        if known:
            known.ends(state)
            self.spent += state == "failed"

    @rule(attempts=st.lists(attempts, max_size=5))
    def finish_batch(self, attempts: list[Attempt]) -> None:
        lost = self.store.finish(attempts)
        own = {attempt.job.id for attempt in attempts if self.fenced(attempt)}
        assert set(lost) == {attempt.job.id for attempt in attempts} - own
        for job_id in own:
            self.known[job_id].ends("succeeded")

    @rule(attempt=attempts, delay=st.sampled_from([0.0, 3600.0]))
    def retry(self, attempt: Attempt, delay: float) -> None:
        lost = self.store.retry([attempt], delay)
        known = self.fenced(attempt)
        assert lost == ([] if known else [attempt.job.id])
        if known:
            known.gives_back("scheduled" if delay else "available")
            self.spent += 1

    @rule(attempt=attempts)
    def release(self, attempt: Attempt) -> None:
        lost = self.store.release([attempt])
        known = self.fenced(attempt)
        assert lost == ([] if known else [attempt.job.id])
        if known:
            known.gives_back()
            known.attempt -= 1

    def goes_back(self, job_id: str) -> str:
        known = self.known[job_id]
        known.gives_back()
        known.attempt -= 1
        return known.state

    def loses(self, job_id: str) -> str:
        known = self.known[job_id]
        known.lost += 1
        self.spent += 1
        ends = known.lost >= LOST_LIMIT or self.task(job_id) == "once"
        known.gives_back("failed" if ends else "available")
        return known.state

    def task(self, job_id: str) -> str:
        return str(self.store.value("select task from pgqueue.all_jobs where id = %s", [job_id]))

    @rule(attempt=attempts)
    def record(self, attempt: Attempt) -> None:
        known = self.fenced(attempt)
        assert self.store.record([attempt]) == ({attempt.job.id} if known else set())
        if known:
            known.recorded = True

    @rule(attempt=attempts)
    def lose(self, attempt: Attempt) -> None:
        ended = self.store.lose([attempt], LOST_LIMIT, ["once"])
        known = self.fenced(attempt)
        assert ended == ({attempt.job.id: self.loses(attempt.job.id)} if known else {})

    @rule(which=st.integers(0, 1), batch=st.integers(1, 3))
    def kill_worker(self, which: int, batch: int) -> None:
        dead = list(self.workers)[which]
        self.store.expire(dead)
        ids = [job_id for job_id, known in self.known.items() if known.worker == dead]
        rescued = self.store.rescue(LOST_LIMIT, batch)
        assert rescued == {i: self.loses(i) if self.known[i].recorded else self.goes_back(i) for i in ids}
        del self.workers[dead]
        self.workers[self.store.worker(once=["once"])] = True

    @rule(ids=st.lists(jobs, max_size=4), terminate=st.booleans())
    def cancel(self, ids: list[str], terminate: bool) -> None:
        expected = {}
        for job_id in ids:
            known = self.known.get(job_id)
            if known is None or known.state in TERMINAL:
                continue
            if known.state == "running":
                known.asked |= terminate
                expected[job_id] = "asked" if terminate else "running"
            else:
                expected[job_id] = "cancelled"
        assert self.store.cancel(ids, terminate) == expected
        for job_id, outcome in expected.items():
            if outcome == "cancelled":
                self.known[job_id].ends("cancelled")

    @rule(ids=st.lists(jobs, max_size=4))
    def revive(self, ids: list[str]) -> None:
        revivable = {job_id for job_id, known in self.known.items() if known.state in TERMINAL - {"succeeded"}}
        dead = revivable & set(ids)
        assert set(self.store.revive(ids)) == dead
        for job_id in dead:
            self.known[job_id] = Known("available")

    @rule(job=consumes(jobs))
    def delete_by_hand(self, job: str) -> None:
        self.store.rows("delete from pgqueue.live_jobs where id = %s", [job])
        self.store.rows("delete from pgqueue.finished_jobs where id = %s", [job])
        self.known.pop(job, None)

    # --- always

    @invariant()
    def the_tables_say_what_the_model_says(self) -> None:
        rows = self.store.rows("select id::text, state, attempt, lost from pgqueue.all_jobs")
        assert sorted(rows) == sorted((job_id, k.state, k.attempt, k.lost) for job_id, k in self.known.items())

    @invariant()
    def what_runs_is_fenced_and_belongs_to_a_worker_that_was_not_rescued(self) -> None:
        rows = self.store.rows(
            """select j.id::text, j.claim_token, j.worker_id, w.rescued_at is null
               from pgqueue.live_jobs j left join pgqueue.workers w on w.id = j.worker_id
               where j.state = 'running' or j.claim_token is not null or j.worker_id is not null"""
        )
        running = [(job_id, k.token, k.worker, True) for job_id, k in self.known.items() if k.state == "running"]
        assert sorted(rows) == sorted(running)

    @invariant()
    def every_failed_attempt_has_its_row(self) -> None:
        assert self.store.value("select count(*) from pgqueue.attempts") == self.spent


def test_any_sequence_of_transitions_leaves_every_job_in_one_place(store: Store) -> None:
    Life.store = store
    store.rows("set synchronous_commit = off")
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=25,
            stateful_step_count=30,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
