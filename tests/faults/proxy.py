"""A TCP proxy on loopback between a program and PostgreSQL, which can break one connection in the ways networks do.

Connections are told apart by what is said on them: it reads the client's messages (sslmode=disable), and a statement's
text marks its connection.
"""

import contextlib
import socket
import struct
import threading
from collections.abc import Callable

from psycopg.conninfo import conninfo_to_dict, make_conninfo

__all__ = ["Link", "Proxy"]

_RESET = struct.pack("ii", 1, 0)
UNLISTEN = b"unlisten *\0"


class Link:
    """One connection through the proxy.

    Attributes:
        said: every statement's text the client sent, joined.
        lost_reply: set once a reply was dropped on it.
    """

    def __init__(self, client: socket.socket, server: socket.socket, watch: "Callable[[Link, bytes], bool]") -> None:
        self.client = client
        self.server = server
        self.said = b""
        self.lost_reply = threading.Event()
        self._watch = watch
        self._flowing = threading.Event()
        self._flowing.set()
        self._dropping = False
        self._swallow = 0  # replies of ours that the client did not ask for
        self._closed = False
        for pump in (self._pump_client, self._pump_server):
            threading.Thread(target=pump, name="proxy", daemon=True).start()

    # -- faults ---------------------------------------------------------------------------------------------------

    def stall(self) -> None:
        """Hold everything back, in both directions, without a sign on either side: half-open until resume()."""
        self._flowing.clear()

    def resume(self) -> None:
        """Let pass what was held back."""
        self._flowing.set()

    def drop_reply(self) -> None:
        """Let the server do what was just asked, swallow its answer to the end, then reset the client's side."""
        self._dropping = True

    def inject(self, statement: bytes) -> None:
        """Send a statement of our own in the client's session, and keep the answer to ourselves; the link is idle."""
        self._swallow += 1
        self.server.sendall(b"Q" + struct.pack("!I", 4 + len(statement)) + statement)

    def injected(self) -> bool:
        """Whether the server has answered to what was injected."""
        return self._swallow == 0

    def reset(self) -> None:
        """Break the connection with an RST to the client; the server sees its end."""
        with contextlib.suppress(OSError):
            self.client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        self.close()

    def close(self) -> None:
        """Close both sides."""
        self._closed = True
        self._flowing.set()
        # A thread blocked in recv() keeps its socket alive after close(): wake it. Ending only the reading direction
        # says nothing to the client yet, so that a reset stays possible.
        for sock, direction in ((self.client, socket.SHUT_RD), (self.server, socket.SHUT_RDWR)):
            with contextlib.suppress(OSError):
                sock.shutdown(direction)
            sock.close()

    @property
    def is_open(self) -> bool:
        """Whether it has not ended yet."""
        return not self._closed

    # -- pumps ----------------------------------------------------------------------------------------------------

    def _pump_client(self) -> None:
        """Client to server, message by message; the first one has no type."""
        buffer = b""
        header = 0
        try:
            while chunk := self._receive(self.client):
                buffer += chunk
                while len(buffer) >= header + 4:
                    size = header + struct.unpack_from("!I", buffer, header)[0]
                    if len(buffer) < size:
                        break
                    message, buffer = buffer[:size], buffer[size:]
                    if header:
                        self._hear(message)
                    header = 1
                    self._flowing.wait()
                    self.server.sendall(message)
        except OSError:
            pass
        if not self._closed:
            self.close()

    def _hear(self, message: bytes) -> None:
        kind = message[:1]
        if kind in b"QP":
            self.said += message[5:] + b"\n"
        if kind in b"QPBE" and self._watch(self, message):
            self.drop_reply()

    def _pump_server(self) -> None:
        """Server to client; complete messages only while something is to be kept from the client."""
        buffer = b""
        try:
            while chunk := self._receive(self.server):
                self._flowing.wait()
                if not (self._dropping or self._swallow or buffer):
                    self.client.sendall(chunk)
                    continue
                buffer += chunk
                while len(buffer) >= 5 and len(buffer) > (size := struct.unpack_from("!I", buffer, 1)[0]):
                    message, buffer = buffer[: size + 1], buffer[size + 1 :]
                    ready = message[:1] == b"Z"
                    if self._dropping:
                        if ready:
                            self.lost_reply.set()
                            self.reset()
                            return
                    elif self._swallow:
                        self._swallow -= ready
                    else:
                        self.client.sendall(message)
        except OSError:
            pass
        if not self._closed:
            self.close()

    @staticmethod
    def _receive(sock: socket.socket) -> bytes:
        return sock.recv(1 << 16)


class Proxy:
    """Listens on a loopback port and forwards to a server.

    Args:
        dsn: of the server; `dsn` of the proxy is the same through it.
    """

    def __init__(self, dsn: str) -> None:
        found = conninfo_to_dict(dsn)
        self._target = (str(found["host"]), int(str(found["port"])))
        self.links: list[Link] = []
        self._condition: Callable[[Link, bytes], bool] | None = None
        self._hit: Link | None = None
        self._changed = threading.Condition()
        self._listener = socket.create_server(("127.0.0.1", 0))
        port = self._listener.getsockname()[1]
        self.dsn = make_conninfo(dsn, host="127.0.0.1", port=port, sslmode="disable", gssencmode="disable")
        threading.Thread(target=self._accept, name="proxy", daemon=True).start()

    def __enter__(self) -> "Proxy":
        return self

    def __exit__(self, *exc_info: object) -> None:
        # A shutdown wakes accept(); a close alone does not.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in list(self.links):
            link.close()

    def open_links(self, saying: bytes) -> list[Link]:
        """The open connections on which a statement with this text was sent."""
        return [link for link in list(self.links) if link.is_open and saying in link.said]

    def drop_next_reply(self, when: Callable[[Link, bytes], bool]) -> None:
        """Lose the answer to the next client message for which `when(link, message)` is true; once.

        The message has a type byte and a length: b"Q" query, b"P" parse, b"B" bind, b"E" execute.
        """
        with self._changed:
            self._hit = None
            self._condition = when

    def dropped(self) -> Link | None:
        """The connection that lost its reply, once it did."""
        link = self._hit
        return link if link is not None and link.lost_reply.is_set() else None

    def _watch(self, link: Link, message: bytes) -> bool:
        with self._changed:
            if self._condition is None or not self._condition(link, message):
                return False
            self._condition = None
            self._hit = link
            return True

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(self._target)
            except OSError:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                client.close()
                continue
            for sock in (client, server):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self.links.append(Link(client, server, self._watch))
