"""Ids as people type them: whole, of their own, or the beginning of one."""

import re
from typing import TYPE_CHECKING, Any

import click

from pgqueue.cli.options import Checked, job_id
from pgqueue.cli.output import printable

if TYPE_CHECKING:
    import psycopg

    from pgqueue.cli.session import Session
    from pgqueue.store.statement import Queries

__all__ = ["ID", "find_job", "find_workflow"]

_BEGINNING = re.compile(r"[0-9a-f]{8}[0-9a-f-]{0,27}", re.IGNORECASE)


def _given(text: str) -> str:
    job_id(text)
    return text


ID = Checked("id", _given)  # stays as it was typed: that is what answers name


def find_job(connection: "psycopg.Connection[Any]", queries: "Queries", text: str) -> str:
    """Return the id of the job that `text` names: by its whole id, or by the first 8 characters or more, if no other
    job's begins like that. Of one that is not there, the id that it would have.

    Raises:
        ValueError: it is no id.
        click.UsageError: several begin like that.
    """
    return _find(connection, queries, "job_ids_between", "jobs", text)


def find_workflow(session: "Session", text: str) -> str:
    """The same for a workflow."""
    whole = job_id(text)
    if _bounds(text) is None:
        return whole
    with session.checked() as connection:
        return _find(connection, session.queries, "workflow_ids_between", "workflows", text)


def _bounds(text: str) -> tuple[str, str] | None:
    """The least and the greatest UUID that begin like this; None for a whole one, and for what is no beginning."""
    digits = text.strip().replace("-", "")
    if not _BEGINNING.fullmatch(text.strip()) or len(digits) >= 32:
        return None
    return digits.ljust(32, "0"), digits.ljust(32, "f")


def _find(connection: "psycopg.Connection[Any]", queries: "Queries", query: str, kind: str, text: str) -> str:
    whole, bounds = job_id(text), _bounds(text)
    if bounds is None:
        return whole
    rows = connection.execute(queries[query], {"whole": whole, "low": bounds[0], "high": bounds[1]}).fetchall()
    found = [str(row[0]) for row in rows]
    if whole in found or not found:
        return whole
    if len(found) > 1:
        raise click.UsageError(f"the ids of several {kind} begin with {printable(text)}: give more of it")
    return found[0]
