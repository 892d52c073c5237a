"""Schedules: how soon a tick is a job, ten thousand at once, and what a hundred thousand that wait cost.

The day of 1-second ticks with schedulers killed and stopped is a fault test: tests/faults/test_schedules.py.
"""

import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from bench.footprint import watch_idle
from bench.report import Figure, at_most, percentile
from bench.run import Run
from bench.server import Server
from tests.support.process import REPOSITORY, CommandLine, clean_environment, cli

__all__ = ["idle", "same_second", "ticks"]

COUNT = 10_000
# When a job became visible, after its tick.
_LATENESS = (
    "select extract(epoch from pg_xact_commit_timestamp(j.xmin)"
    " - (j.headers ->> 'scheduled_for')::timestamptz)::float8 * 1e3"
    " from pgqueue.live_jobs j where j.task = 'bench.tick'"
)


@contextmanager
def schedulers(server: Server, count: int) -> Iterator[None]:
    """Run so many of `pgqueue beat`."""
    with ExitStack() as stack:
        started = [
            CommandLine(cli("beat"), clean_environment(PGQUEUE_DSN=server.dsn), REPOSITORY) for _ in range(count)
        ]
        for each in started:
            stack.callback(each.kill_all)
        for each in started:
            each.expect("is ready", timeout=60)
        yield
        for each in started:
            each.send_signal(signal.SIGTERM)
        for each in started:
            each.wait(30)


def fill(server: Server, count: int, every: str, spread: str) -> None:
    """Replace all schedules by so many intervals, whose ticks lie evenly over `spread`."""
    with server.connect() as connection:
        connection.execute("truncate pgqueue.schedules, pgqueue.schedule_ticks, pgqueue.live_jobs")
        connection.execute("set pgqueue.check_task = off")
        connection.execute(
            "insert into pgqueue.schedules (name, task, every, anchor_at, catch_up)"
            " select 'bench ' || n, 'bench.tick', %s::interval,"
            " clock_timestamp() + %s::interval * n / %s, 'all' from generate_series(1, %s) n",
            [every, spread, count, count],
        )
        connection.execute("vacuum analyze pgqueue.schedules")


def planned(server: Server) -> None:
    """Wait until schedulers have planned all schedules."""
    deadline = time.monotonic() + 60
    while server.one("select exists (select from pgqueue.schedules where next_run_at is null)"):
        if time.monotonic() > deadline:
            raise TimeoutError("schedules were not planned within 60 s")
        time.sleep(0.05)


def empty(server: Server) -> None:
    """Leave no schedule to the next row."""
    with server.connect() as connection:
        connection.execute("truncate pgqueue.schedules, pgqueue.schedule_ticks, pgqueue.live_jobs")


def ticks(run: Run) -> Iterator[Figure]:
    """10 schedulers, 10,000 schedules of one tick a minute each: from the tick to its job being available."""
    server = run.server
    seconds = 60 if run.long else 20
    with schedulers(server, 10):
        fill(server, COUNT, "60 seconds", "60 seconds")
        planned(server)
        time.sleep(2)
        since = server.one("select clock_timestamp()")
        time.sleep(seconds)
        until = server.one("select clock_timestamp() - interval '2 seconds'")
    with server.connect() as connection:
        stretch = " and (j.headers ->> 'scheduled_for')::timestamptz between %s and %s"
        late = [row[0] for row in connection.execute((_LATENESS + stretch).encode(), [since, until]).fetchall()]
    empty(server)
    note = f"{len(late)} ticks, p50 {percentile(late, 0.5):.1f} ms, worst {max(late):.0f} ms"
    yield at_most(
        "tick to job available, 10 schedulers, 10,000 schedules: p99", "ms", [percentile(late, 0.99)], 50, note=note
    )


def same_second(run: Run) -> Iterator[Figure]:
    """10,000 schedules due at one instant, 4 schedulers: until the last job is available."""
    server = run.server
    with schedulers(server, 4):
        fill(server, COUNT, "1 day", "0 seconds")
        with server.connect() as connection:
            # now() is one instant for all rows, however long it takes to write them.
            connection.execute(
                "update pgqueue.schedules set anchor_at = date_trunc('second', now()) + interval '10 seconds'"
            )
        planned(server)
        deadline = time.monotonic() + 30
        while (found := server.one("select count(*) from pgqueue.live_jobs")) < COUNT and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(1)
    if not found:
        raise TimeoutError("no job came within 30 s")
    with server.connect() as connection:
        late = [row[0] for row in connection.execute(_LATENESS.encode()).fetchall()]
        distinct = server.one("select count(distinct headers ->> 'schedule') from pgqueue.live_jobs")
    empty(server)
    wrong = abs(len(late) - distinct) + abs(COUNT - distinct)
    yield at_most("10,000 schedules due at once, 4 schedulers: all available after", "s", [max(late) / 1e3], 2)
    yield at_most(
        "  of these missing or doubled", "jobs", [wrong], 0, note=f"{distinct:,} schedules made {found:,} jobs"
    )


def idle(run: Run) -> Iterator[Figure]:
    """An idle worker beside 100,000 schedules none of which is due."""
    server = run.server
    with schedulers(server, 2):
        fill(server, 100_000, "30 days", "1 day")
        with server.connect() as connection:
            connection.execute("update pgqueue.schedules set anchor_at = anchor_at + interval '10 days'")
        planned(server)
    with server.connect() as connection:
        connection.execute("vacuum analyze pgqueue.schedules")
    found = watch_idle(run)
    empty(server)
    yield at_most("idle worker, 100,000 schedules: statements", "1/s", [found.statements], 1, note=found.note)
    yield at_most("idle worker, 100,000 schedules: processor", "%", [found.processor], 0.5)
