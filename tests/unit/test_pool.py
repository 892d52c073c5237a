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
