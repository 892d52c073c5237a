"""The shop's tasks, and how an order is placed: `pgqueue -A examples.shop.tasks:app worker` runs them."""

import time
from typing import Any

import psycopg

from pgqueue import PgQueue, current_connection

app = PgQueue("shop")


class BankUnreachable(Exception):
    """The bank did not answer. Another attempt may succeed."""


class Order:
    """What a customer asks for, not yet in the database."""

    def __init__(self, customer: str, item: str) -> None:
        self.customer = customer
        self.item = item


def place_order(conn: psycopg.Connection[Any], order: Order) -> int:
    """Write an order, its payment job and what is left in stock: all of it, or nothing.

    Args:
        conn: on which `app.using(conn)` is in force.
        order: what to write.

    Returns:
        The order's number.

    Raises:
        psycopg.errors.CheckViolation: nothing is left in stock; the order and its job are rolled back.
    """
    with conn.transaction():
        row = conn.execute(
            "insert into orders (customer, item, cents) select %s, item, cents from stock where item = %s returning id",
            [order.customer, order.item],
        ).fetchone()
        assert row is not None, f"the shop does not sell {order.item}"
        charge.delay(row[0])
        conn.execute("update stock set units = units - 1 where item = %s", [order.item])
    return int(row[0])


@app.task(
    transactional=True, queue="payments", autoretry_for=(BankUnreachable,), retry_backoff=0.2, max_retries=5, bind=True
)
def charge(self: Any, order_id: int) -> str:
    """Charge an order: the payment, this job's result and the receipt's job commit together, once."""
    ask_bank(order_id, self.request.retries)
    conn = current_connection()
    row = conn.execute("update orders set paid = true where id = %s returning cents", [order_id]).fetchone()
    conn.execute("insert into payments values (%s, %s, %s)", [order_id, row[0], self.request.attempt])
    send_receipt.delay(order_id, row[0])
    return f"charged {row[0] / 100:.2f}"


@app.task(queue="mail")
async def send_receipt(order_id: int, cents: int) -> str:
    """Stands for sending a mail."""
    return f"receipt for order {order_id}: {cents / 100:.2f}"


def ask_bank(order_id: int, retries: int) -> None:
    """Stands for a payment service: 20 ms away, and out of reach for every seventh order at first."""
    time.sleep(0.02)
    if order_id % 7 == 0 and retries < 2:
        raise BankUnreachable(f"no answer for order {order_id}")
