"""Signals that interrupt one another."""

import multiprocessing
import os
import signal
import threading
from collections.abc import Iterator

import pytest

from pgqueue.worker.signals import Signals

HANDLED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGPIPE)


@pytest.fixture(autouse=True)
def handlers() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in HANDLED}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in before.items():
        signal.signal(number, handler)


def test_a_signal_in_the_middle_of_another_one_comes_after_it() -> None:
    """A person who reads the first line and types Ctrl-C again is faster than the first one's end."""
    told: list[str] = []
    ended = threading.Event()

    def say(line: str) -> None:
        told.append(line)
        if len(told) == 1:
            os.kill(os.getpid(), signal.SIGINT)

    def request_stop() -> None:
        told.append("asked")
        if told.count("asked") == 2:
            ended.set()

    signals = Signals(request_stop, 25, say)
    signal.raise_signal(signal.SIGINT)
    assert ended.wait(30)
    first, *between, last, asked = told
    assert (between, asked) == (["asked"], "asked")
    assert "running jobs get 25 s" in first
    assert "stopping now" in last
    assert not signals.restart


def test_hup_starts_anew_and_quit_does_not_wait() -> None:
    told: list[str] = []
    ended = threading.Event()

    def request_stop() -> None:
        told.append("asked")
        if told.count("asked") == 3:
            ended.set()

    signals = Signals(request_stop, 25, told.append)
    signal.raise_signal(signal.SIGHUP)
    signal.raise_signal(signal.SIGQUIT)
    assert ended.wait(30)
    assert told == ["pgqueue worker: starting anew when running jobs have finished", "asked", "asked", "asked"]
    assert signals.restart


def test_a_signal_comes_through_while_the_main_thread_waits() -> None:
    """The main thread of a worker waits without running Python, and a signal may reach another thread."""
    ended = threading.Event()
    Signals(ended.set, 25, lambda line: None)
    sender = threading.Thread(target=lambda: signal.pthread_kill(threading.get_ident(), signal.SIGTERM))
    sender.start()
    assert ended.wait(30)
    sender.join()


def test_what_a_task_forks_answers_its_own_signals() -> None:
    told: list[str] = []
    Signals(lambda: told.append("asked"), 25, told.append)
    fork = multiprocessing.get_context("fork")
    ready = fork.Event()

    def work() -> None:
        ready.set()
        signal.pause()

    child = fork.Process(target=work, daemon=True)
    child.start()
    assert ready.wait(30)
    child.terminate()
    child.join(30)
    assert child.exitcode == -signal.SIGTERM
    assert told == []
