"""`pgqueue schedules`: list, show, add, pause, resume, run, remove, backfill."""

import sys
from collections.abc import Callable
from datetime import UTC, datetime, tzinfo
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.confirm import confirm
from pgqueue.cli.options import DURATION, INSTANT, JSON_ARRAY, JSON_OBJECT
from pgqueue.cli.output import ago, print_json, print_table, printable, span
from pgqueue.cli.session import Session, pass_session

if TYPE_CHECKING:
    from pgqueue.schedules import Schedule

__all__ = ["schedules"]

_BRIEF = 48


@click.group(short_help="List, show, add, pause, run and remove schedules.")
def schedules() -> None:
    """Look at schedules, and change them; workers notice at once."""


@schedules.command("list")
@click.option("--owner", help="Only those that the code of this application declares.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_session
def list_(session: Session, owner: str | None, as_json: bool) -> None:
    """List schedules by name."""
    session.checked().close()
    found = session.app.schedules.list(owner)
    if as_json:
        print_json([_plain(each) for each in found])
        return
    now = datetime.now(UTC)
    rows = [
        (
            *(each.name, _brief(_state(each)), each.task, each.timing.described(), _zone(each)),
            *(ago(each.next_run_at, now), ago(each.last_run_at, now), each.owner),
        )
        for each in found
    ]
    print_table(("name", "state", "task", "schedule", "zone", "next", "last", "owner"), rows)


@schedules.command()
@click.argument("name")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@pass_session
def show(session: Session, name: str, as_json: bool) -> None:
    """Show everything about the schedule NAME, its last ticks and the next ones."""
    session.checked().close()
    found = session.app.schedules.get(name)
    history = session.app.schedules.history(name, 5)
    coming: list[datetime] = []
    at = found.next_run_at
    while at is not None and len(coming) < 5:
        coming.append(at)
        at = found.timing.next_after(at)
    if as_json:
        print_json({**_plain(found), "next_ticks": coming, "last_ticks": [tick._asdict() for tick in history]})
        return
    now = datetime.now(UTC)
    for label, text in (
        ("schedule", found.name),
        ("state", _state(found)),
        ("task", found.task),
        ("args", found.args),
        ("kwargs", found.kwargs),
        ("options", {name: value for name, value in found.options.items() if name != "linked"}),
        ("then", ", ".join(step["task"] for step in found.options.get("linked", {}).get("steps", ())) or None),
        ("when", found.timing.described() + (f" ({_zone(found)})" if _zone(found) else "")),
        ("from", found.timing.start_at),
        ("until", found.timing.end_at),
        ("jitter", span(found.jitter) if found.jitter else None),
        ("catch up", f"{found.catch_up}" + (f", {found.catch_up_limit} at most" if found.catch_up == "all" else "")),
        ("deadline", None if found.starting_deadline is None else span(found.starting_deadline)),
        ("overlap", found.overlap),
        ("owner", found.owner),
    ):
        if text is not None:
            click.echo(f"{label:<10}{printable(text)}")
    for tick in reversed(history):
        what = f"job {tick.job_id}, {tick.state or 'no longer kept'}" if tick.job_id else "skipped"
        click.echo(f"{'last':<10}{_local(found, tick.tick)}, {what}")
    for each in coming:
        click.echo(f"{'next':<10}{_local(found, each)}, {ago(each, now)}")


@schedules.command()
@click.argument("name")
@click.argument("task")
@click.option("--cron", help="Five fields, six with seconds last, or @hourly and the like.")
@click.option("--every", type=DURATION, help="An interval: 30s, 15m, 2h.")
@click.option("--at", type=INSTANT, help="One instant (ISO 8601).")
@click.option("--solar", help='An event of the sun, latitude and longitude: "sunset 52.52 13.41".')
@click.option("-a", "--args", type=JSON_ARRAY, help="Positional arguments, a JSON array.")
@click.option("-k", "--kwargs", type=JSON_OBJECT, help="Keyword arguments, a JSON object.")
@click.option("-o", "--options", type=JSON_OBJECT, help="Options of apply_async, a JSON object.")
@click.option("--timezone", help="Of cron and of instants without a zone.  [default: the setting]")
@click.option("--start", "start_at", type=INSTANT, help="No tick before this instant.")
@click.option("--end", "end_at", type=INSTANT, help="No tick after this instant.")
@click.option("--jitter", type=DURATION, help="Each job waits up to so long, at random.")
@click.option("--catch-up", type=click.Choice(("skip", "one", "all")), default="one", show_default=True)
@click.option("--catch-up-limit", type=click.IntRange(1, 10_000), default=100, show_default=True)
@click.option("--deadline", "starting_deadline", type=DURATION, help="A tick that is later than this is dropped.")
@click.option("--overlap", type=click.Choice(("allow", "skip", "queue")), default="allow", show_default=True)
@click.option("--paused", is_flag=True, help="Add it without letting it tick.")
@click.option("--unchecked", is_flag=True, help="Also a task that no worker has registered.")
@pass_session
def add(
    session: Session,
    /,
    name: str,
    task: str,
    cron: str | None,
    every: float | None,
    at: datetime | None,
    solar: str | None,
    paused: bool,
    unchecked: bool,
    **options: Any,
) -> None:
    """Add the schedule NAME for TASK, or replace what it says."""
    given = [value for value in (cron, every, at, _solar(solar)) if value is not None]
    if len(given) != 1:
        raise click.UsageError("give exactly one of --cron, --every, --at and --solar")
    session.app.finalize()
    session.checked().close()
    session.app.schedules.upsert(
        name,
        task=task,
        schedule=given[0],
        enabled=False if paused else None,
        check_task=not unchecked,
        **{key: value for key, value in options.items() if value is not None},
    )
    found = session.app.schedules.get(name)
    click.echo(f"{printable(name)}: {_state(found)}" + _when(found))


def _solar(text: str | None) -> Any:
    """What --solar means; None when it was not given."""
    if text is None:
        return None
    from pgqueue.timing.recurrence import solar  # noqa: PLC0415 - not needed by --help

    parts = text.split()
    if len(parts) != 3:
        raise click.UsageError(
            f"--solar: expected such as 'sunset 52.52 13.41': an event, a latitude and a longitude, got {text[:60]!r}"
        )
    try:
        return solar(parts[0], float(parts[1]), float(parts[2]))
    except ValueError as error:
        raise click.UsageError(f"--solar: expected such as 'sunset 52.52 13.41': {error}") from None


def _edit(verb: str, done: str, text: str) -> Callable[..., None]:
    @schedules.command(verb, help=text)
    @click.argument("names", metavar="NAME...", nargs=-1, required=True)
    @pass_session
    def edit(session: Session, names: tuple[str, ...]) -> None:
        session.checked().close()
        for name in names:
            getattr(session.app.schedules, verb)(name)
            click.echo(f"{printable(name)}: {done}")

    command: Callable[..., None] = edit
    return command


_edit("pause", "paused", "Let schedules tick no more, until they are resumed; deployments do not resume them.")
_edit("resume", "resumed", "Let schedules tick again, from now on.")


@schedules.command()
@click.argument("names", metavar="NAME...", nargs=-1, required=True)
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@pass_session
def remove(session: Session, names: tuple[str, ...], force: bool) -> None:
    """Remove schedules. Their jobs stay; those that code declares come back with the next worker's start."""
    confirm(f"Remove {', '.join(map(printable, names))}?", force=force)
    session.checked().close()
    for name in names:
        session.app.schedules.remove(name)
        click.echo(f"{printable(name)}: removed")


@schedules.command()
@click.argument("name")
@pass_session
def run(session: Session, name: str) -> None:
    """Enqueue the job of the schedule NAME now, and print its id."""
    session.checked().close()
    click.echo(session.app.schedules.run(name).id)


@schedules.command()
@click.argument("name")
@click.option("--from", "begin", type=INSTANT, required=True, help="The first instant (ISO 8601).")
@click.option("--to", "end", type=INSTANT, help="The last instant.  [default: now]")
@click.option("--dry-run", is_flag=True, help="Only count.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@pass_session
def backfill(session: Session, name: str, begin: datetime, end: datetime | None, dry_run: bool, force: bool) -> None:
    """Enqueue the jobs of past ticks of the schedule NAME that it has not dealt with, each once."""
    session.checked().close()
    known = session.app.schedules
    end = end or datetime.now(UTC)
    planned = known.backfill(name, begin, end, dry_run=True)
    said = f"{planned.ticks} ticks, {planned.ticks - planned.enqueued} of them dealt with already"
    if dry_run or not planned.enqueued:
        click.echo(f"{said}; {planned.enqueued} jobs would be enqueued")
        return
    session.note(said)
    confirm(f"Enqueue {planned.enqueued:,} jobs?", force=force)
    with click.progressbar(length=planned.ticks, label="backfill", file=sys.stderr) as bar:
        done = known.backfill(name, begin, end, on_progress=lambda looked, made: bar.update(looked - bar.pos))
    click.echo(f"{done.enqueued} jobs enqueued")


def _state(found: "Schedule") -> str:
    if not found.enabled:
        return "paused" if found.pause_reason is None else f"paused: {found.pause_reason}"
    if found.problem is not None:
        return f"waits: {found.problem}"
    return "active" if found.next_run_at is not None else "over"


def _brief(text: str) -> str:
    """So much that a table stays one; `show` says the rest."""
    return text if len(text) <= _BRIEF else f"{text[: _BRIEF - 1]}…"


def _when(found: "Schedule") -> str:
    return f", next {_local(found, found.next_run_at)}" if found.next_run_at is not None else ""


def _zone(found: "Schedule") -> str:
    return found.timing.timezone if found.timing.cron is not None else ""


def _local(found: "Schedule", instant: datetime) -> str:
    from pgqueue.timing.zones import zone_of  # noqa: PLC0415 - not needed by --help

    try:
        zone: tzinfo = zone_of(found.timing.timezone)
    except ValueError:
        zone = UTC  # the server knows one that this machine does not
    return instant.astimezone(zone).isoformat(sep=" ", timespec="seconds")


def _plain(found: "Schedule") -> dict[str, Any]:
    plain = found._asdict()
    timing = plain.pop("timing")
    names = ("cron", "every", "once_at", "solar", "match_both_days", "timezone", "start_at", "end_at", "anchor_at")
    return {**plain, "state": _state(found), **{name: getattr(timing, name) for name in names}}
