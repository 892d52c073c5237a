"""Interrupts: an exception from outside reaches the job it is meant for, or nobody."""

import sys
import threading
import time

from pgqueue import SoftTimeLimitExceeded
from pgqueue.worker.interrupts import Interrupts


def compute() -> str:
    while True:
        time.sleep(0.0005)


def named(error: Exception) -> str:
    return type(error).__name__


def test_a_soft_limit_raises_in_the_thread_that_runs_the_job() -> None:
    interrupts = Interrupts()
    assert interrupts.run(1, 0.01, compute, named) == "SoftTimeLimitExceeded"
    interrupts.stop()
    interrupts.join(10)


def test_a_task_may_catch_it_and_return() -> None:
    interrupts = Interrupts()

    def clean_up() -> str:
        try:
            return compute()
        except SoftTimeLimitExceeded:
            return "cleaned up"

    assert interrupts.run(1, 0.01, clean_up, named) == "cleaned up"
    interrupts.stop()
    interrupts.join(10)


def test_a_cancellation_raises_in_the_thread_of_its_job_only() -> None:
    interrupts = Interrupts()
    began = threading.Barrier(3)
    released = threading.Event()
    ends: dict[int, str] = {}

    def wait() -> str:
        began.wait(10)
        while not released.wait(0.0005):
            pass
        return "returned"

    def run(number: int) -> None:
        ends[number] = interrupts.run(number, None, wait, named)

    threads = [threading.Thread(target=run, args=(number,)) for number in (1, 2)]
    for thread in threads:
        thread.start()
    began.wait(10)
    interrupts.cancel(2)
    threads[1].join(10)
    released.set()
    threads[0].join(10)
    assert ends == {1: "returned", 2: "TaskRevokedError"}


def test_nothing_arrives_after_the_job_however_late_it_was_sent() -> None:
    """Another thread cancels again and again while jobs come and go: nobody may be hit between two of them."""
    interrupts = Interrupts()
    done = threading.Event()
    current = 0

    def cancel() -> None:
        while not done.is_set():
            interrupts.cancel(current)

    def count() -> str:
        for _ in range(300):
            sum(range(20))
        return "returned"

    canceller = threading.Thread(target=cancel)
    canceller.start()
    ends = set()
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)
    try:
        while current < 400 or "TaskRevokedError" not in ends:
            current += 1
            ends.add(interrupts.run(current, 0.0002, count, named))
            count()  # between two jobs
    finally:
        sys.setswitchinterval(interval)
        done.set()
        canceller.join(10)
        interrupts.stop()
        interrupts.join(10)
    assert ends <= {"returned", "SoftTimeLimitExceeded", "TaskRevokedError"}


def test_a_cancellation_of_a_job_that_is_over_is_nothing() -> None:
    interrupts = Interrupts()
    assert interrupts.run(1, 60, lambda: "returned", named) == "returned"
    interrupts.cancel(1)
    sum(range(1000))
    interrupts.stop()
    interrupts.join(10)


def test_a_job_whose_end_is_being_written_is_not_interrupted_any_more() -> None:
    interrupts = Interrupts()

    def write_end() -> str:
        interrupts.end(1)
        interrupts.cancel(1)
        sum(range(1000))
        return "returned"

    assert interrupts.run(1, None, write_end, named) == "returned"
    interrupts.stop()
    interrupts.join(10)
