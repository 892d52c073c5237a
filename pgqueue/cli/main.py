"""The `pgqueue` command: global options, commands loaded when they are called, errors in one line.

Exit codes: 0 done; 1 done in part, not ready, or the job failed; 2 wrong input, settings or rights; 3 the database
cannot be reached; 130 interrupted; 141 the reader of the output went away.
"""

import os
import sys
from collections.abc import Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, NoReturn

import click

from pgqueue.cli import declined
from pgqueue.cli.session import Session

__all__ = ["cli", "main"]

# name: (where, what --help says); loaded one by one, so that --help and each command stay fast.
COMMANDS = {
    "worker": ("pgqueue.cli.worker:worker", "Run tasks."),
    "beat": ("pgqueue.cli.beat:beat", "Enqueue the jobs of schedules, without running tasks."),
    "schedules": ("pgqueue.cli.schedules:schedules", "List, show, add, pause, run and remove schedules."),
    "migrate": ("pgqueue.cli.migrate:migrate", "Create or upgrade the schema."),
    "call": ("pgqueue.cli.call:call", "Enqueue a task by its name."),
    "result": ("pgqueue.cli.call:result", "Print the result of a job."),
    "status": ("pgqueue.cli.status:status", "Show queues, workers and rates."),
    "jobs": ("pgqueue.cli.jobs:jobs", "List, show, cancel and retry jobs."),
    "workflows": ("pgqueue.cli.workflows:workflows", "List, show, cancel, retry workflows; resolve their events."),
    "purge": ("pgqueue.cli.purge:purge", "Cancel all waiting jobs of a queue."),
    "prune": ("pgqueue.cli.purge:prune", "Drop finished jobs whose time is over."),
    "sql": ("pgqueue.cli.sql:sql", "Run a query."),
    "health": ("pgqueue.cli.status:health", "Tell by the exit code whether all is well."),
    "db": ("pgqueue.cli.db:db", "Start, stop and find the embedded server of development."),
    "demo": ("pgqueue.cli.demo:demo", "Run two real programs on an embedded server and show what happens."),
}


class LazyGroup(click.Group):
    """A group whose commands are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name in COMMANDS:
            module, attribute = COMMANDS[name][0].split(":")
            command: click.Command = getattr(import_module(module), attribute)
            return command
        return None

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] in declined.COMMANDS:
            raise click.UsageError(f"{args[0]}: {declined.COMMANDS[args[0]]}", ctx)
        if args and args[0] not in COMMANDS and (near := get_close_matches(args[0], COMMANDS, 1)):
            raise click.UsageError(f"no command {args[0]!r}; did you mean {near[0]!r}?", ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


@click.group(
    cls=LazyGroup,
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    epilog=(
        "The database is that of PGQUEUE_DSN or DATABASE_URL, of pgqueue.toml or [tool.pgqueue], or of the application;"
        ' with none of them, the embedded server. Shell completion: eval "$(_PGQUEUE_COMPLETE=bash_source pgqueue)"'
        " (or zsh_source, fish_source)."
    ),
)
@click.option("-A", "--app", "app", metavar="MODULE:APP", help="The application, such as shop.tasks:app.")
@click.option("--schema", metavar="NAME", help="Schema that holds the tables.  [default: pgqueue]")
@click.option(
    "--workdir",
    metavar="DIRECTORY",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Go there first; modules are found from there.",
)
@click.option("-C", "--no-color", is_flag=True, help="No colours (also: NO_COLOR).")
@click.option("-q", "--quiet", is_flag=True, help="Say nothing but results and errors.")
@click.option("--version", is_flag=True, is_eager=True, expose_value=False, callback=lambda c, p, v: _version(c, v))
@declined.refuse(declined.GLOBAL)
@click.pass_context
def cli(
    ctx: click.Context, app: str | None, schema: str | None, workdir: Path | None, no_color: bool, quiet: bool
) -> None:
    """A job queue in PostgreSQL: run workers, look at jobs, change them."""
    if workdir is not None:
        os.chdir(workdir)
    dumb = os.environ.get("TERM") == "dumb" or bool(os.environ.get("NO_COLOR"))
    ctx.color = False if no_color or dumb else None
    ctx.obj = Session(app=app or os.environ.get("PGQUEUE_APP") or None, schema=schema, quiet=quiet)


def _version(ctx: click.Context, wanted: bool) -> None:
    if wanted:
        from importlib.metadata import version  # noqa: PLC0415 - takes 30 ms, and few ask

        click.echo(f"pgqueue {version('pgqueue')}")
        ctx.exit()


def main(arguments: Sequence[str] | None = None) -> NoReturn:
    """Run the command line and leave with its exit code; nothing ends as a traceback.

    Args:
        arguments: without the program's name; default sys.argv.
    """
    for stream in (sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:  # a terminal without Unicode shows escapes, and no error
            reconfigure(errors="backslashreplace")
    given = [_as_text(argument) for argument in (sys.argv[1:] if arguments is None else arguments)]
    try:
        if "_PGQUEUE_COMPLETE" in os.environ:
            cli.main(args=given, prog_name="pgqueue")
        # Not by cli.main: it turns a broken pipe into exit code 1, which means something else here.
        with cli.make_context("pgqueue", given) as context:
            code = cli.invoke(context)
        sys.stdout.flush()
    except BrokenPipeError:
        _close_quietly()
        sys.exit(141)
    except BaseException as error:
        try:
            sys.exit(_explain(error))
        except BrokenPipeError:
            _close_quietly()
            sys.exit(141)
    sys.exit(code if isinstance(code, int) else 0)


def _as_text(argument: str) -> str:
    """Without a locale Python keeps what is not ASCII as surrogates; terminals send UTF-8."""
    if argument.isascii():
        return argument
    return os.fsencode(argument).decode("utf-8", "backslashreplace")


def _close_quietly() -> None:
    # The interpreter flushes once more when it ends.
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _explain(error: BaseException) -> int | str | None:
    """Print one line about an error; its exit code."""
    code, message, command = 2, "", "pgqueue"
    if isinstance(error, SystemExit):
        return error.code
    if isinstance(error, click.exceptions.Exit):
        return error.exit_code
    if isinstance(error, KeyboardInterrupt | click.Abort | EOFError):
        code, message = 130, "interrupted"
    elif isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show(sys.stderr)
        return 2
    elif isinstance(error, click.ClickException):
        code, message = (2 if isinstance(error, click.UsageError) else error.exit_code), error.format_message()
        context: Any = getattr(error, "ctx", None)
        if context is not None:
            command = context.command_path
            message += _hint(error)
    else:
        code, message = _of_ours(error)
    from pgqueue.cli.output import printable  # noqa: PLC0415 - not needed by --help
    from pgqueue.config.dsn import redact  # noqa: PLC0415 - as above

    line = " ".join(printable(redact(message), keep="\n").split())
    click.echo(f"{command}: {line}", err=True)
    return code


def _hint(error: click.ClickException) -> str:
    if isinstance(error, click.NoSuchOption) and error.option_name in (
        *("-A", "--app", "--schema", "--workdir", "-q", "--quiet", "-C", "--no-color"),
    ):
        return f" It stands before the command: pgqueue {error.option_name} …"
    return ""


def _of_ours(error: BaseException) -> tuple[int, str]:
    from pgqueue.errors import DatabaseUnavailable, PgQueueError  # noqa: PLC0415 - not needed by --help

    if isinstance(error, DatabaseUnavailable):
        return 3, str(error)
    if isinstance(error, PgQueueError):
        return 2, str(error)
    if "psycopg" in sys.modules:
        import psycopg  # noqa: PLC0415 - loaded already, or it cannot be its error

        if isinstance(error, psycopg.OperationalError) and error.sqlstate is None:
            from pgqueue.store.connecting import connection_problem  # noqa: PLC0415 - as above

            return connection_problem(error)
        if isinstance(error, psycopg.Error):
            return (3 if (error.sqlstate or "").startswith(("08", "57P", "53")) else 2), str(error)
    if isinstance(error, OSError):
        named = error.filename is not None and error.strerror
        return 2, f"{os.fsdecode(error.filename)}: {error.strerror}" if named else str(error)
    if os.environ.get("PGQUEUE_TRACEBACK"):
        raise error
    return 2, f"unexpected {type(error).__name__}: {error} (PGQUEUE_TRACEBACK=1 shows where)"
