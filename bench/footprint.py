"""What pgqueue costs when nothing happens: an idle worker, an import, the command line's start."""

import collections
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import NamedTuple

from bench.report import Figure, at_most, at_most_times
from bench.run import Run
from tests.support.process import REPOSITORY, clean_environment

__all__ = ["Idle", "idle", "imports", "watch_idle"]

MIB = 2**20
_LOGGED = re.compile(r"^.* bench (\S*) LOG:  (?:statement|execute [^:]*): *(\S+ \S+)", re.MULTILINE)


class Idle(NamedTuple):
    """A worker with nothing to do: statements and percent of a processor per second, memory in MiB."""

    statements: float
    processor: float
    supervisor: float
    children: list[float]
    note: str


def watch_idle(run: Run) -> Idle:
    """Watch a worker with 2 children for a while."""
    server = run.server
    seconds = 60.0 if run.long else 12.0
    server.cluster.execute("alter database bench set log_statement = 'all'")
    try:
        with run.worker("default", "-P", "processes", "-c", "2", app="bench.empty:app") as worker:
            time.sleep(5)
            already = len(server.cluster.log_text())
            before, began = worker.cpu_seconds(), time.monotonic()
            time.sleep(seconds)
            passed = time.monotonic() - began
            cpu = (worker.cpu_seconds() - before) / passed * 100
            logged = collections.Counter(_LOGGED.findall(server.cluster.log_text()[already:]))
            supervisor = worker.process.memory_info().rss / MIB
            children = [child.memory_info().rss / MIB for child in worker.children()]
    finally:
        server.cluster.execute("alter database bench reset log_statement")
    note = ", ".join(f"{text.lower()} x {count}" for (_, text), count in logged.most_common(6))
    return Idle(sum(logged.values()) / passed, cpu, supervisor, children, f"{passed:.0f} s: {note}")


def idle(run: Run) -> Iterator[Figure]:
    """A worker with 2 children and nothing to do: statements that the server logs, processor time, memory."""
    run.server.clear()
    found = watch_idle(run)
    yield at_most("idle worker: statements", "1/s", [found.statements], 1, note=found.note)
    yield at_most("idle worker: processor", "%", [found.processor], 0.5, note="supervisor and 2 children")
    yield at_most("idle worker: memory of the supervisor", "MiB", [found.supervisor], 60)
    sizes = ", ".join(f"{size:.1f}" for size in found.children)
    yield at_most("idle worker: memory of a child", "MiB", [max(found.children)], 45, note=f"children: {sizes}")


def imports(run: Run) -> Iterator[Figure]:
    """Import and command line, each in a fresh interpreter."""
    # Not `import pgqueue` alone, which loads next to nothing until a name is asked for.
    ours, bare = "from pgqueue import PgQueue", "import psycopg, psycopg_pool"
    times: dict[str, list[float]] = {ours: [], bare: []}
    for _ in range(7):
        for load, found in times.items():
            program = f"import time; began = time.perf_counter(); {load}; print(time.perf_counter() - began)"
            found.append(float(_output(sys.executable, "-c", program)) * 1e3)
    yield at_most_times("import pgqueue", "ms", times[ours], times[bare], 1.4, note=ours)
    starts = []
    for _ in range(5):
        began = time.perf_counter()
        _output(sys.executable, "-m", "pgqueue", "--help")
        starts.append(time.perf_counter() - began)
    yield at_most("pgqueue --help", "s", starts, 0.35)
    run.say(f"import {statistics.median(times[ours]):.0f} ms, --help {statistics.median(starts):.2f} s")


def _output(*command: str) -> str:
    return subprocess.run(
        command, env=clean_environment(), cwd=REPOSITORY, check=True, capture_output=True, text=True, timeout=30
    ).stdout
