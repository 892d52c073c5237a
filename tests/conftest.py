"""Fixtures of every test: a PostgreSQL server a session, a fresh database a test; PGQUEUE_TEST_PG (18)."""

import faulthandler
import importlib
import itertools
import os
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg
import pytest

from pgqueue import embedded
from tests.support.cluster import Cluster, binaries
from tests.support.process import REPOSITORY, CommandLine, clean_environment, cli

if TYPE_CHECKING:
    from pgqueue import PgQueue

_TEMPLATE = "migrated"
EXIT_SECONDS = 90.0
_numbers = itertools.count(1)


def pytest_configure() -> None:
    """Let Ctrl-C reach the programs that tests start: a shell's background jobs, and so their children, ignore it."""
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Should something keep the interpreter from ending, show what, and end with the status of the tests."""

    def end() -> None:
        faulthandler.dump_traceback(all_threads=True)
        os._exit(int(session.exitstatus))

    timer = threading.Timer(EXIT_SECONDS, end)
    timer.daemon = True
    timer.start()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Run each fault test PGQUEUE_FAULTS_REPEAT times (1; `make faults` says 10): races show on some rounds only."""
    rounds = int(os.environ.get("PGQUEUE_FAULTS_REPEAT", "1"))
    if rounds > 1 and metafunc.definition.get_closest_marker("faults"):
        metafunc.fixturenames.append("fault_round")
        metafunc.parametrize("fault_round", range(1, rounds + 1))


@pytest.fixture(scope="session")
def programs() -> Iterator[Path]:
    """The programs of the PostgreSQL under test, where the server's user can run them."""
    with tempfile.TemporaryDirectory(prefix="pgq-programs-") as place:
        Path(place).chmod(0o755)
        yield embedded.reachable(binaries(int(os.environ.get("PGQUEUE_TEST_PG", "18"))), Path(place))


@pytest.fixture(scope="session")
def server(programs: Path) -> Iterator[Cluster]:
    """The session's server. Never stop it or change its settings: that is what private_server is for."""
    cluster = Cluster(programs)
    try:
        yield cluster.start()
    finally:
        cluster.destroy()


@pytest.fixture
def private_server(programs: Path) -> Iterator[Cluster]:
    """A server of this test's own, running, with nothing in it: to be stopped, killed and configured at will."""
    cluster = Cluster(programs)
    try:
        yield cluster.start()
    finally:
        cluster.destroy()


@pytest.fixture
def empty_dsn(server: Cluster) -> Iterator[str]:
    """The DSN of a fresh database without our schema."""
    name = f"empty_{next(_numbers)}"
    yield server.create_database(name)
    server.drop_database(name)


@pytest.fixture(scope="session")
def template(server: Cluster) -> str:
    """The name of a migrated database that is never connected to again, so that it can be cloned."""
    server.create_database(_TEMPLATE)
    # Imported when first needed: tests of rooms below the store must not depend on it.
    importlib.import_module("pgqueue.store.schema").migrate(server.dsn(_TEMPLATE))
    return _TEMPLATE


@pytest.fixture
def dsn(server: Cluster, template: str) -> Iterator[str]:
    """The DSN of a fresh, migrated database, dropped after the test (open sessions are ended)."""
    name = f"test_{next(_numbers)}"
    yield server.create_database(name, template)
    server.drop_database(name)


@pytest.fixture
def conn(dsn: str) -> Iterator[psycopg.Connection]:
    """A connection to the database of `dsn`, in a transaction once used, rolled back after the test."""
    connection = psycopg.connect(dsn)
    try:
        yield connection
    finally:
        connection.close()


@pytest.fixture
def app(dsn: str) -> "PgQueue":
    """An application on the database of `dsn`."""
    module = importlib.import_module("pgqueue")
    queue: PgQueue = module.PgQueue("test", dsn=dsn)
    return queue


@pytest.fixture
def spawn() -> Iterator[Callable[..., CommandLine]]:
    """spawn(*command, env={...}, cwd=None): start a program; killed after the test with all its children."""
    started: list[CommandLine] = []

    def start(*command: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> CommandLine:
        started.append(CommandLine(command, clean_environment(**(env or {})), cwd))
        return started[-1]

    yield start
    for program in started:
        program.kill_all()


@pytest.fixture
def spawn_cli(spawn: Callable[..., CommandLine]) -> Callable[..., CommandLine]:
    """spawn_cli(*args, env={...}, cwd=None): start `pgqueue *args`; see CommandLine for expect() and wait()."""

    def start(*args: str, env: dict[str, str] | None = None, cwd: Path | None = None) -> CommandLine:
        return spawn(*cli(*args), env=env, cwd=cwd)

    return start


@pytest.fixture(scope="session")
def archives() -> Iterator[Path]:
    """A directory with the source archive and the wheel built from it, as a release would be."""
    with tempfile.TemporaryDirectory() as place:
        # No isolation: the environment's own build backend, so that the tests need no network.
        command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", place, str(REPOSITORY)]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr
        yield Path(place)
