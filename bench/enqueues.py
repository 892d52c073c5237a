"""Enqueue: one job with its own commit, from one thread and from 32; 100,000 in one statement."""

import threading
import time
from collections.abc import Callable, Iterator

from psycopg_pool import ConnectionPool

from bench.report import Figure, at_least
from bench.run import Run
from bench.server import bulk_parameters
from bench.tasks import app, coroutine
from pgqueue.job import NewJob, new_job_id

__all__ = ["bulk", "single"]

THREADS = 32
RUNS = 3


def single(run: Run) -> Iterator[Figure]:
    """Single enqueues beside a bare pooled psycopg loop with the same statement."""
    server = run.server
    statement = server.queries["insert_job"]

    def ours(number: int) -> None:
        for _ in range(number):
            coroutine.delay(1)

    with ConnectionPool(server.dsn, min_size=THREADS, max_size=THREADS, kwargs={"autocommit": True}) as pool:
        pool.wait()

        def bare(number: int) -> None:
            for _ in range(number):
                with pool.connection() as connection:
                    connection.execute(
                        statement, NewJob(new_job_id(), "bench.coroutine", "default", args="[1]")
                    ).fetchone()

        count = 1_000
        rates: dict[str, list[float]] = {"floor": [], "ours": [], "floor 32": [], "ours 32": []}
        server.clear()
        bare(200)
        ours(200)
        for _ in range(RUNS):
            rates["floor"].append(_rate(bare, count, 1))
            rates["ours"].append(_rate(ours, count, 1))
        run.say("single enqueue measured; now 32 threads beside a running worker")
        server.clear()
        with run.worker("default", "-P", "loop"):
            for work in (bare, ours):
                _rate(work, 50, THREADS)
            for _ in range(RUNS):
                rates["floor 32"].append(_rate(bare, 125, THREADS))
                rates["ours 32"].append(_rate(ours, 125, THREADS))
    server.clear()
    yield at_least("enqueue: single, own commit", "jobs/s", rates["ours"], rates["floor"], 0.85)
    yield at_least("enqueue: 32 threads beside a worker", "jobs/s", rates["ours 32"], rates["floor 32"], 0.85)


def _rate(work: Callable[[int], None], each: int, threads: int) -> float:
    """Run `work(each)` in threads that start together; returns calls per second of all."""
    if threads == 1:
        started = time.perf_counter()
        work(each)
        return each / (time.perf_counter() - started)
    barrier = threading.Barrier(threads + 1)

    def body() -> None:
        barrier.wait()
        work(each)

    running = [threading.Thread(target=body, daemon=True) for _ in range(threads)]
    for thread in running:
        thread.start()
    barrier.wait()
    started = time.perf_counter()
    for thread in running:
        thread.join()
    return each * threads / (time.perf_counter() - started)


def bulk(run: Run) -> Iterator[Figure]:
    """enqueue_many of 100,000 beside COPY of rows prepared beforehand."""
    server, count = run.server, 100_000
    signatures = [coroutine.s(1) for _ in range(count)]
    ours, floors = [], []
    for _ in range(RUNS):
        server.clear()
        with server.connect() as connection:
            (now, first) = connection.execute("select now()::text, nextval('pgqueue.job_seq')").fetchone() or ("", 0)
            rows = "".join(
                f"{new_job_id()}\t{first + i}\t{now}\t0\tavailable\tdefault\tbench.coroutine\t[1]\n"
                for i in range(count)
            ).encode()
            started = time.perf_counter()
            with connection.cursor().copy(
                "copy pgqueue.live_jobs (id, seq, enqueued_at, priority, state, queue, task, args) from stdin"
            ) as copy:
                copy.write(rows)
            floors.append(count / (time.perf_counter() - started))
            connection.execute("select setval('pgqueue.job_seq', %s)", [first + count])
        server.clear()
        started = time.perf_counter()
        app.enqueue_many(signatures)
        ours.append(count / (time.perf_counter() - started))
    server.clear()
    parameters = bulk_parameters([new_job_id() for _ in range(count)], "bench.coroutine", "default")
    with server.connect() as connection:
        started = time.perf_counter()
        connection.execute(server.queries["insert_jobs"], parameters)
        statement = count / (time.perf_counter() - started)
    server.clear()
    yield at_least(
        "enqueue_many of 100,000",
        "jobs/s",
        ours,
        floors,
        0.4,
        f"its statement alone: {statement:,.0f}/s; signatures were made beforehand",
    )
