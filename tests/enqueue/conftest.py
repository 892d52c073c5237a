"""Fixtures of the tests of enqueueing."""

from collections.abc import Iterator

import pytest

from pgqueue import PgQueue
from tests.store.store import Store


@pytest.fixture
def shop(dsn: str) -> Iterator[PgQueue]:
    """An application with the task `t.add`."""
    with PgQueue("shop", dsn=dsn) as app:

        @app.task(name="t.add")
        def add(x: int, y: int = 0) -> int:
            return x + y

        yield app


@pytest.fixture
def store(dsn: str) -> Iterator[Store]:
    """A session on the same database, which sees what is committed and can play the worker."""
    opened = Store(dsn)
    try:
        yield opened
    finally:
        opened.close()
