"""The scheduler in real workers: on by default, off when asked, alone as `pgqueue beat`."""

import json
import signal
from collections.abc import Callable
from datetime import datetime

import pytest

from tests.support.process import REPOSITORY, CommandLine, wait_until
from tests.worker.conftest import Rows

Start = Callable[..., CommandLine]
SECONDS = {"each second": {"task": "scheduled.note", "schedule": "* * * * * *"}}
YEARLY = {"yearly": {"task": "scheduled.note", "schedule": "@yearly"}}


@pytest.fixture
def start(dsn: str, spawn_cli: Callable[..., CommandLine]) -> Start:
    """start("worker", *options, schedules={...}, wait=True): a process of tests/worker/scheduled.py."""

    def begin(command: str, *options: str, schedules: object = SECONDS, wait: bool = True) -> CommandLine:
        everything = {"PGQUEUE_DSN": dsn, "SCHEDULED": json.dumps(schedules)}
        found = spawn_cli("-A", "tests.worker.scheduled:app", command, *options, env=everything, cwd=REPOSITORY)
        if wait:
            found.expect("is ready")
        return found

    return begin


def schedules(rows: Rows) -> list[tuple[str, bool]]:
    return [(row["name"], row["enabled"]) for row in rows.execute("select * from pgqueue.schedules order by name")]


@pytest.mark.parametrize("option", ["-B", "--beat", "-ldebug"])
def test_a_worker_serves_schedules_and_the_task_knows_its_tick(start: Start, rows: Rows, option: str) -> None:
    worker = start("worker", "-P", "threads", option)
    query = "select * from pgqueue.finished_jobs where state = 'succeeded' order by seq"
    ended = wait_until(lambda: rows.execute(query)[1:] and rows.execute(query), what="two ticks ran")
    for row in ended:  # the retry is of the same tick
        assert row["attempt"] == 2
        assert datetime.fromisoformat(row["result"]) == datetime.fromisoformat(row["headers"]["scheduled_for"])
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert "Traceback" not in worker.output


@pytest.mark.parametrize("option", ["--no-scheduler", "--burst"])
def test_a_worker_that_serves_none(start: Start, rows: Rows, option: str) -> None:
    worker = start("worker", "-P", "threads", option)
    if option == "--burst":
        assert worker.wait() == 0
    beat = start("beat", schedules=YEARLY)
    wait_until(lambda: schedules(rows) == [("yearly", True)], what="the other one's schedules alone are there")
    for each in (worker, beat)[option == "--burst" :]:
        each.send_signal(signal.SIGTERM)
        assert each.wait() == 0


def test_beat_alone_makes_jobs_and_ends_in_order(start: Start, rows: Rows) -> None:
    beat = start("beat", "--max-interval", "1")
    wait_until(lambda: rows.execute("select id from pgqueue.live_jobs where state = 'available'"), what="a job waits")
    (row,) = rows.execute("select * from pgqueue.workers")
    assert (row["app"], row["queues"], row["tasks"], row["pid"]) == ("scheduled", [], [], beat.pid)
    beat.send_signal(signal.SIGINT)
    assert beat.wait() == 0
    assert beat.output.splitlines()[-1] == "pgqueue beat: stopped"
    (row,) = rows.execute("select * from pgqueue.workers")
    assert row["stopped_at"] is not None


def test_a_deployment_pauses_what_left_the_code_and_says_so(start: Start, rows: Rows) -> None:
    old = start("worker", "-P", "threads", schedules={**YEARLY, "gone": {"task": "scheduled.note", "schedule": 3600}})
    wait_until(lambda: len(schedules(rows)) == 2, what="the old code's schedules are there")
    new = start("worker", "-P", "threads", schedules=YEARLY)
    new.expect("schedule 'gone' is no longer declared by scheduled: paused")
    again = start("worker", "-P", "threads", schedules={**YEARLY, "gone": {"task": "scheduled.note", "schedule": 3600}})
    again.expect("newer or other code of scheduled declares its schedules")
    assert schedules(rows) == [("gone", False), ("yearly", True)]
    old.kill_all()


def test_wrong_declarations_end_the_start_in_one_line(start: Start, rows: Rows) -> None:
    wrong = {"x": {"task": "scheduled.note", "schedule": 1, "options": {"priority": 10}}}
    for command in ("worker", "beat"):
        process = start(command, schedules=wrong, wait=False)
        assert process.wait() == 2
        assert "schedule 'x': priority: expected a whole number from 0 to 9" in process.output.splitlines()[-1]
    assert schedules(rows) == []


def test_what_the_server_refuses_of_the_code_stops_nothing_else(start: Start, rows: Rows) -> None:
    """Python may know a time zone that the server does not."""
    rows.execute("select pgqueue.upsert_schedule('by hand', 'scheduled.note', '* * * * * *', check_task => false)")
    unknown = {"x": {"task": "scheduled.note", "schedule": "* * * * *", "timezone": "Factory"}, **YEARLY}
    rows.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$begin raise 'timezone: unknown here' using errcode = '22023'; end$$"
    )
    rows.execute(
        "create trigger refuse before insert on pgqueue.schedules for each row when (new.timezone = 'Factory')"
        " execute function refuse()"
    )
    beat = start("beat", schedules=unknown)
    beat.expect("schedule 'x' was left out: timezone: unknown here")
    wait_until(
        lambda: schedules(rows) == [("by hand", True), ("yearly", True)], what="the others of this code are there"
    )
    wait_until(lambda: rows.execute("select id from pgqueue.live_jobs"), what="the other one ticks")
