"""Named queries and their values: what to run, with which parameters, and how to read the answer.

Functions of the store build a Statement; `run` and `arun` are the only places that differ between sync and async.
"""

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, LiteralString, NamedTuple, TypeVar

import psycopg

R = TypeVar("R")
Rows = list[tuple[Any, ...]]

__all__ = ["Queries", "Rows", "Statement", "arun", "for_schema", "run", "sql_folder"]


class Statement(NamedTuple, Generic[R]):
    """One query with its parameters, and how to read its rows."""

    sql: LiteralString
    params: Mapping[str, Any] | Sequence[Any]
    decode: Callable[[Rows], R]


def run(connection: psycopg.Connection[Any], statement: Statement[R], prepare: bool | None = None) -> R:
    """Run a statement on a sync connection, in whatever transaction it is in.

    Args:
        connection: where.
        statement: what.
        prepare: whether to prepare it at once, if the connection prepares at all; None: as the connection does.
    """
    cursor = connection.cursor(row_factory=psycopg.rows.tuple_row)
    cursor.execute(statement.sql, statement.params, prepare=prepare)
    return statement.decode(cursor.fetchall() if _has_rows(cursor) else [])


async def arun(connection: psycopg.AsyncConnection[Any], statement: Statement[R]) -> R:
    """Run a statement on an async connection, in whatever transaction it is in."""
    cursor = connection.cursor(row_factory=psycopg.rows.tuple_row)
    await cursor.execute(statement.sql, statement.params)
    return statement.decode(await cursor.fetchall() if _has_rows(cursor) else [])


def _has_rows(cursor: psycopg.Cursor[Any] | psycopg.AsyncCursor[Any]) -> bool:
    # Not by cursor.description, which makes an object of each column: a third of what a small query costs here.
    return cursor.pgresult is not None and cursor.pgresult.nfields > 0


def sql_folder(name: str) -> Path:
    """Return the folder `sql` or `migrations`: inside the installed package, or beside it in a source tree."""
    package = Path(__file__).parents[1]
    packaged = package / f"_{name}"
    return packaged if packaged.is_dir() else package.parent / name


# A comment or a literal is one token, so that an apostrophe in a comment opens no literal. In literals the schema's
# name stands for a lock or a channel.
_TOKEN = re.compile(r"--[^\n]*|'[^']*'|\bpgqueue\b")
_SCHEMA_WORD = re.compile(r"\bpgqueue\b(?!\.errors)")


def for_schema(text: str, schema: str) -> str:
    """Return SQL written for the schema `pgqueue` as SQL for another schema.

    Inside single quotes the bare name is put in, elsewhere the quoted identifier. The name was validated by the
    configuration ([a-z_][a-z0-9_]*), so that quoting can neither fail nor be escaped.
    """
    if schema == "pgqueue":
        return text

    def put_in(token: re.Match[str]) -> str:
        found = token[0]
        if found.startswith("--"):
            return found
        return _SCHEMA_WORD.sub(schema, found) if found.startswith("'") else f'"{schema}"'

    return _TOKEN.sub(put_in, text)


_NAME = re.compile(r"^-- name: (\w+)\s*$", re.MULTILINE)


@functools.cache
def _all_queries() -> dict[str, str]:
    found: dict[str, str] = {}
    for path in sorted(sql_folder("sql").glob("*.sql")):
        pieces = _NAME.split(path.read_text(encoding="utf-8"))
        for name, body in zip(pieces[1::2], pieces[2::2], strict=True):
            if name in found:
                raise ValueError(f"{path}: query {name} is defined twice")
            found[name] = re.sub(r"^--.*\n", "", body.lstrip("\n"), flags=re.MULTILINE).strip().rstrip(";")
    return found


class Queries(dict[str, LiteralString]):
    """The named queries of sql/*.sql, for one schema.

    Args:
        schema: where the tables live; validated by the configuration.
    """

    def __init__(self, schema: str) -> None:
        # The texts come from files of this package; only the validated schema name is put in.
        texts: dict[str, Any] = {name: for_schema(text, schema) for name, text in _all_queries().items()}
        super().__init__(texts)
        self.schema = schema
