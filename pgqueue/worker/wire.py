"""Frames between a worker and its children, and the memory they share.

A frame is a length and a marshalled tuple: both ends run the same interpreter, and marshal is the fastest codec it has.
"""

import contextlib
import marshal
import mmap
import os
import select
import socket
import struct
import tempfile
import threading
from typing import Any

__all__ = ["Channel", "RunBoard"]

_LENGTH = struct.Struct("!I")
_NO_WAIT = getattr(socket, "MSG_DONTWAIT", 0)


class Channel:
    """One end of a socket pair: whole frames out, whole frames in.

    The worker's end never blocks: what the socket does not take waits in `unsent` until it is writable again.
    """

    def __init__(self, sock: socket.socket, blocking: bool) -> None:
        self.sock = sock
        self.unsent = bytearray()
        self._sending = threading.Lock()
        self._received = bytearray()
        self._blocking = blocking
        sock.setblocking(blocking)

    def fileno(self) -> int:
        """Return the descriptor, for selectors."""
        return self.sock.fileno()

    def send(self, message: tuple[Any, ...]) -> None:
        """Send one message, or keep what the socket does not take now."""
        body = marshal.dumps(message)
        frame = _LENGTH.pack(len(body)) + body
        with self._sending:
            if self._blocking:
                self.sock.sendall(frame)
                return
            self.unsent += frame
            self._send_unsent()

    def wait(self) -> None:
        """Wait until there is something to receive."""
        select.select([self.sock], [], [])

    def flush(self) -> None:
        """Send what was kept, as far as the socket takes it."""
        with self._sending:
            self._send_unsent()

    def _send_unsent(self) -> None:
        try:
            while self.unsent:
                del self.unsent[: self.sock.send(self.unsent)]
        except BlockingIOError:
            pass
        except OSError:
            # The other end is gone; whoever reads from it will see that too.
            self.unsent.clear()

    def receive(self) -> list[tuple[Any, ...]] | None:
        """Read what is there, without waiting, and return the whole messages; None at the end of the stream."""
        try:
            chunk = self.sock.recv(1 << 18, _NO_WAIT)
        except BlockingIOError:
            return []
        except OSError:
            return None
        if not chunk:
            return None
        buffer = self._received
        buffer += chunk
        messages = []
        start, end = 0, len(buffer)
        while end - start >= 4:
            (length,) = _LENGTH.unpack_from(buffer, start)
            if end - start - 4 < length:
                break
            # Trusted: the other end is this worker or its own child.
            messages.append(marshal.loads(memoryview(buffer)[start + 4 : start + 4 + length]))  # noqa: S302
            start += 4 + length
        if start:
            del buffer[:start]
        return messages

    def end_reading(self) -> None:
        """Let receive() find the end of the stream after what has arrived, though others may hold the other end."""
        with contextlib.suppress(OSError):
            self.sock.shutdown(socket.SHUT_RD)

    @property
    def closed(self) -> bool:
        """Whether this end was closed."""
        return self.sock.fileno() < 0

    def close(self) -> None:
        """Close this end."""
        self.sock.close()


class RunBoard:
    """Shared memory in which a child shows what it runs; readable after its death.

    `started` is the number of the last job started: jobs start in the order in which they are sent. Each slot holds
    the number of the job that runs in it (0: none) and since when, on the system's monotonic clock.

    Args:
        slots: jobs that run at once.
        descriptor: of another process's board; -1: memory of this process alone; None: a new one, to be shared.
    """

    def __init__(self, slots: int, descriptor: int | None = None) -> None:
        self.slots = slots
        size = 8 * (1 + 2 * slots)
        if descriptor is None:
            with tempfile.TemporaryFile() as file:
                file.truncate(size)
                descriptor = os.dup(file.fileno())
        self.descriptor = descriptor
        self._map = mmap.mmap(descriptor, size)
        # Word 0: the last one started; of each slot, the number and since when.
        self._numbers = memoryview(self._map).cast("q")
        self._times = memoryview(self._map).cast("d")

    @property
    def started(self) -> int:
        """Number of the last job started."""
        return self._numbers[0]

    def start(self, slot: int, number: int, now: float) -> None:
        """Show that a job starts in a slot."""
        self._numbers[0] = number
        self._times[2 * slot + 2] = now
        self._numbers[2 * slot + 1] = number

    def start_slot(self, slot: int, number: int, now: float) -> None:
        """Show that a job that was noted as started runs in a slot."""
        self._times[2 * slot + 2] = now
        self._numbers[2 * slot + 1] = number

    def note_started(self, number: int) -> None:
        """Show that a job started, without a slot of its own."""
        self._numbers[0] = number

    def clear(self, slot: int) -> None:
        """Show that a slot is idle."""
        self._numbers[2 * slot + 1] = 0

    def running(self) -> list[tuple[int, float]]:
        """Return (number, since) of the busy slots."""
        words = range(1, 2 * self.slots, 2)
        return [(number, self._times[word + 1]) for word in words if (number := self._numbers[word])]

    def close(self) -> None:
        """Release the memory."""
        self._numbers.release()
        self._times.release()
        self._map.close()
        if self.descriptor >= 0:
            os.close(self.descriptor)
