"""delay, apply_async, send_task, enqueue_many: what comes in, and bad input refused before anything is written."""

import asyncio
import datetime
import enum
import math
import os
import signal
import subprocess
import sys
import threading
import uuid
from collections.abc import Iterator
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest

import pgqueue
from pgqueue import (
    ArgumentsError,
    ConfigurationError,
    DatabaseUnavailable,
    DuplicateJob,
    EncodingError,
    LimitExceeded,
    PgQueue,
    PgQueueError,
    SchemaError,
    Signature,
    UnknownTask,
    UnsupportedOption,
    ValidationError,
)
from pgqueue.job import as_job_id, new_job_id, new_job_ids
from tests.store.store import Store
from tests.support.cluster import Cluster
from tests.support.process import REPOSITORY

NOW = datetime.datetime.now(datetime.UTC)


def count(store: Store) -> int:
    return int(store.value("select count(*) from pgqueue.live_jobs"))


@pytest.fixture
def nothing_written(store: Store) -> Iterator[None]:
    """Fails the test if it leaves a job behind."""
    yield
    assert count(store) == 0


# what is written


def test_delay_writes_the_call(shop: PgQueue, store: Store) -> None:
    result = shop.tasks["t.add"].delay(1, y=2)
    row = store.live(result.id)
    assert (row["task"], row["queue"], row["priority"], row["state"]) == ("t.add", "default", 0, "available")
    assert (row["args"], row["kwargs"], row["options"], row["headers"]) == ("[1]", '{"y":2}', None, None)
    assert uuid.UUID(result.id).version == 7


def test_every_option_is_in_the_row(shop: PgQueue, store: Store) -> None:
    result = shop.tasks["t.add"].apply_async(
        (1,),
        {"y": 2},
        task_id="invoice-17",
        countdown=datetime.timedelta(hours=1),
        expires=7200,
        priority=9,
        queue="mail",
        headers={"who": "me"},
        ignore_result=True,
        time_limit=30,
        soft_time_limit=20,
        max_retries=7,
    )
    assert result.id == "invoice-17"
    assert result.job_id == as_job_id("invoice-17")[0]
    row = store.live(result.job_id)
    assert (row["queue"], row["priority"], row["state"]) == ("mail", 9, "scheduled")
    assert store.value(
        "select run_at - enqueued_at = '1 hour' and expires_at - enqueued_at = '2 hours' from pgqueue.live_jobs"
    )
    assert store.value("select headers::text::jsonb from pgqueue.live_jobs") == {"who": "me", "task_id": "invoice-17"}
    assert store.value("select options::text::jsonb from pgqueue.live_jobs") == {
        "time_limit": 30,
        "soft_time_limit": 20,
        "max_retries": 7,
        "ignore_result": True,
    }


def test_a_naive_eta_is_in_the_time_zone_of_the_app(dsn: str, store: Store) -> None:
    with PgQueue("zoned", dsn=dsn, timezone="Asia/Tokyo") as app:
        tomorrow = (NOW + datetime.timedelta(days=1)).replace(tzinfo=None)
        app.send_task("t", eta=tomorrow, expires=tomorrow)
        app.send_task("t", eta=tomorrow.isoformat())
    for (run_at,) in store.rows("select extract(epoch from run_at)::float8 from pgqueue.live_jobs"):
        assert run_at == pytest.approx(tomorrow.replace(tzinfo=ZoneInfo("Asia/Tokyo")).timestamp())
    assert store.value("select count(*) from pgqueue.live_jobs where expires_at = run_at") == 1


def test_times_that_are_over(shop: PgQueue, store: Store) -> None:
    past = NOW - datetime.timedelta(days=1)
    shop.tasks["t.add"].apply_async((1,), eta=past)
    shop.tasks["t.add"].apply_async((1,), expires=past)
    shop.tasks["t.add"].apply_async((1,), expires=-3)
    assert store.rows("select state, expires_at <= enqueued_at from pgqueue.live_jobs order by seq") == [
        ("available", None),
        ("available", True),
        ("available", True),
    ]


def test_options_of_the_task_the_route_and_the_call(dsn: str, store: Store) -> None:
    routes = [("mail.*", {"queue": "mail", "priority": 2}), (lambda name, *_, **__: "asked" if name == "ask" else None)]
    with PgQueue("routed", dsn=dsn, task_routes=routes, task_default_priority=1) as app:

        @app.task(name="mail.own", queue="own", expires=60)
        def own() -> None: ...

        @app.task(name="mail.routed")
        def routed() -> None: ...

        @app.task(name="ask")
        def ask() -> None: ...

        own.delay()
        own.apply_async(queue="call", priority=5, expires=None)
        routed.delay()
        ask.delay()
        app.send_task("mail.elsewhere")
        app.enqueue_many([own.s(), routed.s(), ask.s(), app.signature("elsewhere")])
    assert store.rows("select task, queue, priority, expires_at is not null from pgqueue.live_jobs order by seq") == [
        ("mail.own", "own", 2, True),
        ("mail.own", "call", 5, False),
        ("mail.routed", "mail", 2, False),
        ("ask", "asked", 1, False),
        ("mail.elsewhere", "mail", 2, False),
        ("mail.own", "own", 2, True),
        ("mail.routed", "mail", 2, False),
        ("ask", "asked", 1, False),
        ("elsewhere", "default", 1, False),
    ]


def test_annotations_change_options_from_outside(dsn: str) -> None:
    changes = {"*": {"time_limit": 9}, "t.one": {"max_retries": 8, "queue": "changed"}}
    with PgQueue("annotated", dsn=dsn, task_annotations=changes) as app:

        @app.task(name="t.one", max_retries=1)
        def one() -> None: ...

        assert (one.time_limit, one.max_retries, one.policy.max_retries, one.queue) == (9, 8, 8, "changed")
        assert one.delay().queue == "changed"


def test_a_setting_counts_until_the_app_first_runs_and_is_frozen_then(dsn: str, store: Store) -> None:
    with PgQueue("late", dsn=dsn) as app:

        @app.task(name="t.one")
        def one() -> None: ...

        before = one.time_limit
        app.conf.task_default_queue = "late"
        app.conf.task_time_limit = 5
        one.delay()
        assert (before, one.time_limit) == (None, 5)
        with pytest.raises(ConfigurationError, match="frozen"):
            app.conf.task_default_queue = "later"
    assert store.value("select queue from pgqueue.live_jobs") == "late"


# signatures


def test_signatures_merge_as_in_celery(shop: PgQueue, store: Store) -> None:
    add = shop.tasks["t.add"]
    add.s(2).delay(1)
    add.s(1, y=2).apply_async(kwargs={"y": 3})
    add.si(1).delay(5, y=7)
    add.s(1).set(queue="a", priority=1).apply_async(queue="b")
    add.s().clone((4,), {"y": 5}).delay()
    assert store.rows("select args::text, kwargs::text, queue, priority from pgqueue.live_jobs order by seq") == [
        ("[1,2]", None, "default", 0),
        ("[1]", '{"y":3}', "default", 0),
        ("[1]", None, "default", 0),
        ("[1]", None, "b", 1),
        ("[4]", '{"y":5}', "default", 0),
    ]


def test_a_signature_goes_through_json(shop: PgQueue) -> None:
    import json

    when = NOW + datetime.timedelta(days=2)
    given = shop.tasks["t.add"].s(datetime.date(2026, 1, 2), y={1, 2}).set(eta=when, queue="mail")
    back = Signature.from_dict(json.loads(json.dumps(given.to_dict())), shop.client)
    assert back.args == (datetime.date(2026, 1, 2),)
    assert back.kwargs == {"y": {1, 2}}
    assert back.options == {"eta": when.isoformat(), "queue": "mail"}
    assert pgqueue.signature(given.to_dict(), app=shop.client) == back


def test_signatures_that_cannot_be_sent_or_read() -> None:
    with pytest.raises(ConfigurationError, match="belongs to no application"):
        Signature("t.add").delay()
    for bad in ({}, {"task": 1}, {"task": "t", "subtask_type": "herd"}, {"task": "t", "args": [object()]}):
        with pytest.raises(ValidationError, match="signature"):
            Signature.from_dict(bad)


# many


def test_many_in_one_statement(shop: PgQueue, store: Store) -> None:
    add = shop.tasks["t.add"]
    found = shop.enqueue_many(
        add.s(i).set(priority=i % 3, countdown=60 if i % 2 else None, headers={"i": i} if i == 5 else None)
        for i in range(2000)
    )
    assert len({result.id for result in found}) == 2000
    rows = store.rows("select args::text, priority, state, headers::text from pgqueue.live_jobs order by seq")
    assert rows[4:7] == [
        ("[4]", 1, "available", None),
        ("[5]", 2, "scheduled", '{"i":5}'),
        ("[6]", 0, "available", None),
    ]
    assert store.value("select count(distinct xmin::text) from pgqueue.live_jobs") == 1
    assert store.live(found[5].id)["args"] == "[5]"


def test_ids_made_together_are_those_made_one_by_one() -> None:
    ids = [new_job_id(), *new_job_ids(20_000), new_job_id(), *new_job_ids(3), *new_job_ids(0), new_job_id()]
    assert len(ids) == 20_006
    assert sorted(set(ids)) == ids
    for one in ids[::97]:
        found = uuid.UUID(one)
        assert (str(found), found.version, found.variant) == (one, 7, uuid.RFC_4122)


def test_many_of_nothing(shop: PgQueue, store: Store) -> None:
    assert shop.enqueue_many([]) == []
    assert count(store) == 0


@pytest.mark.usefixtures("nothing_written")
def test_many_are_all_or_none_and_the_bad_one_is_named(shop: PgQueue, dsn: str) -> None:
    add = shop.tasks["t.add"]

    def breaks() -> Iterator[Any]:
        yield add.s(1)
        raise OSError("generator broke")

    bad: list[tuple[Any, type[Exception], str]] = [
        (add.s(float("nan")), EncodingError, r"signature 3: args\[0\]"),
        (add.s(1, 2, 3), ArgumentsError, "signature 3: t.add"),
        (add.s(1).set(priority=10), ValidationError, "signature 3: priority"),
        (add.s(1).set(connection=object()), ValidationError, "signature 3: connection"),
        ("t.add", ValidationError, "signature 3: expected a signature"),
        (shop.signature("no spaces"), ValidationError, "signature 3: task"),
    ]
    for one, error, match in bad:
        with pytest.raises(error, match=match):
            shop.enqueue_many([add.s(0), add.s(1), add.s(2), one, add.s(4)])
    with pytest.raises(OSError, match="generator broke"):
        shop.enqueue_many(breaks())
    with pytest.raises(DuplicateJob, match=r"signature 1: .*used twice"):
        shop.enqueue_many([add.s(1).set(task_id="a"), add.s(1).set(task_id="a")])


def test_many_with_ids_of_kept_jobs(shop: PgQueue, store: Store) -> None:
    add = shop.tasks["t.add"]
    add.apply_async((1,), task_id="live")
    add.apply_async((1,), task_id="finished", queue="q")
    store.finish(store.claim(store.worker(), queues=["q"]))
    for name in ("live", "finished"):
        with pytest.raises(DuplicateJob, match=f"signature 1: .*'{name}'") as caught:
            shop.enqueue_many([add.s(1), add.s(1).set(task_id=name)])
        assert caught.value.job_id == name
    assert count(store) == 1
    found = shop.enqueue_many([add.s(1), add.s(1).set(task_id="new")])
    assert found[1].id == "new"
    assert count(store) == 3


# duplicates


def test_a_kept_id_is_refused_or_returned(shop: PgQueue, store: Store) -> None:
    add = shop.tasks["t.add"]
    for name in ("order 1", "🐘", str(uuid.uuid4()), "x" * 255, str(uuid.uuid4()).upper()):
        first = add.apply_async((1,), task_id=name)
        with pytest.raises(DuplicateJob) as caught:
            add.apply_async((2,), task_id=name)
        assert caught.value.job_id == first.id
        assert add.apply_async((2,), task_id=name, on_duplicate="return") == first
        assert shop.AsyncResult(name).args == [1]
        assert shop.AsyncResult(first.id) == first
    store.finish(store.claim(store.worker()))
    with pytest.raises(DuplicateJob):
        add.apply_async((2,), task_id="order 1")
    assert count(store) == 0


def test_one_of_many_threads_gets_the_id(shop: PgQueue, store: Store) -> None:
    add = shop.tasks["t.add"]
    outcomes: list[bool] = []
    start = threading.Barrier(8)

    def send() -> None:
        start.wait()
        try:
            add.apply_async((1,), task_id="one")
            outcomes.append(True)
        except DuplicateJob:
            outcomes.append(False)

    threads = [threading.Thread(target=send) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == [False] * 7 + [True]
    assert count(store) == 1


# bad input


class Level(enum.IntEnum):
    HIGH = 9


BAD_OPTIONS: list[tuple[dict[str, Any], str]] = [
    *(
        ({"countdown": value}, "countdown")
        for value in (-1, math.nan, math.inf, 1e30, datetime.timedelta.max, "5", True)
    ),
    ({"countdown": 1, "eta": datetime.datetime(2030, 1, 1, tzinfo=datetime.UTC)}, "not both"),
    *(
        ({"eta": value}, "eta")
        for value in (
            datetime.datetime.max.replace(tzinfo=datetime.UTC),
            datetime.datetime.min.replace(tzinfo=datetime.UTC),
            "infinity",
            "soon",
            5,
            datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC),
        )
    ),
    *(
        ({"expires": value}, "expires")
        for value in (
            math.nan,
            math.inf,
            -math.inf,
            1e30,
            True,
            "never",
            datetime.datetime.max.replace(tzinfo=datetime.UTC),
        )
    ),
    *(({"priority": value}, "priority") for value in (10, -1, 99999, True, "high", 1.5)),
    *(({"queue": value}, "queue") for value in ("", "a" * 129, "q;DROP TABLE", "Ünïcode", "mail ", "*", 5, "a\n")),
    *(({"task_id": value}, "task_id") for value in ("", "x" * 256, "a\0b", 7, b"x", "a\nb")),
    *(({"headers": value}, "headers") for value in ([1], {"task_id": 1}, {"x": ...}, {1: 2}, {"x": math.nan})),
    *(({"max_retries": value}, "max_retries") for value in (-1, 1001, 2**31, True, "3", 1.5)),
    *(({"time_limit": value}, "time_limit") for value in (0, -1, math.nan, "30", True)),
    ({"soft_time_limit": 30, "time_limit": 20}, r"soft_time_limit \(30 s\) is longer than time_limit \(20 s\)"),
    ({"ignore_result": "yes"}, "ignore_result"),
    ({"on_duplicate": "ignore"}, "on_duplicate"),
]


@pytest.mark.usefixtures("nothing_written")
@pytest.mark.parametrize(("options", "match"), BAD_OPTIONS, ids=str)
def test_bad_options(shop: PgQueue, options: dict[str, Any], match: str) -> None:
    call: Any = shop.tasks["t.add"]
    for send in (
        lambda: call.apply_async((1,), **options),
        lambda: shop.send_task("elsewhere", (1,), **options),
        lambda: asyncio.run(call.aapply_async((1,), **options)),
    ):
        with pytest.raises(ValidationError, match=match) as caught:
            send()
        assert "\n" not in str(caught.value)
        assert len(str(caught.value)) < 300


def test_values_that_are_subclasses(shop: PgQueue, store: Store) -> None:
    class Name(str):
        pass

    shop.tasks["t.add"].apply_async((Level.HIGH,), priority=Level.HIGH, queue=Name("mail"))
    assert store.rows("select args::text, priority, queue from pgqueue.live_jobs") == [("[9]", 9, "mail")]


@pytest.mark.usefixtures("nothing_written")
def test_options_of_celery_that_are_declined_name_the_way_out(shop: PgQueue) -> None:
    add: Any = shop.tasks["t.add"]
    for name, way_out in {
        "chord": "chord",
        "exchange": "queue",
        "retry_policy": "task_id",
        "shadow": "name",
    }.items():
        with pytest.raises(UnsupportedOption, match=rf"{name} is not supported: .*{way_out}"):
            add.apply_async((1,), **{name: 1})
        with pytest.raises(UnsupportedOption, match=name):
            add.s(1).set(**{name: 1})
    with pytest.raises(ConfigurationError, match="did you mean 'countdown'"):
        add.apply_async((1,), countdwn=1)
    with pytest.raises(UnsupportedOption, match="serializer='pickle'"):
        add.apply_async((1,), serializer="pickle")
    add.apply((1,))


@pytest.mark.usefixtures("nothing_written")
def test_arguments_that_do_not_fit_the_signature(shop: PgQueue) -> None:
    add: Any = shop.tasks["t.add"]
    for args, kwargs in (((), {}), ((1, 2, 3), {}), ((1,), {"x": 2}), ((1,), {"z": 2})):
        for call in (add.delay, lambda *a, **k: add.apply_async(a, k), lambda *a, **k: add.s(*a, **k).delay()):
            with pytest.raises(ArgumentsError, match=r"t\.add\(x: int, y: int = 0\)"):
                call(*args, **kwargs)
    for wrong in ("ab", 5, {"x": 1}):
        with pytest.raises(ValidationError, match="args"):
            add.apply_async(wrong)
    with pytest.raises(ValidationError, match="kwargs"):
        add.apply_async((), [1])


def test_keyword_only_and_open_signatures_and_no_check(shop: PgQueue) -> None:
    @shop.task(name="t.only")
    def only(*, key: int) -> None: ...

    @shop.task(name="t.open")
    def opened(first: int, *rest: int, **more: int) -> None: ...

    @shop.task(name="t.loose", typing=False)
    def loose(x: int) -> None: ...

    @shop.task(name="t.bound", bind=True)
    def bound(self: Any, x: int) -> None: ...

    only.delay(key=1)
    opened.delay(1, 2, 3, a=4)
    bound.delay(1)
    loose_call: Any = loose
    loose_call.delay(1, 2, 3)
    for task, args in ((only, ()), (only, (1,)), (opened, ()), (bound, ()), (bound, (1, 2))):
        wrong: Any = task
        with pytest.raises(ArgumentsError):
            wrong.delay(*args)


@pytest.mark.usefixtures("nothing_written")
def test_arguments_that_cannot_be_stored(shop: PgQueue) -> None:
    add: Any = shop.tasks["t.add"]
    loop: list[Any] = []
    loop.append(loop)
    for value, error, match in (
        (object(), EncodingError, r"args\[0\]"),
        (math.inf, EncodingError, r"args\[0\]"),
        ("\0", EncodingError, "NUL"),
        ("\ud800", EncodingError, "surrogate"),
        (10**5000, LimitExceeded, "digits"),
        (loop, LimitExceeded, "100 levels"),
        ({1: 2}, EncodingError, "key"),
        ("x" * 1_100_000, LimitExceeded, "1,048,576"),
    ):
        with pytest.raises(error, match=match):
            add.delay(value)
        with pytest.raises(error, match=match):
            add.apply_async((value,), priority=1)


def test_large_whole_numbers_stay_exact(shop: PgQueue) -> None:
    assert shop.tasks["t.add"].delay(2**63 + 1).args == [2**63 + 1]
    assert shop.tasks["t.add"].delay(10**400).args == [10**400]


@pytest.mark.usefixtures("nothing_written")
def test_names_that_are_no_tasks(shop: PgQueue) -> None:
    for name in ("", "x" * 256, "with space", "a\0b", "a\nb", 5, None):
        unfit: Any = name
        with pytest.raises(ValidationError, match="task"):
            shop.send_task(unfit)
    with pytest.raises(UnknownTask, match=r"did you mean 't.add'"):
        shop.tasks["t.ad"]
    with pytest.raises(UnknownTask, match="not registered"):
        shop.signature("os.system", ("true",)).apply()


def test_a_foreign_name_is_never_imported(shop: PgQueue) -> None:
    shop.send_task("this.module.does_not_exist", ("x",))
    assert "this" not in sys.modules


# declaring


def test_declarations_that_are_refused(dsn: str) -> None:
    app: Any = PgQueue("declares", dsn=dsn)

    def function() -> None: ...

    for name, way_out in {"base": "decorator", "rate_limit": "queue of its own", "on_failure": "hooks"}.items():
        with pytest.raises(UnsupportedOption, match=way_out):
            app.task(**{name: 1})(function)
    for options, match in (
        ({"max_retires": 3}, "did you mean 'max_retries'"),
        ({"max_retries": -1}, "max_retries"),
        ({"priority": 11}, "priority"),
        ({"queue": "a b"}, "queue"),
        ({"autoretry_for": ("ValueError",)}, "exception classes"),
        ({"soft_time_limit": 5, "time_limit": 4}, "longer"),
        ({"pool": "gevent"}, "threads"),
        ({"retry_backoff": math.nan}, "retry_backoff"),
        ({"name": "a b"}, "name"),
        ({"bind": 1}, "bind"),
    ):
        with pytest.raises(ConfigurationError, match=match):
            app.task(**options)(function)
    with pytest.raises(ConfigurationError, match="a class"):
        app.task(int)


def test_two_tasks_of_one_name_are_refused_with_both_places(shop: PgQueue) -> None:
    with pytest.raises(
        ConfigurationError, match=r"two tasks are named 't.add': .*conftest\.py:\d+ and .*test_calls\.py"
    ):

        @shop.task(name="t.add")
        def other() -> None: ...


def test_a_task_of_main_is_refused_unless_a_worker_is_here(shop: PgQueue, store: Store) -> None:
    def function() -> int:
        return 1

    function.__module__ = "__main__"
    task = shop.task(function)
    assert task() == 1
    assert task.apply().get() == 1
    for send in (task.delay, task.s().delay, lambda: shop.enqueue_many([task.s()]), lambda: shop.send_task(task.name)):
        with pytest.raises(ConfigurationError, match=r"__main__.*move it into a module"):
            send()
    assert count(store) == 0
    shop.embedded_worker_count += 1
    task.delay()
    shop.task(name="named")(function).delay()
    assert count(store) == 2


# processes, threads, signals


def test_many_threads_share_few_connections(dsn: str, store: Store) -> None:
    with PgQueue("threads", dsn=dsn, pool_max_size=3) as app:
        errors: list[BaseException] = []

        def send() -> None:
            try:
                for i in range(25):
                    app.send_task("t", (i,))
            except BaseException as error:
                errors.append(error)

        threads = [threading.Thread(target=send) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert errors == []
        assert count(store) == 400
        sessions = (
            "select count(*) from pg_stat_activity where datname = current_database() and application_name = 'pgqueue'"
        )
        assert 1 <= store.value(sessions) <= 3


def test_enqueueing_starts_no_thread(shop: PgQueue) -> None:
    before = threading.active_count()
    shop.tasks["t.add"].delay(1)
    assert threading.active_count() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork")
def test_a_forked_child_uses_connections_of_its_own(shop: PgQueue, store: Store) -> None:
    add = shop.tasks["t.add"]
    add.delay(1)
    session = store.value("select pid from pg_stat_activity where application_name = 'pgqueue'")
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            add.delay(2)
            shop.close()
            os.write(write, b"ok")
        finally:
            os._exit(0)
    os.close(write)
    assert os.read(read, 10) == b"ok"
    os.close(read)
    os.waitpid(child, 0)
    add.delay(3)
    assert count(store) == 3
    assert store.value("select pid from pg_stat_activity where application_name = 'pgqueue'") == session


@pytest.mark.skipif(not hasattr(signal, "setitimer"), reason="no timer signals")
def test_enqueueing_in_a_signal_handler(shop: PgQueue, store: Store) -> None:
    add = shop.tasks["t.add"]
    sent = 0
    handled = 0

    def handler(*_: Any) -> None:
        nonlocal handled
        add.delay(0)
        handled += 1

    before = signal.signal(signal.SIGALRM, handler)
    try:
        for turn in range(40):
            signal.setitimer(signal.ITIMER_REAL, 0.0001 * (turn % 10 + 1))
            while handled <= turn:
                add.delay(1)
                sent += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert count(store) == sent + handled


def test_after_close_the_error_is_clear(shop: PgQueue) -> None:
    add = shop.tasks["t.add"]
    add.delay(1)
    shop.close()
    shop.close()
    with pytest.raises(PgQueueError, match="closed"):
        add.delay(1)
    with pytest.raises(PgQueueError, match="closed"):
        asyncio.run(add.adelay(1))


def test_event_loops_come_and_go(shop: PgQueue, store: Store) -> None:
    async def several() -> None:
        await asyncio.gather(*(shop.tasks["t.add"].adelay(i) for i in range(30)))
        shop.tasks["t.add"].delay(1)  # blocks the loop, and works

    for _ in range(3):
        asyncio.run(several())
    assert count(store) == 93


def test_an_async_enqueue_that_is_cancelled_leaves_the_pool_whole(dsn: str) -> None:
    async def many(app: PgQueue) -> None:
        for _ in range(1000):
            await app.asend_task("t")

    async def run() -> None:
        with PgQueue("cancelled", dsn=dsn, pool_max_size=1) as app:
            for delay in (0.0, 0.0005, 0.001, 0.002, 0.005):
                with pytest.raises(asyncio.TimeoutError):
                    await asyncio.wait_for(many(app), delay)
            await app.asend_task("t")

    asyncio.run(run())


# the database


def test_an_unreachable_server() -> None:
    with PgQueue("nowhere", dsn="postgresql://u:secret@127.0.0.1:1/none") as app:
        for send in (
            lambda: app.send_task("t"),
            lambda: asyncio.run(app.asend_task("t")),
            lambda: app.AsyncResult("x").state,
        ):
            with pytest.raises(DatabaseUnavailable) as caught:
                send()
            assert "secret" not in str(caught.value)
            assert "\n" not in str(caught.value)


def test_a_database_without_the_schema(empty_dsn: str) -> None:
    with PgQueue("empty", dsn=empty_dsn) as app:
        for send in (
            lambda: app.send_task("t"),
            lambda: asyncio.run(app.asend_task("t")),
            lambda: app.enqueue_many([app.signature("t")]),
            lambda: app.AsyncResult("x").get(timeout=0),
        ):
            with pytest.raises(SchemaError, match="pgqueue migrate"):
                send()


def test_sessions_that_were_ended_are_replaced(shop: PgQueue, store: Store) -> None:
    add = shop.tasks["t.add"]
    end = "select count(pg_terminate_backend(pid, 5000)) from pg_stat_activity where application_name = 'pgqueue'"

    async def run() -> None:
        await add.adelay(1)
        store.rows(end)
        await add.adelay(2)
        store.rows(end)
        await shop.aenqueue_many([add.s(3), add.s(4)])

    add.delay(1)
    for send in (
        lambda: add.delay(2),
        lambda: shop.enqueue_many([add.s(1)]),
        lambda: add.apply_async((1,), task_id="own"),
    ):
        assert store.rows(end) == [(1,)]
        send()
    asyncio.run(run())
    assert count(store) == 8


def test_a_server_that_restarts(private_server: Cluster) -> None:
    from pgqueue.store.schema import migrate

    dsn = private_server.create_database("restarts")
    migrate(dsn)
    with PgQueue("restarts", dsn=dsn) as app:
        app.send_task("t")
        private_server.stop("immediate")
        with pytest.raises(DatabaseUnavailable):
            app.send_task("t")
        private_server.start()
        app.send_task("t")
        with psycopg.connect(dsn) as connection:
            assert connection.execute("select count(*) from pgqueue.live_jobs").fetchone() == (2,)


def test_credentials_are_asked_for_every_connection(dsn: str) -> None:
    asked: list[int] = []

    def credentials() -> str:
        asked.append(1)
        return "token"

    with PgQueue("cloud", dsn=dsn, credentials=credentials) as app:
        app.send_task("t")
        app.send_task("t")
        asyncio.run(app.asend_task("t"))
    assert len(asked) == 2


def test_two_schemas_side_by_side(dsn: str, store: Store) -> None:
    from pgqueue.store.schema import migrate

    migrate(dsn, schema="other")
    with PgQueue("a", dsn=dsn) as ours, PgQueue("b", dsn=dsn, schema="other") as theirs:
        ours.send_task("ours")
        with psycopg.connect(dsn) as connection, theirs.using(connection):
            theirs.send_task("theirs")
            theirs.enqueue_many([theirs.signature("theirs")])
    assert store.rows("select task from pgqueue.live_jobs") == [("ours",)]
    assert store.rows("select task from other.live_jobs") == [("theirs",), ("theirs",)]


# the package


def test_what_the_package_shows() -> None:
    assert {name for name in dir(pgqueue) if not name.startswith("_")} == set(pgqueue.__all__)
    offered: dict[str, object] = {}
    exec("from pgqueue import *", offered)  # noqa: S102 - what a person at a prompt may type
    assert offered.keys() - {"__builtins__"} == set(pgqueue.__all__)
    missing = "connexion"
    with pytest.raises(AttributeError, match="'pgqueue' has no attribute 'connexion'"):
        getattr(pgqueue, missing)
    with pytest.raises(ImportError, match=r"pgqueue.shared_task is not supported: .* write @app.task"):
        from pgqueue import shared_task  # type: ignore[attr-defined] # noqa: F401 - as in Celery


def test_the_package_loads_what_is_asked_for() -> None:
    """--help does without the driver, a room without those above it; a name stays what it is when a room is first."""
    program = (
        "import pgqueue, pgqueue.cli.main, sys; assert 'psycopg' not in sys.modules;"
        "import pgqueue.results.result; assert 'pgqueue.api' not in sys.modules;"
        "import pgqueue.canvas.signatures, pgqueue.workflows.workflow;"
        "assert callable(pgqueue.signature) and pgqueue.Workflow"
    )
    subprocess.run([sys.executable, "-c", program], check=True, cwd=REPOSITORY)


def test_import_loads_neither_libraries_of_connections_nor_the_worker() -> None:
    code = (
        "import sys, pgqueue\n"
        "print([n for n in ('sqlalchemy', 'asyncpg', 'django', 'alembic', 'click', 'psycopg_pool', 'pgqueue.worker')"
        " if n in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout == "[]\n"
