"""What a worker does when its process gets a signal."""

import os
import signal
import socket
import threading
from collections.abc import Callable

__all__ = ["Signals"]

HANDLED = ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT")


class Signals:
    """What signals do: TERM and INT stop warm, a second one at once; QUIT stops at once; HUP starts anew.

    A thread acts, told by the wakeup descriptor: Python's own handlers run only when the main thread runs Python, and
    that one may have begun to wait for an hour in the instant before; and a signal that interrupts another, or the very
    function that it is about to call, must neither wait for it nor come before it.

    Attributes:
        restart: whether the worker is to start again when it has stopped.

    Args:
        request_stop: stops the worker warm; called again, at once.
        grace: seconds that running jobs get, for the message.
        say: shows a line to the person who started the worker.
    """

    def __init__(self, request_stop: Callable[[], None], grace: float, say: Callable[[str], None]) -> None:
        self.restart = False
        self._request_stop = request_stop
        self._grace = grace
        self._say = say
        self._asked = False
        if threading.current_thread() is not threading.main_thread():
            return
        self._received, self._wakeup = socket.socketpair()
        self._wakeup.setblocking(False)
        self._handled = [getattr(signal, name) for name in HANDLED if hasattr(signal, name)]
        for number in self._handled:
            signal.signal(number, lambda number, frame: None)
        if hasattr(signal, "SIGPIPE"):
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        signal.set_wakeup_fd(self._wakeup.fileno(), warn_on_full_buffer=False)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)
        threading.Thread(target=self._act, name="pgqueue-signals", daemon=True).start()

    def _forget(self) -> None:
        """A process that a task forks answers its own signals, and does not stop this one with them."""
        signal.set_wakeup_fd(-1)
        for number in self._handled:
            signal.signal(number, signal.SIG_DFL)

    def _act(self) -> None:
        while received := self._received.recv(1):
            if received[0] not in self._handled:
                continue
            number = signal.Signals(received[0])
            if number.name == "SIGHUP":
                self._start_anew()
            elif number.name == "SIGQUIT":
                self._asked = True
                self._request_stop()
                self._request_stop()
            else:
                self._stop(number)

    def _stop(self, number: signal.Signals) -> None:
        if self._asked:
            self._say("pgqueue worker: stopping now; what runs goes back in line")
        else:
            again = "Ctrl-C" if number == signal.SIGINT else number.name
            self._say(
                f"pgqueue worker: stopping; running jobs get {self._grace:g} s to finish, {again} again ends them now"
            )
        self._asked = True
        self._request_stop()

    def _start_anew(self) -> None:
        if not self._asked:
            self._say("pgqueue worker: starting anew when running jobs have finished")
            self.restart = self._asked = True
            self._request_stop()
