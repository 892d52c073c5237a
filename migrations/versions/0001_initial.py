"""The first schema."""

from pgqueue.store.migration import run_file

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade(schema: str = "pgqueue") -> None:
    run_file("0001_initial.up.sql", schema)


def downgrade(schema: str = "pgqueue") -> None:
    run_file("0001_initial.down.sql", schema)
