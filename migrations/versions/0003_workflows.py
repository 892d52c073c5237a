"""Workflows: steps, edges, joins and what operates them."""

from pgqueue.store.migration import run_file

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade(schema: str = "pgqueue") -> None:
    run_file("0003_workflows.up.sql", schema)


def downgrade(schema: str = "pgqueue") -> None:
    run_file("0003_workflows.down.sql", schema)
