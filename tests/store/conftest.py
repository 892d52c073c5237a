"""Fixtures of the store's tests."""

from collections.abc import Iterator

import pytest

from tests.store.graph import Graph
from tests.store.store import Store


@pytest.fixture
def store(dsn: str) -> Iterator[Store]:
    """A session on a fresh database."""
    opened = Store(dsn)
    try:
        yield opened
    finally:
        opened.close()


@pytest.fixture
def graph(store: Store) -> Graph:
    """A workflow to be built and run by hand."""
    return Graph(store)
