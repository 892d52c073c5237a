"""Chords whose workers are killed all the time, whose producers die, whose transactions get into each other's way."""

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from pgqueue import DuplicateJob, chord, group
from pgqueue.graph import NewEdge, NewStep, NewWorkflow
from pgqueue.job import NewJob, new_job_id
from pgqueue.store import claims, jobs, workflows
from tests.faults.conftest import Stage
from tests.store.store import Attempt, Store
from tests.support.process import REPOSITORY, CommandLine, clean_environment

pytestmark = pytest.mark.faults

# `make faults` takes fifty chords of two hundred.
LONG = int(os.environ.get("PGQUEUE_FAULTS_REPEAT", "1")) > 1
CHORDS, MEMBERS, BROKEN, KILLS = (50, 200, 5, 30) if LONG else (20, 120, 3, 8)
KINDS = ("plain", "charge", "plain", "acharge")


def test_chords_whose_workers_are_killed_each_second(stage: Stage) -> None:  # fault 41
    app = stage.app

    def send(number: int) -> str:
        names = [KINDS[member % len(KINDS)] for member in range(MEMBERS)]
        if number >= CHORDS:
            names[17] = names[101] = "refuse"
        header = group(app.signature(name, (member,)) for member, name in enumerate(names))
        body = app.signature("total").on_error(app.signature("alert"))
        return str(chord(header, body)().id)

    whole = [send(number) for number in range(CHORDS)]
    broken = [send(number) for number in range(CHORDS, CHORDS + BROKEN)]

    def start(ready: bool) -> CommandLine:
        return stage.worker("-c", "2", lease=1.5, ready=ready, worker_lost_limit="1000")

    workers = [start(ready=True) for _ in range(2)]
    over = threading.Event()

    def all_over() -> bool:
        return bool(stage.value("select count(*) = 0 from pgqueue.live_jobs"))

    def kill() -> None:
        for turn in itertools.count():
            if over.wait(1.0) or turn >= KILLS:
                return
            victim = workers[turn % 2]
            victim.expect("is ready")  # on a slow machine it would else never get to work
            victim.send_signal(signal.SIGKILL)
            victim.wait()
            workers[turn % 2] = start(ready=False)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        stage.wait("all chords are over", all_over, timeout=150)
    finally:
        over.set()
        killer.join()
    ended = stage.finish(may_fail={"refuse", "total"})
    for job_id in whole:
        body = ended[job_id]
        assert (body.state, body.transactional) == ("succeeded", 1)
        assert body.result == [MEMBERS, sum(range(MEMBERS))]
    for job_id in broken:
        assert (ended[job_id].state, ended[job_id].error_type) == ("failed", "pgqueue.errors.ChordError")
    alerts = [job for job in ended.values() if job.task == "alert" and job.state == "succeeded"]
    assert sorted(job.result for job in alerts) == sorted(broken)
    assert all(job.transactional == 1 for job in alerts)
    assert stage.value("select count(*) from pgqueue.all_workflows where state = 'running'") == 0


def test_chords_of_all_sizes_end_as_defined_while_workers_die(stage: Stage) -> None:  # fault 42
    app = stage.app
    total, same, alert = app.signature("total"), app.signature("plain"), app.signature("alert")

    def plain(*numbers: int) -> list[Any]:
        return [app.signature("plain", (number,)) for number in numbers]

    workers = [stage.worker("-c", "2", lease=1.5, worker_lost_limit="1000") for _ in range(2)]
    expected: dict[str, Any] = {}
    failing = []
    for n in range(8):
        nested = chord([chord(plain(1, 2), same.clone()), *plain(3), chord([], same.clone())], same.clone())
        grown = chord([app.signature("grow", (3,)), *plain(n)], total.clone())
        expected |= {
            chord([], total.clone())().id: [0, 0],  # no members: the body runs
            chord(plain(n), total.clone())().id: [1, n],
            nested().id: [[1, 2], 3, []],
            grown().id: [5, 6 + n],  # whoever adds a member, it is waited for
        }
        failing.append(chord(plain(n), app.signature("refuse").on_error(alert.clone()))().id)
        if n in (2, 5):
            workers[0].send_signal(signal.SIGKILL)
            workers[0].wait()
            workers.append(stage.worker("-c", "2", lease=1.5, worker_lost_limit="1000"))
            del workers[0]
    before = stage.value("select count(*) from pgqueue.workflows")
    with pytest.raises(DuplicateJob):  # the id of a body is taken
        chord(plain(1), total.clone().set(task_id=next(iter(expected))))()
    assert stage.value("select count(*) from pgqueue.workflows") == before

    ended = stage.finish(may_fail={"refuse"})
    assert {job_id: ended[job_id].result for job_id in expected} == expected
    assert {ended[job_id].state for job_id in failing} == {"failed"}
    alerts = [job.result for job in ended.values() if job.task == "alert"]
    assert sorted(alerts) == sorted(failing)
    assert stage.value("select count(*) from pgqueue.workflow_joins where state = 'waiting'") == 0


PRODUCER = """
import os, signal, sys
import psycopg
from pgqueue import PgQueue, chord
app = PgQueue("producer", dsn=sys.argv[1])
with psycopg.connect(sys.argv[1]) as connection, app.using(connection):
    chord([app.signature("plain", (n,)) for n in range(20)], app.signature("total"))()
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_producer_killed_before_its_commit_leaves_nothing_of_a_chord(stage: Stage) -> None:  # fault 10
    died = subprocess.run(
        [sys.executable, "-c", PRODUCER, stage.dsn], env=clean_environment(), cwd=REPOSITORY, check=False
    )
    assert died.returncode == -signal.SIGKILL
    stage.wait(
        "the server has noticed",
        lambda: (
            not stage.value(
                "select count(*) from pg_stat_activity where datname = current_database() and state like 'idle in%'"
            )
        ),
    )
    left = stage.query(
        "select (select count(*) from pgqueue.live_jobs), (select count(*) from pgqueue.workflows),"
        " (select count(*) from pgqueue.workflow_edges), (select count(*) from pgqueue.workflow_joins)"
    )
    assert left == [(0, 0, 0, 0)]


def test_transactional_members_that_exclude_each_other_are_all_counted(stage: Stage) -> None:  # fault 26
    database = psycopg.conninfo.conninfo_to_dict(stage.dsn)["dbname"]
    app = stage.app
    result = chord([app.signature("charge", (n,)) for n in range(100)], app.signature("total"))()
    stage.query(f"alter database {database} set default_transaction_isolation = 'serializable'")
    stage.worker("-c", "4")
    assert result.get(timeout=60) == [100, sum(range(100))]
    ended = stage.finish()
    assert all(job.transactional == 1 for job in ended.values())


def _crossed(store: Store, joins: int, members: int) -> list[str]:
    """A workflow in which every member is a parent of every join; the ids of the members."""
    ids = [new_job_id() for _ in range(members + joins)]
    edges = [NewEdge(ids[m], ids[members + j], m) for m in range(members) for j in range(joins)]
    steps = [NewStep(NewJob(one, "t", "default"), None, "list" if n >= members else None) for n, one in enumerate(ids)]
    store.run(workflows.insert_workflow(store.queries, NewWorkflow(new_job_id(), steps, edges), 60))
    return ids


def _finish_all(session: Store, attempts: list[Attempt]) -> list[str]:
    return [lost for n in range(0, len(attempts), 7) for lost in session.finish(attempts[n : n + 7])]


def test_finishes_that_cross_never_deadlock(dsn: str) -> None:  # fault 24
    store = Store(dsn)
    sessions = [store.session() for _ in range(4)]
    worker = store.worker()
    try:
        for _ in range(10):
            _crossed(store, joins=10, members=100)
        attempts = store.claim(worker, 1_000)
        with ThreadPoolExecutor(4) as threads:
            # Neighbours belong to different sessions, and each session goes its own way through the workflows.
            parts = [attempts[n::4] for n in range(4)]
            parts[1].reverse()
            parts[3].reverse()
            done = [threads.submit(_finish_all, *both) for both in zip(sessions, parts, strict=True)]
            for each in done:
                assert each.result() == []
        assert len(store.claim(worker, 1_000)) == 100
    finally:
        store.close()


@pytest.mark.parametrize("how", ["member", "workflow", "lose"])
def test_what_ends_a_member_has_one_winner_and_the_join_hears_of_it(dsn: str, how: str) -> None:  # faults 39, 40
    store = Store(dsn)
    other = store.session()
    worker = store.worker()

    def rival(ids: list[str], running: list[Attempt]) -> object:
        if how == "member":
            return other.run(jobs.cancel_jobs(other.queries, ids[1:], True, 60))
        if how == "lose":
            return other.lose(running[1:], 1)
        workflow_id = other.run(workflows.workflow_of_job(other.queries, ids[2]))
        return other.run(workflows.cancel_workflow(other.queries, str(workflow_id)))

    try:
        with ThreadPoolExecutor(2) as threads:
            for _ in range(100):
                ids = _crossed(store, joins=1, members=2)
                running = [one for one in store.claim(worker) if one.job.id in ids]
                fence = [one.fence for one in running]
                finish = claims.finish_jobs(store.queries, fence, "succeeded", ["1", "2"], None, None, 60)
                finishing, rivalling = threads.submit(store.run, finish), threads.submit(rival, ids, running)
                finishing.result()
                rivalling.result()
                states = store.states(ids)
                if states == ["succeeded", "succeeded", "available"]:
                    body = store.claim(worker)
                    assert json.loads(body[0].job.args or "") == [[1, 2]]
                    store.finish(body)
                else:
                    assert states[2] in ("failed", "cancelled")
        assert store.value("select count(*) from pgqueue.live_jobs") == 0
        assert store.value("select count(*) from pgqueue.workflow_joins where state = 'waiting'") == 0
    finally:
        store.close()
