"""`pgqueue workflows`: list, show, cancel, retry, resolve."""

import json
import sys
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.ids import ID, find_job, find_workflow
from pgqueue.cli.options import Checked
from pgqueue.cli.output import ago, paint, print_json, print_table, printable, span
from pgqueue.cli.session import Session, pass_session

if TYPE_CHECKING:
    from pgqueue.store.workflows import WorkflowRow

__all__ = ["workflows"]

STATES = ("running", "succeeded", "failed", "cancelled")


def _states(text: str) -> list[str]:
    found = [name.strip() for name in text.lower().split(",")]
    for name in found:
        if name not in STATES:
            raise ValueError(f"{name!r} is no state of a workflow; there are {', '.join(STATES)}")
    return found


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"no JSON ({error}); a text needs quotes: '\"yes\"'") from None


_json = click.option("--json", "as_json", is_flag=True, help="Print JSON.")


@click.group(short_help="List, show, cancel, retry workflows; resolve their events.")
def workflows() -> None:
    """Look at workflows, and change them."""


@workflows.command("list")
@click.option(
    "-s",
    "--state",
    "states",
    type=Checked("states", _states),
    help=f"States, separated by commas: {', '.join(STATES)}.",
)
@click.option("--name", help="Name of the workflow; * stands for anything.")
@click.option("-n", "--limit", type=click.IntRange(1, 10_000), default=50, show_default=True, help="At most so many.")
@click.option("--ids", is_flag=True, help="Print ids only.")
@_json
@pass_session
def list_(session: Session, states: list[str] | None, name: str | None, limit: int, ids: bool, as_json: bool) -> None:
    """List workflows, newest first, with their progress."""
    found = session.app.workflows.list(states, name, limit)
    if as_json:
        print_json([row._asdict() for row in found])
    elif ids:
        for row in found:
            click.echo(row.id)
    else:
        now = datetime.now(UTC)
        rows = [
            (
                *(row.id, row.state, row.name, f"{row.steps - row.live:,}/{row.steps:,}", row.failed or None),
                *(ago(row.created_at, now), _took(row)),
            )
            for row in found
        ]
        heads = ("id", "state", "name", "ended", "failed", "created", "")
        print_table(heads, rows, right=("ended", "failed"), drop=("failed", "created"))
        if len(found) == limit:
            session.note(f"these are the newest {limit}; --limit shows more")


def _took(row: "WorkflowRow") -> str:
    if row.finished_at is not None:
        return f"took {span((row.finished_at - row.created_at).total_seconds())}"
    return "" if row.deadline_at is None else f"deadline {ago(row.deadline_at, datetime.now(UTC))}"


@workflows.command()
@click.argument("text", metavar="ID", type=ID)
@click.option("--mermaid", is_flag=True, help="Print it as a Mermaid flowchart, for pages.")
@_json
@pass_session
def show(session: Session, text: str, mermaid: bool, as_json: bool) -> None:
    """Draw one workflow: each step under the last one that it waits for, with its state.

    ID is that of the workflow, or of one of its jobs; the first 8 characters or more will do where they tell which.
    """
    from pgqueue.cli.drawing import Drawing  # noqa: PLC0415 - not needed by --help

    control = session.app.workflows
    wanted = find_workflow(session, text)
    row = control.get(wanted)
    if row is None:
        with session.checked() as connection:
            job = find_job(connection, session.queries, text)
        if (found := control.of(job)) is not None:
            wanted, row = found, control.get(found)
    if row is None:
        raise click.ClickException(f"no workflow {printable(text)}: never sent, not committed, or no longer kept")
    steps, edges = control.steps(wanted), control.edges(wanted)
    if as_json:
        told = {"steps": [step._asdict() for step in steps], "edges": [edge._asdict() for edge in edges]}
        print_json({**row._asdict(), **told})
        return
    drawing = Drawing(steps, edges)
    if mermaid:
        for line in drawing.mermaid():
            click.echo(line)
        return
    now = datetime.now(UTC)
    name = f"  {printable(row.name)}" if row.name else ""
    ended = f"{row.steps - row.live:,} of {row.steps:,} steps ended"
    click.echo(f"{row.id}{name}  {paint(row.state)}: {ended}, created {ago(row.created_at, now)} {_took(row)}".rstrip())
    try:
        "├─●✗".encode(sys.stdout.encoding or "ascii")
        unicode = True
    except UnicodeEncodeError:
        unicode = False
    for line in drawing.tree(unicode):
        click.echo(line)


_ids = click.argument("ids", metavar="ID...", nargs=-1, required=True, type=ID)


@workflows.command()
@_ids
@_json
@pass_session
def cancel(session: Session, ids: tuple[str, ...], as_json: bool) -> int:
    """Cancel all steps of workflows that have not ended; those that run are asked to stop. Compensations then run.

    Exit code 1 when one had nothing to cancel.
    """
    return _change_each(session, ids, as_json, session.app.workflows.cancel, "cancelled")


@workflows.command()
@_ids
@_json
@pass_session
def retry(session: Session, ids: tuple[str, ...], as_json: bool) -> int:
    """Run workflows on from the steps that did not succeed, keeping what did.

    Exit code 1 when one had nothing to run again.
    """
    return _change_each(session, ids, as_json, session.app.workflows.retry, "to run again")


def _change_each(session: Session, ids: tuple[str, ...], as_json: bool, change: Callable[[str], int], done: str) -> int:
    told: list[dict[str, Any]] = []
    wanted = [(text, find_workflow(session, text)) for text in ids]  # all are known before any is changed
    for text, each in wanted:
        row = session.app.workflows.get(each)
        count = change(each) if row is not None else 0
        outcome = f"{count:,} step{'s' if count != 1 else ''} {done}"
        if row is None:
            outcome = "no such workflow"
        elif not count:
            outcome = f"nothing to do: it is {row.state}"
        told.append({"id": each if row is not None else text, "steps": count, "outcome": outcome})
        if not as_json:
            click.echo(f"{printable(text)}  {outcome}")
    if as_json:
        print_json(told)
    return 0 if all(each["steps"] for each in told) else 1


@workflows.command()
@click.argument("text", metavar="ID", type=ID)
@click.argument("event")
@click.argument("value", type=Checked("json", _value), default="null")
@pass_session
def resolve(session: Session, text: str, event: str, value: Any) -> None:
    """Say that the EVENT that a workflow waits for has come; VALUE, as JSON, is the result of its step."""
    session.app.workflows.resolve(find_workflow(session, text), event, value)
    session.note(f"{printable(event)} is resolved")
