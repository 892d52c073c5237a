"""A host as its pool sees it: what was sent there, what of it has begun."""

from collections.abc import Iterator
from typing import Any

from pgqueue.worker.held import Held
from pgqueue.worker.hosts import Host

__all__ = ["Station"]

# An attempt that runs for longer than this is recorded as begun, if it was not before.
RECORD_SECONDS = 0.5


class Station:
    """A host with the attempts that were sent to it.

    Attributes:
        quota: jobs that may still be sent to it (max_tasks_per_child).
        done: outcomes it reported.
        retiring: it gets no more jobs and ends when idle.
        recalled: it was asked for what it has not started.
        stuck: all that it runs runs long; nothing is to wait behind that.
        transactions: that its jobs have begun, and the process ids of their sessions, by the ids of the jobs.
        to_record: something may run here whose beginning is to be recorded soon.
    """

    def __init__(self, host: Host, slots: int, quota: int) -> None:
        self.host = host
        self.slots = slots
        self.quota = quota
        self.sent: dict[int, Held] = {}
        self.done = 0
        self.retiring = False
        self.recalled = False
        self.stuck = False
        self.transactions: dict[str, tuple[int, str]] = {}
        self.to_record = False
        self._started_then = 0
        self._looked_at = 0.0

    @property
    def open(self) -> bool:
        """Whether jobs may be sent."""
        return self.host.ready and not self.retiring and not self.recalled

    @property
    def free(self) -> int:
        """How many jobs would start at once."""
        return max(0, min(self.slots - len(self.sent), self.quota))

    def has_begun(self, held: Held) -> bool:
        """Whether one that was sent here has begun."""
        return held.number <= self.host.board.started

    def send(self, batch: list[Held], numbers: Iterator[int]) -> None:
        """Hand jobs over. Their numbers ascend, so that the last one started tells which others were."""
        self.quota -= len(batch)
        for held in batch:
            held.number = number = next(numbers)
            self.sent[number] = held
        self.host.send([held.to_run() for held in batch])

    def end_transactions(self, outcomes: list[tuple[Any, ...]]) -> None:
        """Forget the transactions of jobs that have ended."""
        for outcome in outcomes if self.transactions else ():
            held = self.sent.get(outcome[0])
            if held is not None:
                self.transactions.pop(held.job.id, None)

    def unrecorded(self, now: float) -> list[Held]:
        """Return what has run for a while without having been recorded, and count it as recorded from now on."""
        if now - self._looked_at < RECORD_SECONDS:
            return []
        started, self._started_then, self._looked_at = self._started_then, self.host.board.started, now
        unrecorded = [held for held in self.sent.values() if not held.recorded]
        found = [held for held in unrecorded if held.number <= started]
        for held in found:
            held.recorded = True
        self.to_record = len(found) < len(unrecorded)
        return found
