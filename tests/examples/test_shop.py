"""The shop's rule: an order, its payment job and what leaves the stock are one thing."""

import importlib
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from tests.support.process import REPOSITORY


@pytest.fixture
def shop(dsn: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The shop's module on this test's database, with its tables."""
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    module = importlib.reload(importlib.import_module("examples.shop.tasks"))
    with psycopg.connect(dsn) as conn:
        conn.execute((REPOSITORY / "examples/shop/tables.sql").read_bytes())
    yield module
    module.app.close()


def test_an_order_out_of_stock_leaves_neither_order_nor_job(shop: Any, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn, shop.app.using(conn):
        conn.execute("update stock set units = 1 where item = 'lamp'")
        first = shop.place_order(conn, shop.Order("Ada", "lamp"))
        with pytest.raises(psycopg.errors.CheckViolation):
            shop.place_order(conn, shop.Order("Bob", "lamp"))
        assert conn.execute("select id from orders").fetchall() == [(first,)]
        assert conn.execute("select task, args, queue from pgqueue.all_jobs").fetchall() == [
            ("examples.shop.tasks.charge", [first], "payments")
        ]


def test_the_proof_notices_a_second_charge(shop: Any, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        with shop.app.using(conn):
            number = shop.place_order(conn, shop.Order("Ada", "book"))
        promises = (REPOSITORY / "examples/shop/proof.sql").read_text(encoding="utf-8").rpartition("-- What holds")[2]

        def broken() -> list[str]:
            return [promise for promise, holds in conn.execute(promises.encode()).fetchall() if not holds]

        assert "every order was charged" in broken()
        conn.execute("insert into payments values (%s, 1, 1), (%s, 1, 1)", [number, number])
        assert "none was charged twice" in broken()
        conn.execute("delete from pgqueue.live_jobs")
        assert "every order has one payment job" in broken()


def test_figures_of_a_file() -> None:
    files = importlib.import_module("examples.files.tasks")
    found = files.measure(str(REPOSITORY / "examples/files/tasks.py"))
    assert (found["functions"], found["classes"], found["coroutines"]) == (3, 0, 0)
    assert found["imports"] == 7
    assert len(files.source_files()) > 500
