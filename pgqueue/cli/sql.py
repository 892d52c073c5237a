"""`pgqueue sql`: a query, and its rows as a table, JSON or CSV."""

import csv
import sys
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.options import DURATION
from pgqueue.cli.session import Session, pass_session

if TYPE_CHECKING:
    from psycopg import Cursor

__all__ = ["sql"]


@click.command(short_help="Run a query.")
@click.argument("query", required=False)
@click.option("--json", "as_json", is_flag=True, help="Print the rows as JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print the rows as CSV.")
@click.option("--write", is_flag=True, help="Allow changes; without it the transaction is read-only.")
@click.option("--timeout", type=DURATION, help="End the query after so long.")
@pass_session
def sql(session: Session, query: str | None, as_json: bool, as_csv: bool, write: bool, timeout: float | None) -> None:
    """Run QUERY, or what stands on the standard input, in one transaction that is read-only unless --write is given.

    Such as: pgqueue sql "select state, task, count(*) from pgqueue.all_jobs group by 1, 2"
    """
    from psycopg.types.string import TextLoader  # noqa: PLC0415 - not needed by --help

    from pgqueue.cli.output import print_json, print_table  # noqa: PLC0415 - as above

    if as_json and as_csv:
        raise click.UsageError("give --json or --csv, not both")
    if query is None:
        if sys.stdin.isatty():
            raise click.UsageError('which query? pgqueue sql "select …"')
        query = sys.stdin.read()
    if not query.strip():
        raise click.UsageError("the query is empty")
    with session.connect() as connection:
        connection.autocommit = False
        connection.read_only = not write
        if timeout:
            connection.execute(session.queries["set_statement_timeout"], {"milliseconds": str(round(timeout * 1000))})
        if not as_json:
            for name in ("json", "jsonb"):
                connection.adapters.register_loader(name, TextLoader)
        typed: Any = query  # the user's own text, run as it is
        cursor = connection.execute(typed)
        answers = [_answer(cursor)]
        while cursor.nextset():
            answers.append(_answer(cursor))
        tables = [answer for answer in answers if not isinstance(answer, str)]
        if len(tables) > 1 and (as_json or as_csv):
            raise click.UsageError(f"--json and --csv show the rows of one query, and {len(tables)} were given")
    for answer in tables if as_json or as_csv else answers:
        if isinstance(answer, str):
            click.echo(answer)
            continue
        heads, rows = answer
        if as_json:
            print_json([dict(zip(heads, row, strict=True)) for row in rows])
        elif as_csv:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(heads)
            writer.writerows([[_harmless(cell) for cell in row] for row in rows])
        else:
            numbers = [
                head for i, head in enumerate(heads) if rows and all(isinstance(row[i], int | float) for row in rows)
            ]
            print_table(heads, rows, right=numbers)


def _answer(cursor: "Cursor[Any]") -> tuple[list[str], list[Any]] | str:
    """What one statement answered: its heads and rows, or else what it did."""
    if cursor.description is None:
        return cursor.statusmessage or ""
    return [column.name for column in cursor.description], cursor.fetchall()


def _harmless(cell: object) -> object:
    """A spreadsheet takes text that begins so for a formula."""
    if isinstance(cell, str) and cell.startswith(("=", "+", "-", "@", "\t", "\r")):
        return "'" + cell
    return cell
