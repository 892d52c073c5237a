"""Drain of a backlog: coroutines, threads, processes beside the bare overlapped floor; WAL on the way."""

import statistics
from collections.abc import Iterator

from bench import floor
from bench.report import Figure, at_least, at_most
from bench.run import Run

__all__ = ["WrongFloor", "drain"]

BATCHES = (250, 500, 1000)
MUST_OVERLAP = 1.3
RUNS = 3


class WrongFloor(Exception):
    """The floor does not overlap: every ratio to it would flatter."""


def drain(run: Run) -> Iterator[Figure]:
    """No-op jobs (100,000; 30,000 in the short run), preloaded, from the first claim to the last finish."""
    server = run.server
    count = 100_000 if run.long else 30_000
    tasks = {"loop": "bench.coroutine", "threads": "bench.function", "processes": "bench.function"}
    batch = _best_batch(run)
    rates: dict[str, list[float]] = {name: [] for name in ("floor", "serial", *tasks)}
    wal: list[float] = []
    widths = (0, 0)
    with run.workers(
        ("loop", "-P", "loop"), ("threads", "-P", "threads", "-c", "8"), ("processes", "-P", "processes", "-c", "2")
    ):
        for name, task in tasks.items():
            server.preload(2_000, task, name).release_and_wait()  # children start, plans are made
        for turn in range(RUNS):
            rates["serial"].append(floor.drain(server, floor.one_after_the_other, count // 4, batch, "bench.coroutine"))
            rates["floor"].append(floor.drain(server, floor.overlapped, count, batch, "bench.coroutine"))
            for name, task in tasks.items():
                server.clear()
                before = server.one("select pg_current_wal_insert_lsn()")
                rates[name].append(server.preload(count, task, name).release_and_wait())
                wal.append(float(server.one("select pg_current_wal_insert_lsn() - %s::pg_lsn", before)) / count / 1024)
                widths = server.row_widths()
            figures = ", ".join(f"{name} {runs[-1]:,.0f}" for name, runs in rates.items())
            run.say(f"drain {turn + 1}/{RUNS}, jobs/s: {figures}")
    server.clear()
    overlap = statistics.median(rates["floor"]) / statistics.median(rates["serial"])
    note = (
        f"floor batch {batch}, {overlap:.2f} x one after the other ({statistics.median(rates['serial']):,.0f}/s);"
        f" rows of {widths[0]} B live, {widths[1]} B finished"
    )
    yield at_least("drain: coroutines, 1 worker process", "jobs/s", rates["loop"], rates["floor"], 0.65, note)
    yield at_least("drain: functions, threads", "jobs/s", rates["threads"], rates["floor"], 0.6)
    yield at_least("drain: functions, 2 processes", "jobs/s", rates["processes"], rates["floor"], 0.4)
    yield at_most("WAL per no-op job", "KiB", wal, 1.3, note="enqueue, claim, finish and result row; all pools")
    if overlap < MUST_OVERLAP:
        raise WrongFloor(f"the floor reaches only {overlap:.2f} x the one-after-the-other loop, not {MUST_OVERLAP}")


def _best_batch(run: Run) -> int:
    """Return the batch size at which the floor is fastest."""
    rates = {batch: floor.drain(run.server, floor.overlapped, 10_000, batch, "bench.coroutine") for batch in BATCHES}
    run.say("floor by batch size, jobs/s: " + ", ".join(f"{batch}: {rate:,.0f}" for batch, rate in rates.items()))
    return max(rates, key=rates.__getitem__)
