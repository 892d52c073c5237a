"""${message}."""

from pgqueue.store.migration import run_file

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = None
depends_on = None


def upgrade(schema: str = "pgqueue") -> None:
    run_file("${up_revision}_${message}.up.sql", schema)


def downgrade(schema: str = "pgqueue") -> None:
    run_file("${up_revision}_${message}.down.sql", schema)
