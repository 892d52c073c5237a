"""Retries: asked for by the task, by its declaration, refused, exhausted; and what is kept of each attempt."""

import functools
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from pgqueue import Ignore, MaxRetriesExceededError, PgQueue, Reject, Retry
from pgqueue.errors import Snooze
from pgqueue.retry import deadline, linear
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
        with pytest.raises(MaxRetriesExceededError, match="it was retried once"):
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


def test_a_policy_decides_when_and_whether(app: PgQueue, rows: Rows) -> None:
    told: list[tuple[int, str, float, int]] = []

    def decide(attempt: int, error: BaseException, elapsed: float, request: Any) -> float | None:
        told.append((attempt, str(error), elapsed, request.args[0]))
        return 0 if attempt < 6 else None

    @app.task(bind=True, retry_policy=decide, dont_autoretry_for=(Refused,))
    def ask(self: Any, n: int) -> None:
        raise Refused("no") if n == 0 else Unreachable(f"attempt {self.request.retries + 1}")

    with app.worker(pool="threads", concurrency=1):
        refused, asked = rows.end_of(ask.delay(0).id), rows.end_of(ask.delay(17).id)
    assert (refused["state"], refused["attempt"]) == ("failed", 1)
    assert (asked["state"], asked["attempt"], asked["error"]) == ("failed", 6, "attempt 6")
    assert [(attempt, error, n) for attempt, error, _, n in told] == [(n, f"attempt {n}", 17) for n in range(1, 7)]
    assert [elapsed for _, _, elapsed, _ in told] == sorted(elapsed for _, _, elapsed, _ in told)


def test_a_deadline_counts_from_the_first_start_by_the_databases_clock(app: PgQueue, rows: Rows) -> None:
    @app.task(retry_policy=deadline(3600, linear(60)))
    def ask() -> None:
        raise Unreachable("wait")

    def as_if_an_hour_had_passed(job_id: str) -> None:
        rows.execute(
            "update pgqueue.live_jobs set run_at = clock_timestamp(), options = (options::jsonb ||"
            " jsonb_build_object('since', (options ->> 'since')::timestamptz - interval '1 hour'))::json where id = %s",
            [job_id],
        )

    with app.worker(pool="threads", concurrency=1):
        result = ask.delay()
        row = rows.until(result.id, "scheduled")
        assert datetime.fromisoformat(row["options"]["since"]) == rows.attempts(result.id)[0]["started_at"]
        as_if_an_hour_had_passed(result.id)
        row = rows.end_of(result.id)
        assert (row["state"], row["attempt"]) == ("failed", 2)
        # A new life begins with a deadline of its own.
        rows.execute("select pgqueue.revive_jobs(array[%s::uuid])", [result.id])
        row = rows.until(result.id, "scheduled")
    assert row["attempt"] == 1
    assert datetime.fromisoformat(row["options"]["since"]) == rows.attempts(result.id)[-1]["started_at"]


def test_a_policy_that_fails_fails_the_job_with_its_own_error(
    app: PgQueue, rows: Rows, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: Any) -> float:
        raise ZeroDivisionError("in the policy")

    @app.task(retry_policy=broken)
    def ask() -> None:
        raise Unreachable("the cause")

    with app.worker(pool="threads", concurrency=1):
        row = rows.end_of(ask.delay().id)
    assert (row["state"], row["error"]) == ("failed", "the cause")
    assert "in the policy" in caplog.text


@pytest.mark.parametrize("transactional", [False, True])
def test_a_snooze_costs_no_attempt(app: PgQueue, rows: Rows, transactional: bool) -> None:
    seen: list[tuple[int, int]] = []

    @app.task(bind=True, max_retries=0, transactional=transactional)
    def poll(self: Any) -> str:
        seen.append((self.request.attempt, self.request.retries))
        if len(seen) == 1:
            self.snooze(countdown=0)
        if len(seen) == 2:
            raise Snooze(timedelta(0))
        return "there"

    with app.worker(pool="threads", concurrency=1):
        result = poll.delay()
        assert result.get(timeout=30) == "there"
    assert seen == [(1, 0)] * 3
    assert rows.job(result.id)["attempt"] == 1
    assert rows.attempts(result.id) == []


def test_a_snoozed_job_waits_as_if_it_had_not_begun(app: PgQueue, rows: Rows) -> None:
    far = datetime(2030, 1, 1, 12)  # noqa: DTZ001 - naive: in the app's time zone

    @app.task(bind=True)
    def in_seconds(self: Any) -> None:
        self.snooze(100)

    @app.task(bind=True)
    async def at(self: Any) -> None:
        self.snooze(eta=far)

    with app.worker(concurrency=1):
        first, second = in_seconds.delay(), at.delay()
        row, later = rows.until(first.id, "scheduled"), rows.until(second.id, "scheduled")
    assert (row["attempt"], row["started_at"], row["worker_id"], first.state) == (0, None, None, "PENDING")
    assert abs(later["run_at"] - far.replace(tzinfo=UTC)) < timedelta(seconds=1)


@pytest.mark.parametrize("when", [{}, {"countdown": 1, "eta": "2030-01-01"}, {"countdown": -1}, {"eta": "soon"}])
def test_a_snooze_without_a_time_fails(app: PgQueue, rows: Rows, when: dict[str, Any]) -> None:
    @app.task(bind=True)
    def poll(self: Any) -> None:
        self.snooze(**when)

    with app.worker(pool="threads", concurrency=1):
        row = rows.end_of(poll.delay().id)
    assert (row["state"], row["error_type"]) == ("failed", "pgqueue.errors.ValidationError")
    assert row["error"].startswith("snooze: ")


@pytest.mark.parametrize("when", [True, -1, float("nan"), "soon", datetime(2030, 1, 1)])  # noqa: DTZ001 - is refused
def test_a_snooze_raised_by_hand_names_its_time(when: Any) -> None:
    with pytest.raises(ValueError, match="Snooze: expected"):
        Snooze(when)
