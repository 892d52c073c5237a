"""Lines of the worker's log: JSON, colours, passwords."""

import io
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from pgqueue import PgQueue
from pgqueue.request import Request, current_request
from pgqueue.worker.logs import about, set_up_logging
from tests.worker.conftest import Rows, Send, StartWorker


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
