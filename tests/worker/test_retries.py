"""Retries: asked for by the task, by its declaration, refused, exhausted; and what is kept of each attempt."""

import functools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgqueue import Ignore, MaxRetriesExceededError, PgQueue, Reject, Retry
from tests.support.process import wait_until
from tests.worker.conftest import Rows


class Unreachable(Exception):
    pass


class Refused(Unreachable):
    pass


def runs_again(rows: Rows, job_id: str, after: int) -> bool:
    return bool(rows.job(job_id)["attempt"] == after + 1)


def test_retry_runs_the_job_again_with_the_same_arguments(app: PgQueue, rows: Rows) -> None:
    @app.task(bind=True)
    def flaky(self: Any, n: int, *, to: str) -> str:
        if self.request.retries < 2:
            raise self.retry(exc=Unreachable(f"no answer {self.request.retries}"), countdown=0)
        return f"{n} {to} after {self.request.retries} retries, attempt {self.request.attempt}"

    with app.worker(pool="threads", concurrency=1):
        result = flaky.delay(1, to="x")
        assert result.get(timeout=30) == "1 x after 2 retries, attempt 3"
    row = rows.job(result.id)
    assert (row["state"], row["attempt"], row["lost"]) == ("succeeded", 3, 0)
    attempts = rows.attempts(result.id)
    assert [(a["attempt"], a["outcome"], a["error"]["message"]) for a in attempts] == [
        (1, "retried", "no answer 0"),
        (2, "retried", "no answer 1"),
    ]
    assert all(a["error"]["type"].endswith("Unreachable") for a in attempts)
    assert all(a["worker_id"] is not None and a["started_at"] < a["ended_at"] for a in attempts)


def test_a_coroutine_retries_too(app: PgQueue) -> None:
    @app.task(bind=True)
    async def flaky(self: Any) -> int:
        if self.request.retries < 1:
            raise self.retry(countdown=0)
        return int(self.request.attempt)

    with app.worker(concurrency=1):
        assert flaky.delay().get(timeout=30) == 2


def test_countdown_and_eta_say_when(app: PgQueue, rows: Rows) -> None:
    far = datetime(2030, 1, 1, 12, tzinfo=UTC)

    @app.task(bind=True)
    def later(self: Any, /, **when: Any) -> None:
        self.retry(exc=Unreachable("later"), **when)

    @app.task(bind=True, default_retry_delay=70)
    def by_default(self: Any) -> None:
        self.retry()

    with app.worker(pool="threads", concurrency=1):
        in_seconds = later.delay(countdown=100)
        at = later.delay(eta=far)
        default = by_default.delay()
        for result in (in_seconds, at, default):
            rows.until(result.id, "scheduled")
    for result, seconds in ((in_seconds, 100), (default, 70)):
        row, (attempt,) = rows.job(result.id), rows.attempts(result.id)
        assert row["run_at"] - attempt["ended_at"] == timedelta(seconds=seconds)
        assert (row["attempt"], row["worker_id"], row["started_at"]) == (1, None, None)
        assert result.state == "RETRY"
    assert abs(rows.job(at.id)["run_at"] - far) < timedelta(seconds=1)
    assert str(in_seconds.result) == "later"


def test_a_retry_may_change_arguments_queue_and_priority(app: PgQueue, rows: Rows) -> None:
    @app.task(bind=True)
    def step(self: Any, n: int, unit: str = "m") -> Any:
        if n < 2:
            self.retry(args=[n + 1], kwargs={"unit": "km"}, queue="slow", priority=n + 5, countdown=0)
        return [n, unit, self.request.queue, self.request.priority]

    with app.worker(pool="threads", concurrency=1, queues=["default", "slow"]):
        result = step.delay(0)
        assert result.get(timeout=30) == [2, "km", "slow", 6]
    row = rows.job(result.id)
    assert (row["args"], row["kwargs"], row["queue"], row["priority"]) == ([2], {"unit": "km"}, "slow", 6)


def test_arguments_that_do_not_fit_fail_the_attempt(app: PgQueue, rows: Rows) -> None:
    @app.task(bind=True)
    def step(self: Any, n: int) -> None:
        self.retry(args=[1, 2, 3], countdown=0)

    with app.worker(pool="threads", concurrency=1):
        row = rows.end_of(step.delay(0).id)
    assert (row["state"], row["error_type"]) == ("failed", "pgqueue.errors.ArgumentsError")


def test_exhausted_retries_raise_the_error_or_say_so(app: PgQueue, rows: Rows) -> None:
    @app.task(bind=True, max_retries=1)
    def with_error(self: Any) -> None:
        self.retry(exc=ValueError("the cause"), countdown=0)

    @app.task(bind=True, max_retries=1)
    def without(self: Any) -> None:
        self.retry(countdown=0)

    @app.task(bind=True)
    def own_limit(self: Any) -> None:
        self.retry(exc=KeyError("own"), max_retries=2, countdown=0)

    with app.worker(pool="threads", concurrency=1):
        first, second, third = with_error.delay(), without.delay(), own_limit.delay()
        fourth = with_error.apply_async(max_retries=0)
        with pytest.raises(ValueError, match="the cause"):
            first.get(timeout=30)
        with pytest.raises(MaxRetriesExceededError, match="1 times"):
            second.get(timeout=30)
        with pytest.raises(KeyError):
            third.get(timeout=30)
        with pytest.raises(ValueError, match="the cause"):
            fourth.get(timeout=30)
    assert [rows.job(r.id)["attempt"] for r in (first, second, third, fourth)] == [2, 2, 3, 1]
    assert [a["outcome"] for a in rows.attempts(first.id)] == ["retried", "failed"]


def test_declared_errors_are_retried_and_excluded_ones_are_not(app: PgQueue, rows: Rows) -> None:
    @app.task(
        bind=True,
        autoretry_for=(Unreachable,),
        dont_autoretry_for=(Refused,),
        retry_kwargs={"max_retries": 2, "countdown": 0},
    )
    def ask(self: Any, error: str) -> int:
        if error == "refused":
            raise Refused("no")
        if error == "other":
            raise LookupError("what?")
        if error == "always" or self.request.retries == 0:
            raise Unreachable("wait")
        return int(self.request.attempt)

    with app.worker(pool="threads", concurrency=1):
        assert ask.delay("once").get(timeout=30) == 2
        ends = {error: rows.end_of(ask.delay(error).id) for error in ("always", "refused", "other")}
    assert {error: (row["state"], row["attempt"]) for error, row in ends.items()} == {
        "always": ("failed", 3),
        "refused": ("failed", 1),
        "other": ("failed", 1),
    }
    assert ends["always"]["error_type"].endswith("Unreachable")


def test_the_backoff_decides_the_delay(app: PgQueue, rows: Rows) -> None:
    @app.task(autoretry_for=(Unreachable,), retry_backoff=40, retry_backoff_max=100, retry_jitter=False, max_retries=5)
    def ask() -> None:
        raise Unreachable("wait")

    with app.worker(pool="threads", concurrency=1):
        result = ask.delay()
        delays = []
        for n in range(1, 4):
            row = rows.until(result.id, "scheduled")
            assert row["attempt"] == n
            delays.append((row["run_at"] - rows.attempts(result.id)[-1]["ended_at"]).total_seconds())
            rows.execute("update pgqueue.live_jobs set run_at = clock_timestamp() where id = %s", [result.id])
            if n < 3:
                wait_until(functools.partial(runs_again, rows, result.id, n))
    assert delays == [40, 80, 100]


def test_expected_errors_fail_quietly(app: PgQueue, rows: Rows, caplog: pytest.LogCaptureFixture) -> None:
    @app.task(throws=(LookupError,))
    def find(known: bool) -> None:
        raise KeyError("expected") if known else ValueError("surprise")

    with app.worker(pool="threads", concurrency=1):
        expected, surprise = rows.end_of(find.delay(True).id), rows.end_of(find.delay(False).id)
    assert expected["state"] == surprise["state"] == "failed"
    errors = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert len(errors) == 1
    assert "surprise" in errors[0]
    assert str(surprise["id"]) in errors[0]


def test_ignore_reject_and_requeue(app: PgQueue, rows: Rows) -> None:
    seen: list[int] = []

    @app.task
    def ignored() -> str:
        raise Ignore

    @app.task
    def rejected() -> None:
        raise Reject("no such customer")

    @app.task(bind=True)
    def requeued(self: Any) -> str:
        seen.append(self.request.retries)
        if len(seen) < 3:
            raise Reject("not now", requeue=True)
        return "done"

    with app.worker(pool="threads", concurrency=1):
        ends = [rows.end_of(result.id) for result in (ignored.delay(), rejected.delay())]
        assert requeued.delay().get(timeout=30) == "done"
    assert [(row["state"], row["result"], row["error"]) for row in ends] == [
        ("succeeded", None, None),
        ("failed", None, "no such customer"),
    ]
    assert len(seen) == 3


def test_a_retry_raised_by_hand_counts_like_one_asked_for(app: PgQueue) -> None:
    @app.task(bind=True)
    def again(self: Any) -> int:
        if self.request.retries == 0:
            raise Retry("once more", when=0)
        return int(self.request.retries)

    with app.worker(pool="threads", concurrency=1):
        assert again.delay().get(timeout=30) == 1


def test_retry_from_an_except_block_keeps_the_error_being_handled(app: PgQueue, rows: Rows) -> None:
    @app.task(bind=True)
    def ask(self: Any) -> str:
        if self.request.retries:
            return "answered"
        try:
            raise Unreachable("the first time")
        except Unreachable:
            self.retry(countdown=0)
            raise

    with app.worker(pool="threads", concurrency=1):
        result = ask.delay()
        assert result.get(timeout=30) == "answered"
    (attempt,) = rows.attempts(result.id)
    assert attempt["error"]["message"] == "the first time"
    assert "raise Unreachable" in attempt["traceback"]
