"""Inside atomic() Django's default connection is found by itself."""

from collections.abc import Iterator
from typing import Any

import pytest

from pgqueue import EnrolmentError, PgQueue
from tests.enqueue.kinds import django_wrapper
from tests.store.store import Store


@pytest.fixture
def default(dsn: str) -> Iterator[Any]:
    """Django's default connection, to the database of the test."""
    yield from as_default(dsn)


@pytest.fixture
def foreign_default(empty_dsn: str) -> Iterator[Any]:
    """Django's default connection, to another database."""
    yield from as_default(empty_dsn)


def as_default(dsn: str) -> Iterator[Any]:
    wrapper = django_wrapper(dsn)
    from django.db import connections

    before, wrapper.alias = connections["default"], "default"
    connections["default"] = wrapper
    yield wrapper
    wrapper.close()
    connections["default"] = before


def count(store: Store) -> int:
    return int(store.value("select count(*) from pgqueue.live_jobs"))


@pytest.mark.usefixtures("default")
def test_inside_atomic_the_job_is_part_of_it(shop: PgQueue, store: Store) -> None:
    from django.db import transaction

    add = shop.tasks["t.add"]
    with transaction.atomic():
        add.delay(1)
        savepoint = transaction.savepoint()
        add.delay(2)
        transaction.savepoint_rollback(savepoint)
        shop.enqueue_many([add.s(3)])
        assert count(store) == 0
    assert store.rows("select args::text from pgqueue.live_jobs order by 1") == [("[1]",), ("[3]",)]


@pytest.mark.usefixtures("default")
def test_outside_of_atomic_the_job_commits_by_itself(shop: PgQueue, store: Store) -> None:
    shop.tasks["t.add"].delay(1)
    assert count(store) == 1


@pytest.mark.usefixtures("default")
def test_using_none_opts_out_of_atomic(shop: PgQueue, store: Store) -> None:
    from django.db import transaction

    with transaction.atomic(), shop.using(None):
        shop.tasks["t.add"].delay(1)
        transaction.set_rollback(True)
    assert count(store) == 1


@pytest.mark.usefixtures("foreign_default")
def test_atomic_on_another_database_is_refused_and_goes_on(shop: PgQueue) -> None:
    from django.db import connection, transaction

    with transaction.atomic():
        with pytest.raises(EnrolmentError, match=r"no schema.*using\(None\)"):
            shop.tasks["t.add"].delay(1)
        with connection.cursor() as cursor:
            cursor.execute("select 1")
            assert cursor.fetchone() == (1,)


@pytest.mark.usefixtures("default")
def test_atomic_that_must_roll_back_is_refused(shop: PgQueue) -> None:
    from django.db import transaction

    with transaction.atomic():
        transaction.set_rollback(True)
        with pytest.raises(EnrolmentError, match="aborted"):
            shop.tasks["t.add"].delay(1)
