"""Partitions ahead, retention behind, workflows mended: a thread that works for moments."""

import logging
import random
import threading
import time
from collections.abc import Callable
from typing import Any

import psycopg

from pgqueue.store.partitions import drop_expired, ensure_partitions
from pgqueue.store.statement import Queries, run
from pgqueue.store.workers import prune_workers
from pgqueue.store.workflows import mend_workflows, prune_workflows
from pgqueue.worker.logs import first_line

__all__ = ["Maintenance"]

logger = logging.getLogger("pgqueue.worker")

INTERVAL_SECONDS = 3600.0
MEND_SECONDS = 60.0
MEND_SHARE = 100  # of the time of one mending, at least, until the next
PRUNE_BATCH = 500


class Maintenance:
    """Keeps partitions ready, drops those whose time is over, ends workflows that lost a step.

    Args:
        connect: opens a connection for one round.
        queries: of the schema.
        partition_days: how far ahead partitions are needed.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], queries: Queries, partition_days: int) -> None:
        self._connect = connect
        self._queries = queries
        self._partition_days = partition_days
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work, name="pgqueue-maintenance", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End the thread; a round under way is short."""
        self._stopping.set()
        if self._thread.ident is not None:
            self._thread.join(5.0)

    def _work(self) -> None:
        # Not all workers of a fleet at once.
        hourly = time.monotonic() + INTERVAL_SECONDS * random.uniform(0.5, 1.0)
        pause = MEND_SECONDS
        while not self._stopping.wait(pause * random.uniform(0.5, 1.5)):
            start = time.monotonic()
            self._attempt(self._mend_workflows)
            pause = max(MEND_SECONDS, MEND_SHARE * (time.monotonic() - start))
            if start < hourly:
                continue
            for duty in (self._look_ahead, self._drop_expired, self._prune_workers, self._prune_workflows):
                self._attempt(duty)
            hourly = start + INTERVAL_SECONDS * random.uniform(0.5, 1.0)

    def _attempt(self, duty: Callable[[psycopg.Connection[Any]], object]) -> None:
        """Do one thing; what fails is put off and keeps nothing else from being done."""
        try:
            with self._connect() as connection:
                duty(connection)
        except psycopg.Error as error:
            logger.warning("maintenance is put off: %s", first_line(error))
        except Exception:
            logger.exception("maintenance failed; it goes on")

    def _look_ahead(self, connection: psycopg.Connection[Any]) -> None:
        run(connection, ensure_partitions(self._queries, self._partition_days))

    def _drop_expired(self, connection: psycopg.Connection[Any]) -> None:
        drop_expired(connection, self._queries)

    def _prune_workers(self, connection: psycopg.Connection[Any]) -> None:
        run(connection, prune_workers(self._queries, self._partition_days * 86_400.0))

    def _mend_workflows(self, connection: psycopg.Connection[Any]) -> None:
        mended = run(connection, mend_workflows(self._queries))
        if mended:
            logger.warning("%d steps of workflows were deleted by hand: what waited for them was told", mended)

    def _prune_workflows(self, connection: psycopg.Connection[Any]) -> None:
        while run(connection, prune_workflows(self._queries, PRUNE_BATCH)) == PRUNE_BATCH:
            connection.commit()
