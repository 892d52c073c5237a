"""What needs Alembic, and with it SQLAlchemy: imported only while a schema is migrated, by pgqueue.store.schema."""

import io
from collections.abc import Callable
from typing import Any, cast

import psycopg
from alembic import command, op
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import Script, ScriptDirectory
from alembic.util import CommandError
from sqlalchemy import Connection, create_engine
from sqlalchemy.exc import DBAPIError
from sqlalchemy.pool import NullPool

from pgqueue.errors import SchemaError
from pgqueue.store.statement import Queries, for_schema, sql_folder
from pgqueue.store.versions import Way, refuse_other_way

__all__ = ["VERSION_TABLE", "move", "print_sql", "run_file", "upgrade_within"]

VERSION_TABLE = "alembic_version"

Step = Callable[[str, str], None]


def run_file(name: str, schema: str) -> None:
    """Run migrations/sql/`name` on the connection of the migration that Alembic is running, for `schema`."""
    text = for_schema((sql_folder("migrations") / "sql" / name).read_text(encoding="utf-8"), schema)
    context = op.get_context()
    if context.as_sql:
        context.impl.static_output(text)
        return
    connection = op.get_bind()
    if connection.dialect.driver == "asyncpg":
        # Its adapter prepares each statement, and a file holds many. The first one makes it begin the transaction.
        connection.exec_driver_sql("select 1")
        cast(Any, connection.connection.dbapi_connection).run_async(lambda driver: driver.execute(text))
        return
    cursor = connection.connection.cursor()
    try:
        cursor.execute(text)  # without parameters: many statements at once, and % is just a character
    finally:
        cursor.close()


def move(
    connect: Callable[[], psycopg.Connection[Any]],
    schema: str,
    way: Way,
    goal: str | None,
    lock_timeout: float,
    on_step: Step,
    on_wait: Callable[[], None],
) -> None:
    """Take the schema to a version, each step in one transaction with its version row.

    Args:
        connect: opens a connection.
        schema: validated name.
        way: "up" or "down"; a goal on the other side is refused.
        goal: the version to reach; None leaves nothing.
        lock_timeout: seconds a step may wait for a lock on a table.
        on_step: called with the revision and "up" or "down" after each step has committed.
        on_wait: called once when another migration is running.
    """

    def in_transactions() -> psycopg.Connection[Any]:
        connection = connect()
        connection.autocommit = False
        return connection

    engine = create_engine("postgresql+psycopg://", creator=in_transactions, poolclass=NullPool)
    queries = Queries(schema)
    directory = ScriptDirectory.from_config(_config(schema))
    try:
        waited = False
        while True:
            with engine.begin() as connection:
                waited = _take_turn(connection, queries, None if waited else on_wait) or waited
                current = _current(connection, schema)
                refuse_other_way(current, goal, way, schema)
                if current == goal:
                    return
                revision = _next_step(directory, current, goal, way)
                milliseconds = str(max(1, round(lock_timeout * 1000)))
                connection.exec_driver_sql(queries["set_lock_timeout"], {"milliseconds": milliseconds})
                _prepare(connection, queries)
                run = command.upgrade if way == "up" else command.downgrade
                run(_config(schema, connection), revision)
                if revision == "base":
                    _leave_nothing(connection, queries)
            on_step(revision if way == "up" else cast(str, current), way)
    except DBAPIError as error:
        raise (error.orig or error) from error  # the driver's, as from the step's own statements
    finally:
        engine.dispose()


def print_sql(schema: str) -> str:
    """Every step up as SQL text, version rows included."""
    output = io.StringIO()
    command.upgrade(_config(schema, output=output), "head", sql=True)
    return output.getvalue()


def upgrade_within(schema: str, goal: str | None) -> None:
    """Run the steps that are missing up to `goal` inside the migration that an application's own Alembic is running."""
    directory = ScriptDirectory.from_config(_config(schema))
    outer = op.get_context()
    ours = MigrationContext.configure(
        connection=outer.connection,
        dialect=outer.dialect,
        opts={
            "version_table": VERSION_TABLE,
            "version_table_schema": schema,
            "as_sql": outer.as_sql,
            "output_buffer": outer.output_buffer,
            "transactional_ddl": True,
        },
    )
    current: str | None = None
    queries = Queries(schema)
    if outer.as_sql or outer.connection is None:
        outer.impl.static_output(queries["create_schema"] + ";")
    else:
        _take_turn(outer.connection, queries, None)
        current = _current(outer.connection, schema)
        _prepare(outer.connection, queries)
    for script in _path(directory, current, goal):
        if outer.as_sql and script.down_revision is None:
            ours._ensure_version_table()
        script.module.upgrade(schema)
        ours.stamp(directory, script.revision)


def _config(schema: str, connection: Connection | None = None, output: io.StringIO | None = None) -> Config:
    config = Config(attributes={"schema": schema, "connection": connection}, output_buffer=output or io.StringIO())
    config.set_main_option("script_location", str(sql_folder("migrations")).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    return config


def _current(connection: Connection, schema: str) -> str | None:
    options = {"version_table": VERSION_TABLE, "version_table_schema": schema}
    return MigrationContext.configure(connection, opts=options).get_current_revision()


def _path(directory: ScriptDirectory, current: str | None, goal: str | None) -> list[Script]:
    """The steps from `current` up to `goal`, first to run first; none when `goal` is not above."""
    scripts = list(directory.walk_revisions("base", goal)) if goal is not None else []
    known = [script.revision for script in scripts]
    if current is None:
        return scripts[::-1]
    return scripts[: known.index(current)][::-1] if current in known else []


def _next_step(directory: ScriptDirectory, current: str | None, goal: str | None, way: Way) -> str:
    """The revision to go to next."""
    try:
        if way == "up":
            return _path(directory, current, goal)[0].revision
        below = None if current is None else directory.get_revision(current).down_revision
    except CommandError as error:
        raise SchemaError(f"{error}") from error
    return below if isinstance(below, str) else "base"


def _take_turn(connection: Connection, queries: Queries, on_wait: Callable[[], None] | None) -> bool:
    """Until the transaction ends, nobody else migrates this schema. No time limit: the other one will end."""
    if connection.exec_driver_sql(queries["try_migration_turn"]).scalar():
        return False
    if on_wait is not None:
        on_wait()
    connection.exec_driver_sql(queries["await_migration_turn"])
    return True


def _prepare(connection: Connection, queries: Queries) -> None:
    if not connection.exec_driver_sql(queries["schema_exists"]).scalar():
        connection.exec_driver_sql(queries["create_schema"])


def _leave_nothing(connection: Connection, queries: Queries) -> None:
    """Drop what no step made: the version table, and the schema if it is empty and ours."""
    connection.exec_driver_sql(queries["drop_version_table"])
    if connection.exec_driver_sql(queries["schema_is_ours_and_empty"]).scalar():
        connection.exec_driver_sql(queries["drop_schema"])
