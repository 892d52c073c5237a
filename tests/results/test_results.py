"""AsyncResult: states, outcomes, waiting. A session with the store's statements plays the worker."""

import asyncio
import json
import pickle
import sys
import threading
import time
import types
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

import pgqueue.results.waiting as waiting_room
from pgqueue import (
    AsyncResult,
    PgQueue,
    RemoteError,
    TaskRevokedError,
    TimeoutError,
    UnsupportedOption,
    ValidationError,
)
from pgqueue.codec import encode_error
from pgqueue.request import Request, current_request
from pgqueue.store import claims, jobs
from tests.store.store import Attempt, Store
from tests.support.process import wait_until


def take(store: Store) -> Attempt:
    """Claim the one job there is."""
    (attempt,) = store.claim(store.worker())
    return attempt


def end(store: Store, attempt: Attempt, state: str, result: Any = None, error: BaseException | None = None) -> None:
    """Finish an attempt."""
    errors = None if error is None else [encode_error(error)]
    text = None if result is None else json.dumps(result)
    lost = store.run(
        claims.finish_jobs(
            store.queries, [attempt.fence], state, [text], errors, ["Traceback: here"] if error else None, 60
        )
    )
    assert lost == []


def test_the_states_of_a_job_that_succeeds(shop: PgQueue, store: Store) -> None:
    result = shop.tasks["t.add"].delay(1)
    assert (result.state, result.result, result.ready(), result.date_done, result.worker) == (
        "PENDING",
        None,
        False,
        None,
        None,
    )
    attempt = take(store)
    assert (result.state, result.result, result.worker) == ("STARTED", None, "w")
    store.run(jobs.update_progress(store.queries, result.id, attempt.token, '{"state":"PARSING","meta":{"done":3}}'))
    assert (result.state, result.info, result.ready()) == ("PARSING", {"done": 3}, False)
    end(store, attempt, "succeeded", 7)
    assert (result.state, result.result, result.get(timeout=0)) == ("SUCCESS", 7, 7)
    assert result.ready()
    assert result.successful()
    assert not result.failed()
    assert (result.name, result.args, result.kwargs, result.queue, result.retries) == ("t.add", [1], {}, "default", 0)
    assert result.date_done is not None
    assert result.date_done.tzinfo is not None


def test_a_job_that_fails(shop: PgQueue, store: Store) -> None:
    result = shop.tasks["t.add"].delay(1)
    end(store, take(store), "failed", error=ZeroDivisionError("by zero"))
    assert (result.state, result.traceback) == ("FAILURE", "Traceback: here")
    assert result.failed()
    with pytest.raises(ZeroDivisionError, match="by zero") as caught:
        result.get()
    assert "Traceback: here" in "".join(caught.value.__notes__)
    assert isinstance(result.get(propagate=False), ZeroDivisionError)
    assert isinstance(result.info, ZeroDivisionError)


def test_an_error_has_its_type_only_where_the_application_knows_it(
    dsn: str, shop: PgQueue, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign = types.ModuleType("somebody_elses_library")
    monkeypatch.setitem(sys.modules, foreign.__name__, foreign)
    error = type("OwnError", (Exception,), {"__module__": foreign.__name__})
    setattr(foreign, "OwnError", error)  # noqa: B010 - a module has no such attribute for a type checker
    result = shop.tasks["t.add"].delay(1)
    end(store, take(store), "failed", error=error("ours"))
    # It is loaded, but in sight of none of the application's tasks.
    with pytest.raises(RemoteError, match=r"OwnError: ours") as caught:
        result.get()
    assert caught.value.error_args == ("ours",)
    with PgQueue("knows", dsn=dsn) as app:

        @app.task(name="t.other", throws=(error,))
        def other() -> None: ...

        with pytest.raises(error, match="ours"):
            app.AsyncResult(result.id).get()


def test_a_row_chooses_no_code(shop: PgQueue, store: Store) -> None:
    for name in (
        "subprocess.Popen",
        "os.system",
        "this.module.Error",
        "builtins.exit",
        "threading.Thread",
        "pgqueue.errors.Retry",
    ):
        result = shop.tasks["t.add"].delay(1)
        attempt = take(store)
        error = json.dumps({"type": name, "message": "m", "args": ["touch"]})
        store.run(claims.finish_jobs(store.queries, [attempt.fence], "failed", [None], [error], None, 60))
        with pytest.raises(RemoteError, match=name):
            result.get()


def test_a_retry_is_waiting_with_its_error(shop: PgQueue, store: Store) -> None:
    result = shop.tasks["t.add"].delay(1)
    attempt = take(store)
    store.run(
        claims.retry_jobs(store.queries, [attempt.fence], [60.0], [encode_error(OSError("down"))], ["tb"], [None], 60)
    )
    assert result.state == "RETRY"
    assert isinstance(result.info, OSError)
    assert result.retries == 1
    assert asyncio.run(result.astate()) == "RETRY"


@pytest.mark.parametrize(("state", "said"), [("cancelled", "cancelled"), ("expired", "expired")])
def test_a_job_that_was_given_up(shop: PgQueue, store: Store, state: str, said: str) -> None:
    result = shop.tasks["t.add"].delay(1)
    end(store, take(store), state)
    assert result.state == "REVOKED"
    with pytest.raises(TaskRevokedError, match=said):
        result.get()


def test_an_unknown_id(shop: PgQueue) -> None:
    for name in ("nothing", "017f22e2-79b0-7cc3-98c4-dc0c0c07398f", "-1", "ffffffff-ffff-7fff-8fff-ffffffffffff"):
        result = shop.AsyncResult(name)
        assert (result.state, result.result, result.traceback, result.args) == ("PENDING", None, None, None)
        assert not result.exists()
        assert not result.ready()
        for timeout in (0, -1, 0.05):
            with pytest.raises(TimeoutError, match=f"job {result.id} did not"):
                result.get(timeout=timeout)
        result.forget()
        assert not result.revoke()
    unfit: Any
    for unfit in ("", "x" * 256, 5, None, "a\0"):
        with pytest.raises(ValidationError, match="task_id"):
            shop.AsyncResult(unfit)
    with pytest.raises(ValueError, match="nan"):
        shop.AsyncResult("nothing").get(timeout=float("nan"))


def test_an_id_from_a_clock_that_went_wrong_is_found_all_the_same(shop: PgQueue, store: Store) -> None:
    ahead = "7fffffff-ffff-7fff-8fff-ffffffffffff"
    result = shop.tasks["t.add"].apply_async((1,), task_id=ahead)
    end(store, take(store), "succeeded", 5)
    assert shop.AsyncResult(ahead).get(timeout=0) == 5
    assert shop.AsyncResult(ahead).name == "t.add"
    assert result.id == ahead


def test_a_task_id_of_the_callers_own_finds_the_job(shop: PgQueue, store: Store) -> None:
    shop.tasks["t.add"].apply_async((1,), task_id="invoice 17")
    end(store, take(store), "succeeded", 5)
    assert shop.AsyncResult("invoice 17").get(timeout=0) == 5


def test_forgetting(shop: PgQueue, store: Store) -> None:
    result = shop.tasks["t.add"].delay(1)
    result.forget()
    assert result.exists()
    end(store, take(store), "succeeded", 1)
    assert result.get() == 1
    result.forget()
    assert (result.exists(), result.state) == (False, "PENDING")


def test_revoking(shop: PgQueue, store: Store) -> None:
    add = shop.tasks["t.add"]
    queued, running = add.apply_async((1,), queue="other"), add.delay(1)
    take(store)
    assert queued.revoke()
    assert queued.state == "REVOKED"
    assert not queued.revoke()
    assert not running.revoke()
    assert running.revoke(terminate=True)
    assert running.state == "STARTED"
    assert store.value("select cancel_asked from pgqueue.live_jobs")
    more = [add.apply_async((1,), queue="other", task_id=name) for name in ("a", "b")]
    assert shop.control.revoke([*more, running, "unknown"]) == {
        "a": "cancelled",
        "b": "cancelled",
        running.id: "running",
    }
    with pytest.raises(UnsupportedOption, match="signal"):
        running.revoke(signal="SIGKILL")


def test_equal_hashed_and_pickled_by_id(shop: PgQueue) -> None:
    result = shop.tasks["t.add"].delay(1)
    back = pickle.loads(pickle.dumps(result))  # noqa: S301 - our own
    assert back == result == shop.AsyncResult(result.id)
    assert len({back, result}) == 1
    assert str(back) == result.id
    assert back.state == "PENDING"
    assert AsyncResult("other", app=shop) != result


# waiting


def waited_for(store: Store) -> Callable[[], bool]:
    """Whether somebody waits for the one live job."""
    return lambda: bool(store.value("select coalesce(bool_and(waited_for), false) from pgqueue.live_jobs"))


def waiting(result: AsyncResult[Any], pool: ThreadPoolExecutor, kind: str) -> "Future[Any]":
    if kind == "get":
        return pool.submit(result.get, timeout=60)
    return pool.submit(lambda: asyncio.run(result.aget(timeout=60)))


@pytest.mark.parametrize("kind", ["get", "aget"])
def test_waiting_until_the_job_ends(shop: PgQueue, store: Store, kind: str) -> None:
    with ThreadPoolExecutor() as pool:
        for state in ("succeeded", "failed", "cancelled"):
            result = shop.tasks["t.add"].delay(1)
            found = waiting(result, pool, kind)
            wait_until(waited_for(store), what="get() asks for a notification")
            attempt = take(store)
            end(store, attempt, state, 3 if state == "succeeded" else None, OSError("x") if state == "failed" else None)
            if state == "succeeded":
                assert found.result() == 3
            else:
                with pytest.raises(OSError if state == "failed" else TaskRevokedError):
                    found.result()


@pytest.mark.parametrize("kind", ["get", "aget"])
def test_waiting_for_a_job_that_was_put_back_in_line_goes_on(shop: PgQueue, store: Store, kind: str) -> None:
    result = shop.tasks["t.add"].delay(1)
    with ThreadPoolExecutor() as pool:
        found = waiting(result, pool, kind)
        wait_until(waited_for(store), what="get() asks for a notification")
        store.rows("update pgqueue.live_jobs set waited_for = false returning pg_notify('pgqueue/results', id::text)")
        wait_until(waited_for(store), what="get() asks again")
        assert not found.done()
        end(store, take(store), "succeeded", 4)
        assert found.result() == 4


@pytest.mark.parametrize("kind", ["get", "aget"])
def test_waiting_without_notifications_polls(
    shop: PgQueue, store: Store, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_listener(*_: Any, **__: Any) -> Any:
        raise psycopg.OperationalError("no LISTEN here")

    monkeypatch.setattr("pgqueue.store.database.Database._open_listener", no_listener)
    monkeypatch.setattr("pgqueue.store.database.Database._aopen_listener", no_listener)
    result = shop.tasks["t.add"].delay(1)
    with ThreadPoolExecutor() as pool:
        found = waiting(result, pool, kind)
        end(store, take(store), "succeeded", 4)
        assert found.result() == 4
    assert not store.rows("select from pg_stat_activity where query ilike 'listen%' and datname = current_database()")


def test_waiting_survives_the_end_of_its_sessions(shop: PgQueue, store: Store) -> None:
    listening = "select pid from pg_stat_activity where query ilike 'listen%' and datname = current_database()"
    result = shop.tasks["t.add"].delay(1)
    with ThreadPoolExecutor() as pool:
        found = [waiting(result, pool, kind) for kind in ("get", "aget")]
        wait_until(waited_for(store), what="get() asks for a notification")
        wait_until(lambda: len(store.rows(listening)) == 2, what="two sessions listen")
        store.rows("select pg_terminate_backend(pid, 5000) from pg_stat_activity where application_name = 'pgqueue'")
        end(store, take(store), "succeeded", 5)
        assert [one.result() for one in found] == [5, 5]


def test_waiting_for_a_job_that_is_committed_later(dsn: str, shop: PgQueue, store: Store) -> None:
    with psycopg.connect(dsn) as connection, ThreadPoolExecutor() as pool:
        mine = shop.tasks["t.add"].apply_async((1,), connection=connection)
        found = waiting(shop.AsyncResult(mine.id), pool, "get")
        connection.commit()
        wait_until(waited_for(store), what="the waiter sees the job")
        end(store, take(store), "succeeded", 6)
        assert found.result() == 6


def test_waiting_inside_the_transaction_that_enqueued_is_refused_at_once(dsn: str, shop: PgQueue, store: Store) -> None:
    with psycopg.connect(dsn) as connection:
        result = shop.tasks["t.add"].apply_async((1,), connection=connection)
        with pytest.raises(RuntimeError, match="Commit first"):
            result.get()
        with pytest.raises(RuntimeError, match="Commit first"):
            asyncio.run(result.aget())
        connection.commit()
        connection.execute("select 1")  # another transaction: the job is there by now
        end(store, take(store), "succeeded", 8)
        assert result.get() == 8


def test_waiting_inside_a_task_is_refused(shop: PgQueue, store: Store) -> None:
    result = shop.tasks["t.add"].delay(1)
    mark = current_request.set(Request(result.id, "t.outer", token=1, called_directly=False))
    try:
        with pytest.raises(RuntimeError, match="within a task"):
            result.get()
        with pytest.raises(RuntimeError, match="within a task"):
            asyncio.run(result.aget())
        end(store, take(store), "succeeded", 8)
        assert result.get(disable_sync_subtasks=False) == 8
    finally:
        current_request.reset(mark)


@pytest.mark.parametrize("served", [False, True])
def test_a_wait_that_nobody_serves_warns_once(
    shop: PgQueue, store: Store, served: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgqueue.results.waiting._PATIENCE", 0.01)
    monkeypatch.setattr("pgqueue.results.waiting._SAFETY_LOOK", 0.02)
    if served:
        store.worker()
    result = shop.tasks["t.add"].delay(1)
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with pytest.raises(TimeoutError):
            result.get(timeout=0.5)
        with pytest.raises(TimeoutError):
            asyncio.run(result.aget(timeout=0.5))
    said = [str(one.message) for one in caught if issubclass(one.category, RuntimeWarning)]
    assert len(said) == (0 if served else 2), said
    assert all("no live worker" in one for one in said)


def test_many_waiters(shop: PgQueue, store: Store) -> None:
    results = shop.enqueue_many(shop.tasks["t.add"].s(i) for i in range(20))
    attempts = store.claim(store.worker())
    with ThreadPoolExecutor(20) as pool:
        found = [waiting(result, pool, "get") for result in results]
        marked = "select count(*) filter (where waited_for) from pgqueue.live_jobs"
        # More than there are connections to listen on: the rest polls.
        wait_until(lambda: store.value(marked) == shop.conf.pool_max_size, what="as many wait as can listen")
        for attempt in attempts:
            end(store, attempt, "succeeded", int(json.loads(attempt.job.args or "[]")[0]))
        assert [one.result() for one in found] == list(range(20))


def test_a_thread_that_waits_can_be_interrupted_by_its_timeout(shop: PgQueue) -> None:
    result = shop.tasks["t.add"].delay(1)
    started = threading.Event()

    def wait() -> str:
        started.set()
        before = time.monotonic()
        try:
            result.get(timeout=0.3)
        except TimeoutError:
            return "late" if time.monotonic() - before < 0.3 else "in time"
        return "finished"

    with ThreadPoolExecutor() as pool:
        assert pool.submit(wait).result() == "in time"


def test_an_ignored_result_is_none(shop: PgQueue, store: Store) -> None:
    result = shop.tasks["t.add"].apply_async((1,), ignore_result=True)
    end(store, take(store), "succeeded", None)
    assert result.get(timeout=0) is None
    assert result.successful()


def test_options_of_get_that_are_declined(shop: PgQueue) -> None:
    result: Any = shop.AsyncResult("x")
    with pytest.raises(UnsupportedOption, match=r"callback is not supported"):
        result.get(callback=print)
    with pytest.raises(TypeError, match="timout"):
        result.get(timout=1)


async def twins(result: AsyncResult[int]) -> list[Any]:
    found = [
        await result.astate(),
        await result.aresult(),
        await result.aready(),
        await result.asuccessful(),
        await result.afailed(),
        await result.aexists(),
        await result.aget(timeout=1),
    ]
    await result.aforget()
    return [*found, await result.aexists(), await result.arevoke()]


def test_async_twins(shop: PgQueue, store: Store) -> None:
    result = shop.tasks["t.add"].delay(1)
    end(store, take(store), "succeeded", 2)
    assert asyncio.run(twins(result)) == ["SUCCESS", 2, True, True, False, True, 2, False, False]


def test_what_is_no_timeout(shop: PgQueue) -> None:
    for wrong in ("x", True, float("nan"), [1]):
        with pytest.raises(ValidationError, match=r"^timeout: expected seconds as a number, or None, got "):
            shop.AsyncResult("order-17").get(timeout=wrong)  # type: ignore[arg-type]  # that is what is tried
        with pytest.raises(ValidationError, match=r"^timeout: expected seconds"):
            shop.ResultSet([shop.AsyncResult("order-17")]).join(timeout=wrong)  # type: ignore[arg-type]  # as above


def test_a_wait_for_a_job_that_is_not_there_says_so(shop: PgQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(waiting_room, "_PATIENCE", 0.0)
    lost = shop.AsyncResult("order-17")
    told = "no such job: rolled back, or not committed yet\\?"
    with (
        pytest.warns(RuntimeWarning, match=f"has waited for 0 s for job order-17: {told}") as warned,
        pytest.raises(TimeoutError, match=f"job order-17 did not finish within 0.2 s: {told}"),
    ):
        lost.get(timeout=0.2)
    assert [each.filename for each in warned] == [__file__]
    with (
        pytest.warns(RuntimeWarning, match=told),
        pytest.raises(TimeoutError, match=told),
    ):
        asyncio.run(lost.aget(timeout=0.2))
    there = shop.tasks["t.add"].delay(1)
    with (
        pytest.warns(RuntimeWarning, match="no live worker serves its queue"),
        pytest.raises(TimeoutError, match=r"within 0.2 s$"),
    ):
        there.get(timeout=0.2)


def test_a_timeout_names_the_job_as_its_caller_does(shop: PgQueue) -> None:
    with pytest.raises(TimeoutError, match="job order-17 did not finish within 0 s"):
        shop.AsyncResult("order-17").get(timeout=0)
