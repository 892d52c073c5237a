"""The values that cross floors: states, a job to insert, a claimed job, what a worker knows of a task."""

import enum
import functools
import os
import threading
import time
import uuid
from datetime import datetime
from typing import NamedTuple

__all__ = ["ClaimedJob", "JobState", "LookRow", "NewJob", "as_job_id", "new_job_id", "new_job_ids"]


class JobState(enum.StrEnum):
    """Where a job is, as SQL spells it; `celery_name` is what AsyncResult.state says."""

    WAITING = "waiting"
    SCHEDULED = "scheduled"
    AVAILABLE = "available"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    SKIPPED = "skipped"

    @property
    def finished(self) -> bool:
        """Whether nothing more will happen to the job by itself."""
        return self in _FINISHED

    @property
    def celery_name(self) -> str:
        """The name code written for Celery compares with."""
        return _CELERY_NAMES[self]


_FINISHED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELLED, JobState.EXPIRED, JobState.SKIPPED})
_CELERY_NAMES = {
    JobState.WAITING: "PENDING",
    JobState.SCHEDULED: "PENDING",
    JobState.AVAILABLE: "PENDING",
    JobState.RUNNING: "STARTED",
    JobState.SUCCEEDED: "SUCCESS",
    JobState.FAILED: "FAILURE",
    JobState.CANCELLED: "REVOKED",
    JobState.EXPIRED: "REVOKED",
    JobState.SKIPPED: "IGNORED",
}


class NewJob(NamedTuple):
    """One job to insert: the parameters of the query insert_job, in its order.

    Delays and lifetimes travel as seconds and become instants on the database's clock.
    """

    id: str
    task: str
    queue: str
    priority: int = 0
    args: str | None = None  # JSON text
    kwargs: str | None = None  # JSON text
    headers: str | None = None  # JSON text
    options: str | None = None  # JSON text: what this job overrides of its task
    delay: float | None = None  # seconds
    eta: datetime | None = None
    expires_in: float | None = None  # seconds
    expires_at: datetime | None = None
    root_id: str | None = None
    parent_id: str | None = None
    own_id: bool = False  # the caller chose the id, which may be taken


class LookRow(NamedTuple):
    """The first row of a claim: what the claimer learns for its low-water mark, and when the next job is due."""

    look_xid: int
    snapshot: str  # pg_snapshot: "xmin:xmax:xid,xid", the ids being those of open transactions
    last_seq: int
    due_in: float | None  # seconds

    def open_transactions(self) -> tuple[list[int], int]:
        """Return the ids of open transactions up to the last one that had ended, and the id after that one's."""
        _, after_all, open_ones = self.snapshot.split(":")
        return list(map(int, open_ones.split(","))) if open_ones else [], int(after_all)


class ClaimedJob(NamedTuple):
    """One claimed job, as the claim returns it. JSON columns stay text until the job runs.

    careful: its beginning is to be recorded first, as a worker died with it.
    """

    id: str
    seq: int
    task: str
    queue: str
    priority: int
    attempt: int
    lost: int
    args: str | None
    kwargs: str | None
    headers: str | None
    options: str | None
    run_at: str | None
    expires_at: str | None
    expired: bool | None
    root_id: str | None
    parent_id: str | None
    careful: bool | None


_id_lock = threading.RLock()  # a signal handler may enqueue while its own thread is in here
_id_last = 0  # time of the last id, in 4096ths of a millisecond


def _now() -> int:
    return (time.time_ns() << 12) // 1_000_000


def new_job_id() -> str:
    """Return a UUIDv7 as text: 48 bits of milliseconds, 12 bits of their fraction, 62 random bits.

    Ids made by one process ascend, which keeps index pages warm. Safe in threads and after fork (the random bits
    come from the operating system).
    """
    global _id_last
    with _id_lock:
        _id_last = max(_now(), _id_last + 1)
        head = (_id_last >> 12 << 16) | 0x7000 | (_id_last & 0xFFF)
    tail = (int.from_bytes(os.urandom(8)) & 0x3FFF_FFFF_FFFF_FFFF) | 0x8000_0000_0000_0000
    text = f"{head:016x}{tail:016x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def new_job_ids(count: int) -> list[str]:
    """Return as many UUIDv7 as asked for, like new_job_id() called that often, at a fifth of its cost each."""
    global _id_last
    if count < 100:
        return [new_job_id() for _ in range(count)]
    with _id_lock:
        first = max(_now(), _id_last + 1)
        last = _id_last = first + count - 1
    # 60 random bits each: the first digit of the second half, of which two bits are fixed, is always 8.
    digits = os.urandom(8 * count).hex()
    found: list[str] = []
    for ms in range(first >> 12, (last >> 12) + 1):
        start = first & 0xFFF if ms == first >> 12 else 0
        head, place = f"{ms >> 16:08x}-{ms & 0xFFFF:04x}", 16 * len(found)
        for middle in _middles()[start : start + count - len(found)]:
            found.append(f"{head}{middle}{digits[place : place + 3]}-{digits[place + 3 : place + 15]}")
            place += 16
    return found


@functools.cache
def _middles() -> list[str]:
    return [f"-7{fraction:03x}-8" for fraction in range(1 << 12)]


def as_job_id(task_id: str) -> tuple[str, bool]:
    """Map a caller's task_id to a job id.

    Args:
        task_id: a UUID in any spelling, taken as it is, or any other text, mapped by uuid5 of NAMESPACE_OID.

    Returns:
        The id as canonical UUID text, and whether it was mapped.
    """
    if len(task_id) in (32, 36):
        try:
            return str(uuid.UUID(task_id)), False
        except ValueError:
            pass
    return str(uuid.uuid5(uuid.NAMESPACE_OID, task_id)), True


if hasattr(os, "register_at_fork"):

    def _renew_lock() -> None:
        global _id_lock
        _id_lock = threading.RLock()

    os.register_at_fork(after_in_child=_renew_lock)
