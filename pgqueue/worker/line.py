"""The line of a pool: claimed jobs that no host has yet, and which of them comes next."""

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence

from pgqueue.worker.held import Held

__all__ = ["Line"]


class Line:
    """Claimed jobs in the order in which they are to begin; its pool's lock guards it.

    Careful ones begin after that was recorded, and what is recorded counts as begun should the worker die: so no more
    are recorded than have a free slot, and then nothing overtakes them.
    """

    def __init__(self) -> None:
        self._plain: deque[Held] = deque()
        self._careful: deque[Held] = deque()  # to be recorded when there is a slot for them
        self._recording: dict[Held, None] = {}
        self._recorded: deque[Held] = deque()  # they begin before anything else

    def __len__(self) -> int:
        """How many may be taken now."""
        return len(self._recorded) + len(self._plain)

    def __iter__(self) -> Iterator[Held]:
        for part in (self._recorded, self._recording, self._careful, self._plain):
            yield from part

    @property
    def slots_kept(self) -> int:
        """Slots that are to stay free for what is being recorded."""
        return len(self._recording)

    @property
    def careful(self) -> bool:
        """Whether jobs wait that are to begin as soon as they are sent, and not to wait in a host."""
        return bool(self._careful or self._recording or self._recorded)

    def add(self, plain: Iterable[Held], careful: Iterable[Held]) -> None:
        """Put claimed jobs at the end."""
        self._plain.extend(plain)
        self._careful.extend(careful)

    def put_back(self, unstarted: Sequence[Held]) -> None:
        """Put what a host had not started at the front, in its order."""
        for held in reversed(unstarted):
            (self._recorded if held.recorded else self._plain).appendleft(held)

    def take(self, count: int) -> list[Held]:
        """Take so many from the front."""
        taken = [self._recorded.popleft() for _ in range(min(count, len(self._recorded)))]
        taken += [self._plain.popleft() for _ in range(min(count - len(taken), len(self._plain)))]
        return taken

    def to_record(self, free: int) -> list[Held]:
        """Return those that are to be recorded now, while so many slots are free."""
        free -= len(self._recording) + len(self._recorded)
        batch = [self._careful.popleft() for _ in range(min(free, len(self._careful)))]
        self._recording.update(dict.fromkeys(batch))
        return batch

    def recorded(self, batch: Iterable[Held], ours: Collection[str]) -> list[Held]:
        """Note that the beginning of a batch is recorded; returns those of it that leave the line.

        These were cancelled meanwhile, or turned out to be no longer ours. What was given up meanwhile is gone already.
        """
        awaited = [held for held in batch if held in self._recording]
        begin = [held for held in awaited if held.end is None and held.job.id in ours]
        for held in awaited:
            del self._recording[held]
        self._recorded.extend(begin)
        return [held for held in awaited if held not in begin]

    def remove(self, job_ids: Collection[str], end: tuple[object, ...]) -> list[Held]:
        """Take these jobs out and return them; those that are being recorded get their end after that."""
        for held in self._recording:
            if held.job.id in job_ids:
                held.end = end
        found = [held for held in self if held.job.id in job_ids and held not in self._recording]
        self.drop(set(found))
        return found

    def drop(self, lost: Collection[Held]) -> int:
        """Take attempts out, but those that are being recorded; returns how many they were."""
        dropped = 0
        for part in (self._recorded, self._careful, self._plain):
            kept = [held for held in part if held not in lost]
            dropped += len(part) - len(kept)
            if len(kept) < len(part):
                part.clear()
                part.extend(kept)
        return dropped

    def give_up(self) -> list[Held]:
        """Take out what is being recorded: it will not begin here."""
        given_up = list(self._recording)
        self._recording.clear()
        return given_up

    def drain(self) -> list[Held]:
        """Take out all but what is being recorded."""
        drained = [*self._recorded, *self._careful, *self._plain]
        for part in (self._recorded, self._careful, self._plain):
            part.clear()
        return drained
