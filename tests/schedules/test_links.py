"""What is linked to a schedule follows each of its jobs, whoever fires the tick."""

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from psycopg.types.json import Jsonb

from pgqueue import PgQueue, ValidationError, chord, group
from pgqueue.store.schedules import declare_schedules, fire_ticks
from pgqueue.store.statement import run
from pgqueue.worker.scheduler import fire_batch
from tests.support.process import wait_until

NOON = datetime(2026, 6, 1, 12, tzinfo=UTC)


@pytest.fixture
def shop(dsn: str) -> Iterator[PgQueue]:
    app = PgQueue("shop", dsn=dsn, worker_poll_interval=0.05)

    @app.task(name="shop.bill", queue="money")
    def bill(tenant: int) -> int:
        if tenant < 0:
            raise ValueError("no such tenant")
        return tenant

    @app.task(name="shop.add", ignore_result=True)
    def add(x: int, y: int = 0) -> int:
        return x + y

    @app.task(name="shop.total")
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task(name="shop.note")
    def note(*about: Any) -> str:
        return type(about[1]).__name__ if len(about) > 1 else repr(about)

    yield app
    app.close()


def fire(shop: PgQueue, dsn: str, *ticks: datetime, name: str = "s") -> int:
    """Enqueue the jobs of ticks, as a scheduler does."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        row = connection.execute("select id from pgqueue.schedules where name = %s", [name]).fetchone()
        assert row is not None
        return run(connection, fire_ticks(shop.queries, row[0], ticks))


def ended(shop: PgQueue, dsn: str) -> list[tuple[Any, ...]]:
    """Run a worker until all jobs have ended; task, state and result of each, in the order of their making."""
    query = "select task, state, result from pgqueue.finished_jobs where task like 'shop.%' order by seq"
    with shop.worker(pool="threads"), psycopg.connect(dsn, autocommit=True) as connection:
        left = "select count(*) from pgqueue.live_jobs"
        wait_until(lambda: connection.execute(left).fetchone() == (0,), what="the jobs end")
        return connection.execute(query).fetchall()


def test_each_tick_is_followed_by_what_is_linked(shop: PgQueue, dsn: str) -> None:
    add, note = shop.tasks["shop.add"], shop.tasks["shop.note"]
    shop.schedules.upsert(
        "s",
        task="shop.bill",
        schedule=60,
        args=[7],
        options={"link": [add.s(1), note.si("done").set(queue="money", priority=4)], "link_error": note.s()},
    )
    assert fire(shop, dsn, NOON, NOON + timedelta(minutes=1)) == 2
    with psycopg.connect(dsn) as connection:
        made = connection.execute(
            "select task, state, queue, priority, headers ->> 'scheduled_for', id = root_id or root_id is null,"
            " count(*) over (partition by workflow_id)"
            " from pgqueue.live_jobs order by workflow_id, seq limit 4"
        ).fetchall()
    assert made == [
        ("shop.bill", "available", "money", 0, "2026-06-01T12:00:00.000000+00:00", True, 4),
        ("shop.add", "waiting", "default", 0, None, False, 4),
        ("shop.note", "waiting", "money", 4, None, False, 4),
        ("shop.note", "waiting", "default", 0, None, False, 4),
    ]
    found = ended(shop, dsn)
    assert sorted(found) == sorted(
        2 * [("shop.bill", "succeeded", 7), ("shop.add", "succeeded", None), ("shop.note", "succeeded", "('done',)")]
        + [each for each in found if each[1] == "skipped"]
    )
    assert fire(shop, dsn, NOON) == 0


def test_what_fails_is_followed_by_its_error_callback(shop: PgQueue, dsn: str) -> None:
    note = shop.tasks["shop.note"]
    shop.schedules.upsert("s", task="shop.bill", schedule=60, args=[-1], options={"link_error": note.s()})
    fire(shop, dsn, NOON)
    failed, noted = ended(shop, dsn)
    assert (failed[:2], noted) == (("shop.bill", "failed"), ("shop.note", "succeeded", "ValueError"))


def test_a_canvas_follows_a_run_by_hand(shop: PgQueue, dsn: str) -> None:
    add, total, bill = (shop.tasks[name] for name in ("shop.add", "shop.total", "shop.bill"))
    after = chord(group(add.s(1), add.s(2)), total.s())
    shop.schedules.upsert("s", task=bill, schedule=60, args=[7], options={"link": after})
    shop.schedules.run("s")
    assert ended(shop, dsn)[-1] == ("shop.total", "succeeded", 17)


def test_the_code_declares_the_same_each_time(dsn: str) -> None:
    def declared() -> tuple[str, str, list[str]]:
        app = PgQueue("shop", dsn=dsn)
        add = app.task(name="shop.add")(lambda *values: None)
        app.add_periodic_task(60, add.s(1), name="a", link=group(add.s(1), add.s(2)) | add.s(), link_error=add.si(3))
        return app.schedules.definitions.declarations()

    first = declared()
    assert first == declared()
    with PgQueue("shop", dsn=dsn) as app, psycopg.connect(dsn, autocommit=True) as connection:
        run(connection, declare_schedules(app.queries, "shop", first[0], None, ["shop.add"], first[1]))
        app.schedules.upsert("plain", task="shop.add", schedule=60, check_task=False)
        begin = datetime.now(UTC)
        while fire_batch(connection, app.queries, begin)[0]:
            pass
        assert fire_batch(connection, app.queries, begin + timedelta(seconds=90)) == (2, 2)
        made = connection.execute(
            "select headers ->> 'schedule', state from pgqueue.live_jobs where headers is not null order by 1"
        ).fetchall()
    assert made == [("a", "available"), ("plain", "available")]


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"eta": NOON}, "options: eta is not for schedules: the tick is its eta; give countdown, or start_at"),
        ({"task_id": "x"}, "options: task_id is not for schedules: each tick makes a job of its own"),
        ({"on_duplicate": "return"}, "options: on_duplicate is not for schedules: "),
        ({"connection": 1}, "options: connection is not for schedules: pass it to upsert"),
    ],
)
def test_options_of_one_job_are_refused_with_the_reason(shop: PgQueue, options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        shop.schedules.upsert("s", task="shop.bill", schedule=60, args=[1], options=options)


def test_a_link_with_an_id_of_its_own_is_refused(shop: PgQueue) -> None:
    link = shop.tasks["shop.add"].s(1).set(task_id="x")
    with pytest.raises(ValidationError, match=r"options: link: task_id of 'shop.add' is not for schedules"):
        shop.schedules.upsert("s", task="shop.bill", schedule=60, args=[1], options={"link": link})
    assert shop.schedules.list() == []


@pytest.mark.parametrize(
    "change",
    [
        {"steps": []},
        {"steps": [{"task": "a b", "queue": "q", "priority": 0}]},
        {"steps": [{"task": "t", "queue": "q", "priority": 10}]},
        {"steps": [{"task": "t", "queue": "q", "priority": 0, "args": "{}"}]},
        {"steps": [{"task": "t", "queue": "q", "priority": 0, "args": "[1"}]},
        {"steps": [{"task": "t", "queue": "q", "priority": 0, "run": "settle"}]},
        {"edges": []},
        {"edges": [[1, 1, 0, "value", "stop"]]},
        {"edges": [[0, 2, 0, "value", "stop"]]},
        {"edges": [[-1, 1, 0, "value", "stop"]]},
        {"edges": [[0, 1, 0, "values", "stop"]]},
        {"edges": [[0, 1, 0, "value", "stop"], [0, 1, 0, "value", "stop"]]},
        {"keep": "long"},
    ],
)
def test_steps_written_by_sql_are_checked(shop: PgQueue, dsn: str, change: dict[str, Any]) -> None:
    link = shop.tasks["shop.add"].s(1)
    shop.schedules.upsert("s", task="shop.bill", schedule=60, args=[1], options={"link": link})
    kept = shop.schedules.get("s").options
    assert kept["linked"]["edges"] == [[0, 1, 0, "value", "stop"]]
    shop.schedules.upsert("s", task="shop.bill", schedule=60, args=[1], options=kept)
    assert shop.schedules.get("s").options == kept
    with pytest.raises(ValidationError, match="options: linked: give link and link_error, or what they made before"):
        shop.schedules.upsert("s", task="shop.bill", schedule=60, args=[1], options={**kept, "link": link})
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update pgqueue.schedules set options = %s", [Jsonb(kept)])
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="options: linked: what link and link_error"):
            connection.execute(
                "update pgqueue.schedules set options = %s", [Jsonb({"linked": {**kept["linked"], **change}})]
            )
