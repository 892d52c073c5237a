"""The schema's version: expected and found, up and down, and what to type when they differ."""

import functools
import importlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import psycopg

from pgqueue import dsn as connection_string
from pgqueue import validation
from pgqueue.errors import ConfigurationError, SchemaError
from pgqueue.store.statement import Queries, sql_folder

if TYPE_CHECKING:
    from types import ModuleType

__all__ = ["Connect", "downgrade", "expected_version", "migrate", "upgrade", "upgrade_sql"]

Connect = Callable[[], psycopg.Connection[Any]]
Step = Callable[[str, str], None]


def migrate(
    dsn: str | Connect,
    schema: str = "pgqueue",
    *,
    target: str = "head",
    lock_timeout: float = 5.0,
    on_step: Step | None = None,
    on_wait: Callable[[], None] | None = None,
) -> None:
    """Bring the schema to a version: create what is missing, or nothing when it is there already.

    Each step commits in one transaction together with its version, so that a killed migration is resumed by the next
    one. A second migration that runs at the same time waits for the first, and then finds nothing to do.

    Args:
        dsn: connection string, or a callable that opens a connection.
        schema: where the tables live; created if absent.
        target: "head", or a version such as "0001".
        lock_timeout: seconds that a step may wait for a lock on a table in use.
        on_step: called with (version, "up" or "down") after each step.
        on_wait: called once when another migration is running.

    Raises:
        SchemaError: the schema is newer than this release, a lock was not to be had, a right is missing, or a table of
            the same name is there already; the message names the way out.
        ConfigurationError: the name of the schema is not valid.
    """
    _move(dsn, schema, target, lock_timeout, on_step, on_wait)


def downgrade(
    dsn: str | Connect,
    schema: str = "pgqueue",
    *,
    target: str = "base",
    lock_timeout: float = 5.0,
    on_step: Step | None = None,
    on_wait: Callable[[], None] | None = None,
) -> None:
    """Take the schema down to a version; "base" leaves nothing, jobs and results included. See migrate()."""
    _move(dsn, schema, target, lock_timeout, on_step, on_wait)


def upgrade_sql(schema: str = "pgqueue") -> str:
    """Every step up as SQL text, for people who review or run it themselves."""
    text: str = _migration().print_sql(_valid(schema))
    return text


def upgrade(schema: str = "pgqueue", to: str = "head") -> None:
    """Run the missing steps inside an application's own Alembic migration: on its connection, in its transaction.

    ::

        from pgqueue.store.schema import upgrade as upgrade_pgqueue

        def upgrade() -> None:
            upgrade_pgqueue(to="0001")

    Args:
        schema: where the tables live; created if absent.
        to: the version to reach. Name it, so that the migration means the same after the next release.
    """
    _migration().upgrade_within(_valid(schema), to)


@functools.cache
def expected_version() -> str:
    """The version that this release works with."""
    names = (path.name for path in (sql_folder("migrations") / "sql").glob("*.up.sql"))
    return max(found[0] for name in names if (found := re.match(r"\d{4}", name)))


def _move(
    dsn: str | Connect,
    schema: str,
    target: str,
    lock_timeout: float,
    on_step: Step | None,
    on_wait: Callable[[], None] | None,
) -> None:
    text = connection_string.normalise(dsn) if isinstance(dsn, str) else ""
    connect = dsn if callable(dsn) else lambda: psycopg.connect(text)
    _migration().move(
        connect,
        _valid(schema),
        target,
        lock_timeout,
        on_step or (lambda version, way: None),
        on_wait or (lambda: None),
    )


def _valid(schema: str) -> str:
    try:
        name: str = validation.schema(schema)
    except (ValueError, TypeError) as error:
        raise ConfigurationError(f"schema: {error}") from None
    return name


def _migration() -> "ModuleType":
    # By name, and only when it is needed: it loads Alembic and SQLAlchemy, 0.4 s and 40 MiB that no worker should pay.
    return importlib.import_module("pgqueue.store.migration")
