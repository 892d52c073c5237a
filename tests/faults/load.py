"""A bounded load, kept up while a fault happens: plain, retrying and transactional jobs, 220 a second.

PGQUEUE_FAULTS_RATE says another number, for a machine that does other things meanwhile.
"""

import os
import threading
import time
from collections.abc import Sequence
from typing import Any

from pgqueue import PgQueue
from pgqueue.errors import DatabaseUnavailable, UnknownCommit
from pgqueue.job import new_job_id
from tests.support.process import wait_until

__all__ = ["Load"]

MIX = ("plain", "retrying", "charge", "plain", "acharge")
BATCH = len(MIX)
SECONDS_PER_BATCH = BATCH / float(os.environ.get("PGQUEUE_FAULTS_RATE", "220"))


class Load:
    """Enqueues batches in a thread from `with` to its end.

    Attributes:
        acknowledged: ids of jobs whose enqueue returned.
        unknown: ids, by batch, of enqueues whose COMMIT was lost.
        refused: ids of enqueues that failed for certain.

    Args:
        dsn: where to enqueue.
        most: jobs after which it stops by itself.
        mix: names of tasks that take a number.
        queue: of the jobs.
    """

    def __init__(self, dsn: str, *, most: int = 5_000, mix: Sequence[str] = MIX, queue: str = "default") -> None:
        self.acknowledged: list[str] = []
        self.unknown: list[list[str]] = []
        self.refused: list[str] = []
        self._app = PgQueue("load", dsn=dsn)
        self._most = most
        self._mix = mix
        self._queue = queue
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._work, name="load")

    def __enter__(self) -> "Load":
        self._thread.start()
        self.more(100)
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.stop()

    def more(self, jobs: int = 100) -> None:
        """Wait until so many more jobs have been acknowledged, or the load has come to its bound."""
        wanted = min(len(self.acknowledged) + jobs, self._most - sum(map(len, self.unknown)) - len(self.refused))
        wait_until(
            lambda: len(self.acknowledged) >= wanted or self._failure is not None,
            what=lambda: f"the load goes on ({len(self.acknowledged)} jobs so far)",
        )
        if self._failure is not None:
            raise self._failure

    def stop(self) -> None:
        """Enqueue no more. May be called twice."""
        self._stopping.set()
        self._thread.join()
        self._app.close()
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            number = 0
            due = time.monotonic()
            while not self._stopping.wait(due - time.monotonic()) and number < self._most:
                self._enqueue(number)
                number += len(self._mix)
                # What an outage held up is not made up for.
                due = max(due, time.monotonic() - 0.1) + SECONDS_PER_BATCH
        except BaseException as error:
            self._failure = error

    def _enqueue(self, number: int) -> None:
        ids = [new_job_id() for _ in self._mix]
        signatures: list[Any] = [
            self._app.signature(task, (number + index,)).set(task_id=job_id, queue=self._queue)
            for index, (task, job_id) in enumerate(zip(self._mix, ids, strict=True))
        ]
        try:
            self._app.enqueue_many(signatures)
        except UnknownCommit:
            self.unknown.append(ids)
        except DatabaseUnavailable:
            self.refused.extend(ids)
        else:
            self.acknowledged.extend(ids)
