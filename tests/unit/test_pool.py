"""A pool with hosts that do what the test says: what is sent, recorded and told, and when."""

from collections.abc import Iterable
from typing import Any

import pytest

from pgqueue.job import ClaimedJob
from pgqueue.worker.held import Entry, Held, Recorded
from pgqueue.worker.pool import Pool
from pgqueue.worker.station import Station


class Board:
    """What has begun, as the test says."""

    def __init__(self) -> None:
        self.started = 0
        self.since: dict[int, float] = {}

    def running(self) -> list[tuple[int, float]]:
        return list(self.since.items())


class Host:
    """Notes what its pool asks of it."""

    def __init__(self) -> None:
        self.board: Any = Board()
        self.ready = True
        self.asked: list[Any] = []

    def send(self, jobs: list[tuple[Any, ...]]) -> None:
        self.asked.append(("send", [job[2] for job in jobs]))

    def recall(self) -> None:
        self.asked.append("recall")

    def cancel(self, number: int) -> None:
        self.asked.append(("cancel", number))

    def stop(self) -> None:
        self.asked.append("stop")

    def kill(self) -> None:
        self.asked.append("kill")

    def begin(self, number: int, since: float = 0.0) -> None:
        """A job begins."""
        self.board.started = max(self.board.started, number)
        self.board.since[number] = since


class Work:
    """A pool, its only host, and what it reports."""

    def __init__(self, slots: int = 1) -> None:
        self.host = Host()
        self.ended: list[Entry] = []
        self.to_record: list[tuple[list[Held], Recorded | None]] = []
        self.pool = Pool(
            "threads",
            slots,
            buffer_seconds=1.0,
            claim_batch=100,
            quota=1_000,
            make_host=lambda kind, slots: self.host,
            finish=self._finish,
            settled=lambda count: None,
            has_room=lambda: None,
            at_most_once=lambda task: True,
            record=lambda held, then: self.to_record.append((held, then)),
        )
        self.station: Station = self.pool.add(slots)

    def _finish(self, entries: Iterable[Entry]) -> None:
        self.ended.extend(entries)

    def record(self) -> list[str]:
        """Let the oldest batch be recorded; its ids."""
        batch, then = self.to_record.pop(0)
        for held in batch:
            held.recorded = True
        assert then is not None
        ids = [held.job.id for held in batch]
        then(batch, set(ids))
        return ids

    def run(self) -> list[str]:
        """Let all that was sent begin and succeed; its ids."""
        sent = list(self.station.sent.items())
        for number, _ in sent:
            self.host.begin(number)
        self.host.board.since.clear()
        outcomes = [(number, "succeeded", None) for number, _ in sent]
        self.pool.handle(self.station, ("done", [10_000] * len(sent), outcomes))
        return [held.job.id for _, held in sent]


def held(name: str) -> Held:
    empty = ClaimedJob(*[None] * len(ClaimedJob._fields))  # type: ignore[arg-type]  # what a pool does not look at
    return Held(empty._replace(id=name, task="t"), 1)


@pytest.mark.parametrize("slots", [1, 2, 3])
def test_no_more_is_recorded_than_has_a_free_slot_and_it_begins_in_its_order(slots: int) -> None:
    work = Work(slots)
    names = [f"job {n}" for n in range(10)]
    work.pool.offer([], careful=[held(name) for name in names])
    ran = []
    while work.to_record:
        recorded = work.record()
        assert not work.to_record, "the slots are taken by what was just recorded"
        assert [one.job.id for one in work.station.sent.values()] == recorded
        ran += work.run()
    assert ran == names


def test_what_is_recorded_while_its_host_is_busy_takes_no_other_along() -> None:
    work = Work()
    work.pool.offer([], careful=[held("a"), held("b")])
    work.station.recalled = True  # its slot is not to be had just now
    work.record()
    assert (work.to_record, work.station.sent) == ([], {})
    work.pool.offer([held("plain")])
    work.pool.handle(work.station, ("returned", []))
    assert work.run() == ["a"]
    assert work.record() == ["b"], "nor does a plain job overtake it"
    assert work.run() == ["b"]
    assert work.run() == ["plain"]
    assert work.pool.load == 0


@pytest.mark.parametrize("kind", ["threads", "loop"])
def test_a_cancel_that_comes_while_a_job_begins_reaches_it(kind: str) -> None:
    work = Work()
    work.pool.kind = kind
    work.pool.offer([held("a")])
    work.pool.cancel({"a"})  # the board does not show it yet
    assert work.host.asked[-1] == "recall"
    work.host.begin(1)  # but it has begun meanwhile
    work.pool.handle(work.station, ("returned", []))
    assert work.host.asked[-1] == ("cancel", 1)
    work.pool.handle(work.station, ("returned", []))
    work.pool.cancel({"a"})  # as each heartbeat finds it asked to stop
    # A thread hears it once, but may not have been ready for it; a coroutine that cleans up is left alone.
    assert work.host.asked.count(("cancel", 1)) == (1 if kind == "loop" else 2)
    work.run()
    assert [end[0] for _, end in work.ended] == ["cancelled"]


def test_a_cancelled_job_that_goes_on_is_ended_at_its_hard_limit_once() -> None:
    work = Work()
    work.pool.kind = "processes"
    work.pool.offer([held("a")])
    work.host.begin(1, since=100.0)
    work.pool.cancel({"a"})
    work.pool.supervise(102.0, lambda held: 3.0)
    assert "kill" not in work.host.asked
    work.pool.supervise(104.0, lambda held: 3.0)
    work.pool.supervise(105.0, lambda held: 3.0)
    assert work.host.asked.count("kill") == 1
    work.pool.bury(work.station, "killed")
    assert [end[0] for _, end in work.ended] == ["cancelled"]


def test_what_comes_back_after_the_line_was_drained_is_released_too() -> None:
    work = Work(2)
    work.pool.offer([held("returned")], careful=[held("recorded")])
    assert work.pool.close() == []
    work.pool.handle(work.station, ("returned", list(work.station.sent)))
    work.record()
    work.pool.give_up()
    assert sorted((one.job.id, end) for one, end in work.ended) == [
        ("recorded", ("released",)),
        ("returned", ("released",)),
    ]
    assert work.pool.load == 0
