"""What tasks do to the session and the process they were given, and what programs do with fork and threads."""

import json
import sys
from collections.abc import Callable

import psutil
import pytest

from tests.faults.conftest import Stage
from tests.faults.tasks import MISUSES
from tests.support.process import REPOSITORY, CommandLine

pytestmark = pytest.mark.faults

HARMLESS = ("settings", "child process")
SLEEPER = "time.sleep(120)"
CLEAN = {"user": "postgres", "timeout": "0", "no table": True, "no lock": True}


def test_a_task_that_misuses_its_connection_fails_alone(stage: Stage) -> None:  # fault 53
    stage.query("do $$ begin create role faults_nobody; exception when duplicate_object then null; end $$")
    worker = stage.worker("-c", "1")
    with stage.load() as load:
        bad: dict[str, str] = {}
        clean: list[str] = []
        for how in MISUSES:
            bad[how] = stage.send("misuse", how)
            clean.append(stage.send("session_state"))
        load.more()
    # Two of them commit what they must not: that effect stays, and only that.
    stage.wait("all have ended", lambda: not stage.query("select id from pgqueue.live_jobs limit 1"))
    left = [p for p in psutil.Process(worker.pid).children(recursive=True) if SLEEPER in " ".join(p.cmdline())]
    try:
        for how in ("sql commit", "sql commit, begin"):
            assert stage.query("delete from faults.effects where job_id = %s returning 1", bad[how]) == [(1,)]
        jobs = stage.finish(load, may_fail=("misuse",))
        # A process that a task left behind keeps neither the worker nor its child from ending.
        assert left
        worker.process.terminate()
        assert worker.process.wait(30) == 0
    finally:
        for process in left:
            process.kill()
    for how, job_id in bad.items():
        job = jobs[job_id]
        if how in HARMLESS:
            assert job.state == "succeeded", (how, job)
        else:
            assert job.state == "failed", (how, job)
            assert job.attempt == 1, (how, job)
            said = str(job.error)
            assert any(word in said for word in ("connection", "commit", "transaction", "permission denied")), (
                how,
                said,
            )
    for job_id in clean:
        state = dict(jobs[job_id].result)
        assert "faults" not in state.pop("search_path")
        assert state == CLEAN


PROGRAM = """
import asyncio, json, os, sys, threading
from pgqueue import PgQueue

app = PgQueue("forks")
ids, lock = [], threading.Lock()

def enqueue(label, count=10):
    for number in range(count):
        job_id = str(app.send_task("answer", (f"{label} {number}",)).id)
        with lock:
            ids.append(job_id)

async def aenqueue(label):
    from pgqueue.canvas.signatures import Signature
    for number in range(10):
        result = await app.signature("answer", (f"{label} {number}",)).aapply_async()
        with lock:
            ids.append(str(result.id))

def work(label):
    threads = [threading.Thread(target=enqueue, args=(f"{label} thread {n}",)) for n in range(4)]
    threads.append(threading.Thread(target=lambda: asyncio.run(aenqueue(f"{label} loop"))))
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    enqueue(label)

def tell():
    sys.stdout.write(json.dumps(ids) + "\\n")
    sys.stdout.flush()

work("before")
read, write = os.pipe()
child = os.fork()
if child == 0:
    ids.clear()
    work("child")
    tell()
    os._exit(0)
work("parent")
assert os.waitpid(child, 0)[1] == 0
tell()
app.close()
"""


def test_fork_threads_and_loops_share_no_connection(stage: Stage, spawn: Callable[..., CommandLine]) -> None:
    stage.worker("-c", "2")  # fault 48
    with stage.load() as load:
        program = spawn(sys.executable, "-W", "error", "-c", PROGRAM, env={"PGQUEUE_DSN": stage.dsn}, cwd=REPOSITORY)
        assert program.wait() == 0, program.output
        ids = [job_id for line in program.output.splitlines() for job_id in json.loads(line)]
        load.more()
    jobs = stage.finish(load)
    assert len(ids) == len(set(ids)) == 3 * 60
    labels = {str(jobs[job_id].result).split()[0] for job_id in ids}
    assert labels == {"before", "child", "parent"}
    assert len({jobs[job_id].result for job_id in ids}) == len(ids)
