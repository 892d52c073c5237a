"""Fixtures of the tests of results: an application, and a session that plays the worker."""

from tests.enqueue.conftest import shop, store

__all__ = ["shop", "store"]
