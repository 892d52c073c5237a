"""Schedules: cron, intervals and instants in a table."""

from pgqueue.store.migration import run_file

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade(schema: str = "pgqueue") -> None:
    run_file("0002_schedules.up.sql", schema)


def downgrade(schema: str = "pgqueue") -> None:
    run_file("0002_schedules.down.sql", schema)
