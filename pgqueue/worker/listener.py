"""Where an idle claimer sleeps: on the LISTEN session's socket, and on a pipe by which other threads wake it.

While it sleeps it holds the wake locks of its queues, so that whoever enqueues knows that somebody must be told (sql:
wake_queues). Polling is the guarantee; notifications make it fast.
"""

import logging
import os
import secrets
import select
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import psycopg

from pgqueue.store.claims import fall_asleep, tell_others, wake_up
from pgqueue.store.statement import Queries, run

__all__ = ["Listener"]

logger = logging.getLogger("pgqueue.worker")


class Listener:
    """A LISTEN session with the wake locks of its queues. All but nudge() is called by one thread.

    Attributes:
        asleep: it holds the wake locks: whoever enqueues notifies.
        keys: of the queues for which this worker answers.
        others: of those for which another one does.

    Args:
        connect: opens its session; None: there is none, poll only.
        trusted: the session's address was given for this purpose; else a pooler in between is detected.
        test_seconds: between two tests whether it still receives notifications.
        queries: of the schema.
        queues: names to serve.
        poll_seconds: between looks without any notification, for the log.
        on_message: called with the text of notifications that are not wake-ups.
    """

    def __init__(
        self,
        connect: Callable[[], psycopg.Connection[Any]] | None,
        *,
        trusted: bool,
        test_seconds: float,
        queries: Queries,
        queues: Sequence[str],
        poll_seconds: float,
        on_message: Callable[[str], None],
    ) -> None:
        self._connect = connect
        self._trusted = trusted
        self._test_seconds = test_seconds
        self._queries = queries
        self._queues = queues
        self._poll_seconds = poll_seconds
        self._on_message = on_message
        self._session: psycopg.Connection[Any] | None = None
        self.asleep = False
        self.keys: frozenset[int] = frozenset()
        self.others: frozenset[int] = frozenset()
        self._woken = False  # something may have become available
        self._handed_over = False  # another worker no longer answers for its queues
        self._token_sent: str | None = None
        self._tested_at = 0.0
        self._pipe_in, self._pipe_out = os.pipe()
        os.set_blocking(self._pipe_in, False)
        os.set_blocking(self._pipe_out, False)
        self._nudged = threading.Event()
        self._nudging = threading.Lock()
        self._ended = False

    @property
    def listening(self) -> bool:
        """Whether notifications can arrive."""
        return self._session is not None

    def open(self) -> None:
        """Listen, where that is possible; does nothing while it does.

        Raises:
            psycopg.Error: the session could not be opened.
        """
        if self._session is not None or self._connect is None:
            return
        session = self._connect()
        pid = session.execute(self._queries["listen_pid"]).fetchone()
        if not self._trusted and (pid is None or pid[0] != session.info.backend_pid):
            session.close()
            self._connect = None
            logger.warning(
                "no notifications (a connection pooler is in between; set listen_dsn to reach the server directly):"
                " polling, each %g s when idle",
                self._poll_seconds,
            )
            return
        session.execute(self._queries["listen"])
        session.add_notify_handler(lambda notify: self._notice(notify.payload))
        self._token_sent = None
        self._tested_at = time.monotonic()
        self._session = session

    def close(self) -> None:
        """Close the session, and with it give the locks back."""
        self.asleep = False
        self.keys = self.others = frozenset()
        if self._session is not None:
            self._session.close()
            self._session = None

    def end(self) -> None:
        """Nobody sleeps here any more."""
        with self._nudging:
            self._ended = True
            os.close(self._pipe_in)
            os.close(self._pipe_out)

    def nudge(self) -> None:
        """End the sleep, or the next one at once. Safe from any thread."""
        if not self._nudged.is_set():
            with self._nudging:
                self._nudged.set()
                try:
                    if not self._ended:  # its number may be another file's by now
                        os.write(self._pipe_out, b".")
                except BlockingIOError:
                    pass

    def fall_asleep(self) -> bool:
        """Take the wake locks of those queues for which nobody else answers; false when it must not sleep yet."""
        if self._session is None:
            return False
        self.keys, self.others, free = run(self._session, fall_asleep(self._queries, self._queues))
        self.asleep = free and bool(self.keys)
        return self.asleep

    def tell_others(self) -> None:
        """Let other idle workers of its queues look once: they may have tasks that this one has not."""
        if self._session is not None:
            run(self._session, tell_others(self._queries, self._queues))

    def rise(self, hand_over: bool) -> None:
        """Give the locks back: enqueues need not notify while the claimer is busy anyway."""
        if self._session is not None:
            run(self._session, wake_up(self._queries, self._queues, hand_over))
        self.asleep = False
        self.keys = self.others = frozenset()

    def sleep(self, seconds: float) -> bool:
        """Sleep until something may have become available, no longer than that; true when an enqueue said so.

        Raises:
            psycopg.Error: the session is lost.
        """
        until = time.monotonic() + seconds
        session = self._session
        watched: list[int] = [self._pipe_in]
        if session is not None:
            watched.append(session.fileno())
        while not (self._woken or self._handed_over):
            ready, _, _ = select.select(watched, [], [], max(0.0, until - time.monotonic()))
            if not ready:
                break
            if self._pipe_in in ready:
                # In this order: a nudge in between is one that this sleep's end answers.
                os.read(self._pipe_in, 64)
                self._nudged.clear()
                break
            if session is not None:
                session.pgconn.consume_input()
                while (notify := session.pgconn.notifies()) is not None:
                    self._notice(notify.extra.decode())
        woken, self._woken, self._handed_over = self._woken, False, False
        if session is not None:
            self._test(session)
        return woken

    def _notice(self, payload: str) -> None:
        kind = payload[:1]
        if kind == "c":
            self._on_message(payload)
        elif kind == "t":
            self._token_sent = None if payload == self._token_sent else self._token_sent
        # Of several idle workers one answers for a queue; the others wait until it hands over.
        elif kind == "w":
            self._woken = self._woken or payload[1:] in map(str, self.keys)
        elif kind == "h":
            self._handed_over = self._handed_over or payload[1:] in map(str, self.others)

    def _test(self, session: psycopg.Connection[Any]) -> None:
        """Now and then notify oneself: a session that receives nothing looks just like a quiet one."""
        now = time.monotonic()
        if now - self._tested_at < self._test_seconds:
            return
        if self._token_sent is not None:
            raise psycopg.OperationalError("the LISTEN session no longer receives notifications")
        self._tested_at = now
        self._token_sent = f"t{secrets.token_hex(8)}"
        session.execute(self._queries["notify_self"], {"payload": self._token_sent})
