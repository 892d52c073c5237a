"""`pgqueue beat`: options only; pgqueue.worker.beat does the work."""

from importlib import import_module

import click

from pgqueue.cli import declined
from pgqueue.cli.options import Checked
from pgqueue.cli.session import Session, pass_session

__all__ = ["beat"]


def _interval(text: str) -> float:
    try:
        found = float(text)
    except ValueError:
        found = -1.0
    if not 0 <= found <= 3600:
        raise ValueError(f"{text!r} is no number of seconds from 0 to 3600")
    return found


@click.command(short_help="Enqueue the jobs of schedules, without running tasks.")
@click.option("--max-interval", type=Checked("seconds", _interval), help="Longest sleep.  [default: 30]")
@click.option(
    "-l",
    "--loglevel",
    type=click.Choice(("DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"), case_sensitive=False),
    default="INFO",
    show_default=True,
    help="What goes to the log.",
)
@click.option("-f", "--logfile", type=click.Path(dir_okay=False), help="Log file.  [default: stderr]")
@declined.refuse(declined.BEAT)
@pass_session
def beat(session: Session, max_interval: float | None, loglevel: str, logfile: str | None) -> int:
    """Enqueue the jobs of schedules until told to stop, without running tasks.

    Every worker does the same beside its work; any number of either may run.
    """
    app = session.app
    # By name: everything else in this module serves --help, which must not load the engine.
    code: int = import_module("pgqueue.worker.beat").run(
        app,
        spec=session.app_name,
        loglevel=loglevel,
        logfile=logfile,
        max_interval=max_interval,
        quiet=session.quiet,
    )
    return code
