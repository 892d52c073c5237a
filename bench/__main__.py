"""Measure the bars on a private PostgreSQL: a table for people, build/bench/latest.json for programs.

Exit code 0: every bar holds; 1: one does not, or its row could not be measured; 2: the floor is wrong.
"""

import argparse
import os
import platform
import signal
import sys
import time
import traceback
from datetime import UTC, datetime
from types import FrameType
from typing import Any

import psycopg

from bench import drains, enqueues, footprint, latencies, pressure, schedules, workflows
from bench.report import Figure, table, write
from bench.run import Group, Run, time_limit
from bench.server import Server
from bench.tasks import app
from tests.support.process import REPOSITORY

GROUPS = (
    Group("drain", drains.drain, 150, 300),
    Group("enqueue", enqueues.single, 90, 120),
    Group("bulk", enqueues.bulk, 60, 90),
    Group("start", latencies.start, 90, 180),
    Group("slow-transactions", latencies.slow_transactions, 90, 120),
    Group("result", latencies.result, 60, 90),
    Group("due", latencies.due, 40, 60),
    Group("held", pressure.held, 120, 1_800),
    Group("claim-cost", pressure.claim_cost, 90, 900),
    Group("chords", workflows.chords, 60, 120, "workflows"),
    Group("crowds", workflows.crowds, 90, 180, "workflows"),
    Group("chains", workflows.chains, 60, 90, "workflows"),
    Group("ticks", schedules.ticks, 90, 180, "schedules"),
    Group("same-second", schedules.same_second, 60, 90, "schedules"),
    Group("idle-schedules", schedules.idle, 90, 150, "schedules"),
    Group("idle", footprint.idle, 60, 120),
    Group("import", footprint.imports, 40, 60),
)
PARTS = ("jobs", "workflows", "schedules")


def main() -> int:
    """Measure, print, write; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m bench", description="Measure pgqueue beside its bare floors.")
    parser.add_argument("--long", action="store_true", help="rows that need time or volume, in full size")
    parser.add_argument("--part", choices=PARTS, help="rows of one part; without it all if --long, else jobs")
    parser.add_argument("--only", nargs="+", metavar="NAME", help=f"of {', '.join(group.name for group in GROUPS)}")
    parser.add_argument("--pg", type=int, default=18, help="major version of PostgreSQL (18)")
    options = parser.parse_args()
    part = options.part or (None if options.long or options.only else "jobs")
    chosen = [
        group
        for group in GROUPS
        if (not options.only or group.name in options.only) and (part is None or group.part == part)
    ]
    if unknown := set(options.only or ()) - {group.name for group in GROUPS}:
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    signal.signal(signal.SIGTERM, _end)
    load = os.getloadavg()
    server = Server(options.pg)
    try:
        app.conf.update(dsn=server.dsn)
        figures, failed = _measure(Run(server, options.long), chosen)
        settings = server.settings()
    finally:
        app.close()
        server.close()
    facts = {
        "at": datetime.now(UTC).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "psycopg": f"{psycopg.__version__} ({psycopg.pq.__impl__})",
        "cores": os.cpu_count(),
        "load before": [round(value, 2) for value in load],
        "load after": [round(value, 2) for value in os.getloadavg()],
        "postgresql": settings,
    }
    print(table(figures))
    print("\n" + "\n".join(_lines(facts)))
    folder = REPOSITORY / "build/bench"
    write(folder, figures, facts)
    print(f"\nwritten: {folder.relative_to(REPOSITORY)}/latest.json, details.json, latest.svg")
    for name, reason in failed.items():
        print(f"NOT MEASURED {name}: {reason}")
    if "WrongFloor" in "".join(failed.values()):
        return 2
    return 1 if failed or not all(figure.holds for figure in figures) else 0


def _end(number: int, frame: FrameType | None) -> None:
    raise SystemExit(143)  # what was started is ended on the way out


def _measure(run: Run, groups: list[Group]) -> tuple[list[Figure], dict[str, str]]:
    figures: list[Figure] = []
    failed: dict[str, str] = {}
    for number, group in enumerate(groups, 1):
        run.say(f"{number}/{len(groups)} {group.name}")
        began = time.monotonic()
        try:
            with time_limit(group.long_seconds if run.long else group.seconds):
                figures.extend(group.measure(run))
        except Exception as error:
            failed[group.name] = f"{type(error).__name__}: {error}"
            traceback.print_exc()
        run.say(f"{group.name} took {time.monotonic() - began:.0f} s")
    return figures, failed


def _lines(facts: dict[str, Any]) -> list[str]:
    server = facts.pop("postgresql")
    lines = [f"{name}: {value}" for name, value in facts.items()]
    facts["postgresql"] = server
    return [*lines, "PostgreSQL: " + ", ".join(f"{name} {value}" for name, value in server.items())]


if __name__ == "__main__":
    sys.exit(main())
