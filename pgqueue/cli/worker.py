"""`pgqueue worker`: options only; pgqueue.worker.command does the work."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

from pgqueue.cli import declined
from pgqueue.cli.options import LIMIT_SECONDS, QUEUES, Checked
from pgqueue.cli.session import Session, pass_session

__all__ = ["worker"]

LEVELS = ("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL")


def _whole(low: int, high: int) -> Callable[[str], int]:
    def convert(text: str) -> int:
        try:
            number = int(text)
        except ValueError:
            raise ValueError(f"{text!r} is no whole number") from None
        if not low <= number <= high:
            raise ValueError(f"{number} is not between {low} and {high}")
        return number

    return convert


def _autoscale(text: str) -> tuple[int, int]:
    """Celery's order: MAX,MIN."""
    most, _, least = text.partition(",")
    try:
        found = int(most), int(least or 1)
    except ValueError:
        raise ValueError(f"{text!r} is not MAX,MIN such as 10,2") from None
    if not 1 <= found[1] <= found[0] <= 10_000:
        raise ValueError(f"{text!r}: MAX,MIN with 1 <= MIN <= MAX <= 10000 is needed, such as 10,2")
    return found


_POOLS = {
    "prefork": "processes",
    "processes": "processes",
    "threads": "threads",
    "solo": "solo",
    "loop": "loop",
    "eventloop": "loop",
    "asyncio": "loop",
}


def _pools(text: str) -> str:
    """One kind, or several with a size each: processes:4,threads:20."""
    parts = []
    for part in text.split(","):
        kind, colon, size = part.strip().partition(":")
        if kind in ("gevent", "eventlet"):
            raise ValueError(f"{kind} is not supported: use threads, or write the tasks as coroutines (async def)")
        if kind not in _POOLS:
            raise ValueError(f"{kind!r} is no pool: processes (prefork), threads, loop or solo")
        if colon:
            _whole(1, 10_000)(size)
        parts.append(_POOLS[kind] + colon + size)
    return ",".join(parts)


def _modules(text: str) -> list[str]:
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if not all(part.isidentifier() for part in name.split(".")):
            raise ValueError(f"{name!r} is no module such as shop.tasks")
    return names


@click.command(short_help="Run tasks.")
@click.option("-Q", "--queues", type=QUEUES, help="Queues to serve, separated by commas.  [default: worker_queues]")
@click.option("-X", "--exclude-queues", type=QUEUES, help="Queues not to serve.")
@click.option(
    "-c",
    "--concurrency",
    type=Checked("n", _whole(1, 10_000)),
    help="Tasks at once: processes, threads or coroutines.  [default: number of cores]",
)
@click.option(
    "-P",
    "--pool",
    type=Checked("pool", _pools),
    help="processes (prefork), threads, loop or solo; several with sizes: processes:4,threads:20.",
)
@click.option("-n", "--name", "--hostname", "name", help="Name; %h is the host, %n the name of the app, %d the domain.")
@click.option(
    "-l",
    "--loglevel",
    type=click.Choice(LEVELS, case_sensitive=False),
    default="INFO",
    show_default=True,
    help="What goes to the log.",
)
@click.option("-f", "--logfile", type=click.Path(dir_okay=False), help="Log file.  [default: stderr]")
@click.option("-I", "--include", type=Checked("modules", _modules), help="More modules with tasks.")
@click.option("--time-limit", type=LIMIT_SECONDS, help="Seconds after which a task is killed.")
@click.option("--soft-time-limit", type=LIMIT_SECONDS, help="Seconds after which SoftTimeLimitExceeded is raised.")
@click.option(
    "--max-tasks-per-child", type=Checked("n", _whole(1, 2**31)), help="Tasks after which a process is replaced."
)
@click.option(
    "--max-memory-per-child",
    type=Checked("KiB", _whole(1024, 2**40)),
    help="Memory after which a process is replaced.",
)
@click.option("--autoscale", type=Checked("max,min", _autoscale), help="Let the concurrency follow the load.")
@click.option("--pidfile", type=click.Path(dir_okay=False), help="Write the process id there.")
@click.option("--burst", is_flag=True, help="Work until the queues are empty, then leave.")
@click.option("--no-scheduler", is_flag=True, help="Leave schedules to other workers and `pgqueue beat`.")
@click.option("-B", "--beat", is_flag=True, hidden=True, help="Celery's flag: every worker serves schedules anyway.")
@click.option("--reload", is_flag=True, help="Start anew whenever a source file changes (development).")
@declined.refuse(declined.WORKER)
@pass_session
@click.pass_context
def worker(
    ctx: click.Context,
    session: Session,
    /,
    *,
    time_limit: float | None,
    soft_time_limit: float | None,
    concurrency: int | None,
    autoscale: tuple[int, int] | None,
    include: list[str] | None,
    no_scheduler: bool,
    beat: bool,
    **options: Any,
) -> int:
    """Run tasks of the application until told to stop.

    TERM or Ctrl-C finishes what runs and puts the rest back; a second one stops at once. HUP reloads.
    """
    if time_limit is not None and soft_time_limit is not None and soft_time_limit >= time_limit:
        raise click.UsageError(
            f"--soft-time-limit ({soft_time_limit:g} s) must be shorter than --time-limit ({time_limit:g} s)", ctx
        )
    if autoscale is not None and concurrency is not None:
        raise click.UsageError("give --concurrency or --autoscale, not both", ctx)
    if beat and no_scheduler:
        raise click.UsageError("give --beat or --no-scheduler, not both", ctx)
    both = set(options["queues"] or ()) & set(options["exclude_queues"] or ())
    if both:
        raise click.UsageError(f"queue {min(both)!r} is in --queues and in --exclude-queues", ctx)
    app = session.app
    if session.app_name is None:
        raise click.UsageError(
            "which application? Name it with -A or PGQUEUE_APP, such as: pgqueue -A shop.tasks:app worker", ctx
        )
    # By name: everything else in this module serves --help, which must not load the engine.
    code: int = import_module("pgqueue.worker.command").run(
        app,
        time_limit=time_limit,
        soft_time_limit=soft_time_limit,
        concurrency=concurrency,
        autoscale=autoscale,
        scheduler=not no_scheduler,
        include=tuple(include or ()),
        spec=session.app_name,
        quiet=session.quiet,
        **options,
    )
    return code
