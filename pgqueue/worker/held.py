"""A claimed job in this worker's hands."""

from pgqueue.job import ClaimedJob
from pgqueue.worker.executor import JobToRun

__all__ = ["Held"]


class Held:
    """One attempt that this worker owns until its outcome is written.

    Attributes:
        number: the worker's own number of it, unique and ascending.
        job: as claimed.
        token: the fence of its claim.
        end: the outcome it will have when its process is killed for a reason; None: it counts as lost.
    """

    __slots__ = ("end", "job", "number", "token")

    def __init__(self, number: int, job: ClaimedJob, token: int) -> None:
        self.number = number
        self.job = job
        self.token = token
        self.end: tuple[object, ...] | None = None

    @property
    def fence(self) -> tuple[str, int]:
        """What a finish must match: the job's id and the claim's token."""
        return self.job.id, self.token

    def to_run(self) -> JobToRun:
        """Return what a runner needs of it."""
        job = self.job
        return JobToRun._make((self.number, self.token, job[0], *job[2:13], job[14], job[15]))
