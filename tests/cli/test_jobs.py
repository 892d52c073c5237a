"""`pgqueue jobs`: list, show, cancel, retry."""

import json
import uuid
from typing import Any

import psycopg

from pgqueue import PgQueue
from tests.cli.rows import Invoke, add_worker, claim, enqueue, fail


def test_list_filters(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    mail = enqueue(conn)
    later = enqueue(conn, "shop.report", queue="slow", countdown="1 hour")
    broken = enqueue(conn, "shop.print")
    fail(conn, broken)
    listed = invoke("jobs", "list")
    assert [line.split()[0] for line in listed.out.splitlines()[1:]] == [broken, later, mail]
    assert "\x1b" not in listed.out
    assert "shop.errors.Boom: no \\u001b[31mpaper" in listed.out
    for args, ids in {
        ("--state", "available"): [mail],
        ("--state", "PENDING"): [later, mail],
        ("--state", "failed,running"): [broken],
        ("--state", "live"): [later, mail],
        ("--queue", "slow"): [later],
        ("--task", "shop.*r*t"): [broken, later],
        ("--task", "shop_mail"): [],
        ("--since", "1h"): [broken, later, mail],
        ("--limit", "1"): [broken],
        ("--worker", "1"): [],
    }.items():
        assert invoke("jobs", "list", "--ids", *args).out.split() == ids, args
    assert [each["id"] for each in json.loads(invoke("jobs", "list", "--json").out)] == [broken, later, mail]


def test_list_is_ordered_by_the_time_of_the_enqueue(
    invoke: Invoke, app: PgQueue, conn: psycopg.Connection[Any]
) -> None:
    names = ["a", None, "order 17", None, str(uuid.uuid4()), None]
    made = [app.send_task("shop.mail", task_id=name).job_id if name else enqueue(conn) for name in names]
    claim(conn, add_worker(conn), 6)
    for each in made[:4]:
        fail(conn, each)
    assert invoke("jobs", "list", "--ids").out.split() == made[::-1]
    assert invoke("jobs", "list", "--ids", "--limit", "3", "--since", "1h").out.split() == made[:2:-1]
    assert invoke("jobs", "list", "--ids", "--state", "failed", "-n", "2").out.split() == [made[3], made[2]]


def test_show_tells_the_story(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    job_id = enqueue(conn, args='["\\u202e", "a"]', headers='{"trace": "t1"}')
    fail(conn, job_id)
    conn.execute(
        "insert into pgqueue.attempts values (%s, 1, 'retried', null, now(), now(), now() + interval '1 day',"
        ' \'{"type": "E", "message": "first"}\', null)',
        [job_id],
    )
    conn.commit()
    shown = invoke("jobs", "show", job_id).out
    for text in (
        "shop.mail",
        "failed",
        "shop.errors.Boom: no \\u001b[31mpaper",
        "line 2",
        "try 1",
        "retried",
        "E: first",
        "kept to",
    ):
        assert text in shown
    assert "\u202e" not in shown
    whole = json.loads(invoke("jobs", "show", job_id, "--json").out)
    assert whole["attempts"][0]["error"] == "first"
    assert whole["why"] == []


def why(invoke: Invoke, job_id: str) -> list[str]:
    """The reasons that `jobs show` gives."""
    found: list[str] = json.loads(invoke("jobs", "show", job_id, "--json").out)["why"]
    return found


def test_json_of_a_job_is_nested(invoke: Invoke, app: PgQueue, conn: psycopg.Connection[Any]) -> None:
    sent = app.send_task("shop.mail", [{"a": [1]}], {"b": None}, headers={"tenant": 7})
    told = json.loads(invoke("jobs", "show", sent.id, "--json").out)
    assert (told["args"], told["kwargs"], told["result"]) == ([{"a": [1]}], {"b": None}, None)
    assert told["headers"]["tenant"] == 7
    claim(conn, add_worker(conn))
    fail(conn, sent.id)
    conn.execute("update pgqueue.finished_jobs set state = 'succeeded', result = '{\"ok\": [1.5]}', args = null")
    conn.commit()
    told = json.loads(invoke("jobs", "show", sent.id, "--json").out)
    assert (told["args"], told["result"]) == ([], {"ok": [1.5]})


def test_the_beginning_of_an_id_will_do(invoke: Invoke, app: PgQueue) -> None:
    one, two = "5f3a1c9e-1000-4000-8000-000000000001", "5f3a1c9e-2000-4000-8000-000000000002"
    other, named = "77777777-7777-4777-8777-777777777777", "77777777-own"
    for each in (one, two, other, named, "88888888"):
        app.send_task("shop.mail", task_id=each)
    assert json.loads(invoke("jobs", "show", "5f3a1c9e-1", "--json").out)["id"] == one
    assert "job 5f3a1c9e2 is available" in invoke("result", "5f3a1c9e2").err
    for words in (("jobs", "show"), ("jobs", "cancel"), ("result",)):
        refused = invoke(*words, "5f3a1c9e")
        assert (refused.code, "the ids of several jobs begin with 5f3a1c9e: give more" in refused.err) == (2, True)
    assert invoke("jobs", "cancel", "77777777", "5f3a1c9", named, "88888888").out.splitlines() == [
        "77777777  cancelled",
        "5f3a1c9  no such job",
        f"{named}  cancelled",
        "88888888  cancelled",
    ]
    assert invoke("jobs", "list", "--ids", "--state", "cancelled", "--queue", "default").out.count(other) == 1
    assert invoke("jobs", "retry", "77777777-7").out == "77777777-7  retried\n"
    assert "no job my-own-id:" in invoke("jobs", "show", "my-own-id").err


def test_show_says_why_a_job_has_not_run(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    enqueue(conn)
    job_id = enqueue(conn)
    assert why(invoke, job_id) == [
        "no live worker serves queue default: start one with -Q default",
        "1 job is ahead of it in queue default",
    ]
    add_worker(conn, tasks="{shop.other}")
    assert why(invoke, job_id)[0] == "the live worker on queue default does not know task shop.mail"
    worker_id = add_worker(conn)
    enqueue(conn, priority=5)
    assert why(invoke, job_id) == ["2 jobs are ahead of it in queue default"]
    conn.execute("select pgqueue.enqueue('shop.mail', priority => 9) from generate_series(1, 10100)")
    conn.commit()
    assert why(invoke, job_id) == ["10,000+ jobs are ahead of it in queue default"]
    later = enqueue(conn, countdown="1 hour")
    assert why(invoke, later) in (["it is due in 3600 s"], ["it is due in 3599 s"])
    conn.execute("delete from pgqueue.live_jobs where id <> %s", [job_id])
    conn.commit()
    assert why(invoke, job_id) == ["it is next: a worker should take it any moment"]
    claim(conn, worker_id)
    assert why(invoke, job_id) == ["it is running on worker w1 for 0 s"]
    conn.execute("update pgqueue.workers set lease_expires_at = now() - interval '1 s', lost_at = now()")
    conn.commit()
    assert why(invoke, job_id)[1] == "that worker is gone; another one will give the job back"


def test_show_unknown(invoke: Invoke) -> None:
    done = invoke("jobs", "show", "my-own-id")
    assert done.code == 1
    assert "no job" in done.err


def test_cancel_tells_each_id_its_outcome(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    running = enqueue(conn)
    claim(conn, add_worker(conn))
    waiting, failed, unknown = enqueue(conn), enqueue(conn), str(uuid.uuid4())
    fail(conn, failed)
    done = invoke("jobs", "cancel", waiting, running, failed, unknown, waiting, "", "x" * 256)
    assert done.code == 1
    assert done.out.splitlines() == [
        f"{waiting}  cancelled",
        f"{running}  running: --terminate stops it",
        f"{failed}  cannot cancel: it is failed",
        f"{unknown}  no such job",
        f"{waiting}  given twice",
        "  not an id: 1 to 255 characters are needed",
        f"{'x' * 255}  not an id: 1 to 255 characters are needed",
    ]
    assert invoke("jobs", "cancel", "--terminate", running).out == f"{running}  asked to stop\n"
    assert json.loads(invoke("jobs", "cancel", "--json", unknown).out) == [{"id": unknown, "outcome": "no such job"}]


def test_retry_brings_back_what_ended_badly(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    failed, waiting = enqueue(conn), enqueue(conn)
    fail(conn, failed)
    done = invoke("jobs", "retry", failed, waiting)
    assert (done.code, done.out) == (1, f"{failed}  retried\n{waiting}  cannot retry: it is available\n")
    assert set(invoke("jobs", "list", "--ids", "--state", "available").out.split()) == {waiting, failed}
    assert invoke("jobs", "cancel", failed).code == 0
    assert invoke("jobs", "retry", failed).code == 0


def test_ids_from_the_standard_input(invoke: Invoke, conn: psycopg.Connection[Any]) -> None:
    rows = conn.execute("select pgqueue.enqueue('a') from generate_series(1, 2500)").fetchall()
    conn.commit()
    text = "".join(f"{row[0]}\n" for row in rows) + "\n  nonsense  \n"
    done = invoke("jobs", "cancel", "-", text=text)
    assert done.code == 1
    assert len(done.out.splitlines()) == 2501
    assert done.out.splitlines()[-1] == "nonsense  no such job"
    assert conn.execute("select state, count(*) from pgqueue.all_jobs group by 1").fetchall() == [("cancelled", 2500)]
