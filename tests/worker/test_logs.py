"""Lines of the worker's log: JSON, colours, passwords."""

import asyncio
import io
import json
import logging
import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgqueue import PgQueue
from pgqueue.request import Request, current_request
from pgqueue.store.schema import migrate
from pgqueue.worker.logs import about, set_up_logging
from tests.support.cluster import Cluster
from tests.worker.conftest import Rows, Send, StartWorker
from tests.worker.gate import Gate


@pytest.fixture(autouse=True)
def logger() -> Iterator[logging.Logger]:
    """Everything as it was before set_up_logging()."""
    ours, streams, raises = logging.getLogger("pgqueue"), (sys.stdout, sys.stderr), logging.raiseExceptions
    before = (list(ours.handlers), ours.level)
    yield ours
    for handler in ours.handlers:
        if handler not in before[0]:
            handler.close()
    ours.handlers[:], ours.level = before[0], before[1]
    ours.manager._clear_cache()  # type: ignore[attr-defined] # what setLevel() does
    sys.stdout, sys.stderr = streams
    logging.raiseExceptions = raises


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_json_names_time_level_job_and_error(tmp_path: Path, logger: logging.Logger) -> None:
    path = tmp_path / "worker.log"
    set_up_logging(PgQueue("t", worker_log_format="json").conf, "INFO", str(path))
    request = Request("0198", "shop.pay", attempt=3)
    mark = current_request.set(request)
    try:
        raise ValueError('no "such" order\npassword=secret')
    except ValueError:
        logging.getLogger("pgqueue.task.shop").exception("paying postgresql://u:secret@h/d failed")
    finally:
        current_request.reset(mark)
    logging.getLogger("pgqueue.worker").info("%d jobs", 7)
    logging.getLogger("pgqueue.task").info("about another", extra=about(request_of_another()))
    failed, plain, other = [json.loads(line) for line in path.read_text().splitlines()]
    assert (failed["level"], failed["logger"], failed["message"]) == (
        "ERROR",
        "pgqueue.task.shop",
        "paying postgresql://u:***@h/d failed",
    )
    assert (failed["job_id"], failed["task"], failed["attempt"]) == ("0198", "shop.pay", 3)
    assert 'ValueError: no "such" order' in failed["traceback"]
    assert "secret" not in failed["traceback"]
    assert (plain["message"], "job_id" in plain, plain["time"][-6:]) == ("7 jobs", False, "+00:00")
    assert (other["job_id"], other["attempt"]) == ("0199", 1)


class Other:
    id, task, attempt = "0199", "shop.ship", 1


def request_of_another() -> Other:
    return Other()


@pytest.mark.parametrize(
    ("setting", "stream", "coloured"),
    [(True, io.StringIO, True), (None, Terminal, True), (None, io.StringIO, False), (False, Terminal, False)],
)
def test_colours(
    monkeypatch: pytest.MonkeyPatch, logger: logging.Logger, setting: bool | None, stream: type, coloured: bool
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(sys, "stderr", stream())
    shown: Any = sys.stderr
    set_up_logging(PgQueue("t", worker_log_color=setting).conf, "INFO")
    logger.error("broken")
    logger.info("well")
    broken, well = shown.getvalue().splitlines()
    assert broken.startswith("\x1b[31m") is coloured
    assert broken.endswith("\x1b[0m") is coloured
    assert "\x1b" not in well


def test_each_job_that_is_ended_by_force_is_told_of(
    start_worker: StartWorker, send: Send, sender: PgQueue, tmp_path: Path, rows: Rows, gate: Gate
) -> None:
    path = tmp_path / "worker.log"
    env = {"PGQUEUE_WORKER_LOG_FORMAT": "json"}
    worker = start_worker("-P", "processes", "-c", "1", "--logfile", str(path), env=env, wait=False)
    cancelled, late, lost = send("deaf", gate.address), send("deaf", gate.address, time_limit=0.4), send("die_once")
    gate.next()
    sender.control.revoke(cancelled.id, terminate=True)
    for result in (cancelled, late, lost):
        rows.end_of(result.id)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert worker.output == ""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    told = {
        result.id: [(line["level"], line["message"]) for line in lines if line.get("job_id") == result.id]
        for result in (cancelled, late, lost)
    }
    task = "Task tests.worker.tasks"
    assert told[cancelled.id] == [("WARNING", f"{task}.deaf[{cancelled.id}] was cancelled while it ran, at attempt 1")]
    assert told[late.id] == [("ERROR", f"{task}.deaf[{late.id}] passed its time limit of 0.4 s")]
    reason = "its child process was killed by signal 9"
    assert told[lost.id] == [
        ("WARNING", f"{task}.die_once[{lost.id}] was lost at attempt 1: {reason}"),
        ("ERROR", f"{task}.die_once[{lost.id}] failed at attempt 1: WorkerLostError('{reason}')"),
    ]
    others = [line["message"] for line in lines if "job_id" not in line]
    assert re.search(r" is ready \(pid \d+\); .*; queues: default; ", others[0])
    assert others[-1].startswith("pgqueue worker: stopped; ")
    assert [message.partition(" died: ")[2] for message in others if "died" in message] == [f"{reason}; 1 job with it"]
    assert sum("was ended with its job" in message for message in others) == 2


def test_after_a_restart_of_the_server_the_log_says_that_all_is_well_again(
    private_server: Cluster, start_worker: StartWorker
) -> None:
    migrate(private_server.dsn())
    worker = start_worker("-c", "1", env={"PGQUEUE_DSN": private_server.dsn()})
    private_server.stop()
    worker.expect("cannot claim now")
    private_server.start()
    worker.expect("connected again after")
    lines = worker.output.partition("jobs run at least once")[2].splitlines()[1:]
    assert [line for line in lines if not line.startswith("[")] == []
    assert worker.output.count("connected again") == 1


def test_a_coroutine_past_its_limit_is_told_of_as_that(app: PgQueue, rows: Rows, caplog: Any) -> None:
    @app.task(time_limit=0.2)
    async def endless() -> None:
        await asyncio.sleep(3600)

    @app.task(time_limit=0.2)
    async def deaf() -> str:
        try:
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            return "goes on"
        return "not reached"

    with app.worker(concurrency=2):
        results = [endless.delay(), deaf.delay()]
        for result in results:
            row = rows.end_of(result.id)
            assert row["error_type"] == "pgqueue.errors.TimeLimitExceeded"
            assert "time limit of 0.2 s of task" in row["error"]
    told = {record.task_id: (record.levelname, record.getMessage()) for record in caplog.records}
    for result, name in zip(results, (endless.name, deaf.name), strict=True):
        assert told[result.id] == ("ERROR", f"Task {name}[{result.id}] passed its time limit of 0.2 s")
    assert len(caplog.records) == 2


def test_a_retry_is_told_of_with_its_delay(app: PgQueue, rows: Rows, caplog: Any) -> None:
    @app.task(bind=True)
    def again(self: Any) -> None:
        self.retry(countdown=3600)

    with caplog.at_level("INFO", "pgqueue.task"), app.worker(pool="threads", concurrency=1):
        result = again.delay()
        rows.until(result.id, "scheduled")
    (told,) = [record.getMessage() for record in caplog.records if record.name == "pgqueue.task"]
    assert told.startswith(f"Task {again.name}[{result.id}] retries after attempt 1 in 3600.0 s: Retry(")


def test_a_worker_writes_json(start_worker: StartWorker, send: Send, tmp_path: Path, rows: Rows) -> None:
    path = tmp_path / "worker.log"
    env = {"PGQUEUE_WORKER_LOG_FORMAT": "json"}
    worker = start_worker(
        "-P", "processes", "-c", "1", "-l", "DEBUG", "--logfile", str(path), "--burst", env=env, wait=False
    )
    failed, echo, printed = send("fail_with", "SystemExit"), send("echo", 1), send("say_by_print", "hello")
    rows.end_of(printed.id)
    assert worker.wait() == 0
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    told = {line["message"].split(" in ")[0]: line for line in lines if "job_id" in line}
    success = next(
        line for message, line in told.items() if message.endswith("succeeded at attempt 1") and echo.id in message
    )
    assert (success["level"], success["job_id"], success["task"]) == ("DEBUG", echo.id, "tests.worker.tasks.echo")
    assert told["hello"]["job_id"] == printed.id
    error = next(line for line in lines if line["level"] == "ERROR" and line.get("job_id") == failed.id)
    assert "SystemExit" in error["traceback"]
