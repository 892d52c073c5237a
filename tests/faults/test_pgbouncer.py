"""Behind PgBouncer in transaction mode: no LISTEN, no session state; everything else works."""

import os
import shutil
import socket
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

import psycopg
import pytest
from psycopg.conninfo import conninfo_to_dict, make_conninfo

from pgqueue import embedded
from tests.faults.conftest import Stage
from tests.support.process import REPOSITORY, CommandLine, wait_until

pytestmark = pytest.mark.faults

PROGRAM = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")


@pytest.fixture
def pooled(stage: Stage, tmp_path: Path) -> Iterator[str]:
    """The stage's database through a PgBouncer of this test."""
    if PROGRAM is None:
        pytest.skip("pgbouncer is not installed (Debian: apt install pgbouncer)")
    server = conninfo_to_dict(stage.dsn)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    account = embedded.server_account()
    tmp_path.chmod(0o755)
    for parent in list(tmp_path.parents)[:3]:
        if parent.owner() == "root" and parent != Path("/tmp"):
            parent.chmod(0o755)
    users = tmp_path / "users.txt"
    users.write_text('"postgres" ""\n')
    config = tmp_path / "pgbouncer.ini"
    config.write_text(
        f"[databases]\n* = host=127.0.0.1 port={server['port']}\n[pgbouncer]\nlisten_addr = 127.0.0.1\n"
        f"listen_port = {port}\nunix_socket_dir =\nauth_type = trust\nauth_file = {users}\npool_mode = transaction\n"
        "default_pool_size = 8\nmax_client_conn = 100\nignore_startup_parameters = extra_float_digits\n"
    )
    dsn = make_conninfo(stage.dsn, port=port)
    with (tmp_path / "pgbouncer.log").open("wb") as log:
        process = subprocess.Popen(
            [PROGRAM, str(config)], stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, **account
        )
    try:
        wait_until(
            lambda: _answers(dsn) or process.poll() is not None,
            what=lambda: f"pgbouncer answers: {(tmp_path / 'pgbouncer.log').read_text()}",
        )
        assert process.poll() is None, (tmp_path / "pgbouncer.log").read_text()
        yield dsn
    finally:
        process.terminate()
        process.wait(30)


def _answers(dsn: str) -> bool:
    try:
        psycopg.connect(dsn, connect_timeout=5).close()
    except psycopg.OperationalError:
        return False
    return True


def test_behind_pgbouncer_the_worker_polls_and_says_so_once(stage: Stage, pooled: str) -> None:  # fault 30
    direct, stage.dsn = stage.dsn, pooled
    worker = stage.worker("-c", "2", worker_poll_interval="0.5")
    with stage.load() as load:
        load.more(300)
        polls = worker.expect("polling")
    stage.dsn = direct
    stage.finish(load)
    assert worker.output.count("no notifications") == 1, polls
    assert "does not exist" not in worker.output


def test_listen_dsn_leads_past_pgbouncer(stage: Stage, pooled: str) -> None:  # fault 30
    direct, stage.dsn = stage.dsn, pooled
    worker = stage.worker("-c", "2", listen_dsn=direct, worker_poll_interval="30")
    with stage.load() as load:
        load.more()
    stage.dsn = direct
    # Between two polls half a minute apart, only a notification can tell.
    for number in range(3):
        stage.wait_for_success(stage.send("answer", str(number)), timeout=20)
    stage.finish(load)
    assert "no notifications" not in worker.output


def test_schedules_tick_without_notifications(pooled: str, stage: Stage, spawn_cli: Callable[..., CommandLine]) -> None:
    """Two schedulers that share the pooler's sessions: no lock and no LISTEN stays with a stranger."""
    for _ in range(2):
        spawn_cli("beat", env={"PGQUEUE_DSN": pooled}, cwd=REPOSITORY).expect("is ready")
    stage.app.schedules.upsert("s", task="t", schedule="* * * * * *", check_task=False)
    noted = "select count(*), count(distinct tick) from pgqueue.schedule_ticks"
    wait_until(lambda: stage.query(noted)[0][0] >= 3, what="ticks come")
    stage.app.schedules.remove("s")
    held = "select count(*) from pg_locks where locktype = 'advisory' and classid = hashtext('pgqueue/scheduler')::oid"
    assert stage.value(held) == 0
    jobs = "select count(*), count(distinct headers ->> 'scheduled_for') from pgqueue.live_jobs where task = 't'"
    (found,) = stage.query(jobs)
    assert found[0] == found[1] >= 3
