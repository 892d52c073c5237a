"""When an attempt fails: how long to wait before the next one, or whether to give up."""

import random
from typing import NamedTuple

__all__ = ["RetryPolicy"]

MAX_DELAY_SECONDS = 10 * 365 * 86_400.0


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
    """

    max_retries: int | None = 3
    default_delay: float = 180.0
    backoff: float | bool = False
    backoff_max: float = 600.0
    jitter: bool = True
    retry_for: tuple[type[BaseException], ...] = ()
    never_for: tuple[type[BaseException], ...] = ()

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
