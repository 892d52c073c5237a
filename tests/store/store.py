"""What the store's tests share: the statements of pgqueue.store on one autocommit session, and stepping two of them."""

import itertools
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, LiteralString, NamedTuple, TypeVar

import psycopg
from psycopg.rows import dict_row
from psycopg.types.string import TextLoader

from pgqueue.job import ClaimedJob, LookRow, NewJob, new_job_id
from pgqueue.store import claims, jobs, workers
from pgqueue.store.statement import Queries, Statement, run
from pgqueue.worker.lanes import Lanes
from tests.support.process import wait_until

T = TypeVar("T")

_tokens = itertools.count(1000)


class Attempt(NamedTuple):
    """A claimed job and the token under which it was claimed."""

    job: ClaimedJob
    token: int

    @property
    def fence(self) -> tuple[str, int]:
        return self.job.id, self.token


class Store:
    """One autocommit session with the statements of the store."""

    def __init__(self, dsn: str) -> None:
        self.dsn = dsn
        self.queries = Queries("pgqueue")
        self.conn: psycopg.Connection[Any] = psycopg.connect(dsn, autocommit=True)
        for name in ("uuid", "json", "timestamptz"):
            self.conn.adapters.register_loader(name, TextLoader)
        self._sessions: list[Store] = []
        self._threads = ThreadPoolExecutor(1)

    def close(self) -> None:
        """Close it and the sessions opened from it."""
        for session in self._sessions:
            session.close()
        self.conn.close()
        self._threads.shutdown()

    def session(self) -> "Store":
        """Another session on the same database."""
        self._sessions.append(Store(self.dsn))
        return self._sessions[-1]

    # --- any SQL

    def rows(self, sql: LiteralString, params: Sequence[Any] | Mapping[str, Any] = ()) -> list[tuple[Any, ...]]:
        """The rows of a statement."""
        cursor = self.conn.execute(sql, params or None)
        return cursor.fetchall() if cursor.description else []

    def value(self, sql: LiteralString, params: Sequence[Any] | Mapping[str, Any] = ()) -> Any:
        """The first column of the first row."""
        return self.rows(sql, params)[0][0]

    def run(self, statement: Statement[T]) -> T:
        """Run a statement of the store."""
        return run(self.conn, statement)

    # --- the life of a job

    def worker(self, *, lease: float = 3600, name: str = "w", once: Sequence[str] = ()) -> int:
        """Register a worker."""
        return self.run(
            workers.register_worker(
                self.queries,
                name=name,
                hostname="h",
                pid=1,
                instance="i",
                app="a",
                version="1",
                queues=["default"],
                tasks=[],
                at_most_once=once,
                pools="{}",
                lease_seconds=lease,
            )
        )

    def enqueue(self, task: str = "t", queue: str = "default", job_id: str | None = None, **fields: Any) -> str:
        """Enqueue one job; its id."""
        job = NewJob(id=job_id or new_job_id(), task=task, queue=queue, own_id=job_id is not None, **fields)
        self.run(jobs.insert_job(self.queries, job))
        return job.id

    def enqueue_many(self, count: int, **fields: Any) -> list[str]:
        """Enqueue many alike in one statement; their ids in order."""
        fields = {"task": "t", "queue": "default", **fields}
        many = [NewJob(id=new_job_id(), **fields) for _ in range(count)]
        for start in range(0, count, 10_000):
            self.run(jobs.insert_jobs(self.queries, many[start : start + 10_000], None, None))
        return [job.id for job in many]

    def look(
        self,
        worker: int,
        limit: int = 100,
        *,
        queues: Sequence[str] = ("default",),
        ranges: list[tuple[str, int, int, int]] | None = None,
        excluded: Sequence[str] = (),
        window: float | None = None,
    ) -> tuple[LookRow, list[Attempt]]:
        """Claim; what the look says of itself, and the attempts in the order of the claimer."""
        if ranges is None:
            ranges, _ = Lanes(queues).plan()
        token = next(_tokens)
        look, claimed = self.run(claims.claim_jobs(self.queries, worker, token, ranges, limit, list(excluded), window))
        claimed.sort(key=lambda job: (-job.priority, job.seq))
        return look, [Attempt(job, token) for job in claimed]

    def claim(self, worker: int, limit: int = 100, **how: Any) -> list[Attempt]:
        """Claim from everywhere."""
        return self.look(worker, limit, **how)[1]

    def finish(
        self,
        attempts: Sequence[Attempt],
        state: str = "succeeded",
        *,
        error: str | None = None,
        keep: float | None = 60,
    ) -> list[str]:
        """End attempts; the ids whose lease was lost."""
        errors = None if error is None else [error] * len(attempts)
        results = ["1" if state == "succeeded" else None] * len(attempts)
        fence = [attempt.fence for attempt in attempts]
        return self.run(claims.finish_jobs(self.queries, fence, state, results, errors, None, keep))

    def retry(self, attempts: Sequence[Attempt], delay: float = 0, changes: str | None = None) -> list[str]:
        """Retry attempts; the ids whose lease was lost."""
        n = len(attempts)
        fence = [attempt.fence for attempt in attempts]
        return self.run(
            claims.retry_jobs(self.queries, fence, [delay] * n, ['{"type": "E"}'] * n, ["tb"] * n, [changes] * n, 60)
        )

    def release(self, attempts: Sequence[Attempt]) -> list[str]:
        """Give attempts back; the ids whose lease was lost."""
        return self.run(claims.release_jobs(self.queries, [attempt.fence for attempt in attempts], 60))

    def lose(self, attempts: Sequence[Attempt], limit: int = 3, once: Sequence[str] = ()) -> dict[str, str]:
        """End attempts with their process; id to what became of the job."""
        fence = [attempt.fence for attempt in attempts]
        ended = self.run(claims.lose_jobs(self.queries, fence, limit, once, "killed", 60))
        return dict(ended)

    def record(self, attempts: Sequence[Attempt]) -> set[str]:
        """Record that attempts begin; the ids that are still theirs."""
        return self.run(claims.record_jobs(self.queries, [attempt.fence for attempt in attempts]))

    def expire(self, worker: int) -> None:
        """Let a worker's lease run out."""
        self.run(workers.expire_leases(self.queries, [worker]))

    def rescue(self, limit: int = 3, batch: int = 100) -> dict[str, str]:
        """Rescue until nothing is left; id to what became of the job."""
        saved: dict[str, str] = {}
        while found := self.run(claims.rescue_jobs(self.queries, limit, batch, 60)):
            saved.update((job_id, outcome) for _, job_id, outcome in found)
        return saved

    def cancel(self, ids: Sequence[str], terminate: bool = False) -> dict[str, str]:
        """Cancel; id to outcome."""
        return self.run(jobs.cancel_jobs(self.queries, ids, terminate, 60))

    def revive(self, ids: Sequence[str]) -> list[str]:
        """Revive; the ids that got a new life."""
        return self.run(jobs.revive_jobs(self.queries, ids))

    # --- looking

    def live(self, job_id: str) -> dict[str, Any]:
        """The one live row of a job; AssertionError unless there is exactly one and none finished."""
        found = self._found("select * from pgqueue.live_jobs where id = %s", job_id)
        assert len(found) == 1, f"{len(found)} live rows"
        assert not self._found("select * from pgqueue.finished_jobs where id = %s", job_id), "live and finished"
        return found[0]

    def finished(self, job_id: str) -> dict[str, Any]:
        """The one finished row of a job; AssertionError unless there is exactly one and none live."""
        found = self._found("select * from pgqueue.finished_jobs where id = %s", job_id)
        assert len(found) == 1, f"{len(found)} finished rows"
        assert not self._found("select * from pgqueue.live_jobs where id = %s", job_id), "finished and live"
        return found[0]

    def states(self, ids: Sequence[str]) -> list[str]:
        """The state of each job; AssertionError unless each is in exactly one place."""
        found = self.rows("select id::text, state from pgqueue.all_jobs where id = any (%s::uuid[])", [list(ids)])
        assert len(found) == len(dict(found)) == len(set(ids)), found
        return [dict(found)[job_id] for job_id in ids]

    def attempts(self, job_id: str) -> list[tuple[int, str]]:
        """(attempt, outcome) of the attempts that did not succeed."""
        return [
            (number, outcome)
            for number, outcome in self.rows(
                "select attempt, outcome from pgqueue.attempts where job_id = %s order by ended_at, attempt", [job_id]
            )
        ]

    def _found(self, sql: LiteralString, job_id: str) -> list[dict[str, Any]]:
        with self.conn.cursor(row_factory=dict_row) as cursor:
            return cursor.execute(sql, [job_id]).fetchall()

    # --- two sessions, step by step

    def start(self, action: Callable[[], T], watched_by: "Store") -> Future[T]:
        """Begin `action`, which uses this session, in a thread; return when it is done or waits for a lock."""
        future = self._threads.submit(action)
        wait_until(lambda: future.done() or self.waits(watched_by))
        return future

    def waits(self, watched_by: "Store") -> bool:
        """Whether this session waits for another one's lock."""
        return bool(watched_by.value("select pg_blocking_pids(%s) <> '{}'", [self.conn.info.backend_pid]))


def listened(conn: psycopg.Connection[Any]) -> list[str]:
    """Payloads that have arrived on a listening autocommit session by now, in order."""
    # A notification to itself comes after all that were committed before.
    conn.execute("select pg_notify('pgqueue', 'end')")
    return list(itertools.takewhile(lambda payload: payload != "end", _payloads(conn)))


def _payloads(conn: psycopg.Connection[Any]) -> Iterator[str]:
    for notify in conn.notifies(timeout=30):
        yield notify.payload
