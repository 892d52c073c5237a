"""Where a test meets the tasks it started, whatever process or thread they run in: they report, and wait to be let go.

A task calls visit(); the test accepts it, knows then that the task runs, and lets it go with an answer. When the
task's process dies, the visitor is gone.
"""

import asyncio
import json
import os
import select
import socket
import threading
from types import TracebackType
from typing import Self

SECONDS = 30.0


class Visitor:
    """A running task that waits.

    Attributes:
        says: what it told.
        pid, thread: where it runs.
    """

    def __init__(self, connection: socket.socket) -> None:
        connection.settimeout(SECONDS)
        self._connection = connection
        self._file = connection.makefile("rw")
        told = json.loads(self._file.readline())
        self.says: str = told["says"]
        self.pid: int = told["pid"]
        self.thread: str = told["thread"]

    def let_go(self, answer: str = "") -> None:
        """Answer it, and let it go on."""
        self._file.write(answer + "\n")
        self._file.flush()
        self.close()

    def await_death(self) -> None:
        """Wait until its process, or whoever held the connection, is gone."""
        assert self._connection.recv(1) == b"", "it talks"
        self.close()

    def close(self) -> None:
        """Hang up; a task that still waits gets an empty answer."""
        self._file.close()
        self._connection.close()


class Gate:
    """A listening socket on which tasks report."""

    def __init__(self) -> None:
        self._server = socket.create_server(("127.0.0.1", 0), backlog=1024)
        self._server.settimeout(SECONDS)
        self._visitors: list[Visitor] = []

    @property
    def address(self) -> str:
        """What a task needs in order to visit: an argument of its job."""
        host, port = self._server.getsockname()
        return f"{host}:{port}"

    def next(self) -> Visitor:
        """Wait for the next visitor."""
        connection, _ = self._server.accept()
        self._visitors.append(Visitor(connection))
        return self._visitors[-1]

    def take(self, count: int) -> list[Visitor]:
        """Wait for so many visitors, in the order in which they came."""
        return [self.next() for _ in range(count)]

    @property
    def empty(self) -> bool:
        """Whether nobody stands at the gate now."""
        return not select.select([self._server], [], [], 0)[0]

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.close()
        for visitor in self._visitors:
            visitor.close()


def _told(says: object) -> bytes:
    told = {"says": str(says), "pid": os.getpid(), "thread": threading.current_thread().name}
    return json.dumps(told).encode() + b"\n"


def visit(address: str, says: object = "") -> str:
    """Called by a task: report, wait to be let go, and return the answer."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as connection, connection.makefile("r") as answers:
        connection.sendall(_told(says))
        return answers.readline().rstrip("\n")


def call_at(address: str, says: object = "") -> None:
    """Called by a task: report without waiting."""
    host, port = address.split(":")
    with socket.create_connection((host, int(port))) as connection:
        connection.sendall(_told(says))


async def avisit(address: str, says: object = "") -> str:
    """visit() of a coroutine."""
    host, port = address.split(":")
    reader, writer = await asyncio.open_connection(host, int(port))
    try:
        writer.write(_told(says))
        await writer.drain()
        return (await reader.readline()).decode().rstrip("\n")
    finally:
        writer.close()
