"""Tasks that workers in processes of their own run: `pgqueue -A tests.worker.tasks:app worker`."""

import asyncio
import contextvars
import ctypes
import json
import multiprocessing
import os
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from pgqueue import PgQueue, SoftTimeLimitExceeded, current_connection, get_task_logger
from tests.worker.gate import call_at, visit

app = PgQueue("tests")
app.conf.update(json.loads(os.environ.get("TESTS_CONF", "{}")))
logger = get_task_logger(__name__)
memory: list[bytes] = []
left_behind: contextvars.ContextVar[str] = contextvars.ContextVar("left_behind", default="nothing")


def place() -> dict[str, Any]:
    """Where this runs."""
    try:
        loop = asyncio.get_running_loop().is_running()
    except RuntimeError:
        loop = False
    return {"pid": os.getpid(), "thread": threading.current_thread().name, "loop": loop}


@app.task
def where() -> dict[str, Any]:
    return place()


@app.task(bind=True)
def describe(self: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
    return described(self.request)


def described(request: Any) -> dict[str, Any]:
    """What a request shows, as JSON."""
    names = "id task queue priority args kwargs headers retries attempt root_id parent_id hostname called_directly"
    found = {name: getattr(request, name) for name in names.split()}
    return {**found, "eta": request.eta, "expires": request.expires, "timelimit": list(request.timelimit)}


@app.task
def leave_behind(value: str) -> str:
    found = left_behind.get()
    left_behind.set(value)
    return found


@app.task
def echo(value: Any) -> Any:
    return value


@app.task
def hold(address: str, says: str = "") -> str:
    """Report at a gate and wait there."""
    return visit(address, says)


@app.task(acks_late=False)
def hold_once(address: str, says: str = "") -> str:
    return visit(address, says)


@app.task(bind=True)
def spin(self: Any, address: str, says: str = "") -> str:
    """Report, then compute until a time limit or a cancellation ends it."""
    call_at(address, says)
    try:
        while True:
            time.sleep(0.001)
    except SoftTimeLimitExceeded:
        return f"cleaned up {says}"


@app.task
def deaf(address: str) -> str:
    """Waits in C code, where only a signal that kills is heard."""
    return visit(address)


@app.task
def swallow(mebibytes: int) -> int:
    memory.append(b"x" * (mebibytes << 20))
    return os.getpid()


@app.task(max_retries=0)
def die(number: int = signal.SIGKILL) -> None:
    os.kill(os.getpid(), number)


@app.task(acks_late=False)
def die_once() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True)
def fork_and_die(self: Any, address: str, outside_python: bool) -> str:
    """Its first attempt leaves a process behind, which reports at the gate and waits there."""
    if self.request.lost:
        return "again"
    if (ctypes.PyDLL(None).fork if outside_python else os.fork)() == 0:
        try:
            self.update_state(meta="left behind")
            visit(address, "left behind")
        finally:
            os._exit(0)
    os.kill(os.getpid(), signal.SIGKILL)
    return "not reached"


def _pause(ready: Any) -> None:
    ready.set()
    signal.pause()


@app.task
def end_programs() -> list[int]:
    """End a program, and a forked process, by TERM and INT; their exit codes."""
    codes = []
    for number in (signal.SIGTERM, signal.SIGINT):
        program = subprocess.Popen(["sleep", "60"])
        program.send_signal(number)
        codes.append(program.wait(20))
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()
    forked = fork.Process(target=_pause, args=(ready,))
    forked.start()
    ready.wait(20)
    forked.terminate()
    forked.join(20)
    return [*codes, forked.exitcode or 0]


@app.task(bind=True)
def say(self: Any, text: str) -> None:
    logger.warning("said %s", text)


@app.task
def say_by_print(text: str) -> None:
    print(text)
    print(f"{text} in error", file=sys.stderr)
    print(f"{text} to the end", end="")


@app.task(bind=True)
def report_progress(self: Any, address: str) -> str:
    self.update_state(state="HALFWAY", meta={"done": 50})
    return visit(address)


@app.task(bind=True)
def report_at_length(self: Any, size: int) -> None:
    self.update_state(meta="x" * size)


@app.task(transactional=True)
def deposit(amount: int) -> int:
    """Write, and enqueue, in the job's own transaction."""
    current_connection().execute("insert into ledger (amount, pid) values (%s, %s)", [amount, os.getpid()])
    echo.delay(amount)
    return amount


@app.task(transactional=True)
def deposit_and_die(amount: int) -> None:
    current_connection().execute("insert into ledger (amount, pid) values (%s, %s)", [amount, os.getpid()])
    os.kill(os.getpid(), signal.SIGKILL)


@app.task(bind=True, transactional=True)
def deposit_at_length(self: Any, amount: int) -> None:
    """Its first attempt is in the middle of a statement for an hour."""
    current_connection().execute("insert into ledger (amount, pid) values (%s, %s)", [amount, os.getpid()])
    if self.request.lost == 0:
        current_connection().execute("select pg_sleep(3600)")


@app.task(transactional=True)
def deposit_what_fits(amount: int) -> str:
    """Does without the part that takes too long."""
    current_connection().execute("insert into ledger (amount, pid) values (%s, %s)", [amount, os.getpid()])
    try:
        with current_connection().transaction():
            current_connection().execute("insert into ledger (amount) select 9 from pg_sleep(3600)")
    except SoftTimeLimitExceeded:
        return "in part"
    return "all"


@app.task(transactional=True)
def deposit_and_hold(amount: int, address: str) -> int:
    current_connection().execute("insert into ledger (amount, pid) values (%s, %s)", [amount, os.getpid()])
    visit(address)
    return amount


class Unspeakable(Exception):
    """Cannot be shown."""

    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


@app.task
def fail_with(kind: str) -> Any:
    if kind == "result":
        return object()
    if kind == "RecursionError":
        return fail_with.run(kind)
    raise {"SystemExit": SystemExit, "KeyboardInterrupt": KeyboardInterrupt, "Unspeakable": Unspeakable}[kind]
