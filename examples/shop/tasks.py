"""The shop's tasks, and how an order is placed: `pgqueue -A examples.shop.tasks:app worker` runs them."""

import time
from typing import Any, NamedTuple

import psycopg

from pgqueue import PgQueue, Workflow, current_connection

app = PgQueue("shop")


class BankUnreachable(Exception):
    """The bank did not answer. Another attempt may succeed."""


class Refused(Exception):
    """An order cannot be carried out, whatever is tried."""


class Order(NamedTuple):
    """What a customer asks for, not yet in the database."""

    form: str
    customer: str
    item: str


def place_order(conn: psycopg.Connection[Any], order: Order) -> int:
    """Write an order and the workflow that carries it out: both, or nothing.

    Args:
        conn: on which `app.using(conn)` is in force.
        order: what to write.

    Returns:
        The order's number.

    Raises:
        psycopg.errors.UniqueViolation: the form was sent before; the second order and its workflow are rolled back.
    """
    with conn.transaction():
        row = conn.execute("select nextval('orders_id_seq')").fetchone()
        assert row is not None
        number = int(row[0])
        fulfilment(number).apply_async()
        conn.execute(
            "insert into orders (id, form, customer, item, cents) overriding system value"
            " select %s, %s, %s, item, cents from stock where item = %s",
            [number, order.form, order.customer, order.item],
        )
    return number


def fulfilment(order_id: int) -> Workflow:
    """What follows from an order: reserve and charge side by side, ship, tell the customer; undo both if one fails."""
    order = Workflow(f"order-{order_id}")
    checked = order.step("validate", validate.s(order_id))
    reserved = order.step("reserve", reserve.si(order_id), after=checked, compensate=restock.si(order_id))
    paid = order.step("charge", charge.si(order_id), after=checked, compensate=refund.s(order_id))
    shipped = order.step("ship", ship.si(order_id), after=[reserved, paid])
    order.step("notify", notify.s(order_id), after=[paid, shipped])
    return order


@app.task(throws=(Refused,))
def validate(order_id: int) -> None:
    """Stands for a look at what the customer gave: one customer in twenty has no address."""
    if order_id % 20 == 0:
        raise Refused(f"order {order_id}: there is no address")


@app.task(transactional=True, throws=(Refused,))
def reserve(order_id: int) -> None:
    """Take one unit out of the stock."""
    found = current_connection().execute(
        "update stock set units = units - 1 where units > 0 and item = (select item from orders where id = %s)",
        [order_id],
    )
    if not found.rowcount:
        raise Refused(f"order {order_id}: nothing is left in stock")


@app.task(transactional=True)
def restock(order_id: int) -> None:
    """Undo reserve()."""
    current_connection().execute(
        "update stock set units = units + 1 where item = (select item from orders where id = %s)", [order_id]
    )


@app.task(
    transactional=True, queue="payments", autoretry_for=(BankUnreachable,), retry_backoff=0.2, max_retries=5, bind=True
)
def charge(self: Any, order_id: int) -> int:
    """Charge an order: the payment and this step's end commit together, once. Returns the cents."""
    ask_bank(order_id, self.request.retries)
    conn = current_connection()
    cents = conn.execute("select cents from orders where id = %s", [order_id]).fetchone()[0]
    conn.execute("insert into payments values (%s, %s, %s)", [order_id, cents, self.request.attempt])
    return int(cents)


@app.task(transactional=True, queue="payments", bind=True)
def refund(self: Any, order_id: int, charge: int) -> None:
    """Undo charge(): give back what it returned."""
    current_connection().execute("insert into payments values (%s, %s, %s)", [order_id, -charge, self.request.attempt])


@app.task(transactional=True, throws=(Refused,))
def ship(order_id: int) -> str:
    """Stands for the carrier, who refuses one parcel in thirty."""
    if order_id % 30 == 7:
        raise Refused(f"order {order_id}: the carrier does not go there")
    current_connection().execute("update orders set state = 'shipped' where id = %s", [order_id])
    return f"parcel {1000 + order_id}"


@app.task(queue="mail")
async def notify(charge: int, ship: str, order_id: int) -> str:
    """Stands for sending a mail; it is given what was charged, and the parcel."""
    return f"order {order_id}: {ship} is on its way, {charge / 100:.2f} charged"


def ask_bank(order_id: int, retries: int) -> None:
    """Stands for a payment service: 20 ms away, and out of reach for every seventh order at first."""
    time.sleep(0.02)
    if order_id % 7 == 0 and retries < 2:
        raise BankUnreachable(f"no answer for order {order_id}")
