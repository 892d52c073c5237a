"""How soon: from enqueue to start, from due to start, from finish to get()."""

import random
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import psycopg

from bench.report import Figure, at_most, at_most_times, percentile
from bench.run import Run
from bench.server import Server, open_bare
from bench.tasks import app, coroutine_started, function_started, pause
from pgqueue.job import NewJob, new_job_id
from tests.support.process import REPOSITORY, CommandLine, clean_environment

__all__ = ["due", "result", "slow_transactions", "start"]

ROUNDS = 3
LATE_MS = 400.0  # a job this late was found by polling, not by its wake-up


def start(run: Run) -> Iterator[Figure]:
    """Enqueue to start on an idle worker, beside LISTEN + claim."""
    server = run.server
    server.clear()
    count = 400 if run.long else 80
    bare = open_bare(server.dsn)

    def enqueue_bare() -> str:
        job = NewJob(new_job_id(), "bench.coroutine_started", "bare")
        bare.execute(server.queries["insert_job"], job).fetchone()
        return job.id

    kinds: dict[str, Callable[[], str]] = {
        "bare": enqueue_bare,
        "loop": lambda: coroutine_started.apply_async(queue="loop").id,
        "processes": lambda: function_started.apply_async(queue="processes").id,
    }
    sent: dict[str, list[dict[str, int]]] = {kind: [] for kind in kinds}
    listener = CommandLine(
        [sys.executable, "-m", "bench.listener", server.dsn, "bare"], clean_environment(), cwd=REPOSITORY
    )
    try:
        listener.expect("is ready")
        with run.workers(("loop", "-P", "loop"), ("processes", "-P", "processes", "-c", "2")):
            for enqueue in kinds.values():
                for _ in range(10):
                    enqueue()
                    time.sleep(0.02)
            for turn in range(ROUNDS):
                for kind, enqueue in kinds.items():
                    sent[kind].append(_one_by_one(enqueue, count))
                run.say(f"latency round {turn + 1}/{ROUNDS}")
            time.sleep(0.5)
    finally:
        listener.kill_all()
        bare.close()
    started = started_at(server)
    waits = {kind: [_waits(times, started) for times in rounds] for kind, rounds in sent.items()}
    halves = {kind: [percentile(each, 0.5) for each in rounds] for kind, rounds in waits.items()}
    tails = {kind: [percentile(each, 0.99) for each in rounds] for kind, rounds in waits.items()}
    for kind, label, factor, most in (("loop", "event loop", 1.6, 3.0), ("processes", "processes", 2.5, 5.0)):
        note = f"{count * ROUNDS} jobs, one each 15 to 35 ms"
        yield at_most_times(f"enqueue to start, {label}: p50", "ms", halves[kind], halves["bare"], factor, note)
        yield at_most(f"enqueue to start, {label}: p99", "ms", tails[kind], most, tails["bare"])


def _one_by_one(enqueue: Callable[[], str], count: int) -> dict[str, int]:
    sent = {}
    for _ in range(count):
        time.sleep(random.uniform(0.015, 0.035))
        now = time.monotonic_ns()
        sent[enqueue()] = now
    return sent


def started_at(server: Server) -> dict[str, int]:
    """Return when each finished job started, as its result tells."""
    with server.connect() as connection:
        rows = connection.execute(
            "select id, result::text::bigint from pgqueue.finished_jobs where task like '%_started'"
        ).fetchall()
    return dict(rows)


def _waits(sent: dict[str, int], started: dict[str, int]) -> list[float]:
    return [(started[job_id] - now) / 1e6 for job_id, now in sent.items()]


def slow_transactions(run: Run) -> Iterator[Figure]:
    """10,000 jobs (3,000 in the short run) on an idle worker, one in ten enqueued in a transaction open for 20 ms."""
    server = run.server
    server.clear()
    count, writers = 10_000 if run.long else 3_000, 2
    slow_count = count // 10
    sent: dict[str, int] = {}

    def slowly() -> None:
        with psycopg.connect(server.dsn) as connection:
            for _ in range(slow_count // writers):
                with app.using(connection):
                    job = coroutine_started.apply_async(queue="slow")
                time.sleep(0.02)
                sent[job.id] = time.monotonic_ns()  # visible from here on
                connection.commit()

    def quickly() -> None:
        for _ in range(count - slow_count):
            now = time.monotonic_ns()
            sent[coroutine_started.apply_async(queue="slow").id] = now
            time.sleep(random.uniform(0.0001, 0.0009))

    with run.worker("slow", "-P", "loop"):
        threads = [threading.Thread(target=work, daemon=True) for work in (quickly, *[slowly] * writers)]
        began = time.monotonic()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        seconds = time.monotonic() - began
        deadline = time.monotonic() + 10
        while server.one("select exists (select from pgqueue.live_jobs)") and time.monotonic() < deadline:
            time.sleep(0.05)
    started = started_at(server)
    missing = len(sent.keys() - started.keys())
    waits = [(started[job_id] - now) / 1e6 for job_id, now in sent.items() if job_id in started]
    late = missing + sum(wait > LATE_MS for wait in waits)
    note = f"{len(sent)} jobs in {seconds:.0f} s; p50 {percentile(waits, 0.5):.2f} ms, worst {max(waits):.0f} ms"
    yield at_most("enqueue to start, 10 % in 20 ms transactions: p99", "ms", [percentile(waits, 0.99)], 10, note=note)
    yield at_most(f"  of these later than {LATE_MS:g} ms, or lost", "jobs", [late], 0)


def due(run: Run) -> Iterator[Figure]:
    """Jobs with a countdown: how late they start."""
    server = run.server
    server.clear()
    offset = time.time() - time.monotonic()
    with run.worker("due", "-P", "loop"):
        for _ in range(200):
            coroutine_started.apply_async(queue="due", countdown=random.uniform(1, 3))
        deadline = time.monotonic() + 15
        while server.one("select exists (select from pgqueue.live_jobs)") and time.monotonic() < deadline:
            time.sleep(0.1)
    with server.connect() as connection:
        rows = connection.execute(
            "select result::text::bigint, extract(epoch from run_at)::float8 from pgqueue.finished_jobs"
            " where queue = 'due' and run_at is not null"
        ).fetchall()
    late = [(started / 1e9 + offset - run_at) * 1e3 for started, run_at in rows]
    if len(late) != 200:
        raise RuntimeError(f"{len(late)} of 200 jobs ran")
    yield at_most(
        "eta: late by, p99", "ms", [percentile(late, 0.99)], 50, note=f"200 jobs, p50 {percentile(late, 0.5):.1f} ms"
    )


def result(run: Run) -> Iterator[Figure]:
    """From the commit of a job's end to the return of get(), beside a bare waiter on the same worker."""
    server = run.server
    server.clear()
    count = 80
    # Without it the flush to disk would lie between the instant that the server notes and the one that others can see.
    server.cluster.execute("alter database bench set synchronous_commit = off")
    with ExitStack() as stack:
        stack.callback(server.cluster.execute, "alter database bench reset synchronous_commit")
        stack.enter_context(run.worker("result", "-P", "loop"))
        bare = stack.enter_context(server.connect())
        listener = stack.enter_context(server.connect())
        listener.execute('listen "pgqueue/results"')
        for _ in range(20):
            pause.apply_async(args=(0.005,), queue="result").get(timeout=10)
        ours, floors = [], []
        for _ in range(ROUNDS):
            returned: dict[str, dict[str, float]] = {"ours": {}, "bare": {}}
            for _ in range(count):
                waited = pause.apply_async(args=(random.uniform(0.004, 0.01),), queue="result")
                waited.get(timeout=10)
                returned["ours"][waited.id] = time.time()
                job_id = pause.apply_async(args=(random.uniform(0.004, 0.01),), queue="result").id
                bare.execute(server.queries["mark_waited_for"], {"id": job_id})
                # Notifications of the other waiter's jobs come by, too.
                for notify in listener.notifies(timeout=10):
                    if notify.payload == job_id:
                        break
                bare.execute(server.queries["get_outcome"], {"id": job_id, "kept_after": "now"}).fetchone()
                returned["bare"][job_id] = time.time()
            ended = dict(
                bare.execute(
                    "select id, extract(epoch from pg_xact_commit_timestamp(xmin))::float8 from pgqueue.finished_jobs"
                ).fetchall()
            )
            waits = {
                who: [(at - ended[job_id]) * 1e3 for job_id, at in times.items()] for who, times in returned.items()
            }
            ours.append(waits["ours"])
            floors.append(waits["bare"])
    for label, share, most in (("p50", 0.5, 1.0), ("p99", 0.99, 5.0)):
        yield at_most(
            f"result.get() after the finish: {label}",
            "ms",
            [percentile(each, share) for each in ours],
            most,
            [percentile(each, share) for each in floors],
            note="from the commit of the finish; commits do not wait for the disk in this row"
            if label == "p50"
            else "",
        )
