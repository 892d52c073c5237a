"""RetryPolicy: which errors are retried, and after how long."""

import pytest

from pgqueue.retry import RetryPolicy


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
