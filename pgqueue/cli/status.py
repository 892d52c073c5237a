"""`pgqueue status` and `pgqueue health`: for people, and for probes."""

import sys
import time
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli import declined
from pgqueue.cli.options import DURATION, QUEUES
from pgqueue.cli.session import Session, pass_session

if TYPE_CHECKING:
    import psycopg

__all__ = ["health", "status"]


@click.command(short_help="Show queues, workers and rates.")
@click.option("-w", "--watch", is_flag=True, help="Show it again and again, until Ctrl-C.")
@click.option("--interval", type=DURATION, default="2s", show_default=True, help="Time between two looks.")
@click.option("-a", "--all", "every", is_flag=True, help="Also workers that stopped or were lost.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON; with --watch one line a look.")
@declined.refuse(declined.INSPECT)
@pass_session
def status(session: Session, watch: bool, interval: float, every: bool, as_json: bool) -> None:
    """Show what waits, what runs, who works, and how fast."""
    interval = max(interval, 0.2)
    with session.checked() as connection:
        finished: dict[int, tuple[int, float]] = {}
        while True:
            found = _look(session, connection, every, finished)
            finished = found.pop("samples")
            _print(found, as_json, watch)
            if not watch:
                return
            time.sleep(interval)


def _look(
    session: Session, connection: "psycopg.Connection[Any]", every: bool, before: dict[int, tuple[int, float]]
) -> dict[str, Any]:
    """One look. Rates are between two heartbeats when there was an earlier look, else since the worker's start."""
    from pgqueue.store.statement import run  # noqa: PLC0415 - not needed by --help
    from pgqueue.store.stats import queue_depths, worker_rates  # noqa: PLC0415 - as above
    from pgqueue.store.workers import list_workers  # noqa: PLC0415 - as above

    depths = run(connection, queue_depths(session.queries))
    workers = run(connection, list_workers(session.queries, every))
    samples = run(connection, worker_rates(session.queries))
    rates: dict[int, float] = {}
    kept = dict(samples)
    for worker_id, (count, seconds) in samples.items():
        count_before, seconds_before = before.get(worker_id, (0, 0.0))
        if worker_id in before and seconds - seconds_before < 1:
            kept[worker_id] = before[worker_id]  # no heartbeat since: nothing new to tell
            count_before, seconds_before = 0, 0.0
        span = seconds - seconds_before
        rates[worker_id] = 60 * (count - count_before) / span if span > 0 else 0.0
    return {
        "queues": [depth._asdict() for depth in depths],
        "workers": [
            {
                **{name: value for name, value in worker._asdict().items() if name != "tasks"},
                "tasks": len(worker.tasks),
                "finished_per_minute": round(rates[worker.id], 1) if worker.id in rates else None,
            }
            for worker in workers
        ],
        "finished_per_minute": round(sum(rates.values()), 1),
        "samples": kept,
    }


def _print(found: dict[str, Any], as_json: bool, watch: bool) -> None:
    import json  # noqa: PLC0415 - as below

    from pgqueue.cli.output import print_json, print_table, span  # noqa: PLC0415 - not needed by --help
    from pgqueue.store.stats import DEPTH_CAP  # noqa: PLC0415 - as above

    if as_json:
        if watch:
            click.echo(json.dumps(found, default=str))
        else:
            print_json(found)
        return
    if watch and sys.stdout.isatty():
        click.clear()

    def count(number: int) -> str:
        return f"{number:,}+" if number >= DEPTH_CAP else f"{number:,}"

    numbers = ("available", "scheduled", "running", "workers", "oldest", "next due")
    rows = [
        (
            *(queue["queue"], count(queue["available"]), count(queue["scheduled"]), count(queue["running"])),
            *(queue["workers"], span(queue["oldest"]), span(queue["next_due"])),
        )
        for queue in found["queues"]
    ]
    if rows:
        print_table(("queue", *numbers), rows, right=numbers)
    else:
        click.echo("no queue has jobs or workers")
    click.echo()
    lines = [
        (
            *(worker["id"], worker["name"], worker["status"], ",".join(worker["queues"]), _pools(worker["pools"])),
            *(worker["running"], f"{worker['finished']:,}"),
            "" if worker["finished_per_minute"] is None else f"{worker['finished_per_minute']:,.0f}",
        )
        for worker in found["workers"]
    ]
    if lines:
        heads = ("id", "worker", "status", "queues", "pools", "running", "finished", "per min")
        print_table(heads, lines, right=("id", "running", "finished", "per min"))
        click.echo(f"\nfinished per minute: {found['finished_per_minute']:,.0f}")
    else:
        click.echo("no worker is live: pgqueue -A MODULE:APP worker")
    unserved = [queue["queue"] for queue in found["queues"] if not queue["workers"]]
    if unserved and lines:
        click.echo(f"no live worker serves: {', '.join(unserved)}")


def _pools(pools: dict[str, Any]) -> str:
    return " ".join(f"{kind}:{size}" for kind, size in pools.items())


@click.command(short_help="Tell by the exit code whether all is well.")
@click.option("-Q", "--queues", type=QUEUES, help="Each of these queues must have a live worker.")
@click.option("--worker", help="A live worker of this name must exist; %h is this host.")
@click.option("--timeout", type=DURATION, default="5s", show_default=True, help="Longest time for each statement.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_session
def health(session: Session, queues: list[str] | None, worker: str | None, timeout: float, as_json: bool) -> int:
    """Tell by the exit code whether jobs can be enqueued and run; for probes of containers and load balancers.

    0: the server takes writes, the schema is of this release, there is a partition for tomorrow, and what was asked for
    lives. 1: not so; why is said. 2: wrong options or settings. 3: the server cannot be reached.
    """
    import socket  # noqa: PLC0415 - not needed by --help

    from pgqueue.cli.output import print_json  # noqa: PLC0415 - as above
    from pgqueue.errors import ConfigurationError, SchemaError  # noqa: PLC0415 - as above
    from pgqueue.store.schema import preflight  # noqa: PLC0415 - as above
    from pgqueue.store.statement import run  # noqa: PLC0415 - as above
    from pgqueue.store.workers import list_workers  # noqa: PLC0415 - as above

    queries = session.queries
    problems: list[str] = []
    warnings: list[str] = []
    with session.connect() as connection:
        connection.autocommit = True
        try:
            with connection.transaction():
                connection.execute(queries["set_statement_timeout"], {"milliseconds": str(round(timeout * 1000))})
                warnings = preflight(connection, queries)
                row = connection.execute(queries["next_partition_exists"]).fetchone()
                if row is None or not row[0]:
                    problems.append("tomorrow's partition is missing: run `pgqueue prune`, or start a worker")
                live = [each for each in run(connection, list_workers(queries)) if each.status == "live"]
                connection.execute(queries["test_write"])
        except (SchemaError, ConfigurationError) as error:
            problems.append(str(error))
        else:
            served = {queue for each in live for queue in each.queues}
            problems += [f"no live worker serves queue {queue}" for queue in queues or () if queue not in served]
            wanted = None if worker is None else worker.replace("%h", socket.gethostname())
            if wanted is not None and not any(each.name == wanted for each in live):
                problems.append(f"no live worker is named {wanted}")
    if as_json:
        print_json({"ready": not problems, "problems": problems, "warnings": warnings})
    else:
        for line in warnings:
            session.note(f"warning: {line}")
        for line in problems:
            click.echo(f"pgqueue health: {line}", err=True)
        if not problems:
            click.echo("ready")
    return 1 if problems else 0
