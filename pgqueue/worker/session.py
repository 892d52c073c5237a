"""The worker's own database sessions: a connection that goes silent is given up, and not waited for."""

import time
from collections.abc import Generator
from typing import Any, TypeVar

import psycopg

__all__ = ["PatientConnection"]

R = TypeVar("R")


class PatientConnection(psycopg.Connection[Any]):
    """A connection whose statements fail when no answer comes: half-open TCP, a proxy or a pooler that hangs.

    Attributes:
        patience: seconds to wait for an answer.
    """

    patience = 30.0

    def wait(self, gen: Generator[Any, Any, R], *args: Any, **options: Any) -> R:
        """Run a dialogue with the server.

        Raises:
            psycopg.OperationalError: no answer came; the connection is of no use any more.
        """
        return super().wait(self._bounded(gen), *args, **options)

    def _bounded(self, gen: Generator[Any, Any, R]) -> Generator[Any, Any, R]:
        deadline = time.monotonic() + self.patience
        try:
            wanted = next(gen)
            while True:
                ready = yield wanted
                # psycopg looks up now and then when nothing is ready.
                if not ready and time.monotonic() > deadline:
                    raise psycopg.OperationalError(f"no answer from the server for {self.patience:g} s")
                wanted = gen.send(ready)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return] # what the dialogue returns
