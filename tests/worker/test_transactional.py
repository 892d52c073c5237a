"""transactional=True: the work, the result and the task's own enqueues commit together, or not at all."""

import os
import signal
from collections.abc import Callable, Iterator
from typing import Any

import psutil
import psycopg
import pytest

from pgqueue import Ignore, PgQueue, PgQueueError, Reject, current_connection
from tests.support.process import wait_until
from tests.worker.conftest import Rows, Send, StartWorker
from tests.worker.gate import Gate, avisit, visit


@pytest.fixture(autouse=True)
def _tables(rows: Rows) -> Iterator[None]:
    """The table in which tasks write, and a role that may nothing (roles belong to the whole server)."""
    rows.execute("create table ledger (id bigint generated always as identity, amount int, pid int)")
    rows.execute("create role auditor")
    yield
    rows.execute("drop role auditor")


def amounts(rows: Rows) -> list[int]:
    return [row["amount"] for row in rows.execute("select amount from ledger order by amount")]


INSERT = "insert into ledger (amount) values (%s)"
SLEEPERS = "select pid from pg_stat_activity where datname = current_database() and wait_event = 'PgSleep'"


@pytest.mark.parametrize("pool", ["threads", "solo"])
def test_work_result_and_enqueues_commit_together(app: PgQueue, rows: Rows, gate: Gate, pool: str) -> None:
    @app.task
    def child(n: int) -> int:
        return n

    @app.task(transactional=True)
    def deposit(amount: int, address: str) -> int:
        current_connection().execute(INSERT, [amount])
        child.apply_async([amount], task_id=f"child of {amount}")
        visit(address)
        return amount

    with app.worker(pool=pool, concurrency=1):
        result = deposit.delay(7, gate.address)
        visitor = gate.next()
        assert amounts(rows) == []
        assert app.AsyncResult("child of 7").state == "PENDING"
        assert rows.execute("select count(*) as n from pgqueue.all_jobs")[0]["n"] == 1, "the child is not there yet"
        visitor.let_go()
        assert result.get(timeout=30) == 7
        assert amounts(rows) == [7]
        assert app.AsyncResult("child of 7").get(timeout=30) == 7
    assert rows.job(result.id)["attempt"] == 1


def test_a_coroutine_gets_an_async_connection(app: PgQueue, rows: Rows, gate: Gate) -> None:
    @app.task
    async def child(n: int) -> int:
        return n

    @app.task(transactional=True)
    async def deposit(amount: int, address: str) -> str:
        connection = current_connection()
        await connection.execute(INSERT, [amount])
        await child.aapply_async([amount], task_id=f"child of {amount}")
        await avisit(address)
        return type(connection).__mro__[1].__name__

    with app.worker(concurrency=4):
        results = [deposit.delay(n, gate.address) for n in range(4)]
        visitors = gate.take(4)
        assert amounts(rows) == []
        for visitor in visitors:
            visitor.let_go()
        assert [result.get(timeout=30) for result in results] == ["AsyncConnection"] * 4
        assert [app.AsyncResult(f"child of {n}").get(timeout=30) for n in range(4)] == list(range(4))
    assert amounts(rows) == [0, 1, 2, 3]


@pytest.mark.parametrize("coroutine", [False, True])
def test_an_error_rolls_all_back_and_the_job_is_retried(app: PgQueue, rows: Rows, coroutine: bool) -> None:
    def deposit(self: Any, amount: int) -> str:
        current_connection().execute(INSERT, [amount])
        child.delay()
        if self.request.retries == 0:
            raise ConnectionError("the first time")
        return "paid"

    async def adeposit(self: Any, amount: int) -> str:
        await current_connection().execute(INSERT, [amount])
        await child.adelay()
        if self.request.retries == 0:
            raise ConnectionError("the first time")
        return "paid"

    @app.task
    def child() -> None: ...

    declare: Any = app.task(
        bind=True, name="deposit", transactional=True, autoretry_for=(ConnectionError,), default_retry_delay=0
    )
    declare(adeposit if coroutine else deposit)
    with app.worker(pool="threads", concurrency=1):
        result = app.send_task("deposit", [5])
        assert result.get(timeout=30) == "paid"
    assert amounts(rows) == [5]
    assert rows.job(result.id)["attempt"] == 2
    counts = rows.execute("select count(*) as n from pgqueue.all_jobs where task = %s", [child.name])
    assert counts[0]["n"] == 1


def test_retry_ignore_and_reject_roll_back_too(app: PgQueue, rows: Rows) -> None:
    @app.task(bind=True, transactional=True, max_retries=1)
    def deposit(self: Any, how: str) -> None:
        current_connection().execute(INSERT, [1])
        if how == "retry":
            self.retry(countdown=0)
        raise Ignore if how == "ignore" else Reject("no")

    with app.worker(pool="threads", concurrency=1):
        states = [rows.end_of(deposit.delay(how).id)["state"] for how in ("retry", "ignore", "reject")]
    assert states == ["failed", "succeeded", "failed"]
    assert amounts(rows) == []


def swallowed_error(connection: Any) -> None:
    try:
        connection.execute("select 1/0")
    except psycopg.Error:
        pass


BREAKS: dict[str, Callable[[Any], object]] = {
    "commit()": lambda connection: connection.commit(),
    "rollback()": lambda connection: connection.rollback(),
    "execute commit": lambda connection: connection.execute("commit"),
    "execute commit and begin": lambda connection: (connection.execute("commit"), connection.execute("begin")),
    "execute rollback": lambda connection: connection.execute("rollback"),
    "close()": lambda connection: connection.close(),
    "swallowed error": swallowed_error,
}
LEFTOVERS = {
    "search_path": "set search_path = pg_catalog",
    "role": "set role auditor",
    "role of the session": "set session authorization auditor",
    "read only": "set session characteristics as transaction read only",
    "temporary table": "create temporary table ledger (amount int)",
    "statement timeout": "set statement_timeout = '1ms'",
    "deferred": "set constraints all deferred",
    "lock": "select pg_advisory_lock(17)",
}


@pytest.mark.parametrize("how", BREAKS)
def test_a_task_that_ends_its_transaction_itself_fails_clearly_and_the_next_one_is_well(
    app: PgQueue, rows: Rows, how: str
) -> None:
    @app.task(transactional=True)
    def break_() -> str:
        current_connection().execute("select 1")
        BREAKS[how](current_connection())
        return "kept"

    @app.task(transactional=True)
    def deposit(amount: int) -> int:
        current_connection().execute(INSERT, [amount])
        return amount

    with app.worker(pool="solo"):
        broken = break_.delay()
        row = rows.end_of(broken.id)
        assert [deposit.delay(n).get(timeout=30) for n in range(3)] == [0, 1, 2]
    assert row["state"] == "failed"
    assert row["error_type"] == "pgqueue.errors.PgQueueError"
    assert "transaction" in row["error"] or "commit" in row["error"]
    assert amounts(rows) == [0, 1, 2]


@pytest.mark.parametrize("how", ["commit()", "execute commit", "close()", "swallowed error"])
def test_the_same_for_coroutines(app: PgQueue, rows: Rows, how: str) -> None:
    @app.task(transactional=True)
    async def break_() -> str:
        connection = current_connection()
        if how == "commit()":
            await connection.commit()
        elif how == "execute commit":
            await connection.execute("commit")
        elif how == "close()":
            await connection.close()
        else:
            try:
                await connection.execute("select 1/0")
            except psycopg.Error:
                pass
        return "kept"

    @app.task(transactional=True)
    async def deposit(amount: int) -> int:
        await current_connection().execute(INSERT, [amount])
        return amount

    with app.worker(concurrency=1):
        row = rows.end_of(break_.delay().id)
        assert [deposit.delay(n).get(timeout=30) for n in range(3)] == [0, 1, 2]
    assert (row["state"], row["error_type"]) == ("failed", "pgqueue.errors.PgQueueError")
    assert amounts(rows) == [0, 1, 2]


@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize("what", LEFTOVERS)
def test_what_a_task_leaves_on_its_session_does_not_reach_the_next(
    app: PgQueue, rows: Rows, what: str, coroutine: bool
) -> None:
    def leave() -> None:
        current_connection().execute(LEFTOVERS[what])

    def deposit(amount: int) -> list[Any]:
        connection = current_connection()
        connection.execute(INSERT, [amount])
        return list(connection.execute("select current_user, current_setting('search_path')").fetchone())

    async def aleave() -> None:
        await current_connection().execute(LEFTOVERS[what])

    async def adeposit(amount: int) -> list[Any]:
        connection = current_connection()
        await connection.execute(INSERT, [amount])
        cursor = await connection.execute("select current_user, current_setting('search_path')")
        return list(await cursor.fetchone())

    declare: Any = app.task
    declare(name="leave", transactional=True)(aleave if coroutine else leave)
    declare(name="deposit", transactional=True)(adeposit if coroutine else deposit)
    with app.worker(pool="loop" if coroutine else "solo", concurrency=1):
        rows.end_of(app.send_task("leave").id)
        found = app.send_task("deposit", [1]).get(timeout=30)
    assert found == ["postgres", '"$user", public']
    assert amounts(rows) == [1]
    assert rows.execute("select count(*) as n from pg_locks where locktype = 'advisory' and objid = 17")[0]["n"] == 0


def test_a_savepoint_of_the_task_is_its_own(app: PgQueue, rows: Rows) -> None:
    @app.task(transactional=True)
    def deposit() -> str:
        connection = current_connection()
        connection.execute(INSERT, [1])
        try:
            with connection.transaction():
                connection.execute(INSERT, [2])
                connection.execute("select 1/0")
        except psycopg.errors.DivisionByZero:
            pass
        with connection.transaction():
            connection.execute(INSERT, [3])
        return "kept"

    with app.worker(pool="threads", concurrency=1):
        assert deposit.delay().get(timeout=30) == "kept"
    assert amounts(rows) == [1, 3]


def test_many_transactional_jobs_on_one_session(app: PgQueue, rows: Rows) -> None:
    @app.task(transactional=True)
    def deposit(amount: int) -> int:
        current_connection().execute(INSERT, [amount])
        return amount

    results = app.enqueue_many([deposit.s(n) for n in range(60)])
    with app.worker(pool="solo"):
        assert [result.get(timeout=30) for result in results] == list(range(60))
    assert amounts(rows) == list(range(60))


def test_outside_of_a_transactional_job_there_is_no_connection(app: PgQueue) -> None:
    @app.task
    def plain() -> None:
        current_connection()

    with app.worker(pool="threads", concurrency=1), pytest.raises(PgQueueError, match="transactional=True"):
        plain.delay().get(timeout=30)


def test_in_processes_and_on_their_loop(start_worker: StartWorker, send: Send, rows: Rows) -> None:
    start_worker("-P", "processes", "-c", "2", loop=True)
    results = [send("deposit", n) for n in range(20)] + [send("deposit_on_loop", n) for n in range(20, 40)]
    assert [result.get(timeout=30) for result in results] == list(range(40))
    assert amounts(rows) == list(range(40))
    send("echo", "last").get(timeout=30)
    for result in results:
        assert rows.job(result.id)["attempt"] == 1
    children = rows.execute("select count(*) as n from pgqueue.all_jobs where task like '%%.echo'")[0]["n"]
    assert children == 41


@pytest.mark.parametrize("pool", ["processes", "threads"])
def test_the_session_of_a_child_that_dies_in_the_middle_of_a_statement_ends_with_it(
    start_worker: StartWorker, send: Send, rows: Rows, pool: str
) -> None:
    worker = start_worker("-P", pool, "-c", "1")
    result = send("deposit_at_length", 5)
    (backend,) = wait_until(lambda: rows.execute(SLEEPERS), what="it is in the middle of a statement")
    clients = {child.pid: child for child in psutil.Process(worker.pid).children()}
    (pid,) = [pid for pid, child in clients.items() if _is_client(child, rows, backend["pid"])]
    clients[pid].kill()
    alive = "select 1 from pg_stat_activity where pid = %s"
    wait_until(lambda: not rows.execute(alive, [backend["pid"]]), what="its session has ended")
    result.get(timeout=30)
    assert amounts(rows) == [5]
    assert (rows.job(result.id)["attempt"], rows.job(result.id)["lost"]) == (2, 1)


def test_a_soft_limit_in_a_statement_ends_it_and_is_what_the_job_fails_with(
    start_worker: StartWorker, send: Send, rows: Rows
) -> None:
    start_worker("-P", "processes", "-c", "1")
    row = rows.end_of(send("deposit_at_length", 5, soft_time_limit=0.2).id)
    assert (row["state"], row["error_type"]) == ("failed", "pgqueue.errors.SoftTimeLimitExceeded")
    wait_until(lambda: not rows.execute(SLEEPERS), what="the statement has ended on the server")
    assert send("deposit_what_fits", 6, soft_time_limit=0.2).get(timeout=30) == "in part"
    assert send("deposit", 7).get(timeout=30) == 7
    assert amounts(rows) == [6, 7]


def test_a_soft_limit_in_a_statement_of_a_coroutine(app: PgQueue, rows: Rows) -> None:
    @app.task(transactional=True, soft_time_limit=0.2)
    async def deposit_at_length() -> None:
        await current_connection().execute(INSERT, [1])
        async with current_connection().transaction():
            await current_connection().execute("select pg_sleep(3600)")

    @app.task(transactional=True)
    async def deposit(amount: int) -> int:
        await current_connection().execute(INSERT, [amount])
        return amount

    with app.worker(concurrency=1):
        row = rows.end_of(deposit_at_length.delay().id)
        assert (row["state"], row["error_type"]) == ("failed", "pgqueue.errors.SoftTimeLimitExceeded")
        wait_until(lambda: not rows.execute(SLEEPERS), what="the statement has ended on the server")
        assert deposit.delay(2).get(timeout=30) == 2
    assert amounts(rows) == [2]


def test_a_task_that_has_returned_is_not_interrupted_while_its_end_is_written(
    start_worker: StartWorker, send: Send, rows: Rows, gate: Gate, conn: psycopg.Connection
) -> None:
    start_worker("-P", "processes", "-c", "1")
    result = send("deposit_and_hold", 5, gate.address, soft_time_limit=3600)
    visitor = gate.next()
    conn.execute("select from pgqueue.live_jobs where id = %s for update", [result.id])
    visitor.let_go()
    waiting = "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock'"
    wait_until(lambda: rows.execute(waiting), what="its end waits for the row")
    os.kill(visitor.pid, signal.SIGALRM)
    conn.rollback()
    assert result.get(timeout=30) == 5
    assert amounts(rows) == [5]
    assert rows.job(result.id)["attempt"] == 1


def _is_client(child: psutil.Process, rows: Rows, backend: int) -> bool:
    (found,) = rows.execute("select client_port as port from pg_stat_activity where pid = %s", [backend])
    return any(link.laddr.port == found["port"] for link in child.net_connections("tcp") if link.laddr)


def test_a_child_that_dies_inside_takes_its_work_along(start_worker: StartWorker, send: Send, rows: Rows) -> None:
    start_worker("-P", "processes", "-c", "1", conf={"worker_lost_limit": 2})
    row = rows.end_of(send("deposit_and_die", 1).id)
    assert (row["state"], row["attempt"], row["lost"]) == ("failed", 2, 2)
    assert row["error_type"] == "pgqueue.errors.WorkerLostError"
    assert send("deposit", 2).get(timeout=30) == 2
    assert amounts(rows) == [2]
