"""The worker's database sessions: one that goes silent is given up, and poolers in between are minded."""

import contextlib
import time
from collections.abc import Callable, Generator
from typing import Any, TypeVar

import psycopg

from pgqueue.store.connecting import connect_waiting
from pgqueue.store.statement import Queries

__all__ = ["PatientConnection", "amind_poolers", "first_connection", "mind_poolers"]

R = TypeVar("R")


class PatientConnection(psycopg.Connection[Any]):
    """A connection whose statements fail when no answer comes: half-open TCP, a proxy or a pooler that hangs.

    Attributes:
        patience: seconds to wait for an answer.
        server_started: of mind_poolers().
    """

    patience = 30.0
    server_started = ""

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


def mind_poolers(connection: psycopg.Connection[Any], queries: Queries) -> str:
    """Prepare no statements behind a pooler, where the next one may meet another server process.

    Returns:
        When the server started: it tells its sessions from those of its former lives.
    """
    return _facts(connection, connection.execute(queries["session_facts"]).fetchone())


async def amind_poolers(connection: psycopg.AsyncConnection[Any], queries: Queries) -> str:
    """mind_poolers() for async code."""
    return _facts(connection, await (await connection.execute(queries["session_facts"])).fetchone())


def _facts(connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], row: Any) -> str:
    pid, started = row
    if pid != connection.info.backend_pid:
        connection.prepare_threshold = None
    return str(started)


def first_connection(
    connect: Callable[[], psycopg.Connection[Any]], on_wait: Callable[[str], None] | None, room_for: int = 0
) -> psycopg.Connection[Any]:
    """Connect, and wait for the server if there is somebody to be told so.

    Args:
        connect: opens a connection.
        on_wait: called with the reason why it waits.
        room_for: so many others must be left. Of a fleet that is larger than the server has connections for, each
            worker would otherwise take some, and none enough of them to work.
    """

    def together() -> psycopg.Connection[Any]:
        with contextlib.ExitStack() as others:
            first = connect()
            try:
                for _ in range(room_for):
                    others.callback(connect().close)
            except BaseException:
                first.close()
                raise
            return first

    return together() if on_wait is None else connect_waiting(together, on_wait)
