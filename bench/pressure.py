"""Throughput while others hold snapshots or transactions; the claim on large tables."""

import statistics
import time
from collections.abc import Iterator

import psycopg

from bench.floor import Bare
from bench.report import Figure, at_least, at_most_times
from bench.run import Run
from bench.server import Server, bulk_parameters, open_bare
from pgqueue.job import new_job_id
from pgqueue.store.schema import migrate

__all__ = ["claim_cost", "held"]

HOLD_SECONDS = 600.0
FLAT = 0.9
CLAIM = 500


def held(run: Run) -> Iterator[Figure]:
    """Bursts on one worker: alone, while a snapshot is held, while a writer's transaction stays open."""
    server = run.server
    server.clear()
    size = 100_000 if run.long else 20_000
    with run.worker("held", "-P", "loop"):

        def burst() -> float:
            return server.preload(size, "bench.coroutine", "held").release_and_wait()

        burst()
        alone = [burst() for _ in range(3)]
        run.say("bursts alone, jobs/s: " + ", ".join(f"{rate:,.0f}" for rate in alone))
        for label, begin, factor in (
            ("a held snapshot", "select 1", 0.85),
            ("an open writer", "select pg_current_xact_id()", 0.7),
        ):
            with psycopg.connect(server.dsn) as other:
                other.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                other.execute(begin)
                began = time.monotonic()
                rates: list[float] = []
                while len(rates) < 3 or (run.long and time.monotonic() - began < HOLD_SECONDS):
                    rates.append(burst())
                    if run.long:
                        run.say(f"{label}: {rates[-1]:,.0f} jobs/s")
                        time.sleep(5)
                seconds = time.monotonic() - began
                other.rollback()
            third = max(1, len(rates) // 3)
            flat = statistics.median(rates[-third:]) / statistics.median(rates[:third])
            name = f"drain beside {label}" + ("" if run.long else " (short: some seconds)")
            note = f"{len(rates)} bursts of {size:,} in {seconds:.0f} s; last third {flat:.2f} x the first"
            figure = at_least(name, "jobs/s", rates, alone, factor, note)
            if label == "a held snapshot":
                figure.bar += f", flat (>= {FLAT:g})"
                figure.holds = figure.holds and flat >= FLAT
            yield figure
            run.say(f"{label}: {note}")
    server.clear()


def claim_cost(run: Run) -> Iterator[Figure]:
    """The claim of 500 on large tables, in turns with the same on small ones in a database beside."""
    server = run.server
    server.clear()
    unit = 1_000_000 if run.long else 60_000
    looks = 30
    small = server.cluster.create_database("small")
    migrate(small)
    _fill(server, small, CLAIM * looks * 3 + 10_000)
    available = max(unit, CLAIM * looks * 3 + 10_000)
    _fill(server, server.dsn, available)
    run.say(f"filling: {unit:,} scheduled, {5 * unit:,} finished")
    with server.connect() as connection:
        connection.execute(
            "insert into pgqueue.live_jobs (id, seq, enqueued_at, run_at, state, queue, task, args)"
            " select pgqueue.new_job_id(), nextval('pgqueue.job_seq'), now(), now() + interval '1 h' * n,"
            " 'scheduled', 'claims', 'bench.coroutine', '[1]' from generate_series(1, %s) n",
            [unit],
        )
        connection.execute(
            "insert into pgqueue.finished_jobs (id, seq, enqueued_at, started_at, finished_at, delete_after, worker_id,"
            " attempt, priority, lost, state, queue, task, args, result)"
            " select pgqueue.new_job_id(), n, now(), now(), now(), now() + interval '7 days', 1, 1, 0, 0, 'succeeded',"
            " 'claims', 'bench.coroutine', '[1]', '1' from generate_series(1, %s) n",
            [5 * unit],
        )
        connection.execute("vacuum analyze pgqueue.live_jobs")
    bares = {"small": Bare(small, server.queries, "claims"), "large": Bare(server.dsn, server.queries, "claims")}
    times: dict[str, list[float]] = {name: [] for name in bares}
    try:
        for bare in bares.values():
            bare.mark = 0
            bare.claim(CLAIM)
        for _ in range(3):
            slice_: dict[str, list[float]] = {name: [] for name in bares}
            for _ in range(looks):
                for name, bare in bares.items():
                    started = time.perf_counter()
                    _, rows = bare.claim(CLAIM)
                    slice_[name].append((time.perf_counter() - started) / len(rows) * 1e6)
            for name, found in slice_.items():
                times[name].append(statistics.median(found))
    finally:
        for bare in bares.values():
            bare.close()
    server.clear()
    server.cluster.drop_database("small")
    label = f"{available:,} available + {unit:,} scheduled + {5 * unit:,} finished"
    name = "claim on large tables" + ("" if run.long else " (short: fewer rows)")
    yield at_most_times(name, "us/job", times["large"], times["small"], 1.15, f"{label}; {CLAIM} a claim")


def _fill(server: Server, dsn: str, count: int) -> None:
    connection = open_bare(dsn)
    for start in range(0, count, 10_000):
        ids = [new_job_id() for _ in range(min(10_000, count - start))]
        connection.execute(server.queries["insert_jobs"], bulk_parameters(ids, "bench.coroutine", "claims"))
    connection.execute("vacuum analyze pgqueue.live_jobs")
    connection.close()
