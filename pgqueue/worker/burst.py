"""When a burst ends: when nothing is left to do, and nothing that it put back itself is about to be due."""

import time
from collections.abc import Callable, Mapping

from pgqueue.worker.completer import Completer
from pgqueue.worker.pool import Pool

__all__ = ["Burst"]


class Burst:
    """A worker that ends by itself.

    Args:
        pools: by kind.
        completer: writes their outcomes.
        look: lets the claimer look for jobs.
        end: called when nothing is left.
    """

    def __init__(
        self, pools: Mapping[str, Pool], completer: Completer, look: Callable[[], None], end: Callable[[], None]
    ) -> None:
        self._pools = pools
        self._completer = completer
        self._look = look
        self._end = end
        self._nothing_in_hand = False

    def before_look(self) -> None:
        """A look begins: what is in hand now may put something there that the look does not find."""
        self._nothing_in_hand = self._is_idle() and time.monotonic() > self._completer.retries_due

    def found_nothing(self) -> None:
        """The look has found nothing."""
        if self._nothing_in_hand:
            self._end()

    def after_write(self) -> None:
        """Outcomes were written: perhaps the last ones."""
        if self._is_idle():
            self._look()

    def _is_idle(self) -> bool:
        # In this order: what leaves a pool is pending by then.
        return not any(pool.load for pool in self._pools.values()) and not self._completer.pending
