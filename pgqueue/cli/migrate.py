"""`pgqueue migrate`: the schema up, down, checked, or as SQL text."""

import click

from pgqueue.cli.confirm import confirm
from pgqueue.cli.options import DURATION
from pgqueue.cli.session import Session, pass_session

__all__ = ["migrate"]


@click.command(short_help="Create or upgrade the schema.")
@click.argument("way", type=click.Choice(["up", "down", "check"]), default="up")
@click.option("--to", metavar="VERSION", help="Stop at this version.  [default: the newest; down: base, nothing left]")
@click.option("--sql", "as_sql", is_flag=True, help="Print the SQL of every step up, and run nothing.")
@click.option("--lock-timeout", type=DURATION, help="How long a step waits for a lock.  [default: 5s]")
@click.option("--wait", type=DURATION, default="60s", show_default=True, help="How long to wait for the server.")
@click.option("-f", "--force", is_flag=True, help="down: do not ask.")
@pass_session
def migrate(
    session: Session, way: str, to: str | None, as_sql: bool, lock_timeout: float | None, wait: float, force: bool
) -> None:
    """Bring the schema to the version of this release; `down` takes it away, with all jobs and results.

    `up` never goes down, nor `down` up; `down` asks before data is lost.

    Safe to repeat, to run twice at once, to kill, and beside live workers.
    """
    from pgqueue.store import schema, versions  # noqa: PLC0415 - not needed by --help

    app = session.app
    name: str = app.conf.schema
    if as_sql:
        if way != "up" or to is not None:
            raise click.UsageError("--sql prints every step up; it takes no other way and no --to")
        click.echo(schema.upgrade_sql(name).rstrip())
        return
    connection = schema.connect_waiting(
        session.connect, lambda reason: session.note(f"waiting for the server: {reason}"), timeout=wait
    )
    with connection:
        if way == "check":
            schema.check(connection, session.queries)
            session.note(f'schema "{name}" is at version {schema.expected_version()}')
            return
        before = schema.found_version(connection, session.queries)
        if way == "down":
            goal = versions.goal_of(to or "base", "down")
            versions.refuse_other_way(before, goal, "down", name)
            if lost := versions.steps_down(before, goal):
                confirm(_question(name, lost, goal), force=force)
    steps: list[str] = []

    def on_step(version: str, direction: str) -> None:
        steps.append(version)
        session.note(f'schema "{name}": {version} {direction}')

    run = schema.migrate if way == "up" else schema.downgrade
    run(
        app.new_connection,
        name,
        target=to or ("head" if way == "up" else "base"),
        lock_timeout=lock_timeout or app.conf.migration_lock_timeout,
        on_step=on_step,
        on_wait=lambda: session.note("another migration is running; waiting for its end"),
    )
    if not steps:
        session.note(f'schema "{name}" is at version {before or schema.expected_version()}, nothing to do')


def _question(schema: str, lost: list[str], goal: str | None) -> str:
    if goal is None:
        return f'Delete schema "{schema}" with all its jobs and results?'
    from pgqueue.store.versions import versions  # noqa: PLC0415 - not needed by --help

    brought = ", ".join(f"{version} ({versions()[version]})" for version in lost)
    return f'Take schema "{schema}" from {lost[0]} down to {goal}, deleting what {brought} brought with all data in it?'
