"""Workflows: chords small, large and many, a long chain, what it takes to build one; beside bare loops."""

import statistics
import time
from collections.abc import Callable, Iterator

import psycopg

from bench.floor import Bare, overlapped
from bench.report import Figure, at_least, at_most, at_most_times
from bench.run import Run
from bench.server import bulk_parameters, open_bare
from bench.tasks import app, coroutine, length
from pgqueue import chain, chord
from pgqueue.job import new_job_ids

__all__ = ["chains", "chords", "crowds"]

ROUNDS = 5
BATCH = 500


def chords(run: Run) -> Iterator[Figure]:
    """From the call to the body's result: chords of 2,000 and 20,000; building one of 10,000."""
    small, large, built = 2_000, 20_000, 10_000
    seconds: dict[str, list[float]] = {"floor": [], "small": [], "large": [], "build": []}
    with run.worker("default", "-P", "loop"):
        _chord(small)
        for turn in range(ROUNDS):
            run.server.clear()
            seconds["floor"].append(_bare_chord(run, small))
            seconds["small"].append(_chord(small))
            if turn < 2 or run.long:
                seconds["large"].append(_chord(large))
            run.say(f"chords {turn + 1}/{ROUNDS}: " + ", ".join(f"{n} {s[-1]:.3f} s" for n, s in seconds.items() if s))
    for _ in range(3):
        began = time.perf_counter()
        chord((coroutine.s(number) for number in range(built)), length.s()).apply_async(queue="nobody")
        seconds["build"].append(time.perf_counter() - began)
    note = "floor: insert, claims and finishes of as many plain jobs, overlapped, and one more"
    yield at_most(f"chord of {small:,}: call to result", "s", seconds["small"], 0.2)
    yield at_most_times("  beside the floor", "s", seconds["small"], seconds["floor"], 3, note)
    yield at_most_times(f"chord of {large:,} beside that of {small:,}", "s", seconds["large"], seconds["small"], 10)
    yield at_most(f"chord of {built:,}: build and insert", "s", seconds["build"], 0.5)
    run.server.clear()


def _chord(count: int) -> float:
    began = time.perf_counter()
    result = chord((coroutine.s(number) for number in range(count)), length.s())()
    assert result.get(timeout=60) == count
    return time.perf_counter() - began


def _bare_chord(run: Run, count: int) -> float:
    server = run.server
    bare = Bare(server.dsn, server.queries, "bare")
    client = open_bare(server.dsn)
    try:
        bare.claim(1)
        began = time.perf_counter()
        client.execute(
            server.queries["insert_jobs"], bulk_parameters(new_job_ids(count), "bench.coroutine", "bare")
        ).fetchone()
        overlapped(bare, count, BATCH)
        client.execute(
            server.queries["insert_jobs"], bulk_parameters(new_job_ids(1), "bench.coroutine", "bare")
        ).fetchone()
        overlapped(bare, 1, 1)
        return time.perf_counter() - began
    finally:
        bare.close()
        client.close()


def crowds(run: Run) -> Iterator[Figure]:
    """One chord against four workers, and 1,000 chords of 10, each beside a plain drain by the same workers."""
    server = run.server
    count = 40_000 if run.long else 20_000
    rates: dict[str, list[float]] = {"plain 4": [], "members": [], "plain": [], "many": []}
    with run.workers(*[("default", "-P", "loop")] * 4):
        server.preload(1_000, "bench.coroutine", "default").release_and_wait()
        for _ in range(ROUNDS):
            server.clear()
            rates["plain 4"].append(server.preload(count, "bench.coroutine", "default").release_and_wait())
            rates["members"].append(_held_back(run, lambda: _send_chord(count), count + 1))
    with run.worker("default", "-P", "loop"):
        for _ in range(ROUNDS):
            server.clear()
            rates["plain"].append(server.preload(11_000, "bench.coroutine", "default").release_and_wait())
            rates["many"].append(_held_back(run, _send_many, 11_000))
    yield at_least(
        "members of one chord, 4 workers", "jobs/s", rates["members"], rates["plain 4"], 0.7, "floor: plain drain"
    )
    yield at_least("1,000 chords of 10", "jobs/s", rates["many"], rates["plain"], 0.6, "floor: plain drain")
    server.clear()


def _send_chord(count: int) -> str:
    return str(chord((coroutine.s(number) for number in range(count)), length.s())().id)


def _send_many() -> str:
    for _ in range(1_000):
        last = chord((coroutine.s(number) for number in range(10)), length.s())()
    return str(last.id)


def _held_back(run: Run, send: Callable[[], str], jobs: int) -> float:
    """Enqueue in one transaction, so that the work begins at once; jobs a second from first claim to last finish."""
    server = run.server
    server.clear()
    with psycopg.connect(server.dsn) as connection:
        with app.using(connection):
            last_id = send()
        server.commit_and_wait(connection, last_id, "default")
    seconds, finished = server.one(
        "select array[extract(epoch from max(finished_at) - min(started_at)), count(*)]::float8[]"
        " from pgqueue.finished_jobs where state = 'succeeded'"
    )
    if finished != jobs:
        raise RuntimeError(f"{finished:g} of {jobs} jobs succeeded")
    return jobs / float(seconds)


def chains(run: Run) -> Iterator[Figure]:
    """A chain of 1,000 links, from the call to the last result."""
    links = 1_000
    measured: list[float] = []
    bare: list[float] = []
    with run.worker("default", "-P", "loop"):
        for _ in range(3):
            run.server.clear()
            bare.append(_bare_chain(run, links) / links * 1e3)
            began = time.perf_counter()
            result = chain(coroutine.s(0), *(coroutine.s() for _ in range(links - 1)))()
            assert result.get(timeout=60) == 0
            measured.append((time.perf_counter() - began) / links * 1e3)
    note = f"{links} links; floor: insert one, claim it, finish it: median {statistics.median(bare):.2f} ms"
    yield at_most(f"chain of {links:,}: a link", "ms", measured, 1.5, note=note)
    yield at_most_times("  beside the floor", "ms", measured, bare, 1.7)
    run.server.clear()


def _bare_chain(run: Run, links: int) -> float:
    server = run.server
    bare = Bare(server.dsn, server.queries, "bare")
    client = open_bare(server.dsn)
    try:
        began = time.perf_counter()
        for _ in range(links):
            client.execute(
                server.queries["insert_jobs"], bulk_parameters(new_job_ids(1), "bench.coroutine", "bare")
            ).fetchone()
            token, rows = bare.claim(1)
            bare.finish([(row[4], token, "1") for row in rows])
        return time.perf_counter() - began
    finally:
        bare.close()
        client.close()
