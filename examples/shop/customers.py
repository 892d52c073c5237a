"""The customers of the demonstration: more than the shop has in stock, some without an address, some impatient."""

from collections.abc import Iterator

from examples.shop.tasks import Order


def orders() -> Iterator[Order]:
    """360 orders of three items in turn, 30 lamps and 60 chairs more than there are; every twelfth is sent twice."""
    for number in range(360):
        order = Order(f"form {number}", f"customer {number % 40}", ("book", "lamp", "chair")[number % 3])
        yield order
        if number % 12 == 0:
            yield order
