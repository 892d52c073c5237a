"""What the other commands do to a real database, and what they say about it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgqueue.store.schema import expected_version
from pgqueue.store.statement import Queries, run
from pgqueue.store.stats import queue_depths
from tests.cli.rows import Invoke, add_worker, claim, enqueue, fail
from tests.support.cluster import Cluster
from tests.support.process import CommandLine


def test_call_and_result(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    done = invoke("call", "shop.mail", "-a", "[1]", "-k", '{"x": null}', "--queue", "mail", "--task-id", "order 17")
    assert (done.code, done.out) == (0, "order 17\n")
    assert conn.execute("select task, queue, args, kwargs from pgqueue.all_jobs").fetchone() == (
        *("shop.mail", "mail", [1], {"x": None}),
    )
    again = invoke("call", "shop.mail", "--task-id", "order 17")
    assert (again.code, again.err.partition(": ")[2]) == (
        *(2, "--task-id: a job 'order 17' is kept already; choose another\n"),
    )
    done = invoke("result", "order 17")
    assert (done.code, done.out) == (1, "")
    assert "job order 17 is available" in done.err
    conn.execute("select pgqueue.enqueue('x')")
    claimed = conn.execute("select id from pgqueue.live_jobs where task = 'shop.mail'").fetchone()
    assert claimed is not None
    fail(conn, str(claimed[0]))
    assert "is failed: shop.errors.Boom: no \\u001b[31mpaper" in invoke("result", "order 17").err
    assert invoke("result", "order 17", "--traceback").out == "Traceback: line 1\nline 2\n"
    assert "no job nothing" in invoke("result", "nothing").err


def test_result_prints_json(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    job_id = enqueue(conn)
    fail(conn, job_id)
    conn.execute("update pgqueue.finished_jobs set state = 'succeeded', result = '{\"a\": \"\u202e\"}'")
    conn.commit()
    done = invoke("result", job_id)
    assert done.code == 0
    assert json.loads(done.out) == {"a": "\u202e"}
    assert done.out.isascii()


def test_call_checks_arguments_of_tasks_it_knows(
    invoke: Invoke, tmp_path: Path, conn: psycopg.Connection[Any], spawn_cli: Callable[..., CommandLine], dsn: str
) -> None:
    (tmp_path / "tasks.py").write_text(
        "from pgqueue import PgQueue\napp = PgQueue('shop')\n"
        "@app.task\ndef add(a: int, b: int) -> int:\n    return a + b\n"
    )
    program = spawn_cli("call", "tasks.add", "-a", "[1]", env={"PGQUEUE_DSN": dsn}, cwd=tmp_path)
    assert program.wait() == 2
    assert "using tasks.py" in program.output
    assert "'b'" in program.output
    slip = spawn_cli("call", "tasks.ad", "-a", "[1, 2]", env={"PGQUEUE_DSN": dsn}, cwd=tmp_path)
    assert slip.wait() == 2
    assert "no task 'tasks.ad' is registered; did you mean 'tasks.add'? --force enqueues it" in slip.output
    assert conn.execute("select count(*) from pgqueue.all_jobs").fetchone() == (0,)
    conn.rollback()
    assert spawn_cli("call", "tasks.ad", "--force", env={"PGQUEUE_DSN": dsn}, cwd=tmp_path).wait() == 0
    assert conn.execute("select task from pgqueue.all_jobs").fetchall() == [("tasks.ad",)]


def test_a_file_that_cannot_be_opened_is_named(invoke: Invoke, tmp_path: Path) -> None:
    (tmp_path / "tasks.py").write_text("from pgqueue import PgQueue\napp = PgQueue('shop')\n")
    done = invoke("-A", "tasks:app", "beat", "--logfile", "/nosuch/x")
    assert (done.code, done.err) == (2, "pgqueue: /nosuch/x: No such file or directory\n")


def test_purge_cancels_what_waits(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    running = enqueue(conn)
    claim(conn, add_worker(conn))
    conn.execute("select pgqueue.enqueue('a') from generate_series(1, 1500)")
    conn.execute("select pgqueue.enqueue('a', countdown => '1 day')")
    other = enqueue(conn, queue="other")
    asked = invoke("purge")
    assert asked.code == 2
    assert "1,501 waiting jobs of default? There is no terminal to answer on: give --force" in asked.err
    done = invoke("purge", "--force")
    assert (done.code, done.out) == (0, "1501 jobs cancelled\n")
    assert set(invoke("jobs", "list", "--ids", "--state", "live").out.split()) == {running, other}
    assert "nothing is waiting in default" in invoke("purge").err
    assert invoke("purge", "-f", "-X", "default").out == "1 jobs cancelled\n"


def test_prune(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    fail(conn, enqueue(conn))
    assert invoke("prune").out == "0 partitions dropped, 0 made\n"
    assert invoke("prune", "--older-than", "0s").code == 2
    assert invoke("prune", "--older-than", "1h", "-f").out.endswith("0 rows deleted\n")
    assert invoke("prune", "--older-than", "0s", "-f").out.endswith("1 rows deleted\n")
    assert conn.execute("select count(*) from pgqueue.all_jobs").fetchone() == (0,)


def test_sql_prints_a_table_json_or_csv(invoke: Invoke) -> None:
    query = "select 1 as n, '=1+1' as text, null as nothing, E'\\x1b[2J' as ansi"
    assert invoke("sql", query).out == "n  text  nothing  ansi\n1  =1+1           \\u001b[2J\n"
    assert json.loads(invoke("sql", "--json", query).out) == [
        {"n": 1, "text": "=1+1", "nothing": None, "ansi": "\x1b[2J"}
    ]
    assert invoke("sql", "--csv", "select 'a,b' as x, '=1+1' as y").out == 'x,y\n"a,b",\'=1+1\n'
    jsons = 'select \'{"a": null, "b": [true]}\'::json as j, \'"x"\'::jsonb as b'
    assert invoke("sql", jsons).out.splitlines()[1] == '{"a": null, "b": [true]}  "x"'
    assert invoke("sql", "--csv", jsons).out.splitlines()[1] == '"{""a"": null, ""b"": [true]}","""x"""'
    assert json.loads(invoke("sql", "--json", jsons).out) == [{"j": {"a": None, "b": [True]}, "b": "x"}]
    assert invoke("sql", text="select 5 as five").out == "five\n   5\n"
    assert invoke("sql", "select 1 as a; set local jit = off; select 2 as b;").out == "a\n1\nSET\nb\n2\n"
    refused = invoke("sql", "--write", "--json", "select 1; create table t (); select 2")
    assert (refused.code, "the rows of one query, and 2 were given" in refused.err) == (2, True)
    assert (
        invoke("sql", "--json", "set local jit = off; select to_regclass('t') as t").out
        == '[\n  {\n    "t": null\n  }\n]\n'
    )


def test_sql_is_read_only_unless_told(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    enqueue(conn)
    done = invoke("sql", "delete from pgqueue.live_jobs")
    assert done.code == 2
    assert "read-only transaction" in done.err
    assert invoke("sql", "--write", "delete from pgqueue.live_jobs").out == "DELETE 1\n"


@pytest.mark.parametrize("query", ["select", "select 1/0", "select * from nowhere", "select 'a", "\x00"])
def test_sql_errors_are_one_line(invoke: Invoke, query: str) -> None:
    done = invoke("sql", query)
    assert (done.code, done.out, done.err.count("\n")) in ((2, "", 1), (0, "\n\n", 0), (0, "\n", 0))


def test_sql_timeout(invoke: Invoke) -> None:
    assert "statement timeout" in invoke("sql", "--timeout", "0.05s", "select pg_sleep(60)").err


def test_status(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    empty = invoke("status")
    assert "no queue has jobs or workers" in empty.out
    assert "no worker is live" in empty.out
    enqueue(conn)
    enqueue(conn, queue="mail", countdown="1 hour")
    enqueue(conn)
    claim(conn, add_worker(conn))
    text = invoke("status").out
    assert "no live worker serves: mail" in text
    found = json.loads(invoke("status", "--json").out)
    queues = {queue["queue"]: queue for queue in found["queues"]}
    assert [queues["default"][name] for name in ("available", "running", "workers")] == [1, 1, 1]
    assert [queues["mail"][name] for name in ("scheduled", "workers")] == [1, 0]
    assert 3500 < queues["mail"]["next_due"] <= 3600
    assert queues["default"]["oldest"] >= 0
    (worker,) = found["workers"]
    assert (worker["name"], worker["status"], worker["tasks"], worker["finished_per_minute"]) == (
        "w1",
        "live",
        1,
        600.0,
    )


def test_status_counts_no_further_than_it_must(conn: psycopg.Connection[Any]) -> None:
    conn.execute("select pgqueue.enqueue('a', queue => 'q' || i % 2) from generate_series(1, 100) i")
    found = run(conn, queue_depths(Queries("pgqueue"), 20))
    assert [(depth.queue, depth.available) for depth in found] == [("q0", 20), ("q1", 20)]


def test_health(invoke: Invoke, conn: psycopg.Connection[Any], dsn: str) -> None:
    assert invoke("health").out == "ready\n"
    missing = invoke("health", "-Q", "default", "--worker", "w1")
    assert missing.code == 1
    assert missing.err.splitlines() == [
        "pgqueue health: no live worker serves queue default",
        "pgqueue health: no live worker is named w1",
    ]
    add_worker(conn)
    assert invoke("health", "-Q", "default", "--worker", "w1").code == 0
    with psycopg.connect(dsn, autocommit=True) as admin:
        admin.execute(
            sql.SQL("alter database {} set default_transaction_read_only = on").format(
                sql.Identifier(admin.info.dbname)
            )
        )
    found = json.loads(invoke("health", "--json").out)
    assert not found["ready"]
    assert "read-only" in found["problems"][0]


def test_health_misses_tomorrows_partition(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    row = conn.execute(
        "select 'finished_jobs_' || to_char(now() at time zone 'UTC' + interval '1 day', 'YYYYMMDD')"
    ).fetchone()
    assert row is not None
    conn.execute(sql.SQL("drop table pgqueue.{}").format(sql.Identifier(row[0])))
    conn.commit()
    done = invoke("health")
    assert (done.code, done.out) == (1, "")
    assert "tomorrow's partition is missing" in done.err
    assert invoke("prune").out == "0 partitions dropped, 1 made\n"
    assert invoke("health").code == 0


def test_unreachable_server_is_exit_code_3(invoke: Invoke, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", "postgresql://u:topsecret@127.0.0.1:1/d")
    for command in ("health", "status"):
        done = invoke(command)
        assert (done.code, done.out) == (3, "")
        assert "topsecret" not in done.err


def test_migrate(invoke: Invoke, empty_dsn: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", empty_dsn)
    missing = invoke("status")
    assert missing.code == 2
    assert 'no schema "pgqueue" of pgqueue: run `pgqueue migrate`' in missing.err
    assert invoke("migrate", "check").code == 2
    version = expected_version()
    assert f'schema "pgqueue": {version} up' in invoke("migrate").err
    assert "nothing to do" in invoke("migrate").err
    assert invoke("migrate", "check").code == 0
    assert invoke("-q", "--schema", "other", "migrate").err == ""
    assert "pgqueue --schema third migrate" in invoke("--schema", "third", "status").err
    assert invoke("--schema", "other", "status").code == 0
    assert "give --force" in invoke("migrate", "down").err
    assert f"{version} down" in invoke("migrate", "down", "--force").err
    assert invoke("--schema", "other", "status").code == 0
    assert "create schema pgqueue" in invoke("migrate", "--sql").out


def test_migrate_goes_the_way_that_is_named_only(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    job = enqueue(conn)
    newest = expected_version()
    for arguments, said in (
        (("--to", "0001"), f"at version {newest}, newer than 0001: going down deletes data"),
        (("up", "--to", "0002", "--force"), "`pgqueue migrate down --to 0002`"),
        (("--to", "9"), f"there is no version '9' of the schema; there are 0001, 0002, {newest}"),
        (("down", "--to", "abc"), f"there is no version 'abc' of the schema; there are base, 0001, 0002, {newest}"),
        (("down", "--to", "0001"), f"down to 0001, deleting what {newest} (workflows), 0002 (schedules) brought"),
    ):
        done = invoke("migrate", *arguments)
        assert (done.code, said in done.err) == (2, True), done.err
    assert "give --force" in invoke("migrate", "down", "--to", "0002").err
    assert f"{newest} down" in invoke("migrate", "down", "--to", "0002", "--force").err
    refused = invoke("migrate", "down", "--to", newest, "--force")
    assert (refused.code, f"`pgqueue migrate up --to {newest}` goes up" in refused.err) == (2, True)
    assert "at version 0002, nothing to do" in invoke("migrate", "down", "--to", "0002").err
    assert f"{newest} up" in invoke("migrate", "--to", newest).err
    assert invoke("jobs", "list", "--ids").out.split() == [job]


def test_migrate_waits_for_the_server(
    private_server: Cluster, spawn_cli: Callable[..., CommandLine], tmp_path: Path
) -> None:
    private_server.stop()
    program = spawn_cli("migrate", env={"PGQUEUE_DSN": private_server.dsn()}, cwd=tmp_path)
    program.expect("waiting for the server: no server listens there")
    private_server.start()
    assert program.wait() == 0
    assert "up" in program.output


def test_db_says_where_it_is_and_asks_before_it_deletes(
    invoke: Invoke, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PGQUEUE_EMBEDDED_PATH", str(tmp_path / "server"))
    assert invoke("db", "path").out == f"{tmp_path}/server\n"
    assert invoke("db", "url").code == 1
    assert "was not running" in invoke("db", "stop").err
    assert "give --force" in invoke("db", "reset").err
