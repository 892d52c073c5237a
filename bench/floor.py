"""The bare floors of the run side: our named statements driven by a minimal psycopg loop, with no queue around it."""

import json
import queue
import random
import threading
from collections.abc import Callable
from typing import Any

from bench.server import Server, open_bare
from pgqueue.store.statement import Queries

__all__ = ["Bare", "one_after_the_other", "overlapped"]

FRONT, END = -(2**63), 2**63 - 1
LAG = 2_000  # places below the furthest one seen that every claim covers
PRIORITIES = [str(priority) for priority in range(9, -1, -1) for _ in (0, 1)]
Batch = list[tuple[str, int, str]]  # (id, token, result)


class Bare:
    """Claims and finishes on bare connections, as a worker of its own.

    Args:
        dsn: connection string.
        queries: of the schema.
        queue_name: the queue that it serves.
    """

    def __init__(self, dsn: str, queries: Queries, queue_name: str) -> None:
        self._queries = queries
        self.claims, self.finishes = open_bare(dsn), open_bare(dsn)
        self._queues = "{" + ",".join([queue_name] * 20) + "}"
        self._priorities = "{" + ",".join(PRIORITIES) + "}"
        self._before = "{" + ",".join(["0", str(END)] * 10) + "}"
        row = self.claims.execute(
            queries["register_worker"],
            {
                "name": "bare",
                "hostname": "bare",
                "pid": 1,
                "instance": "",
                "app": "bench",
                "version": "",
                "queues": [queue_name],
                "tasks": [],
                "at_most_once": [],
                "pools": "{}",
                "lease": 86_400.0,
            },
        ).fetchone()
        assert row is not None
        self.worker_id = int(row[0])
        row = self.claims.execute("select last_value - (not is_called)::integer from pgqueue.job_seq").fetchone()
        assert row is not None
        self.mark = int(row[0])

    def close(self) -> None:
        """Sign off and disconnect."""
        self.claims.execute(self._queries["stop_worker"], {"worker_id": self.worker_id, "finished": 0})
        self.claims.close()
        self.finishes.close()

    def claim(self, limit: int) -> tuple[int, list[tuple[Any, ...]]]:
        """Claim; returns the token and the rows. The claim itself commits asynchronously."""
        token = random.getrandbits(62)
        rows = self.claims.execute(
            self._queries["claim_jobs"],
            {
                "worker_id": self.worker_id,
                "token": token,
                "queues": self._queues,
                "priorities": self._priorities,
                "after": "{" + ",".join([str(FRONT), str(self.mark)] * 10) + "}",
                "before": self._before,
                "limit": limit,
                "excluded": None,
                "due_window": 60.0,
            },
        ).fetchall()[1:]
        if rows:
            self.mark = max(self.mark, max(row[5] for row in rows) - LAG)
        return token, rows

    def finish(self, batch: Batch) -> None:
        """Finish, fenced, with a synchronous commit."""
        self.finishes.execute(
            self._queries["finish_jobs"],
            {
                "ids": "{" + ",".join([entry[0] for entry in batch]) + "}",
                "tokens": "{" + ",".join([str(entry[1]) for entry in batch]) + "}",
                "state": "succeeded",
                "results": "\x1f".join([entry[2] for entry in batch]),
                "errors": None,
                "tracebacks": None,
                "keep": "7 days",
                "micros": None,
            },
        )


def _no_op(number: int) -> int:
    return number


def _run(token: int, rows: list[tuple[Any, ...]]) -> Batch:
    return [(row[4], token, json.dumps(_no_op(*json.loads(row[11])))) for row in rows]


def one_after_the_other(bare: Bare, count: int, batch: int) -> None:
    """Claim, run, finish, and so on, until `count` jobs are finished."""
    left = count
    while left:
        token, rows = bare.claim(batch)
        bare.finish(_run(token, rows))
        left -= len(rows)


def overlapped(bare: Bare, count: int, batch: int) -> None:
    """Claim in one thread, run in another, finish in this one, until `count` jobs are finished."""
    claimed: queue.Queue[tuple[int, list[tuple[Any, ...]]]] = queue.Queue(4)
    ran: queue.Queue[Batch] = queue.Queue(4)

    def claim() -> None:
        left = count
        while left:
            token, rows = bare.claim(batch)
            left -= len(rows)
            claimed.put((token, rows))

    def run() -> None:
        left = count
        while left:
            token, rows = claimed.get()
            left -= len(rows)
            ran.put(_run(token, rows))

    threads = [threading.Thread(target=step, daemon=True) for step in (claim, run)]
    for thread in threads:
        thread.start()
    left = count
    while left:
        outcomes = ran.get()
        bare.finish(outcomes)
        left -= len(outcomes)
    for thread in threads:
        thread.join()


def drain(server: Server, how: Callable[[Bare, int, int], None], count: int, batch: int, task: str) -> float:
    """Preload, drain in one way, and return jobs per second."""
    server.clear()
    jobs = server.preload(count, task, "bare")
    bare = Bare(server.dsn, server.queries, "bare")
    bare.mark = jobs.after
    jobs.release()
    try:
        how(bare, count, batch)
    finally:
        bare.close()
    return jobs.rate()
