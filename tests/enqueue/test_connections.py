"""A job is part of the caller's transaction, whatever library that is in."""

import asyncio
import datetime
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import psycopg
import pytest

from pgqueue import AsyncResult, DuplicateJob, EnrolmentError, PgQueue, Signature
from tests.enqueue.kinds import ASYNC_KINDS, SYNC_KINDS, Kind
from tests.store.store import Store

ALL = [*SYNC_KINDS, *ASYNC_KINDS]
# asyncpg has no autocommit mode: it is in one outside of transaction(), as Django is outside of atomic()
EXPLICIT = {"Asyncpg", "Django"}

kinds = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)
pytestmark = [
    pytest.mark.asyncio,
    pytest.mark.filterwarnings("ignore:.*async_unsafe.*"),
    pytest.mark.usefixtures("django_in_async"),
]


@pytest.fixture
def django_in_async(monkeypatch: pytest.MonkeyPatch) -> None:
    """Django refuses its sync connection inside an event loop, in which all kinds are tested here."""
    monkeypatch.setenv("DJANGO_ALLOW_ASYNC_UNSAFE", "1")


@asynccontextmanager
async def opened(kind: type[Kind], dsn: str, autocommit: bool = False) -> AsyncIterator[Kind]:
    one = kind(dsn, autocommit)
    await one.open()
    try:
        yield one
    finally:
        await one.close()


def count(store: Store) -> int:
    return int(store.value("select count(*) from pgqueue.live_jobs"))


@kinds
async def test_the_job_is_there_if_and_only_if_the_transaction_commits(
    kind: type[Kind], dsn: str, shop: PgQueue, store: Store
) -> None:
    store.rows("create table orders (id int)")
    async with opened(kind, dsn) as one:
        await one.begin()
        await one.execute("insert into orders values (1)")
        lost = await one.enqueue(shop)
        assert count(store) == 0
        await one.rollback()
        assert count(store) == 0
        assert not await lost.aexists()

        await one.begin()
        await one.execute("insert into orders values (2)")
        kept = await one.enqueue(shop, priority=4, headers={"a": "'\\%s"}, countdown=60, expires=90)
        assert count(store) == 0
        await one.commit()
    assert store.rows("select * from orders") == [(2,)]
    row = store.live(kept.job_id)
    assert (row["priority"], row["args"], row["state"]) == (4, "[1]", "scheduled")
    assert row["headers"] == '{"a":"\'\\\\%s"}'
    assert store.value("select expires_at - run_at = '30 s' from pgqueue.live_jobs")


@kinds
async def test_the_job_goes_with_its_savepoint(kind: type[Kind], dsn: str, shop: PgQueue, store: Store) -> None:
    async with opened(kind, dsn) as one:
        await one.begin()
        kept = await one.enqueue(shop)
        await one.savepoint()
        lost = await one.enqueue(shop)
        await one.rollback_to_savepoint()
        await one.commit()
    assert await kept.aexists()
    assert not await lost.aexists()


@kinds
async def test_the_row_is_written_at_the_call(kind: type[Kind], dsn: str, shop: PgQueue) -> None:
    async with opened(kind, dsn) as one:
        await one.begin()
        await one.enqueue(shop)
        # Division by zero unless the job is visible to the transaction itself, now.
        await one.execute("select 1 / count(*) from pgqueue.live_jobs")
        await one.rollback()


@kinds
async def test_autocommit_is_refused(kind: type[Kind], dsn: str, shop: PgQueue, store: Store) -> None:
    async with opened(kind, dsn, autocommit=True) as one:
        with pytest.raises(EnrolmentError, match=r"autocommit.*(transaction\(\)|atomic\(\)|isolation_level)"):
            await one.enqueue(shop)
    assert count(store) == 0


@kinds
async def test_a_database_without_the_schema_is_refused_and_the_transaction_survives(
    kind: type[Kind], empty_dsn: str, shop: PgQueue
) -> None:
    async with opened(kind, empty_dsn) as one:
        await one.begin()
        for _ in range(2):
            with pytest.raises(EnrolmentError, match=r"no schema 'pgqueue'.*pgqueue migrate.*using\(None\)"):
                await one.enqueue(shop)
        await one.execute("create table still_alive ()")
        await one.commit()
    with psycopg.connect(empty_dsn) as connection:
        connection.execute("select from still_alive")


@kinds
async def test_an_aborted_transaction_is_refused(kind: type[Kind], dsn: str, shop: PgQueue) -> None:
    async with opened(kind, dsn) as one:
        await one.begin()
        with pytest.raises(Exception, match="nowhere"):
            await one.execute("select * from nowhere")
        with pytest.raises(EnrolmentError, match=r"aborted|cannot take part"):
            await one.enqueue(shop)
        await one.rollback()


# Sessions and Django connect anew when they were closed.
@pytest.mark.parametrize(
    "kind",
    [kind for kind in ALL if "Session" not in kind.__name__ and kind.__name__ != "Django"],
    ids=lambda kind: kind.__name__,
)
async def test_a_closed_connection_is_refused(kind: type[Kind], dsn: str, shop: PgQueue) -> None:
    async with opened(kind, dsn) as one:
        await one.begin()
        await one.rollback()
    with pytest.raises(EnrolmentError):
        await one.enqueue(shop)


@kinds
async def test_a_second_job_of_one_id_leaves_the_transaction_usable(
    kind: type[Kind], dsn: str, shop: PgQueue, store: Store
) -> None:
    async with opened(kind, dsn) as one:
        await one.begin()
        first = await one.enqueue(shop, task_id="invoice 17")
        with pytest.raises(DuplicateJob, match="invoice 17"):
            await one.enqueue(shop, task_id="invoice 17")
        assert await one.enqueue(shop, task_id="invoice 17", on_duplicate="return") == first
        await one.commit()
    assert count(store) == 1


async def many(one: Kind, app: PgQueue, signatures: list[Signature[int]]) -> list[AsyncResult[int]]:
    if one.is_async:
        return await app.aenqueue_many(signatures, connection=one.connection)
    return app.enqueue_many(signatures, connection=one.connection)


@kinds
async def test_many_in_one_transaction(kind: type[Kind], dsn: str, shop: PgQueue, store: Store) -> None:
    add = shop.tasks["t.add"]
    signatures = [add.s(i) for i in range(50)]
    signatures[7] = signatures[7].set(
        task_id="seven", eta=datetime.datetime.now(datetime.UTC) + datetime.timedelta(days=1)
    )
    async with opened(kind, dsn) as one:
        for end in (one.rollback, one.commit):
            await one.begin()
            found = await many(one, shop, signatures)
            assert len(found) == 50
            assert count(store) == 0
            await end()
        await one.begin()
        with pytest.raises(DuplicateJob, match=r"signature 7: .*seven"):
            await many(one, shop, signatures)
        await one.commit()
    assert store.rows("select state, count(*) from pgqueue.live_jobs group by 1 order by 1") == [
        ("available", 49),
        ("scheduled", 1),
    ]


@kinds
async def test_using_names_the_connection_for_a_block(kind: type[Kind], dsn: str, shop: PgQueue, store: Store) -> None:
    add = shop.tasks["t.add"]

    async def send() -> Any:
        return await add.adelay(1) if kind.is_async else add.delay(1)

    async with opened(kind, dsn) as one:
        await one.begin()
        async with shop.using(one.connection) as same:
            assert same is one.connection
            await send()
            with shop.using(None):
                await send()
            assert count(store) == 1
            await send()
        await send()
        assert count(store) == 2
        await one.rollback()
    assert count(store) == 2


@pytest.mark.parametrize("kind", ASYNC_KINDS, ids=lambda kind: kind.__name__)
async def test_a_sync_enqueue_in_an_async_transaction_names_the_way_out(
    kind: type[Kind], dsn: str, shop: PgQueue, store: Store
) -> None:
    async with opened(kind, dsn) as one:
        await one.begin()
        with shop.using(one.connection), pytest.raises(EnrolmentError, match=r"adelay.*aapply_async.*aenqueue_many"):
            shop.tasks["t.add"].delay(1)
        await one.rollback()
    assert count(store) == 0


@pytest.mark.parametrize("kind", SYNC_KINDS, ids=lambda kind: kind.__name__)
async def test_an_async_enqueue_takes_part_in_a_sync_transaction(
    kind: type[Kind], dsn: str, shop: PgQueue, store: Store
) -> None:
    async with opened(kind, dsn) as one:
        await one.begin()
        with shop.using(one.connection):
            await shop.tasks["t.add"].adelay(1)
        assert count(store) == 0
        await one.commit()
    assert count(store) == 1


@kinds
async def test_what_a_block_of_using_started_cannot_enqueue_when_the_block_is_over(
    kind: type[Kind], dsn: str, shop: PgQueue
) -> None:
    go = asyncio.Event()

    async def later() -> None:
        await go.wait()
        await shop.tasks["t.add"].adelay(1)

    async with opened(kind, dsn) as one:
        with shop.using(one.connection):
            task = asyncio.create_task(later())
            await asyncio.sleep(0)
        go.set()
        with pytest.raises(EnrolmentError, match=r"has ended.*using\(None\)"):
            await task


async def test_things_that_are_no_connections(shop: PgQueue, dsn: str) -> None:
    for thing in (object(), dsn, 7, psycopg):
        with pytest.raises(EnrolmentError, match="cannot take part"):
            shop.using(thing)
        with pytest.raises(EnrolmentError, match="cannot take part"):
            shop.tasks["t.add"].apply_async((1,), connection=thing)
