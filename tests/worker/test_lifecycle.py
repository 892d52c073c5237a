"""`pgqueue worker` as a process: what it says, how signals end it, and what becomes of its jobs then."""

import os
import re
import signal
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest

from pgqueue import PgQueue
from pgqueue.store.schema import expected_version
from tests.support.cluster import Cluster
from tests.support.process import REPOSITORY, CommandLine, wait_until
from tests.worker.conftest import Rows, Send, StartWorker
from tests.worker.gate import Gate

SOURCE = "from pgqueue import PgQueue\napp = PgQueue('small')\n\n\n@app.task\ndef answer():\n    return {answer}\n"


def test_the_banner_says_what_it_is_and_where_its_jobs_are(start_worker: StartWorker, rows: Rows, dsn: str) -> None:
    worker = start_worker("-c", "2", "-n", "shop", "-Q", "default,nowhere", env={"PGQUEUE_DSN": with_password(dsn)})
    worker.expect("at least once")
    said = worker.output
    assert "worker shop is ready" in said
    assert f"pid {worker.pid}" in said
    assert "secret" not in said
    assert dsn.rpartition("/")[2] in said
    assert "PostgreSQL" in said
    assert f"schema pgqueue {expected_version()}" in said
    assert "queues: default, nowhere" in said
    assert "unknown queues: nowhere" in said
    assert "processes x 2" in said
    assert "tests.worker.tasks." in said
    assert "lease: 20 s" in said
    assert "grace period of a stop: 25 s" in said
    assert "at most once: tests.worker.tasks.die_once, tests.worker.tasks.hold_once" in said
    row = rows.worker("shop")
    assert (row["pid"], row["app"]) == (worker.pid, "tests")
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0


def with_password(dsn: str) -> str:
    return dsn.replace("postgres@", "postgres:secret@")


def test_term_lets_running_jobs_finish_and_gives_waiting_ones_back_at_once(
    start_worker: StartWorker, send: Send, gate: Gate, rows: Rows
) -> None:
    worker = start_worker("-P", "processes", "-c", "1")
    for n in range(50):
        send("echo", n)
    send("echo", "learned").get(timeout=30)
    held = send("hold", gate.address)
    visitor = gate.next()
    waiting = [send("echo", n) for n in range(20)]
    rows.until(waiting[-1].id, "running")
    worker.send_signal(signal.SIGTERM)
    for result in waiting:
        row = rows.until(result.id, "available")
        assert (row["attempt"], row["lost"], row["worker_id"]) == (0, 0, None)
    assert rows.job(held.id)["state"] == "running"
    visitor.let_go("finished")
    assert worker.wait() == 0
    assert held.get(timeout=30) == "finished"
    assert "25 s to finish" in worker.output
    assert "stopped" in worker.output
    row = rows.worker()
    assert row["stopped_at"] is not None
    assert (row["running"], row["lost_at"]) == (0, None)
    start_worker("-P", "solo", "--burst").wait()
    assert [result.get(timeout=30) for result in waiting] == list(range(20))
    assert {rows.job(result.id)["attempt"] for result in waiting} == {1}


def test_a_second_term_gives_back_what_runs(start_worker: StartWorker, send: Send, gate: Gate, rows: Rows) -> None:
    worker = start_worker("-P", "processes:1,threads:1", loop=True)
    held = send("hold", gate.address, "hold")
    visitor = gate.next()
    on_loop = send("hold_on_loop", gate.address, "loop")
    gate.next()
    worker.send_signal(signal.SIGINT)
    worker.expect("Ctrl-C again ends them now")
    worker.send_signal(signal.SIGINT)
    assert worker.wait() == 0
    visitor.await_death()
    for result in (held, on_loop):
        row = rows.job(result.id)
        assert (row["state"], row["attempt"], row["lost"]) == ("available", 0, 0)
    assert psutil.pid_exists(visitor.pid) is False


def test_jobs_that_outlast_the_grace_period_go_back_but_not_those_that_may_run_once(
    start_worker: StartWorker, send: Send, gate: Gate, rows: Rows
) -> None:
    worker = start_worker("-P", "processes", "-c", "2", conf={"worker_shutdown_timeout": 0.3})
    held, once = send("hold", gate.address), send("hold_once", gate.address)
    gate.take(2)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    row = rows.job(held.id)
    assert (row["state"], row["attempt"], row["lost"]) == ("available", 0, 0)
    assert rows.job(once.id)["state"] == "failed"
    assert rows.job(once.id)["error_type"] == "pgqueue.errors.WorkerLostError"


def test_hup_starts_the_same_worker_anew_with_new_code(
    start_worker: StartWorker, sender_task: "SmallApp", rows: Rows
) -> None:
    worker = start_worker("-c", "1", app="small:app", cwd=sender_task.folder)
    assert sender_task.call() == 1
    sender_task.write(2)
    worker.send_signal(signal.SIGHUP)
    wait_until(lambda: worker.output.count("is ready") == 2, what=lambda: f"it is ready again: {worker.output}")
    assert sender_task.call() == 2
    assert [row["pid"] for row in rows.execute("select pid from pgqueue.workers order by id")] == [worker.pid] * 2
    assert rows.execute("select count(*) as n from pgqueue.workers where stopped_at is null")[0]["n"] == 1


def test_hup_starts_anew_where_it_was_told_to_work(
    spawn_cli: Callable[..., CommandLine], sender_task: "SmallApp", dsn: str
) -> None:
    folder = sender_task.folder
    line = ("--workdir", folder.name, "-A", "small:app", "worker", "-P", "solo")
    worker = spawn_cli(*line, env={"PGQUEUE_DSN": dsn, "PYTHONPATH": str(REPOSITORY)}, cwd=folder.parent)
    worker.expect("is ready")
    worker.send_signal(signal.SIGHUP)
    wait_until(lambda: worker.output.count("is ready") == 2, what=lambda: f"it is ready again: {worker.output}")
    assert sender_task.call() == 1


def test_reload_starts_anew_when_a_file_changes(start_worker: StartWorker, sender_task: "SmallApp") -> None:
    worker = start_worker("-P", "solo", "--reload", app="small:app", cwd=sender_task.folder)
    assert sender_task.call() == 1

    def changed() -> bool:
        # Written again until it is noticed: the watch may begin after the worker is ready.
        sender_task.write(2)
        return "small.py changed" in worker.output

    wait_until(changed, what=lambda: f"the change is noticed: {worker.output}")
    wait_until(lambda: worker.output.count("is ready") >= 2, what=lambda: f"it is ready again: {worker.output}")
    assert sender_task.call() == 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_what_ends_reloading_ends_its_worker_in_order(
    start_worker: StartWorker, send: Send, gate: Gate, rows: Rows, number: signal.Signals
) -> None:
    reloading = start_worker("-P", "processes", "-c", "1", "--reload")
    worker = psutil.Process(rows.worker()["pid"])
    assert worker.ppid() == reloading.pid
    held = send("hold", gate.address)
    visitor = gate.next()
    reloading.send_group_signal(number)  # as a terminal does
    reloading.expect("running jobs get 25 s to finish")
    visitor.let_go("finished")
    assert reloading.wait() == 0
    assert "stopping now" not in reloading.output
    assert not worker.is_running()
    assert held.get(timeout=30) == "finished"


class SmallApp:
    """An application in a folder of its own, whose code may change."""

    def __init__(self, folder: Path, send: Send) -> None:
        self.folder = folder
        self._send = send
        self.write(1)

    def write(self, answer: int) -> None:
        (self.folder / "small.py").write_text(SOURCE.format(answer=answer))

    def call(self) -> object:
        return self._send("small.answer").get(timeout=30)


@pytest.fixture
def sender_task(tmp_path: Path, sender: object) -> SmallApp:
    return SmallApp(tmp_path, sender.send_task)  # type: ignore[attr-defined]  # a PgQueue


def test_usr1_shows_the_stacks_and_the_worker_goes_on(start_worker: StartWorker, send: Send) -> None:
    worker = start_worker("-P", "solo")
    worker.send_signal(signal.SIGUSR1)
    worker.expect("Current thread")
    worker.expect("in wait")
    assert send("echo", 1).get(timeout=30) == 1


def test_the_pid_file_lives_as_long_as_the_worker_and_keeps_a_second_one_out(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    path = tmp_path / "worker.pid"
    path.write_text("999999999\n")
    worker = start_worker("-P", "solo", "--pidfile", str(path))
    assert path.read_text() == f"{worker.pid}\n"
    second = start_worker("-P", "solo", "--pidfile", str(path), wait=False)
    assert second.wait() == 2
    assert "belongs to a running process" in second.output
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert not path.exists()


def test_lines_of_tasks_name_the_task_and_its_job(
    start_worker: StartWorker, send: Send, tmp_path: Path, rows: Rows
) -> None:
    path = tmp_path / "worker.log"
    worker = start_worker("-P", "processes", "-c", "1", "-l", "INFO", "--logfile", str(path), wait=False)
    said, printed, failed = send("say", "aloud"), send("say_by_print", "printed"), send("fail_with", "SystemExit")
    said.get(timeout=30)
    printed.get(timeout=30)
    rows.end_of(failed.id)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    lines = path.read_text().splitlines()
    assert worker.output == ""
    assert re.search(r"tests@.* is ready \(pid \d+\); .*; queues: default; ", lines[0])
    assert any("stopping; running jobs get 25 s" in line for line in lines)
    assert lines[-1].endswith("pgqueue worker: stopped; 3 jobs ended here")
    for text, result in (
        ("said aloud", said),
        ("printed", printed),
        ("printed in error", printed),
        ("printed to the end", printed),
    ):
        line = next(line for line in lines if line.endswith(text))
        assert f"[{result.id}]" in line
        assert "tests.worker.tasks.say" in line
    assert any(f"[{failed.id}] failed" in line for line in lines)


def test_children_that_cannot_import_the_application_end_the_worker_with_1(
    start_worker: StartWorker, tmp_path: Path
) -> None:
    broken = "import sys\nif 'pgqueue.worker.child' in sys.orig_argv: raise RuntimeError('only in children')\n"
    (tmp_path / "small.py").write_text(broken + SOURCE.format(answer=1))
    worker = start_worker("-P", "processes", "-c", "1", app="small:app", cwd=tmp_path, wait=False)
    assert worker.wait() == 1
    assert "only in children" in worker.output
    assert "child processes die before they are ready" in worker.output


def test_a_module_that_is_not_there_is_one_line_before_anything_starts(start_worker: StartWorker, rows: Rows) -> None:
    worker = start_worker("-c", "1", "-I", "nosuch", wait=False)
    assert worker.wait() == 2
    (line,) = worker.output.splitlines()
    assert "no module 'nosuch'" in line
    assert not rows.execute("select from pgqueue.workers")


def test_tasks_of_an_included_module_run(start_worker: StartWorker, sender: PgQueue, tmp_path: Path) -> None:
    more = "from tests.worker.tasks import app\n\n\n@app.task(name='more')\ndef more():\n    return 'more'\n"
    (tmp_path / "more.py").write_text(more)
    start_worker("-P", "processes", "-c", "1", "-I", "more", env={"PYTHONPATH": str(tmp_path)})
    assert sender.send_task("more").get(timeout=30) == "more"


@pytest.mark.parametrize("options", [("-l", "CRITICAL"), ("-l", "ERROR")])
def test_a_worker_is_as_quiet_as_it_is_told_to_be(
    start_worker: StartWorker, send: Send, options: tuple[str, ...]
) -> None:
    worker = start_worker("-c", "1", "--burst", *options, wait=False)
    send("echo", 1).get(timeout=30)
    assert worker.wait() == 0
    assert worker.output == ""


def test_a_quiet_command_line_has_no_banner(dsn: str, spawn_cli: Callable[..., CommandLine]) -> None:
    app = "tests.worker.tasks:app"
    worker = spawn_cli("-q", "-A", app, "worker", "-c", "1", "--burst", env={"PGQUEUE_DSN": dsn}, cwd=REPOSITORY)
    assert worker.wait() == 0
    assert worker.output == ""


def test_a_worker_without_a_server_says_that_it_waits(
    private_server: Cluster, spawn_cli: Callable[..., CommandLine]
) -> None:
    private_server.stop()
    env = {"PGQUEUE_DSN": private_server.dsn()}
    worker = spawn_cli("-A", "tests.worker.tasks:app", "worker", "-c", "1", env=env, cwd=REPOSITORY)
    line = worker.expect("waiting for the server, and trying again: no server listens there")
    assert "WARNING/MainProcess" in line
    assert worker.output.count("waiting") == 1


def test_burst_ends_when_nothing_is_left(start_worker: StartWorker, send: Send, rows: Rows) -> None:
    results = [send("echo", n) for n in range(30)] + [send("where_on_loop")]
    later = send("echo", "later", countdown=3600)
    worker = start_worker("-c", "2", "--burst", wait=False, loop=True)
    assert worker.wait() == 0
    assert {rows.job(result.id)["state"] for result in results} == {"succeeded"}
    assert rows.job(later.id)["state"] == "scheduled"


def test_a_killed_worker_takes_its_children_along(start_worker: StartWorker, send: Send, gate: Gate) -> None:
    worker = start_worker("-P", "processes", "-c", "1")
    send("hold", gate.address)
    visitor = gate.next()
    os.kill(worker.pid, signal.SIGKILL)
    visitor.await_death()
    wait_until(lambda: not psutil.pid_exists(visitor.pid), what="the child is gone")
