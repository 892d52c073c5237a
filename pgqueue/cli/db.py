"""`pgqueue db`: the embedded server of development."""

import click

from pgqueue.cli.confirm import confirm
from pgqueue.cli.session import Session, pass_session

__all__ = ["db"]


@click.group(short_help="Start, stop and find the embedded server of development.")
def db() -> None:
    """The embedded PostgreSQL that serves development when no DSN is set."""


@db.command()
@pass_session
def start(session: Session) -> None:
    """Start the server unless it runs, and print its DSN."""
    import pgqueue.embedded as embedded  # noqa: PLC0415 - not needed by --help

    dsn = embedded.start()
    session.note(f"the embedded PostgreSQL runs in {embedded.path()}")
    click.echo(dsn)


@db.command()
@pass_session
def stop(session: Session) -> None:
    """Stop the server, ending its sessions; its data stays."""
    import pgqueue.embedded as embedded  # noqa: PLC0415 - not needed by --help

    stopped = embedded.stop()
    session.note("the embedded PostgreSQL was stopped" if stopped else "the embedded PostgreSQL was not running")


@db.command()
def path() -> None:
    """Print the directory of the server."""
    import pgqueue.embedded as embedded  # noqa: PLC0415 - not needed by --help

    click.echo(str(embedded.path()))


@db.command()
def url() -> None:
    """Print the DSN of the running server; exit code 1 when it does not run."""
    import pgqueue.embedded as embedded  # noqa: PLC0415 - not needed by --help

    dsn = embedded.running_dsn()
    if dsn is None:
        raise click.ClickException("the embedded PostgreSQL is not running: pgqueue db start")
    click.echo(dsn)


@db.command()
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@pass_session
def reset(session: Session, force: bool) -> None:
    """Stop the server and delete everything in it."""
    import pgqueue.embedded as embedded  # noqa: PLC0415 - not needed by --help

    confirm(f"Delete the embedded PostgreSQL in {embedded.path()} with everything in it?", force=force)
    embedded.reset()
    session.note("the embedded PostgreSQL is gone; the next start makes a new one")
