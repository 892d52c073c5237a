"""Running inline: calls, apply(), task_always_eager, retries, what a task sees of itself."""

import asyncio
import contextlib
from typing import Any

import pytest

from pgqueue import (
    ConfigurationError,
    EagerResult,
    Ignore,
    MaxRetriesExceededError,
    PgQueue,
    PgQueueError,
    Reject,
    Retry,
    UnsupportedOption,
    ValidationError,
    current_connection,
)
from pgqueue.errors import Snooze
from pgqueue.request import Request, current_request
from pgqueue.retry import linear


@pytest.fixture
def eager() -> PgQueue:
    """An application that never meets a database."""
    return PgQueue("eager", dsn="postgresql://nobody@127.0.0.1:1/none", task_always_eager=True)


def test_a_call_runs_the_function(eager: PgQueue) -> None:
    @eager.task(bind=True, name="t.show")
    def show(self: Any, x: int) -> tuple[int, bool, str | None, list[Any]]:
        return x, self.request.called_directly, self.request.id, self.request.args

    @eager.task(name="t.fetch")
    async def fetch(x: int) -> int:
        await asyncio.sleep(0)
        return x + 1

    assert show(3) == (3, True, None, [3])
    assert asyncio.run(fetch(3)) == 4
    assert show.__name__ == "show"
    assert show.request.called_directly
    with pytest.raises(TypeError):
        show(1, 2)  # type: ignore[call-arg] # what is tested


def test_apply_gives_the_outcome(eager: PgQueue) -> None:
    @eager.task(name="t.div")
    def div(x: int, y: int) -> float:
        return x / y

    @eager.task(name="t.fetch")
    async def fetch(x: int) -> int:
        return x + 1

    found = div.apply((4, 2))
    assert isinstance(found, EagerResult)
    assert (found.state, found.get(), found.ready(), found.successful(), found.result) == ("SUCCESS", 2, True, True, 2)
    failed = div.apply((1, 0))
    assert (failed.state, failed.failed(), type(failed.result)) == ("FAILURE", True, ZeroDivisionError)
    assert "div" in str(failed.traceback)
    with pytest.raises(ZeroDivisionError):
        failed.get()
    with pytest.raises(ZeroDivisionError):
        div.apply((1, 0), throw=True)
    assert fetch.apply((1,)).get() == 2
    assert fetch.s(1)() == 2

    async def inside() -> int:
        with pytest.raises(PgQueueError, match="await"):
            fetch.apply((1,))
        return await (await fetch.adelay(1)).aget()

    assert asyncio.run(inside()) == 2


def test_always_eager_needs_no_database(eager: PgQueue) -> None:
    @eager.task(name="t.add")
    def add(x: int, y: int = 1) -> int:
        return x + y

    assert add.delay(1).get() == 2
    assert add.apply_async((1,), {"y": 5}, task_id="mine").id == "mine"
    assert eager.send_task("t.add", (1,)).get() == 2
    assert [one.get() for one in eager.enqueue_many([add.s(1), add.s(2)])] == [2, 3]
    assert asyncio.run(add.adelay(3)).get() == 4
    wrong: Any = add
    with pytest.raises(TypeError):
        wrong.delay()


def test_autoretry_and_retry_run_at_once(eager: PgQueue) -> None:
    seen: list[int] = []

    @eager.task(
        name="t.auto", bind=True, autoretry_for=(OSError,), dont_autoretry_for=(FileNotFoundError,), max_retries=3
    )
    def auto(self: Any, missing: bool = False) -> str:
        seen.append(self.request.retries)
        if missing:
            raise FileNotFoundError
        if len(seen) < 3:
            raise OSError("again")
        return "done"

    @eager.task(name="t.own", bind=True, max_retries=2)
    def own(self: Any, left: int, to: list[int]) -> str:
        to.append(left)
        if left:
            self.retry(args=(left - 1, to), countdown=60)
        return f"after {self.request.retries}"

    assert auto.apply().get() == "done"
    assert seen == [0, 1, 2]
    assert auto.apply((True,)).state == "FAILURE"
    assert own.apply((2, [])).get() == "after 2"
    exhausted = own.apply((3, []))
    assert isinstance(exhausted.result, MaxRetriesExceededError)


def job(**fields: Any) -> Request:
    return Request("00000000-0000-7000-8000-000000000001", "t", called_directly=False, token=5, **fields)


def test_what_retry_asks_of_the_worker(eager: PgQueue) -> None:
    @eager.task(name="t.own", bind=True, max_retries=2, default_retry_delay=9)
    def own(self: Any, x: int, y: int = 0) -> None: ...

    mark = current_request.set(job(args=[1], kwargs={"y": 2}, timelimit=(50.0, None)))
    try:
        with pytest.raises(Retry) as plain:
            own.retry()
        assert (plain.value.when, plain.value.changes, plain.value.exc) == (9.0, None, None)
        changed = own.retry(
            kwargs={"y": 3}, countdown=4, queue="slow", priority=7, expires=30, soft_time_limit=20, throw=False
        )
        assert changed.when == 4.0
        assert changed.changes == {
            "args": "[1]",
            "kwargs": '{"y":3}',
            "queue": "slow",
            "priority": 7,
            "expires_in": 30.0,
            "options": {"time_limit": 50.0, "soft_time_limit": 20.0, "ignore_result": False},
        }
        cause = OSError("cause")
        with contextlib.suppress(OSError):
            try:
                raise cause
            finally:
                handled = own.retry(throw=False)
        assert handled.exc is cause
        for wrong in ({"countdown": -1}, {"countdown": 1, "eta": "2030-01-01"}, {"priority": 10}, {"kwargs": {"z": 1}}):
            options: Any = wrong
            with pytest.raises((ValidationError, TypeError)):
                own.retry(**options)
    finally:
        current_request.reset(mark)
    mark = current_request.set(job(attempt=3))
    try:
        with pytest.raises(MaxRetriesExceededError):
            own.retry()
        with pytest.raises(OSError, match="cause"):
            own.retry(exc=cause)
        assert own.retry(max_retries=3, throw=False).when == 9.0
        own.request.max_retries = 5
        assert own.retry(throw=False).when == 9.0
    finally:
        current_request.reset(mark)
    with pytest.raises(Retry):
        own.retry()
    with pytest.raises(OSError, match="direct"):
        own.retry(exc=OSError("direct"))


def test_control_flow(eager: PgQueue) -> None:
    @eager.task(name="t.flow")
    def flow(error: Exception) -> None:
        raise error

    assert [flow.apply((error,)).state for error in (Ignore(), Reject("no"), ValueError())] == [
        "IGNORED",
        "REJECTED",
        "FAILURE",
    ]


def test_update_state_never_ends_a_job(eager: PgQueue) -> None:
    reports: list[tuple[str, int, str]] = []

    @eager.task(name="t.report", bind=True)
    def report(self: Any, state: str | None, meta: Any = None, task_id: str | None = None) -> None:
        self.update_state(task_id, state, meta)

    from pgqueue.request import progress_sink

    sink = progress_sink.set(lambda job_id, token, text: reports.append((job_id, token, text)))
    mark = current_request.set(job())
    try:
        report.update_state(state="HALF", meta={"done": 1})
        report.update_state()
        for state in ("SUCCESS", "FAILURE", "REVOKED", "x" * 65, "a\n"):
            with pytest.raises(ValidationError, match="state"):
                report.update_state(state=state)
        with pytest.raises(ValidationError, match="own job"):
            report.update_state("other", "HALF")
        with pytest.raises(ValidationError):
            report.update_state(state="HALF", meta=object())
    finally:
        current_request.reset(mark)
        progress_sink.reset(sink)
    assert [text for _, _, text in reports] == [
        '{"state":"HALF","meta":{"done":1}}',
        '{"state":"PROGRESS","meta":null}',
    ]
    assert {(job_id, token) for job_id, token, _ in reports} == {("00000000-0000-7000-8000-000000000001", 5)}
    assert report.apply(("HALF",)).successful()
    with pytest.raises(PgQueueError, match="transactional"):
        current_connection()


def test_a_policy_is_asked_and_a_snooze_ends_the_call(eager: PgQueue) -> None:
    @eager.task(bind=True, name="t.ask", retry_policy=lambda attempt, *_: 100 if attempt < 4 else None)
    def ask(self: Any) -> None:
        raise OSError(f"{self.request.retries} retries")

    @eager.task(bind=True, name="t.poll")
    def poll(self: Any) -> None:
        self.snooze(60)

    with pytest.raises(OSError, match="3 retries"):
        ask.apply().get()
    snoozed = poll.apply()
    assert snoozed.state == "RETRY"
    assert isinstance(snoozed.result, Snooze)
    assert linear(5)(2, OSError(), 0, None) == 10


def test_apply_takes_callbacks_and_refuses_what_celery_alone_has(eager: PgQueue) -> None:
    told: list[Any] = []

    @eager.task(name="t.half")
    def half(x: int) -> int:
        if x % 2:
            raise ValueError("odd")
        return x // 2

    @eager.task(name="t.tell")
    def tell(value: Any) -> None:
        told.append(value)

    assert half.apply([8], link=tell.s()).get() == 4
    assert told == [4]
    failed = half.apply([7], link_error=tell.si("failed"), task_id="mine")
    assert (failed.state, failed.id, told) == ("FAILURE", "mine", [4, "failed"])
    with pytest.raises(ValueError, match="odd"):
        half.apply([7], link=tell.s(), throw=True)
    wrong: Any = half.apply
    with pytest.raises(UnsupportedOption, match="shadow is not supported"):
        wrong([8], shadow="x")
    with pytest.raises(ConfigurationError, match="no option 'lnik'"):
        wrong([8], lnik=tell.s())


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("priority", 77),
        ("countdown", -1),
        ("queue", "a b"),
        ("eta", "soon"),
        ("headers", {"task_id": 1}),
        ("task_id", ""),
    ],
)
def test_options_are_checked_as_if_the_call_were_enqueued(eager: PgQueue, option: str, value: Any) -> None:
    @eager.task(name="t.plain")
    def plain() -> None: ...

    given: Any = {option: value}
    with pytest.raises(ValidationError, match=option):
        plain.apply_async((), {}, **given)
    with pytest.raises(ValidationError, match=option):
        asyncio.run(plain.aapply_async((), {}, **given))


def test_a_call_may_limit_its_retries(eager: PgQueue) -> None:
    tries: list[int] = []

    @eager.task(bind=True, name="t.ask", autoretry_for=(OSError,), max_retries=5)
    def ask(self: Any) -> None:
        tries.append(self.request.retries)
        raise OSError("down")

    assert ask.apply_async(max_retries=1).state == "FAILURE"
    assert tries == [0, 1]
