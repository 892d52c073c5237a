"""The tests' own server: whatever it promises to the other tests."""

import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psutil
import psycopg
import pytest

from tests.support.cluster import Cluster
from tests.support.process import CommandLine, wait_until


def test_a_database_of_a_test_is_fresh(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        row = conn.execute("select count(*) from information_schema.schemata where schema_name = 'pgqueue'").fetchone()
    assert row == (0,)


def test_committed_rows_survive_a_killed_server(private_server: Cluster) -> None:
    private_server.execute("create table kept as select 1 as n")
    private_server.kill()
    with pytest.raises(psycopg.OperationalError):
        psycopg.connect(private_server.dsn())
    private_server.start()
    assert private_server.execute("select n from kept") == [(1,)]


def test_a_restart_keeps_the_address(private_server: Cluster) -> None:
    before, pid = private_server.dsn(), private_server.pid
    private_server.restart("immediate")
    assert private_server.dsn() == before
    assert private_server.pid != pid


def test_a_user_with_a_password_must_give_it(private_server: Cluster) -> None:
    private_server.add_user("guarded", password="right")
    with psycopg.connect(private_server.dsn(user="guarded", password="right")) as conn:
        assert conn.info.user == "guarded"
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        psycopg.connect(private_server.dsn(user="guarded", password="wrong"))


def test_settings_change_while_it_runs(private_server: Cluster) -> None:
    private_server.configure(work_mem="7MB")
    wait_until(lambda: private_server.execute("show work_mem") == [("7MB",)])


def test_the_socket_serves_too(server: Cluster) -> None:
    with psycopg.connect(server.dsn(over="socket")) as conn:
        assert conn.execute("select inet_server_addr()").fetchone() == (None,)


def test_no_server_outlives_its_tests(spawn: Callable[..., CommandLine], programs: Path) -> None:
    program = spawn(
        sys.executable,
        "-c",
        "import pathlib, sys; from tests.support.cluster import Cluster\n"
        "cluster = Cluster(pathlib.Path(sys.argv[1])).start()\n"
        "print('pid', cluster.pid, cluster.directory); sys.stdin.read()",
        str(programs),
        cwd=Path(__file__).parents[2],
    )
    _, pid, directory = program.expect("pid ").split()
    program.send_signal(signal.SIGKILL)
    wait_until(lambda: not psutil.pid_exists(int(pid)), what="the server of a killed test run ends")
    wait_until(lambda: not Path(directory).exists(), what="its directory is removed")


def test_programs_of_the_version_under_test(programs: Path, server: Cluster) -> None:
    said = subprocess.run([programs / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    assert f" {server.major}." in said
