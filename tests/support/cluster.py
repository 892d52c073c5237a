"""Private PostgreSQL servers for tests: started, stopped, killed, never left behind."""

import atexit
import contextlib
import os
import shutil
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, LiteralString

import psutil
import psycopg
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgqueue import embedded
from tests.support.process import REPOSITORY, wait_until

MAJORS = (15, 16, 17, 18)

StopMode = Literal["smart", "fast", "immediate"]
_SIGNALS = {"smart": signal.SIGTERM, "fast": signal.SIGINT, "immediate": signal.SIGQUIT}


class NotInstalled(Exception):
    """This machine has no PostgreSQL of that version; the message says where it was looked for."""


def binaries(major: int) -> Path:
    """Directory of the programs of PostgreSQL `major`.

    16 and 18 come with the embedded package, others from the system or build/pg17 (scripts/matrix.py puts it there).

    Raises:
        NotInstalled: there is none.
    """
    if major in (16, 18):
        return embedded.binaries(major)
    places = [Path(f"/usr/lib/postgresql/{major}/bin"), REPOSITORY / f"build/pg{major}/native/bin"]
    with contextlib.suppress(FileNotFoundError, subprocess.CalledProcessError):
        asked = subprocess.run(
            ["pg_config", "--version", "--bindir"], check=True, capture_output=True, text=True
        ).stdout.splitlines()
        if f"PostgreSQL {major}." in "\n".join(asked):
            places.append(Path(next(line for line in asked if line.startswith("/"))))
    for place in places:
        if (place / "postgres").exists():
            return place
    raise NotInstalled(f"no PostgreSQL {major} in {', '.join(map(str, places))}")


class Cluster:
    """A PostgreSQL server with its own data directory, on a loopback port and a socket; its superuser is `postgres`.

    Args:
        programs: directory with initdb and postgres.
        settings: of postgresql.conf, over the tests' own.
        hba: lines put before those that trust every local connection.
        parent: where its directory is made; None: in memory where there is room.
    """

    def __init__(
        self,
        programs: Path,
        settings: Mapping[str, str | int] | None = None,
        hba: Sequence[str] = (),
        parent: Path | None = None,
    ) -> None:
        self.programs = programs
        self.port = _free_port()
        # Memory-backed where there is room: fsync stays on and costs little. What survives a killed server is the same.
        self.directory = Path(tempfile.mkdtemp(prefix="pgq-", dir=parent or _roomy("/dev/shm")))
        self.directory.chmod(0o755)
        self.data = self.directory / "data"
        self.log = self.directory / "log"
        self._process: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        atexit.register(self.destroy)
        self._initialise(settings or {}, hba)

    # --- reaching it

    def dsn(
        self, dbname: str = "postgres", *, user: str = "postgres", over: Literal["tcp", "socket"] = "tcp", **more: Any
    ) -> str:
        """A connection string; `more` are further libpq parameters (password=, options=, application_name=…)."""
        if over == "socket":
            return make_conninfo(host=str(self.directory), port=self.port, dbname=dbname, user=user, **more)
        url = f"postgresql://{user}@127.0.0.1:{self.port}/{dbname}"
        return make_conninfo(url, **more) if more else url

    @contextlib.contextmanager
    def connect(self, dbname: str = "postgres") -> Iterator[psycopg.Connection[tuple[Any, ...]]]:
        """An autocommit connection of the superuser."""
        with psycopg.connect(self.dsn(dbname), autocommit=True) as conn:
            yield conn

    def execute(
        self, statement: LiteralString | sql.Composed, params: Sequence[Any] = (), dbname: str = "postgres"
    ) -> list[tuple[Any, ...]]:
        """Run one statement as the superuser; its rows, if it returns any."""
        with self.connect(dbname) as conn:
            cursor = conn.execute(statement, params or None)
            return cursor.fetchall() if cursor.description else []

    @property
    def major(self) -> int:
        """Its version: 18 for 18.4."""
        return int((self.data / "PG_VERSION").read_text())

    @property
    def pid(self) -> int:
        """The postmaster's process id, while it runs."""
        assert self._process is not None, "the server is not running"
        return self._process.pid

    # --- its life

    def start(self) -> "Cluster":
        """Start it and wait until it accepts connections."""
        assert self._process is None, "the server is already running"
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                [self.programs / "postgres", "-D", self.data],
                cwd=self.directory,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                **embedded.server_account(),
            )
        self._watch()
        wait_until(
            self._accepts, timeout=60, what=lambda: f"the server starts; its log ends:\n{self.log_text()[-2000:]}"
        )
        return self

    def stop(self, mode: StopMode = "fast") -> None:
        """Stop it and wait for its end; nothing if it does not run. After `immediate` the next start recovers."""
        if self._process is not None:
            self._end(_SIGNALS[mode])

    def kill(self) -> None:
        """Kill the postmaster with SIGKILL and wait until its children noticed and left; the next start recovers."""
        children = psutil.Process(self.pid).children()
        self._end(signal.SIGKILL)
        _, left = psutil.wait_procs(children, timeout=30)
        assert not left, f"the killed server's children stay: {left}"

    def restart(self, mode: StopMode = "fast") -> None:
        """Stop and start it again on the same port."""
        self.stop(mode)
        self.start()

    def destroy(self) -> None:
        """Stop it, whatever its state, and delete its directory. May be called twice."""
        self.stop("immediate")
        shutil.rmtree(self.directory, ignore_errors=True)
        atexit.unregister(self.destroy)

    # --- changing it

    def configure(self, **settings: str | int) -> None:
        """ALTER SYSTEM SET and reload (settings that need a restart take effect at the next one)."""
        for name, value in settings.items():
            self.execute(sql.SQL("alter system set {} = {}").format(sql.Identifier(name), sql.Literal(value)))
        self.execute("select pg_reload_conf()")

    def add_user(self, name: str, password: str | None = None) -> None:
        """A login role without rights. With a password it must give it (scram-sha-256); others go on without."""
        self.execute(sql.SQL("create role {} login password {}").format(sql.Identifier(name), sql.Literal(password)))
        if password is not None:
            hba = self.data / "pg_hba.conf"
            hba.write_text(
                f'host all "{name}" 127.0.0.1/32 scram-sha-256\nlocal all "{name}" scram-sha-256\n' + hba.read_text()
            )
            self.execute("select pg_reload_conf()")

    def create_database(self, name: str, template: str = "template1") -> str:
        """Create a database and return its DSN."""
        self.execute(sql.SQL("create database {} template {}").format(sql.Identifier(name), sql.Identifier(template)))
        return self.dsn(name)

    def drop_database(self, name: str) -> None:
        """Drop a database, ending its sessions."""
        self.execute(sql.SQL("drop database if exists {} with (force)").format(sql.Identifier(name)))

    def log_text(self) -> str:
        """What the server has logged so far."""
        return self.log.read_text(errors="replace") if self.log.exists() else ""

    # --- behind it

    def _initialise(self, settings: Mapping[str, str | int], hba: Sequence[str]) -> None:
        account = embedded.server_account()
        self.data.mkdir(mode=0o700)
        self.log.touch()
        if "user" in account:
            for place in (self.directory, self.data, self.log):
                os.chown(place, account["user"], account["group"])
        made = subprocess.run(
            [
                *(self.programs / "initdb", "-D", self.data, "--username=postgres", "--auth=trust"),
                *("--encoding=UTF8", "--locale=C", "--no-sync", "--no-instructions"),
            ],
            cwd=self.directory,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            check=False,
            **account,
        )
        if made.returncode:
            raise RuntimeError(f"initdb failed:\n{made.stdout}{made.stderr}")
        ours: dict[str, str | int] = {
            "listen_addresses": "127.0.0.1",
            "port": self.port,
            "unix_socket_directories": str(self.directory),
            "max_connections": 200,
            "autovacuum_naptime": "5s",
            "timezone": "UTC",
            "log_line_prefix": "%m [%p] %d %a ",
        }
        with (self.data / "postgresql.conf").open("a") as conf:
            conf.writelines(
                f"{name} = '{str(value).replace(chr(39), chr(39) * 2)}'\n"
                for name, value in {**ours, **settings}.items()
            )
        if hba:
            (self.data / "pg_hba.conf").write_text("\n".join([*hba, (self.data / "pg_hba.conf").read_text()]))

    def _accepts(self) -> bool:
        assert self._process is not None
        if (code := self._process.poll()) is not None:
            self._process = None
            raise RuntimeError(f"the server ended with {code} while starting; its log ends:\n{self.log_text()[-2000:]}")
        try:
            psycopg.connect(self.dsn(), connect_timeout=5).close()
        except psycopg.OperationalError:
            return False
        return True

    def _end(self, with_signal: signal.Signals) -> None:
        process, self._process = self._process, None
        assert process is not None
        process.send_signal(with_signal)
        try:
            process.wait(timeout=60)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            raise
        finally:
            self._unwatch()

    def _watch(self) -> None:
        """A guard that ends the server when this process dies without a chance to: its standard input then closes."""
        script = 'cat >/dev/null; kill -QUIT "$0"; while kill -0 "$0"; do sleep 0.1; done; rm -rf "$1"'
        self._guard = subprocess.Popen(
            ["sh", "-c", script, str(self.pid), str(self.directory)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    def _unwatch(self) -> None:
        guard, self._guard = self._guard, None
        if guard is not None:
            os.killpg(guard.pid, signal.SIGKILL)
            guard.communicate()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _roomy(place: str) -> str | None:
    try:
        free = shutil.disk_usage(place).free
    except OSError:
        return None
    return place if free > 4 * 2**30 and os.access(place, os.W_OK) else None
