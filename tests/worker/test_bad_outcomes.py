"""Errors and results that are hard to keep: every job ends, is readable in SQL, and the worker goes on."""

import sys
from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue import EncodingError, LimitExceeded, PgQueue, RemoteError
from tests.worker.conftest import Rows, Send, StartWorker


class Unspeakable(Exception):
    def __repr__(self) -> str:
        raise RuntimeError("no repr")

    __str__ = __repr__


class Unpicklable(Exception):
    def __init__(self) -> None:
        super().__init__("unpicklable")
        self.handle = sys.stdout

    def __reduce__(self) -> Any:
        raise TypeError("cannot pickle this")


class Peculiar(Exception):
    def __init__(self, code: int, *, reason: str) -> None:
        super().__init__(code, reason)


class BaseOnly(BaseException):
    pass


def numbers() -> Iterator[int]:
    yield 1


ERRORS: dict[str, BaseException] = {
    "nul": ValueError("a\0b"),
    "surrogate": ValueError("a\ud800b"),
    "bytes": ValueError(b"\xff\0", object()),
    "long": ValueError("x" * 2_000_000),
    "unspeakable": Unspeakable("x"),
    "unpicklable": Unpicklable(),
    "peculiar": Peculiar(3, reason="odd"),
    "exit": SystemExit(3),
    "interrupt": KeyboardInterrupt(),
    "base": BaseOnly("base"),
    "generator exit": GeneratorExit(),
    "stop": StopIteration(5),
    "group": ExceptionGroup("several", [ValueError("one"), KeyError("two")]),
    "recursion": RecursionError("deep"),
}
RESULTS: dict[str, Any] = {
    "object": object(),
    "nested": {"prices": [1, {"deep": {1, 2, object()}}]},
    "generator": numbers(),
    "lambda": lambda: 0,
    "nan key": {(1, 2): 3},
    "too large": "x" * (2 << 20),
    "cyclic": [],
}
RESULTS["cyclic"].append(RESULTS["cyclic"])


@pytest.mark.parametrize("coroutine", [False, True])
@pytest.mark.parametrize("retried", [False, True])
def test_every_error_ends_its_job_and_only_that(app: PgQueue, rows: Rows, coroutine: bool, retried: bool) -> None:
    def raise_(name: str) -> None:
        raise ERRORS[name]

    async def araise(name: str) -> None:
        raise ERRORS[name]

    options: dict[str, Any] = {"autoretry_for": (BaseException,), "retry_kwargs": {"max_retries": 1, "countdown": 0}}
    declare: Any = app.task(name="raise", **(options if retried else {}))
    declare(araise if coroutine else raise_)

    @app.task
    def well() -> str:
        return "well"

    with app.worker(pool="threads", concurrency=2):
        results = {name: app.send_task("raise", [name]) for name in ERRORS}
        ends = {name: rows.end_of(result.id) for name, result in results.items()}
        assert well.delay().get(timeout=30) == "well"
    assert {name: row["state"] for name, row in ends.items()} == dict.fromkeys(ERRORS, "failed")
    if retried:
        assert {name: row["attempt"] for name, row in ends.items()} == dict.fromkeys(ERRORS, 2)
    assert ends["nul"]["error"] == "a\ufffdb"
    assert ends["surrogate"]["error"] == "a\ufffdb"
    assert 10_000 < len(ends["long"]["error"]) <= 64 * 1024
    assert all(len(row["traceback"] or "") <= 64 * 1024 for row in ends.values())
    assert ends["unspeakable"]["error_type"].endswith("Unspeakable")
    assert ends["exit"]["error_type"] == "SystemExit"
    assert ends["interrupt"]["error_type"] == "KeyboardInterrupt"
    assert all(isinstance(result.result, Exception) for result in results.values()), "readable, whatever it was"


def test_an_error_of_the_program_comes_back_as_its_own_type_or_as_a_remote_one(app: PgQueue) -> None:
    @app.task(throws=(Unpicklable,))
    def known() -> None:
        raise Unpicklable

    @app.task
    def peculiar() -> None:
        raise Peculiar(3, reason="odd")

    with app.worker(pool="threads", concurrency=1):
        with pytest.raises((Unpicklable, RemoteError), match="unpicklable"):
            known.delay().get(timeout=30)
        with pytest.raises(RemoteError, match="Peculiar") as caught:
            peculiar.delay().get(timeout=30)
    assert caught.value.error_args == (3, "odd")


@pytest.mark.parametrize("transactional", [False, True])
def test_results_that_cannot_be_kept_fail_the_job_and_name_their_path(
    app: PgQueue, rows: Rows, transactional: bool
) -> None:
    @app.task(transactional=transactional)
    def return_(name: str) -> Any:
        return RESULTS[name]

    @app.task
    async def areturn(name: str) -> Any:
        return RESULTS[name]

    with app.worker(pool="threads", concurrency=2):
        tasks = [return_] if transactional else [return_, areturn]
        for task in tasks:
            results = {name: task.delay(name) for name in RESULTS}
            ends = {name: rows.end_of(result.id) for name, result in results.items()}
            assert {name: row["state"] for name, row in ends.items()} == dict.fromkeys(RESULTS, "failed")
            assert "['prices'][1]['deep']" in ends["nested"]["error"]
            with pytest.raises(EncodingError):
                results["generator"].get(timeout=30)
            with pytest.raises(LimitExceeded):
                results["too large"].get(timeout=30)


def test_an_ignored_result_need_not_be_encodable(app: PgQueue, rows: Rows) -> None:
    @app.task(ignore_result=True)
    def return_() -> Any:
        return object()

    @app.task
    def value() -> int:
        return 5

    with app.worker(pool="threads", concurrency=1):
        first = rows.end_of(return_.delay().id)
        second = rows.end_of(value.apply_async(ignore_result=True).id)
    assert [(row["state"], row["result"]) for row in (first, second)] == [("succeeded", None)] * 2


def test_arguments_that_cannot_be_decoded_fail_the_job(app: PgQueue, rows: Rows) -> None:
    @app.task
    def take(value: Any) -> Any:
        return value

    enqueue = "select pgqueue.enqueue(%s, %s::jsonb, %s::jsonb)::text as id"
    with app.worker(pool="threads", concurrency=1):
        bad = [
            ('[{"__type__": "datetime", "__value__": "yesterday"}]', "{}"),
            ("[1, 2, 3]", "{}"),
            ("[1]", '{"surplus": 1}'),
        ]
        ids = [rows.execute(enqueue, [take.name, *one])[0]["id"] for one in bad]
        good = rows.execute(enqueue, [take.name, "[7]", "{}"])[0]["id"]
        assert [rows.end_of(job_id)["state"] for job_id in ids] == ["failed"] * 3
        assert rows.end_of(good)["result"] == 7
    assert all(rows.job(job_id)["attempt"] == 1 for job_id in ids)


def test_a_child_survives_what_its_tasks_raise(start_worker: StartWorker, send: Send, rows: Rows) -> None:
    start_worker("-P", "processes", "-c", "1")
    pid = send("where").get(timeout=30)["pid"]
    states = [rows.end_of(send("fail_with", kind).id) for kind in ("SystemExit", "KeyboardInterrupt", "RecursionError")]
    assert [row["state"] for row in states] == ["failed"] * 3
    assert [row["error_type"] for row in states] == ["SystemExit", "KeyboardInterrupt", "RecursionError"]
    assert rows.end_of(send("fail_with", "Unspeakable").id)["error_type"].endswith("Unspeakable")
    assert rows.end_of(send("fail_with", "result").id)["state"] == "failed"
    assert send("where").get(timeout=30)["pid"] == pid
