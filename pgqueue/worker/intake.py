"""Between claims and pools: how many jobs to claim, of which tasks, and the pool into which each one goes."""

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psycopg

from pgqueue.job import ClaimedJob
from pgqueue.store.claims import held_jobs, release_claims
from pgqueue.store.statement import Queries, run
from pgqueue.worker.held import Entry, Held
from pgqueue.worker.pool import Pool

__all__ = ["Intake"]

logger = logging.getLogger("pgqueue.worker")


class Intake:
    """Takes what was claimed and hands it to the pools.

    Attributes:
        unknown: tasks met that this worker does not have.

    Args:
        pools: by kind; may be filled later.
        kinds: the kind of pool of each task.
        at_most_once: tasks whose beginning is recorded first.
        claim_batch: upper bound of one claim.
        finish: takes outcomes of jobs that are not to run here.
    """

    def __init__(
        self,
        pools: Mapping[str, Pool],
        kinds: Mapping[str, str],
        at_most_once: frozenset[str],
        claim_batch: int,
        finish: Callable[[Iterable[Entry]], None],
    ) -> None:
        self._pools = pools
        self._kinds = kinds
        self._at_most_once = at_most_once
        self._claim_batch = claim_batch
        self._finish = finish
        self.unknown: set[str] = set()

    def room(self) -> tuple[int, list[str]]:
        """Return how many jobs to claim, and the tasks whose pools are full."""
        rooms = {kind: pool.room() for kind, pool in self._pools.items()}
        total = min(sum(rooms.values()), self._claim_batch)
        full = {kind for kind, room in rooms.items() if room <= 0}
        if total <= 0 or not full:
            return total, []
        return total, [name for name, kind in self._kinds.items() if kind in full]

    def take(self, token: int, jobs: list[ClaimedJob]) -> None:
        """Take the jobs of one claim."""
        by_kind: dict[str, list[Held]] = {}
        careful: dict[str, list[Held]] = {}
        ended: list[Entry] = []
        for job in jobs:
            held = Held(job, token)
            kind = self._kinds.get(job.task)
            if kind is None:
                ended.append((held, ("released",)))
                if job.task not in self.unknown:
                    self.unknown.add(job.task)
                    logger.warning(
                        "task %r is unknown here; its jobs are left to workers that have it (is its module included?)",
                        job.task,
                    )
            elif job.expired:
                ended.append((held, ("expired", None, None)))
            elif job.careful or job.task in self._at_most_once:
                careful.setdefault(kind, []).append(held)
            else:
                by_kind.setdefault(kind, []).append(held)
        for kind, batch in careful.items():
            self._pools[kind].offer((), careful=batch)
        for kind, batch in by_kind.items():
            self._pools[kind].offer(batch)
        if ended:
            self._finish(ended)

    def reconcile(
        self,
        connection: psycopg.Connection[Any],
        queries: Queries,
        worker_id: int | None,
        unheard: list[int],
        keep_seconds: float | None,
    ) -> None:
        """After a reconnect: claims whose answer was lost are given back, those that the server lost are dropped.

        A crash of the server may have undone the last claims, which commit asynchronously.

        Args:
            connection: the new one.
            queries: of the schema.
            worker_id: who claimed; None: nobody.
            unheard: tokens of claims whose answer was lost.
            keep_seconds: retention of jobs that are cancelled when they are given back.
        """
        if unheard and worker_id is not None:
            run(connection, release_claims(queries, worker_id, unheard, keep_seconds))
        held = [attempt for pool in self._pools.values() for attempt in pool.held()]
        if not held:
            return
        kept = run(connection, held_jobs(queries, [attempt.fence for attempt in held]))
        lost = {attempt for attempt in held if attempt.job.id not in kept}
        if lost:
            logger.warning("%d claimed jobs are no longer ours", len(lost))
            for pool in self._pools.values():
                pool.drop(lost)
