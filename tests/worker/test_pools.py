"""Each kind of pool runs what it should where it should."""

import contextvars
import threading
from typing import Any

import pytest

from pgqueue import ConfigurationError, PgQueue
from tests.worker.conftest import Rows, Send, StartWorker
from tests.worker.gate import Gate, avisit, visit

left_behind: contextvars.ContextVar[str] = contextvars.ContextVar("left_behind", default="nothing")


# in a worker inside this process ----------------------------------------------------------------------------------


@pytest.mark.parametrize("pool", ["threads", "solo", "processes", "loop"])
def test_functions_and_coroutines_run_in_every_pool(app: PgQueue, pool: str) -> None:
    @app.task
    def double(n: int) -> int:
        return 2 * n

    @app.task
    async def triple(n: int) -> int:
        return 3 * n

    with app.worker(pool=pool, concurrency=2):
        results = [double.delay(n) for n in range(20)] + [triple.delay(n) for n in range(20)]
        assert [result.get(timeout=30) for result in results] == [2 * n for n in range(20)] + [3 * n for n in range(20)]


def test_coroutines_run_on_the_loop_and_functions_in_threads(app: PgQueue) -> None:
    @app.task
    def plain() -> str:
        return threading.current_thread().name

    @app.task
    async def coroutine() -> str:
        return threading.current_thread().name

    with app.worker(pool="threads", concurrency=1):
        names = plain.delay().get(timeout=30), coroutine.delay().get(timeout=30)
    assert names[0].startswith("pgqueue-task")
    assert names[1] == "pgqueue-loop"


def test_a_task_runs_in_the_pool_that_it_names(app: PgQueue) -> None:
    @app.task(pool="solo")
    def alone() -> str:
        return threading.current_thread().name

    @app.task(pool="threads")
    def in_threads() -> str:
        return threading.current_thread().name

    with app.worker(pool="solo,threads:2") as worker:
        assert worker.plan.pools == {"solo": 1, "threads": 2}
        alone_in = {alone.delay().get(timeout=30) for _ in range(3)}
        threads = {in_threads.delay().get(timeout=30) for _ in range(3)}
    assert len(alone_in) == 1
    assert threads.isdisjoint(alone_in) or len(threads) > 1


@pytest.mark.parametrize("coroutine", [False, True])
def test_no_more_than_the_concurrency_runs_at_once(app: PgQueue, gate: Gate, coroutine: bool) -> None:
    if coroutine:

        @app.task(name="wait")
        async def await_(address: str, n: int) -> str:
            return await avisit(address, n)
    else:

        @app.task(name="wait")
        def wait(address: str, n: int) -> str:
            return visit(address, n)

    with app.worker(pool="loop" if coroutine else "threads", concurrency=2):
        results = [app.send_task("wait", [gate.address, n]) for n in range(5)]
        first = gate.take(2)
        assert {visitor.says for visitor in first} == {"0", "1"}
        assert gate.empty
        first[0].let_go("a")
        third = gate.next()
        assert third.says == "2"
        assert gate.empty
        first[1].let_go("b")
        third.let_go("c")
        for visitor in gate.take(2):
            visitor.let_go("d")
        assert sorted(result.get(timeout=30) for result in results) == ["a", "b", "c", "d", "d"]


@pytest.mark.parametrize("coroutine", [False, True])
def test_context_variables_do_not_leak_from_job_to_job(app: PgQueue, coroutine: bool) -> None:
    if coroutine:

        @app.task(name="leave")
        async def aleave(value: str) -> str:
            found = left_behind.get()
            left_behind.set(value)
            return found
    else:

        @app.task(name="leave")
        def leave(value: str) -> str:
            found = left_behind.get()
            left_behind.set(value)
            return found

    with app.worker(pool="loop" if coroutine else "solo", concurrency=1):
        results = app.enqueue_many([app.signature("leave", [f"job {n}"]) for n in range(30)])
        assert {result.get(timeout=30) for result in results} == {"nothing"}


def test_an_outcome_does_not_wait_for_the_long_job_that_follows(app: PgQueue, gate: Gate) -> None:
    """Outcomes are reported in batches; a batch must not be kept open by what runs next."""

    @app.task(name="value")
    def value(n: int) -> int:
        return n

    @app.task(name="wait")
    def wait(address: str) -> str:
        return visit(address)

    with app.worker(pool="threads", concurrency=1):
        for _ in range(5):
            short = [app.signature("value", [n]) for n in range(20)]
            *values, held = app.enqueue_many([*short, app.signature("wait", [gate.address])])
            visitor = gate.next()
            assert [result.get(timeout=30) for result in values] == list(range(20))
            visitor.let_go("done")
            assert held.get(timeout=30) == "done"


def test_what_the_enqueuer_had_in_its_context_stays_there(app: PgQueue) -> None:
    @app.task
    def found() -> str:
        return left_behind.get()

    @app.task
    async def afound() -> str:
        return left_behind.get()

    mark = left_behind.set("the program's")
    try:
        with app.worker(pool="threads", concurrency=1):
            assert {found.delay().get(timeout=30), afound.delay().get(timeout=30)} <= {"nothing", "the program's"}
    finally:
        left_behind.reset(mark)


@pytest.mark.parametrize("name", ["describe", "adescribe"])
def test_the_request_tells_everything_about_the_job(app: PgQueue, name: str) -> None:
    seen: list[Any] = []

    def look(self: Any) -> None:
        request = self.request
        fields = "id task queue priority args kwargs headers retries attempt root_id parent_id hostname timelimit"
        found = {field: getattr(request, field) for field in fields.split()}
        in_future = request.expires is not None and request.expires > request.eta
        seen.append({**found, "direct": request.called_directly, "in_future": in_future})

    @app.task(bind=True, name="describe", time_limit=100, soft_time_limit=90)
    def describe(self: Any, *args: Any, **kwargs: Any) -> str | None:
        look(self)
        return child.delay().id

    @app.task(bind=True, name="adescribe", time_limit=100, soft_time_limit=90)
    async def adescribe(self: Any, *args: Any, **kwargs: Any) -> str | None:
        look(self)
        return (await child.adelay()).id

    @app.task(bind=True)
    def child(self: Any) -> list[str]:
        return [self.request.root_id, self.request.parent_id]

    with app.worker(pool="threads", concurrency=1, name="here-%n", queues=["default", "mail"]):
        result = app.send_task(
            name,
            [1],
            {"b": 2},
            queue="mail",
            priority=7,
            headers={"tenant": "x"},
            countdown=0.01,
            expires=3600,
            time_limit=95,
        )
        child_id = result.get(timeout=30)
        assert app.AsyncResult(child_id).get(timeout=30) == [result.id, result.id]
    assert seen == [
        {
            "id": result.id,
            "task": name,
            "queue": "mail",
            "priority": 7,
            "args": [1],
            "kwargs": {"b": 2},
            "headers": {"tenant": "x"},
            "retries": 0,
            "attempt": 1,
            "root_id": result.id,
            "parent_id": None,
            "hostname": "here-test",
            "timelimit": (95.0, 90.0),
            "direct": False,
            "in_future": True,
        }
    ]


@pytest.mark.parametrize("pool", ["gevent", "eventlet", "fibers", "threads:0", "threads:x", "threads,threads"])
def test_pools_that_do_not_exist_are_refused(app: PgQueue, pool: str) -> None:
    with pytest.raises(ConfigurationError):
        app.worker(pool=pool)


# in children of `pgqueue worker` ----------------------------------------------------------------------------------


def test_prefork_runs_each_job_in_a_process_and_coroutines_on_a_loop(
    start_worker: StartWorker, send: Send, gate: Gate
) -> None:
    worker = start_worker("-P", "prefork", "-c", "2", loop=True)
    held = [send("hold", gate.address), send("hold", gate.address)]
    visitors = gate.take(2)
    pids = {visitor.pid for visitor in visitors}
    assert len(pids) == 2
    on_loop = send("where_on_loop").get(timeout=30)
    in_threads = send("where_in_threads").get(timeout=30)
    assert on_loop["loop"]
    assert not in_threads["loop"]
    assert in_threads["thread"].startswith("pgqueue-task")
    assert len({*pids, worker.pid, on_loop["pid"], in_threads["pid"]}) == 5
    for visitor in visitors:
        visitor.let_go("done")
    assert [result.get(timeout=30) for result in held] == ["done", "done"]


def test_a_pool_of_threads_is_one_child(start_worker: StartWorker, send: Send, gate: Gate) -> None:
    worker = start_worker("-P", "threads", "-c", "3")
    results = [send("hold", gate.address) for _ in range(3)]
    visitors = gate.take(3)
    assert len({visitor.pid for visitor in visitors}) == 1
    assert len({visitor.thread for visitor in visitors}) == 3
    assert visitors[0].pid != worker.pid
    for visitor in visitors:
        visitor.let_go("done")
    assert [result.get(timeout=30) for result in results] == ["done"] * 3


def test_solo_runs_in_the_worker_itself_one_at_a_time(start_worker: StartWorker, send: Send, gate: Gate) -> None:
    worker = start_worker("-P", "solo")
    results = [send("hold", gate.address) for _ in range(2)]
    first = gate.next()
    assert first.pid == worker.pid
    assert gate.empty
    first.let_go("a")
    gate.next().let_go("b")
    assert [result.get(timeout=30) for result in results] == ["a", "b"]


def test_several_pools_with_a_size_each(start_worker: StartWorker, send: Send, gate: Gate, rows: Rows) -> None:
    start_worker("-P", "processes:1,threads:2", loop=True)
    first = send("hold", gate.address)
    holder = gate.next()
    assert send("where_in_threads").get(timeout=30)["pid"] != holder.pid, "threads go on while the process is busy"
    holder.let_go("done")
    assert first.get(timeout=30) == "done"
    assert rows.worker()["pools"] == {"processes": 1, "threads": 2, "loop": 200}


def test_context_variables_do_not_leak_in_children(start_worker: StartWorker, send: Send) -> None:
    start_worker("-P", "processes", "-c", "1", loop=True)
    assert [send("leave_behind", f"job {n}").get(timeout=30) for n in range(3)] == ["nothing"] * 3
    assert [send("leave_behind_on_loop", f"job {n}").get(timeout=30) for n in range(3)] == ["nothing"] * 3


def test_the_request_crosses_the_pipe(start_worker: StartWorker, send: Send) -> None:
    start_worker("-c", "1", "-n", "shop@%h", loop=True)
    for name in ("describe", "describe_on_loop"):
        result = send(name, 1, priority=3, headers={"a": [1]}, expires=3600, time_limit=9, soft_time_limit=8)
        found = result.get(timeout=30)
        assert found["id"] == result.id
        assert (found["args"], found["kwargs"], found["headers"]) == ([1], {}, {"a": [1]})
        assert (found["priority"], found["queue"], found["retries"]) == (3, "default", 0)
        assert found["timelimit"] == [9, 8]
        assert found["hostname"].startswith("shop@")
        assert not found["called_directly"]


def test_a_mebibyte_goes_through_the_pipe_in_both_directions(start_worker: StartWorker, send: Send) -> None:
    start_worker("-c", "1")
    values = [f"{n}" * (1_000_000) for n in range(4)]
    results = [send("echo", value) for value in values]
    assert [result.get(timeout=60) for result in results] == values


def test_fast_jobs_do_not_wait_behind_a_long_one(start_worker: StartWorker, send: Send, gate: Gate) -> None:
    start_worker("-c", "2")
    for n in range(50):  # the worker learns that jobs are short, and keeps many in its children
        send("echo", n)
    assert send("echo", "learned").get(timeout=30) == "learned"
    long = send("hold", gate.address)
    visitor = gate.next()
    results = [send("echo", n) for n in range(300)]
    assert [result.get(timeout=30) for result in results] == list(range(300)), "while the long one still runs"
    visitor.let_go("done")
    assert long.get(timeout=30) == "done"


def test_thousands_wait_while_children_are_slow(
    start_worker: StartWorker, send: Send, sender: PgQueue, gate: Gate, rows: Rows
) -> None:
    sender.enqueue_many([sender.signature("tests.worker.tasks.hold", [gate.address, n]) for n in range(2)])
    sender.enqueue_many([sender.signature("tests.worker.tasks.echo", [n]) for n in range(4_000)])
    start_worker("-c", "2")
    visitors = gate.take(2)
    claimed = rows.execute("select count(*) as n from pgqueue.live_jobs where state = 'running'")[0]["n"]
    assert claimed < 1_000, "a worker takes no more than it can soon run"
    for visitor in visitors:
        visitor.let_go()
    assert send("echo", "last").get(timeout=60) == "last"
    ended = rows.execute("select state, count(*) as n, max(attempt) as most from pgqueue.finished_jobs group by 1")
    assert [(row["state"], row["most"]) for row in ended] == [("succeeded", 1)]
