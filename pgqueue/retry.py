"""When an attempt fails: how long to wait before the next one, or whether to give up."""

import random
from collections.abc import Callable
from datetime import timedelta
from typing import Any, NamedTuple

__all__ = ["Policy", "RetryPolicy", "deadline", "fibonacci", "linear"]

MAX_DELAY_SECONDS = 10 * 365 * 86_400.0

# (attempt, error, elapsed, request) -> seconds or a timedelta until the next attempt, or None to give up.
Policy = Callable[[int, BaseException, float, Any], float | timedelta | None]


class RetryPolicy(NamedTuple):
    """The retry options of a task, with Celery's meaning and defaults (userguide/tasks, "Automatic retry").

    Args:
        max_retries: attempts after the first; None retries for ever.
        default_delay: seconds between attempts without backoff.
        backoff: False, or the factor in seconds of an exponential backoff (True means 1).
        backoff_max: upper bound of the backoff, in seconds.
        jitter: take a random delay between zero and the backoff.
        retry_for: errors that are retried without an explicit retry().
        never_for: errors that are not, even when retry_for matches.
        decide: a policy that gives the delays instead.
    """

    max_retries: int | None = 3
    default_delay: float = 180.0
    backoff: float | bool = False
    backoff_max: float = 600.0
    jitter: bool = True
    retry_for: tuple[type[BaseException], ...] = ()
    never_for: tuple[type[BaseException], ...] = ()
    decide: Policy | None = None

    def retries(self, error: BaseException) -> bool:
        """Whether this error is retried by itself."""
        return isinstance(error, self.retry_for) and not isinstance(error, self.never_for)

    def exhausted(self, retries: int) -> bool:
        """Whether a job that was retried `retries` times has no retry left."""
        return self.max_retries is not None and retries >= self.max_retries

    def delay(self, retries: int) -> float:
        """Return the seconds to wait before the retry that follows `retries` earlier ones."""
        if not self.backoff:
            return self.default_delay
        # 2 ** retries would overflow a float long before 10 years pass.
        seconds = min(self.backoff_max, float(self.backoff) * 2 ** min(retries, 64))
        return max(0.0, random.uniform(0, seconds) if self.jitter else seconds)

    def next_delay(self, error: BaseException, elapsed: float, request: Any) -> float | None:
        """Return the seconds to wait before the next attempt, None when the policy gives up.

        Args:
            error: that ended this attempt; retries() has said that it is retried.
            elapsed: seconds since the job began for the first time.
            request: the job's, of this attempt.

        Raises:
            TypeError, ValueError: the policy gave neither a number nor None.
            Exception: what the policy raises.
        """
        if self.decide is None:
            return self.delay(request.retries)
        given = self.decide(request.retries + 1, error, elapsed, request)
        if given is None:
            return None
        seconds = given.total_seconds() if isinstance(given, timedelta) else given
        if isinstance(seconds, bool) or not isinstance(seconds, int | float) or seconds != seconds:
            raise ValueError(f"the retry policy gave {given!r}; expected seconds, a timedelta or None")
        return min(max(float(seconds), 0.0), MAX_DELAY_SECONDS)


def linear(step: float, most: float = 600.0) -> Policy:
    """Return a policy that waits `step` seconds, then twice, three times as long, up to `most` seconds."""
    return lambda attempt, error, elapsed, request: min(step * attempt, most)


def fibonacci(unit: float = 1.0, most: float = 600.0) -> Policy:
    """Return a policy that waits 1, 1, 2, 3, 5, 8, … times `unit` seconds, up to `most` seconds."""

    def decide(attempt: int, error: BaseException, elapsed: float, request: Any) -> float:
        before, now = 0, 1
        for _ in range(min(attempt, 90) - 1):
            before, now = now, before + now
        return min(unit * now, most)

    return decide


def deadline(seconds: float | timedelta, then: Policy) -> Policy:
    """Return a policy that gives up when the next attempt would begin too late.

    Args:
        seconds: after the job's first start in which its last attempt may begin.
        then: the policy that gives the delays until then.
    """
    limit = seconds.total_seconds() if isinstance(seconds, timedelta) else float(seconds)

    def decide(attempt: int, error: BaseException, elapsed: float, request: Any) -> float | timedelta | None:
        delay = then(attempt, error, elapsed, request)
        if delay is None:
            return None
        wait = delay.total_seconds() if isinstance(delay, timedelta) else delay
        return delay if elapsed + wait <= limit else None

    return decide
