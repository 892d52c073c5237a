"""self.replace() and self.add_to_chord(): what a running task makes of itself."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgqueue import PgQueue, chain, chord, current_connection, group
from pgqueue.errors import ChordError, ValidationError


@pytest.fixture
def tasks(app: PgQueue, dsn: str) -> Iterator[PgQueue]:
    """Tasks that replace themselves, and a worker."""

    @app.task(name="double")
    def double(x: int) -> int:
        return 2 * x

    @app.task(name="boom")
    def boom(*args: Any) -> None:
        raise ValueError("boom")

    @app.task(name="total")
    def total(values: list[int]) -> int:
        return sum(values)

    @app.task(name="note")
    def note(task_id: str) -> str:
        return task_id

    @app.task(name="by_chain", bind=True)
    def by_chain(self: Any, x: int) -> Any:
        return self.replace(chain(double.s(x), double.s()))

    @app.task(name="by_group", bind=True)
    def by_group(self: Any, x: int) -> Any:
        return self.replace(group(double.s(n) for n in range(x)))

    @app.task(name="by_nothing", bind=True)
    def by_nothing(self: Any) -> Any:
        return self.replace(group([]))

    @app.task(name="by_boom", bind=True)
    def by_boom(self: Any, *args: Any) -> Any:
        return self.replace(boom.s())

    @app.task(name="countdown", bind=True)
    def countdown(self: Any, x: int) -> Any:
        return "over" if x == 0 else self.replace(countdown.s(x - 1))

    @app.task(name="in_transaction", bind=True, transactional=True)
    def in_transaction(self: Any, x: int) -> Any:
        current_connection().execute("insert into made values (%s)", [x])
        return self.replace(double.s(x))

    @app.task(name="grows", bind=True)
    def grows(self: Any, x: int) -> int:
        for n in range(x):
            self.add_to_chord(chain(double.s(n), double.s()))
        return x

    @app.task(name="agrows", bind=True)
    async def agrows(self: Any, x: int) -> int:
        await self.aadd_to_chord(double.s(x))
        return x

    @app.task(name="grows_later", bind=True)
    def grows_later(self: Any, x: int) -> Any:
        return self.replace(by_growth.s(x))

    @app.task(name="by_growth", bind=True)
    def by_growth(self: Any, x: int) -> Any:
        return self.replace(grows.s(x))

    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("create table made (x integer)")
    with app.worker(pool="threads", concurrency=4):
        yield app
    app.close()


def sig(app: PgQueue, name: str, *args: Any) -> Any:
    return app.signature(name, args)


def test_a_chain_gives_the_result(tasks: PgQueue) -> None:
    result = sig(tasks, "by_chain", 3).delay()
    assert result.get(timeout=30) == 12
    assert result.name == "by_chain"


def test_a_group_gives_the_list_of_its_results(tasks: PgQueue) -> None:
    assert sig(tasks, "by_group", 4).delay().get(timeout=30) == [0, 2, 4, 6]


def test_an_empty_group_gives_an_empty_list(tasks: PgQueue) -> None:
    assert sig(tasks, "by_nothing").delay().get(timeout=30) == []


def test_a_replacement_may_replace_itself(tasks: PgQueue) -> None:
    assert sig(tasks, "countdown", 10).delay().get(timeout=30) == "over"


def test_what_follows_goes_on_from_the_replacement(tasks: PgQueue) -> None:
    assert chain(sig(tasks, "double", 1), sig(tasks, "by_chain"), sig(tasks, "double"))().get(timeout=30) == 16


def test_a_member_of_a_chord_is_replaced(tasks: PgQueue) -> None:
    header = [sig(tasks, "by_chain", n) for n in range(4)]
    assert chord(header, sig(tasks, "total"))().get(timeout=30) == 4 * (0 + 1 + 2 + 3)


def test_a_chords_body_is_replaced(tasks: PgQueue) -> None:
    @tasks.task(name="unused")
    def unused() -> None: ...

    result = chord(
        [sig(tasks, "double", 2), sig(tasks, "double", 3)], chain(sig(tasks, "total"), sig(tasks, "by_chain"))
    )()
    assert result.get(timeout=30) == 40


def test_the_failure_of_a_replacement_is_the_jobs_own(tasks: PgQueue) -> None:
    result = sig(tasks, "by_boom").delay()
    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=30)
    with pytest.raises(ChordError, match="boom"):
        chord([sig(tasks, "by_boom"), sig(tasks, "double", 1)], sig(tasks, "total"))().get(timeout=30)


def test_error_callbacks_of_a_replaced_job_are_called(tasks: PgQueue, conn: psycopg.Connection[Any]) -> None:
    result = sig(tasks, "by_boom").on_error(sig(tasks, "note")).delay()
    with pytest.raises(ValueError, match="boom"):
        result.get(timeout=30)
    found = conn.execute("select id from pgqueue.all_jobs where task = 'note'").fetchone()
    assert found is not None
    assert tasks.AsyncResult(str(found[0])).get(timeout=30) == result.id


def test_a_transactional_task_is_replaced_with_its_work(tasks: PgQueue, conn: psycopg.Connection[Any]) -> None:
    assert sig(tasks, "in_transaction", 21).delay().get(timeout=30) == 42
    assert conn.execute("select x from made").fetchall() == [(21,)]


def test_inline_the_replacement_runs_too(tasks: PgQueue) -> None:
    assert sig(tasks, "by_chain", 3).apply().get() == 12


def test_outside_of_a_job_nothing_is_replaced(tasks: PgQueue) -> None:
    with pytest.raises(ValidationError, match="replace: no job of by_chain runs here"):
        tasks.tasks["by_chain"](3)


def test_members_are_added_by_members(tasks: PgQueue) -> None:
    result = chord(
        [sig(tasks, "grows", 3), sig(tasks, "agrows", 100), sig(tasks, "double", 1000)], sig(tasks, "total")
    )()
    assert result.get(timeout=30) == (3 + 100 + 2000) + (0 + 4 + 8) + 200


def test_what_takes_the_place_of_a_member_adds_members(tasks: PgQueue) -> None:
    result = chord([sig(tasks, "grows_later", 3), sig(tasks, "double", 1000)], sig(tasks, "total"))()
    assert result.get(timeout=30) == 3 + 2000 + (0 + 4 + 8)


def test_only_members_add_members(tasks: PgQueue) -> None:
    with pytest.raises(ValidationError, match="is no member of a chord"):
        sig(tasks, "grows", 1).delay().get(timeout=30)
