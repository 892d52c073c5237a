"""The schema's version, expected and found, and the checks a process makes when it starts: each ends as one line."""

import importlib
import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

import psycopg
from psycopg import errors

from pgqueue.config import dsn as connection_string
from pgqueue.config import validation
from pgqueue.errors import ConfigurationError, SchemaError
from pgqueue.store.connecting import connect_waiting, connection_problem
from pgqueue.store.statement import Queries, Rows, Statement, run
from pgqueue.store.versions import Way, expected_version, goal_of

if TYPE_CHECKING:
    from types import ModuleType

__all__ = [
    "Connect",
    "check",
    "connect_waiting",
    "connection_problem",
    "downgrade",
    "expected_version",
    "found_version",
    "migrate",
    "preflight",
    "upgrade",
    "upgrade_sql",
]

OLDEST_SERVER = 15
NEWEST_TESTED_SERVER = 18

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
    """Bring the schema up to a version: create what is missing, or nothing when it is there already.

    Each step commits in one transaction together with its version, so that a killed migration is resumed by the next
    one. A second migration that runs at the same time waits for the first, and then finds nothing to do.

    Args:
        dsn: connection string, or a callable that opens a connection.
        schema: where the tables live; created if absent.
        target: "head", or a version such as "0001".
        lock_timeout: seconds that a step may wait for a lock on a table in use.
        on_step: called with (version, "up" or "down") after each step has committed.
        on_wait: called once when another migration is running.

    Raises:
        SchemaError: the schema is newer than this release or than `target`, there is no such version, a lock was not to
            be had, a right is missing, or a table of the same name is there already; the message names the way out.
        ConfigurationError: the name of the schema is not valid.
    """
    _move(dsn, schema, "up", target, lock_timeout, on_step, on_wait)


def downgrade(
    dsn: str | Connect,
    schema: str = "pgqueue",
    *,
    target: str = "base",
    lock_timeout: float = 5.0,
    on_step: Step | None = None,
    on_wait: Callable[[], None] | None = None,
) -> None:
    """Take the schema down to a version; "base" leaves nothing, jobs and results included. See migrate().

    Raises:
        SchemaError: the schema is older than `target`; and as migrate().
    """
    _move(dsn, schema, "down", target, lock_timeout, on_step, on_wait)


def upgrade_sql(schema: str = "pgqueue") -> str:
    """Return every step up as SQL text, for people who review or run it themselves."""
    text: str = _migration().print_sql(_valid(schema))
    return text


def upgrade(schema: str = "pgqueue", to: str = "head") -> None:
    """Run the missing steps inside an application's own Alembic migration: on its connection, in its transaction.

    ::

        from pgqueue.store.schema import upgrade as upgrade_pgqueue

        def upgrade() -> None:
            upgrade_pgqueue(to="0003")

    Args:
        schema: where the tables live; created if absent.
        to: the version to reach; a schema that is there or further already is left as it is. Name it, so that the
            migration means the same after the next release.

    Raises:
        SchemaError: there is no such version.
    """
    goal = goal_of(to, "up")
    _migration().upgrade_within(_valid(schema), goal)


class _Facts(NamedTuple):
    """What server_facts tells, in its order."""

    version: int
    version_text: str
    recovering: bool
    read_only: bool
    encoding: str
    fsync: bool
    synchronous_commit: str
    role: str
    database: str
    usage: bool | None  # None: there is no such schema
    owner: str | None
    versioned: bool


def _facts(rows: Rows) -> _Facts:
    # A database in SQL_ASCII answers in bytes.
    return _Facts._make(value.decode(errors="replace") if isinstance(value, bytes) else value for value in rows[0])


def found_version(connection: psycopg.Connection[Any], queries: Queries) -> str | None:
    """Return the version of the schema in this database; None when it is not there.

    Raises:
        SchemaError: this role may not look.
    """
    return _version(connection, queries, run(connection, Statement(queries["server_facts"], (), _facts)))


def _version(connection: psycopg.Connection[Any], queries: Queries, facts: _Facts) -> str | None:
    if facts.usage is False:
        raise SchemaError(
            f'role "{facts.role}" may not use schema "{queries.schema}": as {facts.owner},'
            f' grant usage on schema {queries.schema} to "{facts.role}"'
        )
    if not facts.versioned:
        return None
    try:
        rows = run(connection, Statement(queries["schema_version"], (), list))
    except errors.InsufficientPrivilege:
        raise SchemaError(
            f'role "{facts.role}" may not read the tables of schema "{queries.schema}": as {facts.owner},'
            f' grant select, insert, update, delete on all tables in schema {queries.schema} to "{facts.role}"'
        ) from None
    return str(rows[0][0]) if rows else None


def check(connection: psycopg.Connection[Any], queries: Queries) -> None:
    """Check that the schema is there, in the version that this release works with.

    Args:
        connection: in autocommit, or in a transaction that may be left aborted.
        queries: of the schema.

    Raises:
        SchemaError: it is missing, older or newer; the message names the command to type.
    """
    facts = run(connection, Statement(queries["server_facts"], (), _facts))
    _check(_version(connection, queries, facts), queries.schema, facts.database)


def _check(found: str | None, schema: str, database: str) -> None:
    command = "pgqueue migrate" if schema == "pgqueue" else f"pgqueue --schema {schema} migrate"
    expected = expected_version()
    if found is None:
        raise SchemaError(f'database "{database}" has no schema "{schema}" of pgqueue: run `{command}`')
    if not re.fullmatch(r"\d{4}", found):
        raise SchemaError(
            f'schema "{schema}" holds the version table of something else (version {found[:40]!r}):'
            " choose another schema with PGQUEUE_SCHEMA"
        )
    if found < expected:
        raise SchemaError(f'schema "{schema}" is at version {found}, this release needs {expected}: run `{command}`')
    if found > expected:
        raise SchemaError(
            f'schema "{schema}" is at version {found}, newer than {expected} of this release: upgrade pgqueue'
        )


def preflight(connection: psycopg.Connection[Any], queries: Queries) -> list[str]:
    """Check what a process that reads and writes our tables needs, before it starts.

    Args:
        connection: in autocommit.
        queries: of the schema.

    Returns:
        Warnings, one line each.

    Raises:
        ConfigurationError: the server is too old, read-only or of a wrong encoding.
        SchemaError: the schema is missing, older, newer, or out of this role's reach.
    """
    facts = run(connection, Statement(queries["server_facts"], (), _facts))
    _check_server(facts)
    _check(_version(connection, queries, facts), queries.schema, facts.database)
    missing = run(connection, Statement(queries["missing_rights"], (), list))
    if missing:
        name, rights = missing[0]
        more = f" (and on {', '.join(row[0] for row in missing[1:])})" if missing[1:] else ""
        raise SchemaError(
            f'role "{facts.role}" lacks {rights} on {queries.schema}.{name}{more}: as {facts.owner},'
            f' grant {rights.lower()} on {queries.schema}.{name} to "{facts.role}"'
        )
    warnings = []
    if facts.version // 10_000 > NEWEST_TESTED_SERVER:
        warnings.append(f"PostgreSQL {facts.version_text} is newer than {NEWEST_TESTED_SERVER}, the newest tested")
    if not facts.fsync:
        warnings.append("the server runs with fsync=off: a crash of its machine can lose or corrupt everything")
    if facts.synchronous_commit == "off":
        warnings.append("synchronous_commit is off: a crash of the server can lose the last jobs and results")
    if not run(connection, Statement(queries["owns_tables"], (), lambda rows: bool(rows[0][0]))):
        warnings.append(
            f'role "{facts.role}" does not own the tables, so it cannot make and drop partitions:'
            f" let {facts.owner} run `pgqueue prune` once a day"
        )
    return warnings


def _check_server(facts: _Facts) -> None:
    if facts.version < OLDEST_SERVER * 10_000:
        raise ConfigurationError(
            f"PostgreSQL {facts.version_text} is too old: pgqueue needs {OLDEST_SERVER} or newer; upgrade the server"
        )
    if facts.recovering:
        raise ConfigurationError(
            "the server is a standby, which is read-only: connect to the primary"
            " (several hosts in the DSN with target_session_attrs=read-write find it)"
        )
    if facts.read_only:
        raise ConfigurationError(
            f'the server is read-only for role "{facts.role}" in database "{facts.database}":'
            " set default_transaction_read_only to off there"
        )
    if facts.encoding == "SQL_ASCII":
        raise ConfigurationError(
            f'database "{facts.database}" has encoding SQL_ASCII, which keeps no text safe: use one with UTF8'
        )


def _move(
    dsn: str | Connect,
    schema: str,
    way: Way,
    target: str,
    lock_timeout: float,
    on_step: Step | None,
    on_wait: Callable[[], None] | None,
) -> None:
    schema = _valid(schema)
    goal = goal_of(target, way)
    queries = Queries(schema)
    text = connection_string.normalise(dsn) if isinstance(dsn, str) else ""
    connect = dsn if callable(dsn) else lambda: psycopg.connect(text)
    with connect() as connection:
        connection.autocommit = True
        facts = run(connection, Statement(queries["server_facts"], (), _facts))
        _check_server(facts)
        version = _version(connection, queries, facts)
        if version is not None and (version > expected_version() or not re.fullmatch(r"\d{4}", version)):
            _check(version, schema, facts.database)
    try:
        _migration().move(
            connect,
            schema,
            way,
            goal,
            lock_timeout,
            on_step or (lambda version, way: None),
            on_wait or (lambda: None),
        )
    except errors.LockNotAvailable as error:
        raise SchemaError(_blocked(connect, queries, lock_timeout)) from error
    except errors.InsufficientPrivilege as error:
        who = f'schema "{schema}" belongs to {facts.owner}' if facts.owner else f'there is no schema "{schema}" yet'
        raise SchemaError(
            f'role "{facts.role}" may not migrate: {error.diag.message_primary}; {who}: migrate as its owner'
        ) from error
    except (errors.DuplicateTable, errors.DuplicateFunction, errors.DuplicateObject) as error:
        raise SchemaError(
            f'schema "{schema}" already holds something of that name that pgqueue did not make'
            f" ({error.diag.message_primary}): rename it, or choose another schema with PGQUEUE_SCHEMA"
        ) from error


def _blocked(connect: Connect, queries: Queries, lock_timeout: float) -> str:
    with connect() as connection:
        holders = run(connection, Statement(queries["lock_holders"], (), list))
    told = "; ".join(
        f"pid {pid} ({name}, {state}, in a transaction for {seconds or 0:.0f} s) holds {relations}"
        for pid, name, state, seconds, relations in holders
    )
    return (
        f"no lock within lock_timeout of {lock_timeout:g} s, nothing was changed:"
        f" {told or 'who held it is gone by now'}; try again, or set PGQUEUE_MIGRATION_LOCK_TIMEOUT"
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
