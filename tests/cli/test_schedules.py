"""`pgqueue schedules`: tables, JSON, edits, backfill."""

import json
import re

import psycopg
import pytest

from pgqueue import PgQueue
from tests.cli.rows import Invoke


def test_a_life_of_a_schedule(invoke: Invoke, dsn: str) -> None:
    added = invoke("schedules", "add", "s", "shop.bill", "--cron", "0 9 1 * *", "-k", '{"tenant": 1}', "--unchecked")
    assert (added.code, added.err) == (0, "")
    assert added.out.startswith("s: active, next 20")
    assert (
        invoke("schedules", "add", "s2", "shop.bill", "--every", "15m", "--unchecked", "--paused").out == "s2: paused\n"
    )
    linked = '{"link": {"task": "shop.note", "args": [1]}, "priority": 3}'
    invoke("schedules", "add", "then", "shop.bill", "--every", "1h", "-o", linked, "--unchecked")
    shown = invoke("schedules", "show", "then").out
    assert "options   {'queue': 'default', 'priority': 3}\nthen      shop.note\n" in shown
    assert invoke("schedules", "remove", "then", "-f").code == 0
    sun = invoke("schedules", "add", "sun", "shop.bill", "--solar", "sunset 52.52 13.41", "--unchecked", "--paused")
    assert (sun.code, sun.out) == (0, "sun: paused\n")
    assert invoke("schedules", "remove", "sun", "-f").code == 0
    lines = invoke("schedules", "list").out.splitlines()
    assert lines[0].split() == ["name", "state", "task", "schedule", "zone", "next", "last", "owner"]
    assert lines[1].split()[:3] == ["s", "active", "shop.bill"]
    assert lines[2].split()[:6] == ["s2", "paused", "shop.bill", "every", "900", "s"]
    listed = json.loads(invoke("schedules", "list", "--json").out)
    assert [(each["name"], each["cron"], each["every"], each["state"]) for each in listed] == [
        ("s", "0 9 1 * *", None, "active"),
        ("s2", None, 900.0, "paused"),
    ]
    shown = invoke("schedules", "show", "s").out
    assert "when      0 9 1 * * (UTC)" in shown
    assert shown.count("\nnext ") == 5
    assert len(json.loads(invoke("schedules", "show", "s", "--json").out)["next_ticks"]) == 5
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("update pgqueue.schedules set enabled = true")
        conn.execute("update pgqueue.schedules set problem = repeat('no printer ', 40) where name = 's2'")
        table = invoke("schedules", "list").out
        assert max(map(len, table.splitlines())) < 160
        assert "waits: no printer no printer no printer no prin…" in table
        told = invoke("schedules", "show", "s2").out
        assert f"state     waits: {'no printer ' * 40}".rstrip() in told
        assert "when      every 900 s\n" in told
        conn.execute("update pgqueue.schedules set problem = null, next_run_at = now() + interval '1.5 s'")
        assert not re.search(r"next +.*:\d\d\.\d", invoke("schedules", "show", "s2").out)
    assert invoke("schedules", "pause", "s", "s2").out == "s: paused\ns2: paused\n"
    assert invoke("schedules", "resume", "s").out == "s: resumed\n"
    job_id = invoke("schedules", "run", "s").out.strip()
    with PgQueue(dsn=dsn) as app:
        assert app.AsyncResult(job_id).state == "PENDING"
        assert app.schedules.get("s").last_job_id == job_id
    assert invoke("schedules", "remove", "s", "--force").out == "s: removed\n"
    assert invoke("schedules", "list", "--owner", "nobody").out.splitlines()[1:] == []


def test_backfill_counts_first(invoke: Invoke) -> None:
    invoke("schedules", "add", "s", "shop.bill", "--cron", "0 * * * *", "--unchecked")
    stretch = ("--from", "2026-01-01T00:00", "--to", "2026-01-01T05:00")
    dry = invoke("schedules", "backfill", "s", *stretch, "--dry-run")
    assert dry.out == "6 ticks, 0 of them dealt with already; 6 jobs would be enqueued\n"
    refused = invoke("schedules", "backfill", "s", *stretch)
    assert refused.code == 2
    assert "There is no terminal to answer on" in refused.err
    done = invoke("schedules", "backfill", "s", *stretch, "--force")
    assert done.out.endswith("6 jobs enqueued\n")
    assert invoke("schedules", "backfill", "s", *stretch, "-f").out.endswith(
        "6 of them dealt with already; 0 jobs would be enqueued\n"
    )


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["add", "s", "t"], "give exactly one of --cron, --every, --at and --solar"),
        (["add", "s", "t", "--solar", "sunset 99 0"], "--solar: expected such as 'sunset 52.52 13.41': solar: lat: "),
        (["add", "s", "t", "--solar", "sunset"], "--solar: expected such as 'sunset 52.52 13.41'"),
        (["add", "s", "t", "--cron", "61 * * * *", "--unchecked"], "schedule: minute: expected 0 to 59, got '61'"),
        (
            ["add", "s", "t", "--cron", "* * * * *", "--timezone", "UTC+25", "--unchecked"],
            "timezone: expected the name",
        ),
        (["add", "s", "t", "--every", "0", "--unchecked"], "schedule: expected an interval"),
        (["add", "s", "t", "--every", "soon"], "no length of time"),
        (["add", "s", "t", "--at", "soon"], "is no instant"),
        (
            ["add", "s", "t", "--at", "2001-01-01T00:00:00", "--unchecked"],
            "schedule: an instant in the future is needed",
        ),
        (["add", "s", "t", "--every", "1m"], "task: 't' is registered neither here nor by any worker"),
        (["add", "s", "t", "--every", "1m", "-o", "[]"], "a JSON object is needed"),
        (["add", "s", "t", "--every", "1m", "-o", '{"priority": 11}', "--unchecked"], "priority: "),
        (["show", "none"], "there is no schedule 'none'"),
        (["pause", "none"], "there is no schedule 'none'"),
        (["remove", "none"], "There is no terminal to answer on"),
        (["run", "none"], "there is no schedule 'none'"),
        (["backfill", "none", "--from", "2026-01-01"], "there is no schedule 'none'"),
    ],
)
def test_what_is_wrong_is_one_line(invoke: Invoke, args: list[str], said: str) -> None:
    done = invoke("schedules", *args)
    assert done.code == 2
    assert said in done.err
    assert done.err.count("\n") == 1
    assert json.loads(invoke("schedules", "list", "--json").out) == []
