"""Alembic's environment; pgqueue.store.migration sets the attributes."""

from alembic import context

from pgqueue.store.migration import VERSION_TABLE
from pgqueue.store.statement import Queries

attributes = context.config.attributes
schema: str = attributes["schema"]
connection = attributes.get("connection")

if connection is None:  # prints SQL
    context.configure(
        dialect_name="postgresql", version_table=VERSION_TABLE, version_table_schema=schema, transactional_ddl=True
    )
else:
    context.configure(connection=connection, version_table=VERSION_TABLE, version_table_schema=schema)

with context.begin_transaction():
    if connection is None:
        context.get_context().impl.static_output(f"{Queries(schema)['create_schema']};")
    context.run_migrations(schema=schema)
