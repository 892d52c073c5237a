"""A claimed job in this worker's hands."""

from collections.abc import Callable
from typing import Any

from pgqueue.job import ClaimedJob

__all__ = ["Entry", "Held", "Recorded"]


class Held:
    """One attempt that this worker owns until its outcome is written.

    Attributes:
        number: its pool's own number of it, unique; those sent to one host ascend. 0: not sent yet.
        job: as claimed.
        token: the fence of its claim.
        recorded: the database knows that it begins.
        micros: how many microseconds it ran, as its host measured; "null" while that is unknown.
        end: the outcome it will have when its process is killed for a reason; None: it counts as lost.
        told: its host was asked to end it.
        overdue: it has passed its hard time limit.
    """

    __slots__ = ("end", "job", "micros", "number", "overdue", "recorded", "token", "told")

    def __init__(self, job: ClaimedJob, token: int) -> None:
        self.number = 0
        self.job = job
        self.token = token
        self.recorded = self.told = self.overdue = False
        self.micros: int | str = "null"
        self.end: tuple[object, ...] | None = None

    @property
    def fence(self) -> tuple[str, int]:
        """What a finish must match: the job's id and the claim's token."""
        return self.job.id, self.token

    def to_run(self) -> tuple[Any, ...]:
        """Return what a runner needs of it: the fields of a JobToRun, ready to travel."""
        job = self.job
        return (self.number, self.token, job[0], *job[2:13], job[14], job[15])


Entry = tuple[Held, tuple[Any, ...]]  # an attempt, and (kind, ...) of its outcome
Recorded = Callable[[list[Held], set[str]], None]  # called with attempts and the ids of those that are still ours
