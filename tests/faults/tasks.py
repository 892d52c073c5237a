"""The tasks that fault tests run: `pgqueue -A tests.faults.tasks:app worker` with PGQUEUE_DSN in its environment.

Each call leaves a row in faults.effects: transactional ones in their own transaction, others on a connection of their
own that commits at once.
"""

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg

from pgqueue import PgQueue, current_connection
from pgqueue.request import current_request
from tests.support.process import wait_until

app = PgQueue("faults")

NOTE = (
    "insert into faults.effects (job_id, kind, attempt, token, pid)"
    " values (%(id)s, %(kind)s, %(attempt)s, %(token)s, %(pid)s)"
)
_own = threading.local()


class NotYet(Exception):
    """An error that another attempt may not meet."""


# --- leaving a trace


def _note(kind: str) -> dict[str, Any]:
    request = current_request.get()
    assert request is not None
    return {"id": request.id, "kind": kind, "attempt": request.attempt, "token": request.token, "pid": os.getpid()}


def note(kind: str) -> None:
    """Append an effect, committed at once; insists through lost connections, as the outer world would have noticed."""
    values = _note(kind)
    deadline = time.monotonic() + 60
    while True:
        connection: psycopg.Connection[Any] | None = getattr(_own, "connection", None)
        try:
            if connection is None:
                connection = _own.connection = psycopg.connect(
                    os.environ["PGQUEUE_DSN"], autocommit=True, application_name="effects", connect_timeout=5
                )
                connection.prepare_threshold = None
            connection.execute(NOTE, values)
            return
        except psycopg.OperationalError:
            if connection is not None:
                connection.close()
                _own.connection = None
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def note_here(kind: str) -> None:
    """Append an effect in the transaction of the running task."""
    current_connection().execute(NOTE, _note(kind))


def wait_for(gate: str) -> None:
    """Go on when the file `gate` exists."""
    wait_until(Path(gate).exists, timeout=100)


# --- the load


@app.task(name="plain")
def plain(number: int) -> int:
    note("plain")
    return number


@app.task(name="retrying", bind=True, autoretry_for=(NotYet,), max_retries=100, default_retry_delay=0.02)
def retrying(self: Any, number: int) -> int:
    note("plain")
    if self.request.retries <= number % 2:
        raise NotYet(f"attempt {self.request.attempt}")
    return number


@app.task(name="charge", transactional=True)
def charge(number: int) -> int:
    note_here("transactional")
    return number


@app.task(name="acharge", transactional=True)
async def acharge(number: int) -> int:
    await current_connection().execute(NOTE, _note("transactional"))
    return number


@app.task(name="sleepless")
def sleepless(number: int) -> int:
    """Needs no connection of its own."""
    return number


# --- workflows


class Refused(Exception):
    """A member that never succeeds."""


@app.task(name="refuse")
def refuse(number: int) -> None:
    raise Refused(str(number))


@app.task(name="total", transactional=True)
def total(values: list[int]) -> list[int]:
    note_here("transactional")
    return [len(values), sum(values)]


@app.task(name="grow", bind=True, transactional=True)
def grow(self: Any, number: int) -> int:
    """A member that adds a member, and that one the next."""
    if number > 0:
        self.add_to_chord(app.signature("grow", (number - 1,)))
    note_here("transactional")
    return number


@app.task(name="alert", transactional=True)
def alert(task_id: str) -> str:
    note_here("transactional")
    return task_id


# --- jobs that last until they are let go


@app.task(name="hold", bind=True)
def hold(self: Any, gate: str) -> int:
    note("plain")
    wait_for(gate)
    return os.getpid()


@app.task(name="hold_charge", transactional=True)
def hold_charge(gate: str) -> int:
    note_here("transactional")
    # Seen from outside of the transaction: it is under way.
    note("begun")
    wait_for(gate)
    return os.getpid()


# --- jobs that end their process


@app.task(name="work_then_die", bind=True)
def work_then_die(self: Any) -> int:
    note("plain")
    if self.request.attempt == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return int(self.request.attempt)


def _segfault() -> None:
    ctypes.string_at(0)


DEATHS: dict[str, Callable[[], object]] = {
    "exit": lambda: os._exit(3),
    "segfault": _segfault,
    "killed": lambda: os.kill(os.getpid(), signal.SIGKILL),  # as by the system out of memory
}


@app.task(name="poison")
def poison(how: str) -> None:
    note("plain")
    DEATHS[how]()


@app.task(name="poison_once", acks_late=False)
def poison_once() -> None:
    note("plain")
    os._exit(3)


# --- a transaction that is killed after its finish, before its COMMIT


def _session() -> Any:
    # Where it is needed: children that are replaced all the time start faster without it.
    import sqlalchemy
    from sqlalchemy.orm import Session

    url = sqlalchemy.make_url("postgresql+psycopg://")
    session = Session(sqlalchemy.create_engine(url, creator=lambda: psycopg.connect(os.environ["PGQUEUE_DSN"])))
    request = current_request.get()
    assert request is not None
    if request.attempt == 1:
        sqlalchemy.event.listen(session, "before_commit", lambda _: os.kill(os.getpid(), signal.SIGKILL))
    return session


@app.task(name="die_before_commit", transactional=_session)
def die_before_commit() -> None:
    current_connection().connection().exec_driver_sql(NOTE, _note("transactional"))


@app.task(name="slow_commit", transactional=True)
def slow_commit() -> None:
    """A constraint trigger waits at its COMMIT while an advisory lock is held (see test_death.py)."""
    note_here("transactional")
    current_connection().execute("insert into faults.slow values (%s)", [os.getpid()])


# --- jobs that do not end


@app.task(name="hold_gil", bind=True)
def hold_gil(self: Any, seconds: float) -> None:
    """No other thread of this process runs meanwhile."""
    note("plain")
    libc = ctypes.PyDLL(None)
    until = time.monotonic() + seconds
    while (left := until - time.monotonic()) > 0:
        libc.usleep(ctypes.c_uint(int(min(left, 0.9) * 1e6)))


@app.task(name="hold_gil_limited", time_limit=1)
def hold_gil_limited() -> None:
    note("plain")
    while True:  # signals cut it short
        ctypes.PyDLL(None).sleep(100)


@app.task(name="spin", time_limit=1)
def spin() -> None:
    note("plain")
    while True:
        pass


@app.task(name="deadlock", time_limit=1)
def deadlock() -> None:
    note("plain")
    lock = threading.Lock()
    with lock:
        lock.acquire()


# --- what a task may do to its own session


@app.task(name="misuse", transactional=True, bind=True)
def misuse(self: Any, how: str) -> str:
    connection = current_connection()
    note_here("transactional")
    MISUSES[how](connection)
    return how


def _aborted(connection: psycopg.Connection[Any]) -> None:
    try:
        connection.execute("select 1/0")
    except psycopg.errors.DivisionByZero:
        pass


def _other_settings(connection: psycopg.Connection[Any]) -> None:
    connection.execute("set search_path = faults; set statement_timeout = 60000")
    connection.execute("select pg_advisory_lock(4711)")
    connection.execute("create temporary table left_over ()")


def _child_process(connection: psycopg.Connection[Any]) -> None:
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(120)"], stdin=subprocess.DEVNULL)
    threading.Thread(target=time.sleep, args=(120,)).start()


MISUSES: dict[str, Callable[[psycopg.Connection[Any]], object]] = {
    "commit": lambda connection: connection.commit(),
    "rollback": lambda connection: connection.rollback(),
    "sql commit": lambda connection: connection.execute("commit"),
    "sql commit, begin": lambda connection: (connection.execute("commit"), connection.execute("begin")),
    "sql rollback": lambda connection: connection.execute("rollback"),
    "close": lambda connection: connection.close(),
    "aborted": _aborted,
    "settings": _other_settings,
    "role": lambda connection: connection.execute("set role faults_nobody"),
    "child process": _child_process,
}


@app.task(name="session_state", transactional=True)
def session_state() -> dict[str, Any]:
    """What the session of this process looks like to the next task."""
    row = current_connection().execute(
        "select current_setting('search_path'), current_user::text, current_setting('statement_timeout'),"
        " to_regclass('pg_temp.left_over') is null,"
        " not exists (select from pg_locks where locktype = 'advisory' and objid = 4711 and granted)"
    )
    found = row.fetchone()
    return dict(zip(("search_path", "user", "timeout", "no table", "no lock"), found, strict=True))


# --- time-outs of the server


@app.task(name="sleep_in_database", transactional=True)
def sleep_in_database(seconds: float) -> None:
    note_here("transactional")
    current_connection().execute("select pg_sleep(%s)", [seconds])


@app.task(name="idle_in_transaction", transactional=True)
def idle_in_transaction(gate: str) -> None:
    note_here("transactional")
    note("begun")
    wait_for(gate)


@app.task(
    name="locked_out",
    transactional=True,
    autoretry_for=(psycopg.errors.LockNotAvailable,),
    default_retry_delay=0.1,
    max_retries=100,
)
def locked_out() -> None:
    note_here("transactional")
    current_connection().execute("update faults.slow set pid = 0")


@app.task(name="answer", bind=True)
def answer(self: Any, text: str) -> str:
    note("plain")
    return text
