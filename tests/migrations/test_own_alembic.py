"""Our steps inside an application's own Alembic migration: its connection, its transaction, its tables beside ours."""

import io
from pathlib import Path

import psycopg
import pytest
from alembic import command
from alembic.config import Config

from pgqueue.errors import SchemaError
from pgqueue.store.schema import expected_version, migrate, upgrade
from scripts.dump_schema import dump

ENV = """
import asyncio
from alembic import context
from sqlalchemy import pool
from sqlalchemy.engine import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

url = context.config.attributes["url"]

def run(connection):
    context.configure(connection=connection)
    with context.begin_transaction():
        context.run_migrations()

async def arun():
    engine = create_async_engine(url, poolclass=pool.NullPool)
    async with engine.connect() as connection:
        await connection.run_sync(run)
    await engine.dispose()

if context.is_offline_mode():
    context.configure(dialect_name="postgresql")
    with context.begin_transaction():
        context.run_migrations()
elif "asyncpg" in url:
    asyncio.run(arun())
else:
    engine = create_engine(url, poolclass=pool.NullPool)
    with engine.connect() as connection:
        run(connection)
    engine.dispose()
"""
STEP = """
from alembic import op
import sqlalchemy as sa
from pgqueue.store.schema import upgrade as upgrade_pgqueue

revision = "a1"
down_revision = None

def upgrade():
    op.create_table("orders", sa.Column("id", sa.Integer, primary_key=True))
    upgrade_pgqueue({schema!r}, to={version!r})
    op.add_column("orders", sa.Column("paid", sa.Boolean))
    {more}
"""


def application(place: Path, url: str, schema: str = "pgqueue", more: str = "") -> Config:
    """An Alembic environment with one migration."""
    (place / "versions").mkdir()
    (place / "env.py").write_text(ENV)
    (place / "versions" / "a1_orders.py").write_text(STEP.format(schema=schema, more=more, version=expected_version()))
    config = Config(attributes={"url": url}, output_buffer=io.StringIO())
    config.set_main_option("script_location", str(place))
    config.set_main_option("path_separator", "os")
    return config


def url_of(dsn: str, driver: str) -> str:
    """SQLAlchemy's spelling."""
    return dsn.replace("postgresql://", f"postgresql+{driver}://")


@pytest.mark.parametrize("driver", ["psycopg", "asyncpg"])
@pytest.mark.parametrize("schema", ["pgqueue", "queue_of_shop"])
def test_in_an_applications_migration(dsn: str, empty_dsn: str, tmp_path: Path, driver: str, schema: str) -> None:
    config = application(tmp_path, url_of(empty_dsn, driver), schema)
    command.upgrade(config, "head")
    with psycopg.connect(empty_dsn) as conn, psycopg.connect(dsn) as ours:
        conn.execute("select paid from orders")
        assert conn.execute("select version_num from alembic_version").fetchall() == [("a1",)]
        assert dump(conn, schema) == dump(ours)


@pytest.mark.parametrize("found", ["0002", expected_version()])
def test_a_schema_that_is_further_is_left_as_it_is(empty_dsn: str, tmp_path: Path, found: str) -> None:
    migrate(empty_dsn, target=found)
    config = application(tmp_path, url_of(empty_dsn, "psycopg"))
    step = tmp_path / "versions" / "a1_orders.py"
    step.write_text(step.read_text().replace(f"to='{expected_version()}'", "to='0002'"))
    command.upgrade(config, "head")
    with psycopg.connect(empty_dsn) as conn:
        assert conn.execute("select version_num from pgqueue.alembic_version").fetchall() == [(found,)]


def test_an_unknown_version_is_named(empty_dsn: str) -> None:
    for wrong in ("0999", "base"):
        with pytest.raises(SchemaError, match=f"no version '{wrong}' of the schema; there are 0001, "):
            upgrade(to=wrong)


def test_its_failure_takes_ours_back(empty_dsn: str, tmp_path: Path) -> None:
    config = application(tmp_path, url_of(empty_dsn, "psycopg"), more="raise RuntimeError('boom')")
    with pytest.raises(RuntimeError, match="boom"):
        command.upgrade(config, "head")
    with psycopg.connect(empty_dsn) as conn:
        assert conn.execute("select to_regnamespace('pgqueue'), to_regclass('orders')").fetchone() == (None, None)


def test_as_sql(dsn: str, empty_dsn: str, tmp_path: Path) -> None:
    config = application(tmp_path, url_of(empty_dsn, "psycopg"))
    command.upgrade(config, "head", sql=True)
    script = config.output_buffer
    assert isinstance(script, io.StringIO)
    with psycopg.connect(empty_dsn, autocommit=True) as conn, psycopg.connect(dsn) as ours:
        conn.execute(script.getvalue())
        assert dump(conn) == dump(ours)
