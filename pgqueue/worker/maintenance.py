"""Partitions ahead, retention behind: a thread that works for moments once an hour."""

import logging
import random
import threading
from collections.abc import Callable
from typing import Any

import psycopg

from pgqueue.store.partitions import drop_expired, ensure_partitions
from pgqueue.store.statement import Queries, run
from pgqueue.store.workers import prune_workers

__all__ = ["Maintenance"]

logger = logging.getLogger("pgqueue.worker")

INTERVAL_SECONDS = 3600.0


class Maintenance:
    """Keeps partitions ready and drops those whose time is over.

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
        self._thread.join(5.0)

    def _work(self) -> None:
        # Not all workers of a fleet at once.
        while not self._stopping.wait(INTERVAL_SECONDS * random.uniform(0.5, 1.0)):
            for duty in (self._look_ahead, self._drop_expired, self._prune_workers):
                self._attempt(duty)

    def _attempt(self, duty: Callable[[psycopg.Connection[Any]], object]) -> None:
        """Do one thing; what fails is put off and keeps nothing else from being done."""
        try:
            with self._connect() as connection:
                duty(connection)
        except psycopg.Error as error:
            logger.warning("maintenance is put off: %s", str(error).strip())
        except Exception:
            logger.exception("maintenance failed; it goes on")

    def _look_ahead(self, connection: psycopg.Connection[Any]) -> None:
        run(connection, ensure_partitions(self._queries, self._partition_days))

    def _drop_expired(self, connection: psycopg.Connection[Any]) -> None:
        drop_expired(connection, self._queries)

    def _prune_workers(self, connection: psycopg.Connection[Any]) -> None:
        run(connection, prune_workers(self._queries, self._partition_days * 86_400.0))
