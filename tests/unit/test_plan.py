"""make_plan: what a worker is asked to be, from options, settings and tasks."""

import os
import re
import socket
from typing import Any

import pytest

from pgqueue import ConfigurationError, PgQueue
from pgqueue.worker.plan import make_plan, parse_pools


@pytest.fixture
def app() -> PgQueue:
    """An application that never connects."""
    return PgQueue("shop", dsn="postgresql://nobody@127.0.0.1:1/nowhere")


def with_plain(app: PgQueue, **options: Any) -> None:
    declare: Any = app.task(name="plain", **options)
    declare(lambda: None)


def with_coroutine(app: PgQueue) -> None:
    @app.task(name="coroutine")
    async def coroutine() -> None: ...


@pytest.mark.parametrize(
    ("text", "concurrency", "pools"),
    [
        ("prefork", 3, {"processes": 3}),
        ("processes", None, {"processes": os.cpu_count() or 1}),
        ("threads", 5, {"threads": 5}),
        ("threads", None, {"threads": 16}),
        ("solo", 8, {"solo": 1}),
        ("loop", None, {"loop": 200}),
        ("asyncio:50", None, {"loop": 50}),
        ("processes:2, threads:7", None, {"processes": 2, "threads": 7}),
        ("threads:7,solo", 3, {"threads": 7, "solo": 1}),
        (None, 2, {"processes": 2}),
    ],
)
def test_pools_and_their_sizes(text: str | None, concurrency: int | None, pools: dict[str, int]) -> None:
    assert parse_pools(text, concurrency, "processes") == pools


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("gevent", "threads"),
        ("eventlet:100", "async def"),
        ("fibers", "unknown"),
        ("threads,prefork,threads", "twice"),
        ("prefork,processes", "twice"),
        ("threads:-1", "1 to 10000"),
        ("threads:10001", "1 to 10000"),
        ("threads:0", "1 to 10000"),
    ],
)
def test_pools_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(ConfigurationError, match=message):
        parse_pools(text, None, "processes")


def test_a_coroutine_brings_the_loop_and_a_named_pool_brings_itself(app: PgQueue) -> None:
    with_plain(app, pool="threads")
    with_coroutine(app)
    plan = make_plan(app, concurrency=2)
    assert plan.pools == {"processes": 2, "threads": 16, "loop": 200}
    assert plan.main_pool == "processes"


def test_functions_beside_a_loop_run_in_threads(app: PgQueue) -> None:
    with_plain(app)
    plan = make_plan(app, pool="loop", concurrency=9)
    assert plan.pools == {"loop": 9, "threads": 16}
    assert plan.main_pool == "threads"


def test_a_loop_alone_is_enough_for_coroutines(app: PgQueue) -> None:
    with_coroutine(app)
    assert make_plan(app, pool="loop").pools == {"loop": 200}


def test_inside_a_program_processes_become_threads(app: PgQueue) -> None:
    with_plain(app)
    plan = make_plan(app, in_process=True, concurrency=3)
    assert plan.pools == {"threads": 3}
    assert plan.in_process


def test_queues_are_the_known_ones_unless_they_are_named(app: PgQueue) -> None:
    with_plain(app, queue="mail")
    assert make_plan(app).queues == ("default", "mail")
    assert make_plan(app, exclude_queues=["mail"]).queues == ("default",)
    plan = make_plan(app, queues=["mail", "other", "mail"])
    assert (plan.queues, plan.unknown_queues) == (("mail", "other"), ("other",))
    with pytest.raises(ConfigurationError, match="no queue is left"):
        make_plan(app, queues=["mail"], exclude_queues=["mail"])


def test_the_name_has_its_placeholders_replaced(app: PgQueue) -> None:
    assert make_plan(app).name == f"shop@{socket.gethostname()}"
    host = socket.gethostname()
    assert make_plan(app, name="w-%n-%h-%d").name == f"w-shop-{host}-{host.partition('.')[2]}"


def test_limits_come_from_options_or_settings_and_must_fit(app: PgQueue) -> None:
    app.conf.update(task_time_limit=60, worker_max_tasks_per_child=10)
    plan = make_plan(app, soft_time_limit=30, max_tasks_per_child=5)
    assert (plan.time_limit, plan.soft_time_limit, plan.max_tasks_per_child) == (60, 30, 5)
    assert make_plan(app).max_tasks_per_child == 10
    with pytest.raises(ConfigurationError, match="shorter"):
        make_plan(app, soft_time_limit=60)


def test_autoscale_is_for_processes_and_within_bounds(app: PgQueue) -> None:
    plan = make_plan(app, autoscale=(8, 2))
    assert (plan.pools, plan.autoscale) == ({"processes": 2}, (8, 2))
    for wrong in ((2, 8), (0, 0), (20_000, 1)):
        with pytest.raises(ConfigurationError, match="MOST"):
            make_plan(app, autoscale=wrong)
    with pytest.raises(ConfigurationError, match="processes pool"):
        make_plan(app, pool="threads", autoscale=(8, 2))


def test_worker_queues_are_served_when_none_are_named() -> None:
    app = PgQueue("shop", dsn="postgresql://nobody@127.0.0.1:1/nowhere", worker_queues=["mail", "slow"])
    with_plain(app, queue="other")
    assert make_plan(app).queues == ("mail", "slow")
    assert make_plan(app, exclude_queues=["slow"]).queues == ("mail",)
    assert make_plan(app, queues=["default"]).queues == ("default",)


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("time_limit", "time_limit is not taken: set task_time_limit"),
        ("include", "include is not taken: import the modules"),
        ("autoscale", "autoscale is not taken: there are no child processes here"),
        ("concurency", "there is no option 'concurency'; did you mean 'concurrency'?"),
        ("frob", "there is no option 'frob'; known are burst, "),
    ],
)
def test_a_worker_inside_a_program_heeds_all_that_it_takes(app: PgQueue, option: str, said: str) -> None:
    with pytest.raises(ConfigurationError, match=re.escape(f"app.worker(): {said}")):
        app.worker(**{option: 1})
