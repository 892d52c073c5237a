"""`pgqueue jobs`: list, show, cancel, retry."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.ids import ID, find_job
from pgqueue.cli.options import DURATION, QUEUES, Checked
from pgqueue.cli.output import ago, paint, print_json, print_table, printable, span
from pgqueue.cli.session import Session, pass_session
from pgqueue.job import JobState

if TYPE_CHECKING:
    import psycopg

    from pgqueue.store.stats import ListedJob, ShownJob

__all__ = ["jobs"]

BATCH = 1_000
_AS_JSON = ("args", "kwargs", "result", "headers", "options", "progress")
LIST_MILLISECONDS = "30000"
STATES = {
    **{str(state): (str(state),) for state in JobState},
    "pending": ("waiting", "scheduled", "available"),
    "started": ("running",),
    "success": ("succeeded",),
    "failure": ("failed",),
    "revoked": ("cancelled", "expired"),
    "ignored": ("skipped",),
    "live": tuple(str(state) for state in JobState if not state.finished),
    "finished": tuple(str(state) for state in JobState if state.finished),
}


def _states(text: str) -> list[str]:
    found: list[str] = []
    for name in text.lower().split(","):
        if name.strip() not in STATES:
            raise ValueError(f"{name.strip()!r} is no state; there are {', '.join(STATES)}")
        found += STATES[name.strip()]
    return found


@click.group(short_help="List, show, cancel and retry jobs.")
def jobs() -> None:
    """Look at jobs, and change them."""


@jobs.command("list")
@click.option(
    "-s", "--state", "states", type=Checked("states", _states), help="States, separated by commas; live, finished."
)
@click.option("-Q", "--queue", "queues", type=QUEUES, help="Queues, separated by commas.")
@click.option("--task", help="Name of the task; * stands for anything.")
@click.option("--worker", "worker_id", type=int, help="Id of the worker that runs or ran them.")
@click.option("--since", type=DURATION, help="Enqueued at most so long ago: 15m, 2h, 7d.")
@click.option("-n", "--limit", type=click.IntRange(1, 100_000), default=50, show_default=True, help="At most so many.")
@click.option("--ids", is_flag=True, help="Print ids only, for `pgqueue jobs cancel -`.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_session
def list_(session: Session, /, ids: bool, as_json: bool, since: float | None, **filters: Any) -> None:
    """List jobs, live and finished; those that were enqueued last come first.

    Cheap for ids that pgqueue made. All jobs with ids of your own are read: of millions, --since leaves old days out.
    """
    from psycopg.errors import QueryCanceled  # noqa: PLC0415 - as above

    from pgqueue.store.statement import run  # noqa: PLC0415 - not needed by --help
    from pgqueue.store.stats import list_jobs  # noqa: PLC0415 - as above

    with session.checked() as connection:
        connection.execute(session.queries["set_session_statement_timeout"], {"milliseconds": LIST_MILLISECONDS})
        try:
            found = run(connection, list_jobs(session.queries, since_seconds=since, **filters))
        except QueryCanceled:
            raise click.ClickException("few of very many jobs match: narrow it down with --since or --limit") from None
    if as_json:
        print_json([dict(zip(job._fields[:-1], job[:-1], strict=True)) for job in found])
    elif ids:
        for job in found:
            click.echo(job.id)
    else:
        rows = [(*job[:6], ago(job.enqueued_at, job.now), _remark(job)) for job in found]
        heads = ("id", "state", "task", "queue", "prio", "tries", "enqueued", "")
        print_table(heads, rows, right=("prio", "tries"), drop=("prio", "tries", "queue"))
        if len(found) == filters["limit"]:
            session.note(f"these are the newest {len(found)}; --limit shows more")


def _remark(job: "ListedJob") -> str:
    if job.error_type:
        return f"{job.error_type}: {(job.error or '').splitlines()[0] if job.error else ''}"
    if job.state == "scheduled":
        return f"due {ago(job.run_at, job.now)}"
    if job.state == "running":
        return f"started {ago(job.started_at, job.now)}"
    if job.finished_at and job.started_at and job.state == "succeeded":
        return f"took {span((job.finished_at - job.started_at).total_seconds())}"
    return ""


@jobs.command()
@click.argument("text", metavar="ID", type=ID)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_session
def show(session: Session, text: str, as_json: bool) -> None:
    """Show everything about one job: its story and, while it has not run, why.

    The first characters of an ID will do, from 8 on, where no other begins like that.
    """
    from pgqueue.store.statement import run  # noqa: PLC0415 - not needed by --help
    from pgqueue.store.stats import job_attempts, job_prospects, show_job  # noqa: PLC0415 - as above

    with session.checked() as connection:
        wanted = find_job(connection, session.queries, text)
        job = run(connection, show_job(session.queries, wanted))
        if job is None:
            raise click.ClickException(f"no job {printable(text)}: never enqueued, not committed, or no longer kept")
        attempts = run(connection, job_attempts(session.queries, wanted))
        prospects = run(connection, job_prospects(session.queries, wanted))
    reasons = prospects.reasons(job.queue, job.task) if prospects is not None else []
    if as_json:
        told = {**job._asdict(), "args": job.args or "[]", "kwargs": job.kwargs or "{}"}
        told |= {name: json.loads(told[name]) for name in _AS_JSON if told[name] is not None}
        print_json({**told, "attempts": [each._asdict() for each in attempts], "why": reasons})
        return
    _field("job", job.id)
    _field("task", job.task)
    click.echo(f"{'state':<10}{paint(job.state)}")
    for reason in reasons:
        _field("why", reason)
    _field("queue", f"{job.queue}, priority {job.priority}")
    for name, value in (
        ("args", job.args or "[]"),
        ("kwargs", job.kwargs or "{}"),
        ("result", job.result if job.state == "succeeded" else None),
        ("error", f"{job.error_type}: {job.error}" if job.error_type else None),
        ("progress", job.progress),
        ("headers", job.headers),
        ("options", job.options),
        ("worker", None if job.worker_id is None else f"{job.worker or 'no longer known'} ({job.worker_id})"),
        ("parent", job.parent_id),
        ("root", job.root_id if job.root_id != job.id else None),
    ):
        if value is not None:
            _field(name, value)
    _story(job)
    for each in attempts:
        end = f"{each.ended_at:%H:%M:%S}, {ago(each.ended_at, job.now)}"
        why = f": {each.error_type}: {each.error}" if each.error_type else ""
        _field(f"try {each.attempt}", f"{each.outcome} on {each.worker or '?'} at {end}{why}")
    if job.traceback:
        click.echo(printable(job.traceback, keep="\n\t").rstrip())


def _field(name: str, text: str) -> None:
    click.echo(f"{name:<10}{printable(text)}")


def _story(job: "ShownJob") -> None:
    for name, instant in (
        ("enqueued", job.enqueued_at),
        ("due", job.run_at),
        ("started", job.started_at),
        ("finished", job.finished_at),
        ("expires", job.expires_at),
        ("kept to", job.delete_after),
    ):
        if instant is not None:
            _field(name, f"{instant:%Y-%m-%d %H:%M:%S.%f %Z} ({ago(instant, job.now)})")
    tries = f"{job.attempt} attempt{'s' if job.attempt != 1 else ''}"
    lost = f", {job.lost} of them lost with their worker" if job.lost else ""
    _field("tries", f"{tries}{lost}")


_ids = click.argument("ids", metavar="ID...", nargs=-1, required=True)


@jobs.command()
@_ids
@click.option("--terminate", is_flag=True, help="Stop running jobs, too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_session
def cancel(session: Session, ids: tuple[str, ...], terminate: bool, as_json: bool) -> int:
    """Cancel jobs that have not started. `-` reads ids from the standard input, one a line.

    Prints what became of each; exit code 1 when one could not be cancelled.
    """
    from pgqueue.store.jobs import cancel_jobs  # noqa: PLC0415 - not needed by --help
    from pgqueue.store.statement import run  # noqa: PLC0415 - as above

    keep: float | None = session.app.conf.result_expires

    def change(connection: "psycopg.Connection[Any]", batch: list[str]) -> dict[str, str]:
        found = run(connection, cancel_jobs(session.queries, batch, terminate, keep))
        told = {"cancelled": "cancelled", "asked": "asked to stop", "running": "running: --terminate stops it"}
        return {each: told[outcome] for each, outcome in found.items()}

    return _change_each(session, ids, as_json, change, {"cancelled", "asked to stop"}, "cancel")


@jobs.command()
@_ids
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_session
def retry(session: Session, ids: tuple[str, ...], as_json: bool) -> int:
    """Run failed, cancelled and expired jobs again, under their ids. `-` reads ids from the standard input, one a line.

    Prints what became of each; exit code 1 when one could not be retried.
    """
    from pgqueue.store.jobs import revive_jobs  # noqa: PLC0415 - not needed by --help
    from pgqueue.store.statement import run  # noqa: PLC0415 - as above

    def change(connection: "psycopg.Connection[Any]", batch: list[str]) -> dict[str, str]:
        revived = run(connection, revive_jobs(session.queries, batch))
        return dict.fromkeys(revived, "retried")

    return _change_each(session, ids, as_json, change, {"retried"}, "retry")


def _change_each(
    session: Session,
    given: Sequence[str],
    as_json: bool,
    change: Callable[["psycopg.Connection[Any]", list[str]], dict[str, str]],
    good: set[str],
    verb: str,
) -> int:
    """Change jobs in batches; print one line each, in the order given. 1 when one was not changed."""
    from pgqueue.store.statement import run  # noqa: PLC0415 - not needed by --help
    from pgqueue.store.stats import job_states  # noqa: PLC0415 - as above

    seen: set[str] = set()
    told: list[dict[str, str]] = []
    failed = 0
    with session.checked() as connection:
        for batch in _batches(_texts(given)):
            outcomes: dict[str, str] = {}
            wanted: dict[str, str] = {}
            for text in batch:
                try:
                    wanted[text] = find_job(connection, session.queries, text)
                except ValueError as error:
                    outcomes[text] = str(error)
                except click.UsageError as error:
                    if not seen:
                        raise
                    outcomes[text] = str(error)  # those before it are changed already
            fresh = [each for each in dict.fromkeys(wanted.values()) if each not in seen]
            changed = change(connection, fresh) if fresh else {}
            rest = [each for each in fresh if each not in changed]
            states = run(connection, job_states(session.queries, rest)) if rest else {}
            for text in batch:
                each = wanted.get(text)
                if each is not None and each in seen:
                    outcome = "given twice"
                elif each is not None:
                    outcome = changed.get(each) or (
                        f"cannot {verb}: it is {states[each]}" if each in states else "no such job"
                    )
                    seen.add(each)
                else:
                    outcome = outcomes[text]
                failed += outcome not in good and outcome != "given twice"
                if as_json:
                    told.append({"id": text, "outcome": outcome})
                else:
                    click.echo(f"{printable(text[:255])}  {outcome}")
    if as_json:
        print_json(told)
    return 1 if failed else 0


def _texts(given: Sequence[str]) -> Iterator[str]:
    for text in given:
        if text != "-":
            yield text
            continue
        for line in sys.stdin:
            if line.strip():
                yield line.strip()


def _batches(texts: Iterable[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    for text in texts:
        batch.append(text)
        if len(batch) == BATCH:
            yield batch
            batch = []
    if batch:
        yield batch
