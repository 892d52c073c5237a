"""Connections of a process that enqueues and waits: a stack each for threads and for an event loop.

psycopg_pool starts threads, and enqueueing must not; what is needed here is little: the connection used last is used
next, a limit, and that a forked child neither uses nor closes its parent's sockets.
"""

import asyncio
import contextlib
import os
import threading
import time
import weakref
from collections import deque
from collections.abc import Awaitable, Callable
from typing import Any

import psycopg
from psycopg.pq import TransactionStatus

from pgqueue.errors import DatabaseUnavailable, PgQueueError

__all__ = ["AsyncPool", "Pool"]

_Idle = deque[Any]

# What a parent process left behind: kept for ever, because a connection that is deleted may write to its socket.
_inherited: list[_Idle] = []
_pools: weakref.WeakSet[Any] = weakref.WeakSet()


def _finish(idle: _Idle, pid: int) -> None:
    """Close idle connections of this process; async ones too, for which closing never waits."""
    while idle and os.getpid() == pid:
        connection = idle.pop()
        connection.pgconn.finish()


def _reusable(connection: Any) -> bool:
    return bool(connection.pgconn.transaction_status == TransactionStatus.IDLE)


def _exhausted(size: int, seconds: float) -> DatabaseUnavailable:
    return DatabaseUnavailable(
        f"all {size} pooled connections were busy for {seconds:g} s; raise pool_max_size, or look for what blocks them"
    )


class Pool:
    """Connections for threads.

    Args:
        connect: opens one connection.
        max_size: most connections at a time.
        timeout: seconds that take() waits for one.
    """

    def __init__(self, connect: Callable[[], psycopg.Connection[Any]], max_size: int, timeout: float) -> None:
        self._connect = connect
        self._max_size = max_size
        self._timeout = timeout
        self._closed = False
        self._begin()
        _pools.add(self)

    def _begin(self) -> None:
        self._idle: _Idle = deque()
        self._size = 0
        self._waiting = 0
        self._changed = threading.Condition()
        self._finalizer = weakref.finalize(self, _finish, self._idle, os.getpid())

    def take(self, wait: bool = True) -> psycopg.Connection[Any]:
        """Return an idle connection, or a new one; the caller gives it back.

        Args:
            wait: when there are max_size already, wait for one.

        Raises:
            DatabaseUnavailable: none became free in time.
            PgQueueError: the pool is closed.
            psycopg.OperationalError: no connection could be opened.
        """
        try:
            idle: psycopg.Connection[Any] | None = self._idle.pop()
        except IndexError:
            idle = None  # and no more in here: an error of the server would be told as one of an empty deque
        return idle if idle is not None else self._take_slowly(wait)

    def _take_slowly(self, wait: bool) -> psycopg.Connection[Any]:
        if self._closed:
            raise PgQueueError("this application was closed; make a new PgQueue, or do not close it yet")
        deadline = time.monotonic() + (self._timeout if wait else 0)
        with self._changed:
            # Announced before the look: give() appends first, then reads who waits, so one of the two sees the other.
            self._waiting += 1
            try:
                while True:
                    if self._idle:
                        with contextlib.suppress(IndexError):
                            return self._idle.pop()  # type: ignore[no-any-return] # as above
                    if self._size < self._max_size:
                        self._size += 1
                        break
                    left = deadline - time.monotonic()
                    if left <= 0:
                        raise _exhausted(self._max_size, self._timeout if wait else 0)
                    self._changed.wait(left)
            finally:
                self._waiting -= 1
        try:
            return self._connect()
        except BaseException:
            self._gone()
            raise

    def give(self, connection: psycopg.Connection[Any]) -> None:
        """Give back a connection whose last statement ended well."""
        self._idle.append(connection)
        if self._waiting or self._closed:
            self._tell()

    def give_checked(self, connection: psycopg.Connection[Any]) -> None:
        """Give back a connection after an error: it is kept if it is still usable."""
        if _reusable(connection):
            self.give(connection)
        else:
            connection.close()
            self._gone()

    def _gone(self) -> None:
        with self._changed:
            self._size -= 1
            self._changed.notify()

    def _tell(self) -> None:
        with self._changed:
            if self._closed:
                _finish(self._idle, os.getpid())
            self._changed.notify()

    def drop_idle(self) -> None:
        """Close all idle connections: one was found dead, and its neighbours will be too."""
        while True:
            try:
                connection = self._idle.pop()
            except IndexError:
                return
            connection.close()
            self._gone()

    def close(self) -> None:
        """Close the idle connections now and the others when they are given back; take() fails from now on."""
        self._closed = True
        self._tell()

    def _forget(self) -> None:
        """In a forked child: leave the parent's connections alone."""
        _inherited.append(self._idle)
        self._finalizer.detach()
        self._begin()


class AsyncPool:
    """Connections for one running event loop; the same methods as Pool, those that may wait as coroutines."""

    def __init__(
        self, connect: Callable[[], Awaitable[psycopg.AsyncConnection[Any]]], max_size: int, timeout: float
    ) -> None:
        self._connect = connect
        self._max_size = max_size
        self._timeout = timeout
        self._idle: _Idle = deque()
        self._size = 0
        self._waiters: deque[asyncio.Future[None]] = deque()
        self._closed = False
        # A loop may end without a word: its connections are closed with it.
        self._finalizer = weakref.finalize(self, _finish, self._idle, os.getpid())
        _pools.add(self)

    async def take(self, wait: bool = True) -> psycopg.AsyncConnection[Any]:
        """Return an idle connection, or a new one; raises as Pool.take."""
        while True:
            if self._idle:
                return self._idle.pop()  # type: ignore[no-any-return] # as in Pool
            if self._closed:
                raise PgQueueError("this application was closed; make a new PgQueue, or do not close it yet")
            if self._size < self._max_size:
                break
            if not wait:
                raise _exhausted(self._max_size, 0)
            await self._wait()
        self._size += 1
        # psycopg leaves a connection open whose opening is cancelled in a bad moment: let it be opened, and keep it.
        opening = asyncio.ensure_future(self._connect())
        try:
            return await asyncio.shield(opening)
        except BaseException:
            if opening.done():
                self._opened(opening)
            else:
                opening.add_done_callback(self._opened)
            raise

    def _opened(self, opening: asyncio.Future[psycopg.AsyncConnection[Any]]) -> None:
        if opening.cancelled() or opening.exception() is not None:
            self._gone()
        else:
            self.give(opening.result())

    async def _wait(self) -> None:
        waiter: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiters.append(waiter)
        try:
            async with asyncio.timeout(self._timeout):
                await waiter
        except TimeoutError:
            raise _exhausted(self._max_size, self._timeout) from None
        finally:
            if waiter in self._waiters:
                self._waiters.remove(waiter)
            elif waiter.cancelled() and (self._idle or self._size < self._max_size):
                self._tell()

    def give(self, connection: psycopg.AsyncConnection[Any]) -> None:
        """Give back a connection, whatever happened to it: it is kept if it is still usable."""
        if _reusable(connection) and not self._closed:
            self._idle.append(connection)
            self._tell()
        else:
            connection.pgconn.finish()
            self._gone()

    give_checked = give

    def _gone(self) -> None:
        self._size -= 1
        self._tell()

    def _tell(self) -> None:
        while self._waiters:
            waiter = self._waiters.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def drop_idle(self) -> None:
        """Close all idle connections."""
        while self._idle:
            connection = self._idle.pop()
            connection.pgconn.finish()
            self._gone()

    def close(self) -> None:
        """Close the idle connections now and the others when they are given back; take() fails from now on."""
        self._closed = True
        self.drop_idle()

    def _forget(self) -> None:
        _inherited.append(self._idle)
        self._finalizer.detach()
        self._idle, self._size = deque(), 0


def _forget_all() -> None:
    for pool in list(_pools):
        pool._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
