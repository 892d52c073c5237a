"""Options and commands of Celery that are not honoured: each is refused by its name, with the way out."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeVar

import click

__all__ = ["BEAT", "CALL", "COMMANDS", "GLOBAL", "INSPECT", "RESULT", "WORKER", "Declined", "refuse"]

F = TypeVar("F", bound=Callable[..., Any])


class Declined(NamedTuple):
    """One option: its spellings, whether it takes a value, and what to do instead."""

    names: tuple[str, ...]
    takes_value: bool
    way_out: str


_DETACH = "a worker stays in the foreground: let systemd, a container or `nohup … &` keep it"
_BEAT = "schedules are rows, and every worker serves them: leave it out"

GLOBAL = (
    Declined(("-b", "--broker"), True, "there is no broker: set PGQUEUE_DSN=postgresql://…"),
    Declined(("--result-backend",), True, "results are rows beside the jobs: set PGQUEUE_DSN=postgresql://…"),
    Declined(("--loader",), True, "name the application with -A"),
    Declined(("--config",), True, "call app.config_from_object(…), or write pgqueue.toml"),
    Declined(("--skip-checks",), False, "the checks protect the data and take milliseconds"),
    Declined(("--dsn",), True, "everybody sees a command line: set PGQUEUE_DSN, or write pgqueue.toml"),
)
WORKER = (
    Declined(("-s", "--schedule-filename", "--schedule"), True, _BEAT),
    Declined(("--scheduler",), True, _BEAT),
    Declined(("-E", "--task-events", "--events"), False, "every job is a row: look with `pgqueue status` and SQL"),
    Declined(("-O", "--optimization"), True, "jobs go to whichever child is free, always: leave it out"),
    Declined(("--prefetch-multiplier",), True, "set worker_buffer, the seconds of work that are claimed ahead"),
    Declined(("--disable-prefetch",), False, "set worker_buffer = 0"),
    Declined(("--without-gossip",), False, "workers do not talk to each other: leave it out"),
    Declined(("--without-mingle",), False, "workers do not talk to each other: leave it out"),
    Declined(("--without-heartbeat",), False, "the heartbeat is the lease on its jobs: set worker_lease"),
    Declined(("--heartbeat-interval",), True, "set worker_heartbeat"),
    Declined(("-D", "--detach"), False, _DETACH),
    Declined(("--uid",), True, "let systemd (User=) or the container choose the user"),
    Declined(("--gid",), True, "let systemd (Group=) or the container choose the group"),
    Declined(("--umask",), True, "files are made for their owner alone: set it in the shell"),
    Declined(("--executable",), True, "start the worker with the Python you want: python -m pgqueue worker"),
    Declined(("-S", "--statedb"), True, "cancelled jobs are rows: leave it out"),
    Declined(("--purge", "--discard"), False, "run `pgqueue purge` before the worker"),
)
BEAT = (
    Declined(("-s", "--schedule"), True, _BEAT),
    Declined(("-S", "--scheduler"), True, _BEAT),
    Declined(("-D", "--detach"), False, _DETACH),
)
CALL = (
    Declined(("--serializer",), True, "arguments are JSON, always"),
    Declined(("--exchange",), True, "there are no exchanges: use --queue"),
    Declined(("--routing-key",), True, "there are no exchanges: use --queue"),
)
RESULT = (Declined(("-t", "--task"), True, "a result knows its task: leave it out"),)
INSPECT = (
    Declined(("-t", "--timeout"), True, "workers are rows, nobody is asked over the network: leave it out"),
    Declined(("-d", "--destination"), True, "all live workers are shown: filter --json"),
)
COMMANDS = {
    "multi": f"start each worker with `pgqueue worker`; {_DETACH}",
    "events": "every job is a row: `pgqueue status --watch`, or SQL over pgqueue.all_jobs",
    "inspect": "use `pgqueue status`, `pgqueue jobs list --state running`, or SQL over pgqueue.workers",
    "control": "use `pgqueue jobs cancel`, `pgqueue jobs retry`, or signals to a worker (TERM, HUP)",
    "shell": "start python and import the application",
    "report": "use `pgqueue status` and `pgqueue --version`",
    "list": "there are no bindings: `pgqueue status` lists the queues",
    "graph": "there are no bootsteps to draw",
    "logtool": "logs are lines of text or JSON: use grep or jq",
    "upgrade": "the porting guide lists every setting",
    "amqp": "there is no broker: `pgqueue sql` looks at the tables",
    "flower": "`pgqueue status --watch` shows queues and workers",
}


def refuse(options: tuple[Declined, ...]) -> Callable[[F], F]:
    """Decorate a command: it refuses these options by name."""

    def decorate(function: F) -> F:
        for option in options:
            function = click.option(
                *option.names,
                option.names[-1].strip("-").replace("-", "_") + "_declined",
                is_flag=not option.takes_value,
                hidden=True,
                expose_value=False,
                is_eager=True,
                callback=_refusal(option),
            )(function)
        return function

    return decorate


def _refusal(option: Declined) -> Callable[[click.Context, click.Parameter, Any], None]:
    def callback(ctx: click.Context, parameter: click.Parameter, value: Any) -> None:
        if value:
            raise click.UsageError(f"{'/'.join(option.names)} is not supported: {option.way_out}", ctx)

    return callback
