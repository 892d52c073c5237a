"""transactional tasks whose bodies use SQLAlchemy or Django: the fenced finish runs on their connection."""

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine, text
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import sessionmaker

from pgqueue import PgQueue, SoftTimeLimitExceeded, current_connection
from pgqueue.worker.orm import sqlalchemy_scope
from tests.support.process import REPOSITORY, CommandLine
from tests.worker.conftest import Rows

INSERT = text("insert into ledger (amount) values (:amount)")


@pytest.fixture(autouse=True)
def _ledger(rows: Rows) -> None:
    rows.execute("create table ledger (id bigint generated always as identity primary key, amount int)")


@pytest.fixture
def sessions(dsn: str) -> Iterator[Any]:
    engine = create_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    yield sessionmaker(engine)
    engine.dispose()


def amounts(rows: Rows) -> list[int]:
    return [row["amount"] for row in rows.execute("select amount from ledger order by amount")]


def test_a_sqlalchemy_session_carries_work_result_and_enqueues(app: PgQueue, rows: Rows, sessions: Any) -> None:
    @app.task
    def child() -> None: ...

    @app.task(transactional=sessions, bind=True, autoretry_for=(ConnectionError,), default_retry_delay=0)
    def deposit(self: Any, amount: int) -> str:
        session = current_connection()
        session.execute(INSERT, {"amount": amount})
        child.delay()
        if self.request.retries == 0:
            raise ConnectionError("the first time")
        return type(session).__name__

    with app.worker(pool="threads", concurrency=2):
        results = [deposit.delay(n) for n in range(3)]
        assert [result.get(timeout=30) for result in results] == ["Session"] * 3
    assert amounts(rows) == [0, 1, 2]
    assert [rows.job(result.id)["attempt"] for result in results] == [2, 2, 2]
    counts = rows.execute("select count(*) as n from pgqueue.all_jobs where task = %s", [child.name])
    assert counts[0]["n"] == 3


@pytest.mark.parametrize("how", ["commit", "rollback", "close"])
def test_a_session_that_the_task_ends_itself_fails_clearly(app: PgQueue, rows: Rows, sessions: Any, how: str) -> None:
    @app.task(transactional=sessions)
    def break_() -> None:
        current_connection().execute(INSERT, {"amount": 1})
        getattr(current_connection(), how)()

    @app.task(transactional=sessions)
    def deposit() -> None:
        current_connection().execute(INSERT, {"amount": 2})

    with app.worker(pool="solo"):
        broken = rows.end_of(break_.delay().id)
        deposit.delay().get(timeout=30)
    assert broken["state"] == "failed"
    assert "transaction" in broken["error"]
    assert 2 in amounts(rows)


def test_an_interruption_in_a_statement_ends_it_and_is_what_comes_out(sessions: Any, rows: Rows) -> None:
    def interrupt(number: int, frame: object) -> None:
        raise SoftTimeLimitExceeded

    def deposit_at_length() -> None:
        with sqlalchemy_scope(sessions) as session:
            session.execute(INSERT, {"amount": 1})
            signal.setitimer(signal.ITIMER_REAL, 0.2)
            session.execute(text("select pg_sleep(3600)"))

    before = signal.signal(signal.SIGALRM, interrupt)
    try:
        with pytest.raises(SoftTimeLimitExceeded):
            deposit_at_length()
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    with sqlalchemy_scope(sessions) as session:
        session.execute(INSERT, {"amount": 2})
    assert amounts(rows) == [2]


def test_an_async_session_of_sqlalchemy(app: PgQueue, rows: Rows, dsn: str) -> None:
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+psycopg://"))
    sessions = async_sessionmaker(engine)

    @app.task
    async def child() -> None: ...

    @app.task(transactional=sessions)
    async def deposit(amount: int) -> str:
        session = current_connection()
        await session.execute(INSERT, {"amount": amount})
        await child.adelay()
        if amount == 1:
            raise LookupError("one")
        return type(session).__name__

    @app.task
    async def dispose() -> None:
        await engine.dispose()

    with app.worker(concurrency=2):
        results = [deposit.delay(n) for n in range(3)]
        states = [rows.end_of(result.id)["state"] for result in results]
        dispose.delay().get(timeout=30)
    assert states == ["succeeded", "failed", "succeeded"]
    assert amounts(rows) == [0, 2]


DJANGO = """
import os, sys
import django
from django.conf import settings

settings.configure(
    DATABASES={"default": {
        "ENGINE": "django.db.backends.postgresql", "NAME": os.environ["DB_NAME"], "USER": "postgres",
        "HOST": "127.0.0.1", "PORT": os.environ["DB_PORT"], "CONN_MAX_AGE": int(os.environ.get("MAX_AGE", 0))}},
    INSTALLED_APPS=[], USE_TZ=True, DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
)
django.setup()
from django.db import connection, models, transaction
from pgqueue import PgQueue


class Entry(models.Model):
    amount = models.IntegerField()

    class Meta:
        app_label = "books"
        db_table = "ledger"


app = PgQueue("books", dsn=os.environ["DSN"])


@app.task
def child(n):
    return n


@app.task(transactional=True, bind=True, autoretry_for=(ConnectionError,), default_retry_delay=0)
def deposit(self, amount):
    Entry.objects.create(amount=amount)
    child.delay(amount)
    if self.request.retries == 0:
        raise ConnectionError("the first time")
    return Entry.objects.count() > 0


@app.task(transactional=True, bind=True, max_retries=0)
def cut(self):
    Entry.objects.create(amount=50)
    if self.request.attempt == 1:
        connection.cursor().execute("select pg_terminate_backend(pg_backend_pid())")
    return self.request.attempt


@app.task(transactional=True)
def break_():
    Entry.objects.create(amount=100)
    connection.rollback()


@app.task(transactional=True)
def swallow():
    try:
        connection.cursor().execute("select 1/0")
    except Exception:
        pass


@app.task
def count():
    return Entry.objects.count()


def after_a_restart():
    with app.worker(pool="solo"):
        assert count.delay().get(timeout=30) == 0
        print("counted", flush=True)
        sys.stdin.readline()
        results = [count.delay() for _ in range(3)]
        for result in results:
            result.get(timeout=30, propagate=False)
        print("then", [result.state for result in results])


def main():
    with app.worker(pool="threads", concurrency=2):
        results = [deposit.delay(n) for n in range(3)]
        print("deposits", [result.get(timeout=30) for result in results])
        for task in (break_, swallow):
            try:
                task.delay().get(timeout=30)
            except Exception as error:
                print(task.name.rpartition(".")[2], "failed:", type(error).__name__)
        print("again", deposit.delay(9).get(timeout=30))
        print("cut off at first, then", cut.delay().get(timeout=30))
    print("ledger", sorted(Entry.objects.values_list("amount", flat=True)))
"""


def test_djangos_orm_in_a_transactional_task(
    spawn: Callable[..., CommandLine], rows: Rows, dsn: str, tmp_path: Path, server: Any
) -> None:
    (tmp_path / "books.py").write_text(DJANGO)
    env = {
        "DSN": dsn,
        "DB_NAME": dsn.rpartition("/")[2],
        "DB_PORT": str(server.port),
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}",
    }
    program = spawn(sys.executable, "-c", "import books; books.main()", env=env, cwd=tmp_path)
    assert program.wait() == 0, program.output
    assert "deposits [True, True, True]" in program.output
    assert "break_ failed" in program.output
    assert "swallow failed" in program.output
    assert "again True" in program.output
    assert "cut off at first, then 2" in program.output
    assert "ledger [0, 1, 2, 9, 50]" in program.output
    children = rows.execute("select args from pgqueue.all_jobs where task = 'books.child'")
    assert sorted(row["args"][0] for row in children) == [0, 1, 2, 9]
    attempts = rows.execute("select attempt from pgqueue.all_jobs where task = 'books.deposit'")
    assert [row["attempt"] for row in attempts] == [2, 2, 2, 2]


@pytest.mark.parametrize("max_age", ["60", "0"])
def test_djangos_connection_is_renewed_when_it_broke(
    spawn: Callable[..., CommandLine], rows: Rows, dsn: str, tmp_path: Path, server: Any, max_age: str
) -> None:
    (tmp_path / "books.py").write_text(DJANGO)
    env = {
        "DSN": dsn,
        "DB_NAME": dsn.rpartition("/")[2],
        "DB_PORT": str(server.port),
        "PYTHONPATH": f"{tmp_path}{os.pathsep}{REPOSITORY}",
    }
    command = (sys.executable, "-c", "import books; books.after_a_restart()")
    program = spawn(*command, env={**env, "MAX_AGE": max_age}, cwd=tmp_path)
    program.expect("counted")
    rows.execute(
        "select pg_terminate_backend(pid) from pg_stat_activity"
        " where datname = current_database() and query like '%COUNT(*)%' and pid <> pg_backend_pid()"
    )
    program.send("on")
    assert program.wait() == 0, program.output
    assert "then ['SUCCESS', 'SUCCESS', 'SUCCESS']" in program.output


END_THIS_SESSION = text("select pg_terminate_backend(pg_backend_pid())")


def test_a_session_that_the_server_ends_runs_its_task_again(app: PgQueue, rows: Rows, sessions: Any) -> None:
    @app.task(transactional=sessions, bind=True, max_retries=0)
    def deposit(self: Any, ends: int) -> int:
        current_connection().execute(INSERT, {"amount": self.request.attempt})
        if self.request.attempt <= ends:
            current_connection().execute(END_THIS_SESSION)
        return int(self.request.attempt)

    with app.worker(pool="threads", concurrency=1):
        assert deposit.delay(1).get(timeout=30) == 2
        poison = rows.end_of(deposit.delay(9).id)
    assert amounts(rows) == [2]
    assert (poison["state"], poison["error_type"], poison["lost"]) == ("failed", "pgqueue.errors.WorkerLostError", 3)


def test_an_async_session_that_the_server_ends_runs_its_task_again(app: PgQueue, rows: Rows, dsn: str) -> None:
    engine = create_async_engine(dsn.replace("postgresql://", "postgresql+asyncpg://"))

    @app.task(transactional=async_sessionmaker(engine), bind=True, max_retries=0)
    async def deposit(self: Any) -> int:
        await current_connection().execute(INSERT, {"amount": self.request.attempt})
        if self.request.attempt == 1:
            await current_connection().execute(END_THIS_SESSION)
        return int(self.request.attempt)

    @app.task
    async def dispose() -> None:
        await engine.dispose()

    with app.worker(concurrency=1):
        assert deposit.delay().get(timeout=30) == 2
        dispose.delay().get(timeout=30)
    assert amounts(rows) == [2]


def test_a_timeout_of_the_tasks_own_transaction_is_its_own_failure(app: PgQueue, rows: Rows, sessions: Any) -> None:
    @app.task(transactional=sessions, max_retries=0)
    def dawdle() -> None:
        session = current_connection()
        session.execute(text("set local idle_in_transaction_session_timeout = '50ms'"))
        select.select([session.connection().connection.driver_connection.fileno()], [], [], 30)
        session.execute(text("select 1"))

    with app.worker(pool="threads", concurrency=1):
        row = rows.end_of(dawdle.delay().id)
    assert (row["state"], row["attempt"], row["lost"]) == ("failed", 1, 0)


def test_a_server_that_cannot_be_reached_costs_no_attempt(app: PgQueue, rows: Rows, sessions: Any, dsn: str) -> None:
    nobody = sessionmaker(create_engine("postgresql+psycopg://postgres@127.0.0.1:1/none"))
    made: list[int] = []

    def make() -> Any:
        made.append(1)
        return nobody() if len(made) == 1 else sessions()

    @app.task(transactional=make, bind=True, max_retries=0)
    def deposit(self: Any) -> int:
        current_connection().execute(INSERT, {"amount": 1})
        return int(self.request.attempt)

    with app.worker(pool="threads", concurrency=1):
        assert deposit.delay().get(timeout=30) == 1
    assert len(made) == 2


def test_a_callable_that_makes_something_else_is_told(app: PgQueue, rows: Rows, sessions: Any) -> None:
    @app.task(transactional=sessions)
    async def coroutine() -> None: ...

    @app.task(transactional=lambda: 5)
    def number() -> None: ...

    with app.worker(concurrency=1):
        ends = [rows.end_of(task.delay().id) for task in (coroutine, number)]
    assert [row["error_type"] for row in ends] == ["pgqueue.errors.ConfigurationError"] * 2
    assert "made a sqlalchemy.orm.session.Session; a coroutine needs an AsyncSession" in ends[0]["error"]
    assert "made a builtins.int; a plain function needs a Session" in ends[1]["error"]
