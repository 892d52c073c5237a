"""A child process by itself, with the test as its worker: what it sends, whatever interrupts it or is forked."""

import os
import select
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pgqueue.codec import encode_result
from pgqueue.worker.executor import JobToRun
from pgqueue.worker.hosts import ChildHost
from tests.support.process import wait_until
from tests.worker.conftest import TASKS
from tests.worker.gate import Gate

if not Path("/proc/self/status").exists():
    pytest.skip("looks at processes through /proc", allow_module_level=True)


class Child:
    """A child of the kind processes, and the messages that it sent."""

    def __init__(self, dsn: str) -> None:
        settings = {
            "app": f"{TASKS}:app",
            "include": [],
            "path": sys.path,
            "overrides": {"dsn": dsn},
            "name": "test",
            "application_name": "test",
            "log": {"level": "CRITICAL", "logfile": None},
        }
        self.host = ChildHost("processes", 1, settings, lambda: None)
        self.messages: list[tuple[Any, ...]] = []
        self.ended = False

    def run(self, number: int, name: str, *args: Any, **options: Any) -> None:
        """Let it run a task of tests/worker/tasks.py."""
        blank: dict[str, Any] = dict.fromkeys(JobToRun._fields)
        facts = {"number": number, "token": 7, "id": f"00000000-0000-7000-8000-{number:012}", "task": f"{TASKS}.{name}"}
        more = {"queue": "default", "priority": 0, "attempt": 1, "lost": 0, "args": encode_result(list(args))}
        job = JobToRun(**{**blank, **facts, **more, "options": encode_result(options) if options else None})
        self.host.send([tuple(job)])

    def until(self, condition: Callable[[], Any]) -> Any:
        """Read until this holds."""

        def look() -> Any:
            received = None if self.ended else self.host.channel.receive()
            self.ended = received is None
            self.messages += received or []
            return condition()

        return wait_until(look, what=lambda: f"it holds: {[(m[0], str(m[1:])[:200]) for m in self.messages]}")

    def outcome(self, number: int) -> Any:
        """The outcome of a job, once it is there."""

        def find() -> Any:
            done = [outcome for message in self.messages if message[0] == "done" for outcome in message[2]]
            return next((outcome for outcome in done if outcome[0] == number), None)

        return self.until(find)

    def signal(self, number: signal.Signals) -> None:
        """Send a signal, and wait until it was delivered."""
        os.kill(self.host.pid, number)

        def delivered() -> bool:
            status = Path(f"/proc/{self.host.pid}/status").read_text()
            pending = [line.split()[1] for line in status.splitlines() if line.startswith(("SigPnd", "ShdPnd"))]
            return not any(int(mask, 16) >> (number - 1) & 1 for mask in pending)

        wait_until(delivered, what="it got the signal")

    def until_it_sends(self) -> None:
        """Wait until something arrives; it stays in the middle of a long frame while nobody reads."""
        assert select.select([self.host.channel], [], [], 30)[0]


@pytest.fixture
def child(dsn: str) -> Iterator[Child]:
    found = Child(dsn)
    found.until(lambda: any(message[0] == "ready" for message in found.messages))
    yield found
    found.host.kill()
    found.host.reap(10)
    found.host.channel.close()
    found.host.board.close()


def test_a_soft_limit_in_the_middle_of_a_frame_waits_for_its_end(child: Child) -> None:
    child.run(1, "report_at_length", 900_000, soft_time_limit=3600)
    child.until_it_sends()
    child.signal(signal.SIGALRM)
    kind, error = child.outcome(1)[1:3]
    assert (kind, "SoftTimeLimitExceeded" in error) == ("failed", True)
    progress = [message for message in child.messages if message[0] == "progress"]
    assert [len(message[3]) > 900_000 for message in progress] == [True]
    child.run(2, "echo", "well")
    assert child.outcome(2)[1:] == ("succeeded", '"well"')


def test_a_recall_and_a_soft_limit_in_the_middle_of_a_frame_are_both_heard(child: Child) -> None:
    child.run(1, "report_at_length", 900_000, soft_time_limit=3600)
    child.until_it_sends()
    child.run(2, "echo", "not here")
    child.signal(signal.SIGALRM)
    child.signal(signal.SIGUSR2)
    assert "SoftTimeLimitExceeded" in child.outcome(1)[2]
    assert ("returned", [2]) in child.messages


def test_what_it_forks_does_not_hold_its_stream_open(child: Child, gate: Gate) -> None:
    child.run(1, "fork_and_die", gate.address, False)
    left_behind = gate.next()
    assert (left_behind.says, left_behind.pid == child.host.pid) == ("left behind", False)
    child.until(lambda: child.ended)
    left_behind.let_go()


def test_what_a_full_socket_does_not_take_of_a_demand_is_told_to_whoever_flushes() -> None:
    told: list[int] = []
    host = ChildHost("threads", 1, {}, lambda: told.append(len(host.channel.unsent)))
    os.kill(host.pid, signal.SIGSTOP)
    while not host.channel.unsent:
        host.channel.send(("fill", "x" * 100_000))
    host.recall()
    host.cancel(1)
    host.stop()
    assert len(told) == 3
    host.kill()
    host.reap(10)
    host.channel.close()
    host.board.close()
