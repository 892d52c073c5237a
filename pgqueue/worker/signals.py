"""What a worker does when its process gets a signal."""

import queue
import signal
import threading
from collections.abc import Callable

__all__ = ["Signals"]


class Signals:
    """What signals do: TERM and INT stop warm, a second one at once; QUIT stops at once; HUP starts anew.

    Handlers only note the signal, and a thread acts: one that interrupts another, or the very function that it is about
    to call, must neither wait for it nor come before it.

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
        self._received: queue.SimpleQueue[int] = queue.SimpleQueue()
        if threading.current_thread() is not threading.main_thread():
            return
        for name in ("SIGTERM", "SIGINT", "SIGHUP", "SIGQUIT"):
            if hasattr(signal, name):
                signal.signal(getattr(signal, name), lambda number, frame: self._received.put(number))
        if hasattr(signal, "SIGPIPE"):
            signal.signal(signal.SIGPIPE, signal.SIG_IGN)
        threading.Thread(target=self._act, name="pgqueue-signals", daemon=True).start()

    def _act(self) -> None:
        while True:
            number = signal.Signals(self._received.get())
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
