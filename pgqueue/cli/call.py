"""`pgqueue call` and `pgqueue result`: one job in, one outcome out."""

import math
from datetime import datetime
from typing import Any

import click

from pgqueue.cli import declined
from pgqueue.cli.ids import ID, find_job
from pgqueue.cli.options import DURATION, INSTANT, JSON_ARRAY, JSON_OBJECT, Checked, instant, job_id
from pgqueue.cli.session import Session, pass_session

__all__ = ["call", "result"]


def _expires(text: str) -> float | datetime:
    try:
        seconds = float(text)
    except ValueError:
        return instant(text)
    if not math.isfinite(seconds):
        raise ValueError(f"{text!r} is no number of seconds")
    return seconds


@click.command(short_help="Enqueue a task by its name.")
@click.argument("name")
@click.option("-a", "--args", type=JSON_ARRAY, help="Positional arguments, a JSON array.")
@click.option("-k", "--kwargs", type=JSON_OBJECT, help="Keyword arguments, a JSON object.")
@click.option("--countdown", type=float, help="Seconds to wait before it runs.")
@click.option("--eta", type=INSTANT, help="Not before this instant (ISO 8601).")
@click.option(
    "--expires", type=Checked("seconds|instant", _expires), help="Not after so many seconds, or this instant."
)
@click.option("--queue", help="Queue to put it on.  [default: as the task or its route says]")
@click.option("--priority", type=click.IntRange(0, 9), help="0 to 9, 9 first.")
@click.option("--task-id", help="An id of your own; a second job of the same id is refused.")
@click.option("-f", "--force", is_flag=True, help="Also a task that the application does not have.")
@declined.refuse(declined.CALL)
@pass_session
def call(
    session: Session,
    /,
    name: str,
    args: list[Any] | None,
    kwargs: dict[str, Any] | None,
    force: bool,
    **options: Any,
) -> None:
    """Enqueue the task NAME and print the id of the job.

    With an application, NAME and the arguments are checked; --force enqueues what only a worker of others has.
    """
    from pgqueue.errors import DuplicateJob, UnknownTask  # noqa: PLC0415 - not needed by --help

    given = {option: value for option, value in options.items() if value is not None}
    if "countdown" in given and "eta" in given:
        raise click.UsageError("give --countdown or --eta, not both")
    session.app.finalize()
    if session.app.tasks and not force:
        try:
            session.app.tasks[name]
        except UnknownTask as error:
            raise click.UsageError(f"{error} --force enqueues it all the same") from None
    try:
        sent = session.app.send_task(name, args=args or [], kwargs=kwargs or {}, **given)
    except DuplicateJob as error:
        raise click.UsageError(f"--task-id: a job {error.job_id!r} is kept already; choose another") from None
    click.echo(sent.id)


@click.command(short_help="Print the result of a job.")
@click.argument("task_id", metavar="ID", type=ID)
@click.option("--traceback", is_flag=True, help="Print the traceback of a failed job instead.")
@click.option("--wait", type=DURATION, default="0s", help="Wait so long for its end.")
@declined.refuse(declined.RESULT)
@pass_session
def result(session: Session, task_id: str, traceback: bool, wait: float) -> int:
    """Print the result of the job ID as JSON.

    Exit code 0: it succeeded. 1: it failed, is not finished, or there is none; why is said on stderr.
    """
    from pgqueue.cli.output import printable  # noqa: PLC0415 - not needed by --help
    from pgqueue.store.statement import run  # noqa: PLC0415 - as above
    from pgqueue.store.stats import show_job  # noqa: PLC0415 - as above

    with session.checked() as connection:
        wanted = find_job(connection, session.queries, task_id)
        if wait:
            _wait(session, task_id if wanted == job_id(task_id) else wanted, wait)
        job = run(connection, show_job(session.queries, wanted))
    if job is None:
        raise click.ClickException(f"no job {printable(task_id)}: never enqueued, not committed, or no longer kept")
    if traceback:
        click.echo(printable(job.traceback or "", keep="\n\t").rstrip())
        return 0 if job.state == "succeeded" else 1
    if job.state == "succeeded":
        click.echo("null" if job.result is None else printable(job.result, keep="\n"))
        return 0
    why = f": {job.error_type}: {job.error}" if job.error_type else ""
    raise click.ClickException(f"job {printable(task_id)} is {job.state}{why}")


def _wait(session: Session, task_id: str, seconds: float) -> None:
    from pgqueue.errors import TimeoutError  # noqa: PLC0415 - not needed by --help; Celery's name for it

    try:
        session.app.AsyncResult(task_id).get(timeout=seconds, propagate=False)
    except TimeoutError:
        pass
