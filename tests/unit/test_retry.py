"""RetryPolicy: which errors are retried, and after how long."""

from datetime import timedelta
from typing import Any

import pytest

from pgqueue.request import Request
from pgqueue.retry import MAX_DELAY_SECONDS, Policy, RetryPolicy, deadline, fibonacci, linear


class _Refused(ConnectionError):
    pass


def test_the_defaults_are_those_of_celery() -> None:
    policy = RetryPolicy()
    assert (policy.max_retries, policy.default_delay, policy.backoff_max, policy.jitter) == (3, 180.0, 600.0, True)
    assert policy.delay(0) == policy.delay(2) == 180.0
    assert not policy.retries(ValueError())


def test_subclasses_are_retried_unless_they_are_excluded() -> None:
    policy = RetryPolicy(retry_for=(OSError,), never_for=(_Refused,))
    assert policy.retries(ConnectionError())
    assert not policy.retries(_Refused())
    assert not policy.retries(ValueError())


@pytest.mark.parametrize(
    ("most", "retries", "exhausted"), [(3, 2, False), (3, 3, True), (0, 0, True), (None, 10**6, False)]
)
def test_retries_end_at_their_maximum(most: int | None, retries: int, exhausted: bool) -> None:
    assert RetryPolicy(max_retries=most).exhausted(retries) is exhausted


def test_the_backoff_doubles_up_to_its_bound() -> None:
    policy = RetryPolicy(backoff=2, backoff_max=100, jitter=False)
    assert [policy.delay(n) for n in range(8)] == [2, 4, 8, 16, 32, 64, 100, 100]
    assert RetryPolicy(backoff=True, jitter=False).delay(0) == 1


def test_a_backoff_of_a_thousand_retries_is_still_a_number() -> None:
    assert RetryPolicy(backoff=1.5, backoff_max=1e9, jitter=False).delay(1000) == 1e9


def test_jitter_spreads_over_the_whole_backoff() -> None:
    policy = RetryPolicy(backoff=8, backoff_max=600)
    delays = [policy.delay(1) for _ in range(300)]
    assert all(0 <= delay <= 16 for delay in delays)
    assert min(delays) < 4
    assert max(delays) > 12


def delays(policy: Policy, count: int, each: float = 0.0) -> list[float | timedelta | None]:
    """What a policy gives after each of so many attempts, each of which takes `each` seconds."""
    return [policy(n, ValueError(), n * each, Request(attempt=n)) for n in range(1, count + 1)]


def test_linear_fibonacci_and_deadline() -> None:
    assert delays(linear(10, most=35), 5) == [10, 20, 30, 35, 35]
    assert delays(fibonacci(2, most=20), 7) == [2, 2, 4, 6, 10, 16, 20]
    assert delays(fibonacci(), 200)[-1] == 600
    assert delays(deadline(60, linear(10)), 5, each=15) == [10, 20, None, None, None]
    assert delays(deadline(timedelta(seconds=60), lambda *_: timedelta(seconds=10)), 4, each=20) == [
        timedelta(seconds=10),
        timedelta(seconds=10),
        None,
        None,
    ]
    assert delays(deadline(1e9, lambda *_: None), 1) == [None]


def test_a_policy_is_told_of_the_attempt() -> None:
    told: list[Any] = []

    def decide(*of: Any) -> float:
        told.append(of)
        return 1.5

    error, request = OSError("down"), Request("id", "t.ask", attempt=4, lost=1)
    assert RetryPolicy(decide=decide).next_delay(error, 7.5, request) == 1.5
    assert told == [(3, error, 7.5, request)]


@pytest.mark.parametrize(
    ("given", "seconds"),
    [(-1, 0.0), (0, 0.0), (timedelta(minutes=1), 60.0), (1e30, MAX_DELAY_SECONDS), (float("inf"), MAX_DELAY_SECONDS)],
)
def test_what_a_policy_gives_is_bounded(given: Any, seconds: float) -> None:
    assert RetryPolicy(decide=lambda *_: given).next_delay(OSError(), 0, Request()) == seconds


@pytest.mark.parametrize("given", [float("nan"), True, "soon", [1]])
def test_what_is_no_time_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="the retry policy gave"):
        RetryPolicy(decide=lambda *_: given).next_delay(OSError(), 0, Request())


def test_without_a_policy_the_options_decide() -> None:
    assert RetryPolicy(default_delay=7).next_delay(OSError(), 0, Request()) == 7
