"""Schedules that code declares: whose they are, what a deployment does to them, what it must not do."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from pgqueue import ConfigurationError, PgQueue, ValidationError
from pgqueue.schedules import crontab, solar
from pgqueue.store.schedules import declare_schedules
from pgqueue.store.statement import run
from pgqueue.store.workers import register_worker, stop_worker
from pgqueue.worker.beat import scheduler_of

Deploy = Callable[..., dict[str | None, str]]


class Code:
    """One release of an application's code, with workers that run it."""

    def __init__(self, dsn: str, owner: str = "shop", **schedules: Any) -> None:
        self.app = PgQueue(owner, dsn=dsn)
        for task in ("shop.a", "shop.b", "shop.c"):
            self.app.task(name=task)(lambda: None)
        self.app.conf.beat_schedule = {
            name: {"task": "shop.a", **(entry if isinstance(entry, dict) else {"schedule": entry})}
            for name, entry in schedules.items()
        }
        self.connection = psycopg.connect(dsn, autocommit=True)
        self.workers: list[int] = []

    def start(self) -> dict[str | None, str]:
        """A worker with this code starts; what it did to the schedules."""
        queries = self.app.queries
        worker_id = run(
            self.connection,
            register_worker(
                queries,
                name="w",
                hostname="h",
                pid=1,
                instance="i",
                app="shop",
                version="1",
                queues=[],
                tasks=sorted(self.app.tasks),
                at_most_once=[],
                pools="{}",
                lease_seconds=60.0,
            ),
        )
        self.workers.append(worker_id)
        fingerprint, entries, _ = self.app.schedules.definitions.declarations()
        owner = self.app.main or ""
        said = run(
            self.connection,
            declare_schedules(queries, owner, fingerprint, worker_id, sorted(self.app.tasks), entries),
        )
        return dict(said)

    def stop(self, ago: str = "0 s") -> None:
        """Its workers end in order, so long ago."""
        for worker_id in self.workers:
            run(self.connection, stop_worker(self.app.queries, worker_id, 0))
        self.connection.execute(
            "update pgqueue.workers set stopped_at = stopped_at - %s::interval,"
            " heartbeat_at = heartbeat_at - %s::interval where id = any (%s)",
            [ago, ago, self.workers],
        )

    def enabled(self) -> dict[str, bool]:
        """What is in the table."""
        return {each.name: each.enabled for each in self.app.schedules.list()}

    def close(self) -> None:
        self.connection.close()
        self.app.close()


@pytest.fixture
def code(dsn: str) -> Iterator[Callable[..., Code]]:
    made: list[Code] = []

    def make(owner: str = "shop", **schedules: Any) -> Code:
        made.append(Code(dsn, owner, **schedules))
        return made[-1]

    yield make
    for each in made:
        each.close()


def test_all_ways_to_declare(dsn: str) -> None:
    app = PgQueue("shop", dsn=dsn, timezone="Europe/Berlin")

    @app.task(name="shop.add")
    def add(x: int, y: int, z: int = 0) -> int:
        return x + y + z

    @app.periodic_task("*/5 * * * *", catch_up="skip", overlap="skip", name="shop.sweep", queue="low")
    def sweep() -> None: ...

    @app.periodic_task(30.0, schedule_name="twice", args=[1, 2])
    @app.task(name="shop.both")
    def both(x: int, y: int) -> None: ...

    @app.on_after_configure.connect
    def set_up(sender: PgQueue, **_: Any) -> None:
        sender.add_periodic_task(10.0, add.s(1, 2), name="add every 10")
        sender.add_periodic_task(crontab(hour=7, minute=30, day_of_week=1), add.s(3, 4), expires=10, kwargs={"z": 5})
        sender.add_periodic_task(solar("sunset", 52.5, 13.4), add, args=(1, 1), name="evening")

    app.conf.beat_schedule = {
        "nightly": {
            "task": "shop.add",
            "schedule": crontab(hour=2, minute=30),
            "args": (1, 1),
            "timezone": "Asia/Tokyo",
        },
        "beat": {"task": "shop.add", "schedule": 60, "args": (1, 1), "relative": True, "options": {"queue": "q"}},
    }
    app.conf.beat_cron_starting_deadline = 300
    app.finalize()
    with app, psycopg.connect(dsn, autocommit=True) as connection:
        fingerprint, entries, names = app.schedules.definitions.declarations()
        assert app.schedules.definitions.declarations()[0] == fingerprint
        run(connection, declare_schedules(app.queries, "shop", fingerprint, None, sorted(app.tasks), entries))
        found = {each.name: each for each in app.schedules.list("shop")}
    assert sorted(found) == sorted(names)
    assert {name: each.timing.described() for name, each in found.items()} == {
        "shop.sweep": "*/5 * * * *",
        "twice": "every 30 s",
        "add every 10": "every 10 s",
        "shop.add(3, 4, z=5)": "30 7 * * 1",
        "evening": "sunset 52.500000 13.400000",
        "nightly": "30 2 * * *",
        "beat": "every 60 s",
    }
    assert (found["shop.sweep"].catch_up, found["shop.sweep"].overlap) == ("skip", "skip")
    assert found["shop.sweep"].options["queue"] == "low"
    assert found["twice"].args == [1, 2]
    assert (found["shop.add(3, 4, z=5)"].kwargs, found["shop.add(3, 4, z=5)"].options["expires"]) == ({"z": 5}, 10.0)
    assert found["nightly"].timing.timezone == "Asia/Tokyo"
    assert (found["nightly"].starting_deadline, found["beat"].starting_deadline) == (300.0, None)
    assert found["beat"].options["queue"] == "q"
    assert found["beat"].next_run_at is not None
    assert found["beat"].next_run_at.second == 0


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ({"schedule": 1}, "'x': task is missing"),
        ({"task": "t"}, "'x': schedule is missing"),
        ({"task": "t", "schedule": 1, "args_": 1}, "'x': there is no key 'args_'"),
        ({"task": "t", "schedule": "61 * * * *"}, "'x': schedule: minute"),
        ({"task": "t", "schedule": 0}, "'x': schedule: expected an interval"),
    ],
)
def test_a_wrong_entry_is_refused_where_it_is_set(entry: dict[str, Any], said: str) -> None:
    with pytest.raises(ConfigurationError, match=said):
        PgQueue("shop", beat_schedule={"x": entry})


@pytest.mark.parametrize("before", [{}, {"beat_schedule": {}}])
def test_an_entry_that_is_put_into_the_setting_later_is_looked_at_too(before: dict[str, Any]) -> None:
    app = PgQueue("shop", **before)
    app.conf.beat_schedule["x"] = {"task": "t", "schedule": 1}
    app.conf.beat_schedule["y"] = {"task": "t", "schedule": 2.0}
    assert app.schedules.definitions.declarations()[2] == ["x", "y"]
    app.conf.beat_schedule["z"] = {"task": "t"}
    with pytest.raises(ConfigurationError, match="beat_schedule: 'z': schedule is missing"):
        app.schedules.definitions.declarations()
    assert PgQueue("other").conf.beat_schedule == {}


def test_what_is_wrong_with_a_call_is_said_when_the_worker_starts(code: Callable[..., Code]) -> None:
    shop = code(bad={"schedule": 1, "options": {"priority": 11}})
    with pytest.raises(ValidationError, match=r"schedule 'bad': priority: "):
        shop.start()


def test_an_application_without_a_name_cannot_own_schedules(dsn: str) -> None:
    with PgQueue(dsn=dsn, beat_schedule={"x": {"task": "t", "schedule": 1}}) as app:
        with pytest.raises(ConfigurationError, match=r"schedule 'x': .* needs a name"):
            scheduler_of(app, None, app.new_connection, lambda: None)
        scheduler_of(app, "shop.tasks:app", app.new_connection, lambda: None)


def test_the_same_name_twice_is_refused(dsn: str) -> None:
    app = PgQueue("shop", dsn=dsn)
    app.periodic_task(1, name="t")(lambda: None)
    with pytest.raises(ValidationError, match="'t' is declared twice"):
        app.add_periodic_task(2, app.tasks["t"].s(), name="t")


def test_what_left_the_code_is_paused_and_what_comes_back_is_resumed(code: Callable[..., Code]) -> None:
    first, second = code(a=1, b=2), code(a=1, c=3)
    assert first.start() == {"a": "added", "b": "added"}
    assert first.start() == {}
    assert second.start() == {"c": "added", "b": "paused"}
    assert second.enabled() == {"a": True, "b": False, "c": True}
    assert second.app.schedules.get("b").pause_reason == "no longer declared by shop"
    third = code(a=1, b=2, c=3)
    assert third.start() == {"b": "resumed"}


def test_an_operators_pause_and_edit_survive_a_deployment(code: Callable[..., Code]) -> None:
    first = code(a=1, b=2)
    first.start()
    first.app.schedules.pause("a")
    first.connection.execute("update pgqueue.schedules set every = '99 s' where name = 'b'")
    second = code(a=7, b=2, c=3)
    assert second.start() == {"a": "changed", "c": "added"}
    assert second.enabled() == {"a": False, "b": True, "c": True}
    assert second.app.schedules.get("a").timing.every == 7.0
    assert second.app.schedules.get("b").timing.every == 99.0


def test_an_old_worker_of_a_rolling_deployment_changes_nothing(code: Callable[..., Code]) -> None:
    old, new = code(a=1, b=2), code(a=9, c=3)
    old.start()
    new.start()
    for _ in range(2):
        assert old.start() == {None: "older"}
    assert new.enabled() == {"a": True, "b": False, "c": True}
    assert new.app.schedules.get("a").timing.every == 9.0
    new.stop("30 s")  # all of them at once, half a minute ago
    assert old.start() == {None: "older"}
    assert new.start() == {}


def test_after_a_rollback_the_older_code_is_in_force_again(code: Callable[..., Code]) -> None:
    old, new = code(a=1, b=2), code(a=1, c=3)
    old.start()
    new.start()
    new.stop("2 minutes")
    assert old.start() == {"b": "resumed", "c": "paused"}


def test_code_that_declares_nothing_pauses_nothing_while_the_other_lives(code: Callable[..., Code]) -> None:
    """It may be another part of the same application; when it is all that is left, the schedules left the code."""
    first, other = code(a=1), code()
    first.start()
    assert other.start() == {None: "older"}
    assert first.enabled() == {"a": True}
    first.stop("2 minutes")
    assert other.start() == {"a": "paused"}


def test_two_services_leave_each_other_alone(code: Callable[..., Code]) -> None:
    shop, bank = code("shop", a=1, both=1), code("bank", b=1, both=2)
    assert shop.start() == {"a": "added", "both": "added"}
    assert bank.start() == {"b": "added", "both": "taken by shop"}
    assert shop.start() == {}
    assert code("shop", a=1).start() == {"both": "paused"}
    assert {each.name: (each.owner, each.enabled) for each in bank.app.schedules.list()} == {
        "a": ("shop", True),
        "b": ("bank", True),
        "both": ("shop", False),
    }


def test_an_instant_that_has_passed_is_left_out(code: Callable[..., Code]) -> None:
    shop = code(a=datetime(2026, 1, 1, tzinfo=UTC), b=1)
    assert shop.start() == {"a": "over", "b": "added"}
    assert shop.enabled() == {"b": True}


def test_one_made_by_hand_is_not_taken_over(code: Callable[..., Code]) -> None:
    shop = code(a=1)
    shop.app.schedules.upsert("a", task="shop.b", schedule=5)
    assert shop.start() == {"a": "taken by nobody's code"}
    assert shop.app.schedules.get("a").task == "shop.b"


def test_what_the_server_refuses_is_left_out_alone(code: Callable[..., Code]) -> None:
    """Such as a zone that its machine does not know."""
    shop = code(a=1, b={"schedule": "0 9 * * *", "timezone": "Factory"}, c=1)
    shop.connection.execute(
        "create function refuse() returns trigger language plpgsql as"
        " $$begin raise 'timezone: unknown here' using errcode = '22023'; end$$;"
        " create trigger refuse before insert on pgqueue.schedules for each row when (new.timezone = 'Factory')"
        " execute function refuse()"
    )
    assert shop.start() == {"a": "added", "b": "refused: timezone: unknown here", "c": "added"}
    assert shop.enabled() == {"a": True, "c": True}


def test_a_schedule_whose_task_nobody_has_waits_for_it(code: Callable[..., Code]) -> None:
    shop = code(a={"task": "other.task", "schedule": 1})
    assert shop.start() == {"a": "added"} | {"a": "parked"}
    assert shop.app.schedules.get("a").problem == "unknown task"
    other = code("other")
    other.app.task(name="other.task")(lambda: None)
    assert other.start() == {}
    assert shop.app.schedules.get("a").problem is None
