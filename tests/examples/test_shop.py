"""The shop's rules: an order and its workflow are one thing, and what cannot be carried out is undone."""

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


def promises(conn: psycopg.Connection[Any]) -> dict[str, bool]:
    """What the proof says of the shop."""
    text = (REPOSITORY / "examples/shop/proof.sql").read_text(encoding="utf-8").rpartition("-- What holds")[2]
    return dict(conn.execute(text.encode()).fetchall())


def test_an_order_sent_twice_leaves_one_order_and_one_workflow(shop: Any, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn, shop.app.using(conn):
        first = shop.place_order(conn, shop.Order("form 1", "Ada", "lamp"))
        with pytest.raises(psycopg.errors.UniqueViolation):
            shop.place_order(conn, shop.Order("form 1", "Ada", "lamp"))
        assert conn.execute("select id from orders").fetchall() == [(first,)]
        assert conn.execute("select name, state from pgqueue.all_workflows").fetchall() == [
            (f"order-{first}", "running")
        ]


@pytest.mark.parametrize(
    ("number", "units", "ended", "payments", "undone"),
    [
        (1, 1, "succeeded", [8900], []),
        (2, 0, "failed", [8900, -8900], ["charge.undo"]),
        (7, 1, "failed", [8900, -8900], ["charge.undo", "reserve.undo"]),
        (20, 1, "failed", [], []),
    ],
)
def test_what_cannot_be_carried_out_is_undone(
    shop: Any, dsn: str, number: int, units: int, ended: str, payments: list[int], undone: list[str]
) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("update stock set units = %s where item = 'chair'", [units])
        conn.execute("select setval('orders_id_seq', %s, false)", [number])
        with shop.app.using(conn):
            assert shop.place_order(conn, shop.Order("form", "Ada", "chair")) == number
        result = shop.app.WorkflowResult(shop.app.workflows.list()[0].id)
        with shop.app.worker(pool="threads", concurrency=2):
            result.get(timeout=30, propagate=False)
        assert result.state == ended
        assert [cents for (cents,) in conn.execute("select cents from payments order by cents desc")] == payments
        assert sorted(s.name for s in result.steps if s.compensates and s.state == "succeeded") == undone
        conn.execute("update stock set units = units + case item when 'chair' then 60 - %s else 0 end", [units])
        assert [promise for promise, holds in promises(conn).items() if not holds] == []


def test_the_proof_notices_a_second_charge(shop: Any, dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        with shop.app.using(conn):
            number = shop.place_order(conn, shop.Order("form", "Ada", "book"))
        broken = {promise for promise, holds in promises(conn).items() if not holds}
        assert broken == {"every workflow has ended"}
        conn.execute("insert into payments values (%s, 1500, 1), (%s, 1500, 1)", [number, number])
        conn.execute("delete from pgqueue.workflows")
        conn.execute("update orders set state = 'shipped'")
        broken = {promise for promise, holds in promises(conn).items() if not holds}
        assert {
            "what was shipped was charged once",
            "every order has one workflow, and no workflow lacks its order",
        } <= (broken)


def test_figures_of_a_file() -> None:
    files = importlib.import_module("examples.files.tasks")
    found = files.measure(str(REPOSITORY / "examples/files/tasks.py"))
    assert (found["functions"], found["classes"], found["coroutines"]) == (5, 0, 0)
    assert found["imports"] == 7
    assert len(files.source_files()) > 500


def test_the_report_is_about_all_files(dsn: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    monkeypatch.setenv("PGQUEUE_DSN", dsn)
    files = importlib.reload(importlib.import_module("examples.files.tasks"))
    (tmp_path / "broken.py").write_text("print 'hello'\n")
    with files.app:
        sent = files.index([*sorted((REPOSITORY / "examples").rglob("*.py")), tmp_path / "broken.py"])
        # One thread: in several at a time CPython 3.11 fails now and then ("AST constructor recursion depth mismatch").
        with files.app.worker(pool="threads", concurrency=1):
            report = sent.get(timeout=30)
        assert report["broken"] == 1
        assert report["files"] > 4
        proof = (REPOSITORY / "examples/files/proof.sql").read_text(encoding="utf-8").rpartition("-- What holds")[2]
        with psycopg.connect(dsn) as conn:
            assert all(holds for _, holds in conn.execute(proof.encode()).fetchall())
