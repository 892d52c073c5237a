"""Where the next claim starts to look: the low-water mark of each lane. Pure; docs/discussions/claiming.md tells why.

A claim must not walk over the dead index entries of what was claimed before it (a held snapshot keeps them all), and
yet must find a job whose place was drawn early and committed late. So each look reports the snapshot bounds and the
last place drawn before the snapshot. Whoever drew a place up to `last_seq` had its transaction id below
`snapshot_xmax`; once `snapshot_xmin` of a later look has passed that, all of them have ended, and a look that begins
at the mark and leaves nothing behind moves the mark up.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence

from pgqueue.job import ClaimedJob, LookRow

__all__ = ["Lanes"]

FRONT = -(2**63)
END = 2**63 - 1

# Places below the furthest one seen that every look covers: late commits of ordinary transactions lie here.
LAG = 2_000
# Share of time spent on looks from the mark, while a long transaction holds it far behind.
LOOK_BEHIND_DUTY = 0.05
FULL_LOOK_SECONDS = 60.0
FULL_LOOK_DUTY = 0.01
USUAL_SECONDS_PER_JOB = 40e-6

Lane = tuple[str, int]


class Lanes:
    """The lanes (queue, priority) of one claimer and their marks.

    Args:
        queues: names, each served at all ten priorities.
        clock: monotonic seconds.
    """

    def __init__(self, queues: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._queues = list(queues)
        self._clock = clock
        self._turn = 0
        self.forget()

    def forget(self) -> None:
        """Start again from the beginning: after a reconnect, nothing that was seen is certain."""
        self._low: dict[Lane, int] = {}  # nothing can appear at or below it
        self._head: dict[Lane, int] = {}  # the furthest place claimed or looked past
        self._horizons: deque[tuple[int, int]] = deque()  # (snapshot_xmax, last_seq), waiting to become safe
        self._safe_seq = 0  # below it no place can still appear, once looked at
        self._full_look_at = self._clock()
        self._look_behind_at = 0.0
        self._from_mark: set[Lane] = set()  # lanes whose current look begins at the mark

    def plan(self) -> tuple[list[tuple[str, int, int, int]], str]:
        """Return the ranges (queue, priority, after, before) of the next look, and its kind.

        Lanes come by priority, queues take turns. What was given back lies at negative places and comes first.
        """
        now = self._clock()
        if now >= self._full_look_at:
            kind = "full"
        elif now >= self._look_behind_at:
            kind = "mark"
        else:
            kind = "head"
        self._turn = (self._turn + 1) % max(1, len(self._queues))
        queues = self._queues[self._turn :] + self._queues[: self._turn]
        ranges = []
        self._from_mark = set()
        for priority in range(9, -1, -1):
            for queue in queues:
                lane = (queue, priority)
                ranges.append((queue, priority, FRONT, 0))
                after = low = 0 if kind == "full" else self._low.get(lane, 0)
                if kind == "head":
                    after = max(low, self._head.get(lane, 0) - LAG)
                if after == low:
                    self._from_mark.add(lane)
                ranges.append((queue, priority, after, END))
        return ranges, kind

    def learn(self, kind: str, look: LookRow, jobs: Iterable[ClaimedJob], exhausted: bool, seconds: float) -> None:
        """Move the marks after a look.

        Args:
            kind: as plan() returned it.
            look: what the look reports of itself.
            jobs: what it claimed.
            exhausted: whether it claimed less than its limit, so that nothing visible is left in any lane.
            seconds: how long it took.
        """
        now = self._clock()
        horizons = self._horizons
        safe = self._safe_seq
        while horizons and horizons[0][0] <= look.snapshot_xmin:
            safe = horizons.popleft()[1]
        last: dict[Lane, int] = {}
        claimed = 0
        for job in jobs:
            claimed += 1
            lane = (job.queue, job.priority)
            if job.seq > last.get(lane, 0):
                last[lane] = job.seq
        for queue in self._queues:
            for priority in range(10):
                lane = (queue, priority)
                # Up to here the look left nothing visible behind.
                seen = look.last_seq if exhausted else last.get(lane, 0)
                self._head[lane] = max(self._head.get(lane, 0), seen)
                if lane in self._from_mark:
                    self._low[lane] = max(self._low.get(lane, 0), min(safe, seen))
        self._safe_seq = safe
        if not horizons or look.last_seq > horizons[-1][1]:
            horizons.append((look.snapshot_xmax, look.last_seq))
        if kind == "full":
            self._full_look_at = now + max(FULL_LOOK_SECONDS, seconds / FULL_LOOK_DUTY)
        if kind != "head":
            # Cheap looks from the mark may follow at once; dear ones are spaced out.
            walked = seconds - claimed * USUAL_SECONDS_PER_JOB
            self._look_behind_at = now + (walked / LOOK_BEHIND_DUTY if walked > 0.005 else 0.0)
