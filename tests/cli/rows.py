"""Jobs and workers in every state, without a worker; and how a command ended."""

import json
from collections.abc import Callable
from typing import Any, NamedTuple

import psycopg
from psycopg import sql


class Done(NamedTuple):
    """How a command ended."""

    code: int
    out: str
    err: str


Invoke = Callable[..., Done]


def enqueue(conn: psycopg.Connection[Any], task: str = "shop.mail", **more: Any) -> str:
    """Enqueue one job and commit; its id."""
    arguments = sql.SQL(", ").join(
        sql.SQL("{} => {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in {"task": task, **more}
    )
    row = conn.execute(sql.SQL("select pgqueue.enqueue({})").format(arguments), {"task": task, **more}).fetchone()
    conn.commit()
    assert row is not None
    return str(row[0])


def add_worker(
    conn: psycopg.Connection[Any], queues: str = "{default}", tasks: str = "{shop.mail}", name: str = "w1"
) -> int:
    """The row of a live worker; its id."""
    row = conn.execute(
        "insert into pgqueue.workers (name, hostname, pid, instance, app, version, queues, tasks, at_most_once, pools,"
        " started_at, lease_expires_at, finished)"
        " values (%s, 'h', 1, 'i', 'shop', '0', %s, %s, '{}', '{\"threads\": 4}',"
        " now() - interval '1 minute', now() + interval '1 hour', 600) returning id",
        ["w1", "{default}", tasks],
    ).fetchone()
    conn.commit()
    assert row is not None
    return int(row[0])


def claim(conn: psycopg.Connection[Any], worker_id: int, count: int = 1) -> None:
    """Let a worker claim jobs of the default queue."""
    conn.execute(
        "select pgqueue.claim_jobs(%s, 7, '{default}', '{0}', '{-9223372036854775808}', '{9223372036854775807}',"
        " %s, null, null)",
        [worker_id, count],
    )
    conn.commit()


def fail(conn: psycopg.Connection[Any], job_id: str) -> None:
    """End a claimed job with an error."""
    error = json.dumps({"type": "shop.errors.Boom", "message": "no \x1b[31mpaper"})
    conn.execute(
        "with gone as (delete from pgqueue.live_jobs where id = %(id)s returning *)"
        " insert into pgqueue.finished_jobs (id, seq, enqueued_at, finished_at, delete_after, attempt, priority, lost,"
        " state, queue, task, error, traceback)"
        " select id, seq, enqueued_at, now(), now() + interval '1 day', 1, priority, 0, 'failed',"
        " queue, task, %(error)s, 'Traceback: line 1\nline 2' from gone",
        {"id": job_id, "error": error},
    )
    conn.commit()
