"""The customers of the demonstration: more than the shop has in stock."""

from collections.abc import Iterator

from examples.shop.tasks import Order


def orders() -> Iterator[Order]:
    """360 orders of three items in turn; 30 lamps and 60 chairs more than there are."""
    for number in range(360):
        yield Order(f"customer {number % 40}", ("book", "lamp", "chair")[number % 3])
