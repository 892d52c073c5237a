"""Real processes in tests: the command line as a user starts it, and the one place that waits."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

REPOSITORY = Path(__file__).resolve().parents[2]

T = TypeVar("T")


def wait_until(
    condition: Callable[[], T], timeout: float = 30, what: str | Callable[[], str] = "the condition holds"
) -> T:
    """Poll until `condition()` is true and return its value; AssertionError when `timeout` seconds pass first.

    For what has no event to wait on: another process's state, a row that another session writes. The only place in the
    tests that sleeps: between two looks, never instead of one, so a slow machine makes tests slower and not wrong.
    """
    deadline = time.monotonic() + timeout
    pause = 0.001
    while not (value := condition()):
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout} s in vain until {what() if callable(what) else what}")
        time.sleep(pause)
        pause = min(pause * 2, 0.05)
    return value


class CommandLine:
    """A running program whose output (both streams, in order) is kept and can be waited for.

    Args:
        command: the program and its arguments.
        env: the whole environment.
        cwd: its working directory.
    """

    def __init__(self, command: Sequence[str], env: Mapping[str, str], cwd: Path | None = None) -> None:
        self.command = list(command)
        self.process = subprocess.Popen(
            self.command,
            env=dict(env),
            cwd=cwd,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,  # a process group of its own: kill_all() reaches its children too
        )
        self._lines: list[str] = []
        self._changed = threading.Condition()
        self._ended = False
        self._reader = threading.Thread(target=self._read, name=f"output of {self.process.pid}", daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id."""
        return self.process.pid

    @property
    def output(self) -> str:
        """What it has printed so far."""
        with self._changed:
            return "".join(self._lines)

    def expect(self, text: str, timeout: float = 30) -> str:
        """Wait until a printed line contains `text`; that line. AssertionError with the output if it never does."""
        found: list[str] = []

        def look() -> bool:
            found.extend(line for line in self._lines if text in line)
            return bool(found) or self._ended

        with self._changed:
            self._changed.wait_for(look, timeout)
        assert found, f"{text!r} was not printed within {timeout} s by {' '.join(self.command)}:\n{self.output}"
        return found[0]

    def send(self, text: str) -> None:
        """Type `text` and a newline."""
        assert self.process.stdin is not None
        self.process.stdin.write(text + "\n")
        self.process.stdin.flush()

    def send_signal(self, number: signal.Signals) -> None:
        """Send a signal to the program itself."""
        self.process.send_signal(number)

    def send_group_signal(self, number: signal.Signals) -> None:
        """Send a signal to it and all its children, as a terminal's Ctrl-C does."""
        os.killpg(self.process.pid, number)

    def wait(self, timeout: float = 60) -> int:
        """Wait for its end; its exit code. AssertionError with the output when it goes on."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{' '.join(self.command)} still runs after {timeout} s:\n{self.output}") from None
        self._reader.join(timeout)  # the rest of its output; a surviving child may hold the pipe
        return code

    def kill_all(self) -> None:
        """End it and every child in its process group, at once, and release its pipes."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        self.process.wait()
        self._reader.join(10)
        for stream in (self.process.stdin, self.process.stdout):
            if stream is not None:
                try:
                    stream.close()
                except BrokenPipeError:  # what was typed and never read
                    pass

    def _read(self) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            with self._changed:
                self._lines.append(line)
                self._changed.notify_all()
        with self._changed:
            self._ended = True
            self._changed.notify_all()


def cli(*args: str) -> list[str]:
    """The command line that a user's `pgqueue …` is, under this interpreter."""
    return [sys.executable, "-m", "pgqueue", *args]


def clean_environment(**changes: str) -> dict[str, str]:
    """This process's environment without anything that configures pgqueue or libpq, and with `changes`.

    Output is unbuffered, so that a line can be waited for.
    """
    ours = {name: value for name, value in os.environ.items() if not name.startswith("PG") and name != "DATABASE_URL"}
    return {**ours, "PYTHONUNBUFFERED": "1", **changes}
