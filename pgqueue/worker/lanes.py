"""Where the next claim starts to look: the low-water mark of each lane. Pure; docs/discussions/claiming.md tells why.

A claim must not walk over the dead index entries of what was claimed before it (a held snapshot keeps them all), and
yet must find a job whose place was drawn early and committed late, or whose row somebody had locked in passing.

Each look reports the last place drawn and, drawn after it, its own transaction id: whoever had drawn a place by then
has a lower id. Once a later look finds no transaction open that has, nothing can appear up to that place any more. What
is there already is asked for: the mark moves up to the first job that is still available, at most to that place. It
depends on nothing that claims took, skipped, left out or cut off.

A transaction that stays open for long would hold the mark back. It is noted as a straggler instead, with the place up
to which it had drawn none: the mark goes on without it, and goes back to that place when it has ended.
"""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from typing import Literal

from pgqueue.job import ClaimedJob, LookRow

__all__ = ["Kind", "Lanes"]

FRONT = -(2**63)
END = 2**63 - 1

# Places below the furthest one seen that every look covers: late commits of ordinary transactions lie here.
LAG = 2_000
# A mark is asked to move when it might move this far.
STRIDE = 1_000
# A transaction that has held the mark back for so long is a straggler.
STRAGGLER_SECONDS = 0.25
# Share of time spent on looks from a mark that is far behind.
LOOK_BEHIND_DUTY = 0.05
LOOK_BEHIND_SECONDS = 30.0  # they are never further apart, however long one took
FULL_LOOK_SECONDS = 60.0
FULL_LOOK_DUTY = 0.01
# What a look costs by itself, counted in jobs.
LOOK_IN_JOBS = 20

Lane = tuple[str, int]
# From the beginning; from the mark; from LAG below the furthest place seen.
Kind = Literal["full", "mark", "head"]


class Lanes:
    """The lanes (queue, priority) of one claimer and their marks.

    Attributes:
        went_back: the look that was planned last goes back to what a straggler may have left.

    Args:
        queues: names, each served at all ten priorities.
        clock: monotonic seconds.
    """

    def __init__(self, queues: Sequence[str], clock: Callable[[], float] = time.monotonic) -> None:
        self._queues = list(queues)
        self._clock = clock
        self._turns: dict[Kind, int] = {"full": 0, "mark": 0, "head": 0}
        self._usual = 10e-6  # seconds per job of a look that walks over little
        self._order: list[Lane] = []  # of the current look
        self.forget()

    def forget(self) -> None:
        """Start again from the beginning: after a reconnect, nothing that was seen is certain."""
        lanes = [(queue, priority) for queue in self._queues for priority in range(10)]
        self._mark = dict.fromkeys(lanes, 0)  # nothing can appear at or below it, but what stragglers left
        self._head = dict.fromkeys(lanes, 0)  # the furthest place claimed or looked past
        self._asked = dict.fromkeys(lanes, 0)  # how far the mark might have moved when it was last asked to
        self._horizons: deque[tuple[int, int, float]] = deque()  # (transaction id, place, when): see safe
        self._safe = 0  # whoever drew a place up to here has ended, or is a straggler
        self._stragglers: dict[int, int] = {}  # transaction id: up to here it had drawn no place
        self._left_from: int | None = None  # above it, stragglers that ended meanwhile may have left jobs
        self.went_back = False
        self._last = 0
        self._excluded: frozenset[str] = frozenset()
        self._full_look_at = self._mark_look_at = self._clock()

    def plan(self, excluded: Iterable[str] = ()) -> tuple[list[tuple[str, int, int, int]], Kind]:
        """Return the ranges (queue, priority, after, before) of the next look, and its kind.

        Lanes come by priority, queues take turns. What was given back lies at negative places and comes first.

        Args:
            excluded: tasks whose jobs the look leaves where they are.
        """
        now = self._clock()
        left_out = frozenset(excluded)
        if not self._excluded <= left_out:
            self._mark_look_at = now  # jobs that were left out lie behind
        self._excluded = left_out
        self.went_back = self._left_from is not None and now >= self._mark_look_at
        if self._left_from is not None and self.went_back:
            self._mark = {lane: min(mark, self._left_from) for lane, mark in self._mark.items()}
            self._asked = dict.fromkeys(self._asked, 0)
            self._left_from = None
        kind: Kind = "head"
        if now >= self._full_look_at:
            kind = "full"
        elif now >= self._mark_look_at or not self._far():
            kind = "mark"
        # Turns of each kind: else one queue might be the first of all looks from the mark.
        turn = self._turns[kind] = (self._turns[kind] + 1) % max(1, len(self._queues))
        queues = self._queues[turn:] + self._queues[:turn]
        self._order = [(queue, priority) for priority in range(9, -1, -1) for queue in queues]
        ranges = []
        for lane in self._order:
            after = 0
            if kind != "full":
                after = self._mark[lane]
            if kind == "head":
                after = max(after, self._head[lane] - LAG)
            ranges.append((*lane, FRONT, 0))
            ranges.append((*lane, after, END))
        return ranges, kind

    def owed(self) -> float | None:
        """Seconds until a look may go back to what ended stragglers may have left; None: there is none."""
        return None if self._left_from is None else max(0.0, self._mark_look_at - self._clock())

    def learn(self, kind: Kind, look: LookRow, jobs: Iterable[ClaimedJob], exhausted: bool, seconds: float) -> None:
        """Note what a look found.

        Args:
            kind: as plan() returned it.
            look: what the look reports of itself.
            jobs: what it claimed.
            exhausted: whether it claimed less than its limit, so that it reached the end of each lane.
            seconds: how long it took.
        """
        if look.last_seq < self._last:
            self.forget()  # somebody set the sequence back
            return
        self._last = look.last_seq
        self._learn_horizon(look)
        claimed = self._learn_places(kind, look.last_seq, jobs, exhausted)
        self._learn_cost(kind, claimed, seconds)

    def behind(self) -> list[tuple[str, int, int]]:
        """Return the lanes (queue, priority, mark) whose marks might move far enough to be worth the question."""
        found = []
        for lane, mark in self._mark.items():
            upto = min(self._safe, self._head[lane])
            if upto - max(mark, self._asked[lane]) >= STRIDE:
                self._asked[lane] = upto
                found.append((*lane, mark))
        return found

    def move(self, lanes: Iterable[tuple[str, int, int]], first_places: list[int | None]) -> None:
        """Move marks up.

        Args:
            lanes: as behind() returned them.
            first_places: of each, the first place above its mark that was still available after behind() was called.
        """
        for (queue, priority, _), first in zip(lanes, first_places, strict=True):
            self._mark[queue, priority] = self._safe if first is None else min(self._safe, first - 1)

    def _far(self) -> bool:
        return any(self._head[lane] - mark > 2 * LAG for lane, mark in self._mark.items())

    def _learn_horizon(self, look: LookRow) -> None:
        horizons, stragglers, now = self._horizons, self._stragglers, self._clock()
        open_ones, after_all = look.open_transactions()
        for xid in stragglers.keys() - open_ones:
            place = stragglers.pop(xid)
            self._left_from = place if self._left_from is None else min(place, self._left_from)
        if horizons and now - horizons[0][2] > STRAGGLER_SECONDS and self._far():
            for xid in open_ones:
                if xid < horizons[0][0]:
                    stragglers.setdefault(xid, self._safe)
        oldest = min((xid for xid in open_ones if xid not in stragglers), default=after_all)
        while horizons and horizons[0][0] <= oldest:
            self._safe = horizons.popleft()[1]
        if look.last_seq > (horizons[-1][1] if horizons else self._safe):
            horizons.append((look.look_xid, look.last_seq, now))

    def _learn_places(self, kind: Kind, last_seq: int, jobs: Iterable[ClaimedJob], exhausted: bool) -> int:
        claimed = 0
        last: dict[Lane, int] = {}
        for job in jobs:
            claimed += 1
            lane = (job.queue, job.priority)
            last[lane] = max(last.get(lane, 0), job.seq)
            if 0 < job.seq <= self._mark[lane]:
                self._mark[lane] = job.seq - 1  # put there by hand; there may be more
        done = exhausted
        for lane in reversed(self._order):
            if done:
                self._head[lane] = max(self._head[lane], last_seq, last.get(lane, 0))
            elif lane in last:
                # A look is cut off in the last lane of which it took jobs; it went through the lanes before.
                done = True
                if last[lane] > 0:
                    self._head[lane] = last[lane] if kind != "head" else max(self._head[lane], last[lane])
        return claimed

    def _learn_cost(self, kind: Kind, claimed: int, seconds: float) -> None:
        now = self._clock()
        size = claimed + LOOK_IN_JOBS
        if kind == "full":
            self._full_look_at = now + max(FULL_LOOK_SECONDS, seconds / FULL_LOOK_DUTY)
            return
        far = kind == "mark" and self._far()
        if not far or seconds / size < self._usual:
            self._usual += 0.1 * (min(seconds / size, 4 * self._usual) - self._usual)
        if far:
            pause = max(0.0, seconds - self._usual * size) / LOOK_BEHIND_DUTY
            self._mark_look_at = max(self._mark_look_at, now + min(pause, LOOK_BEHIND_SECONDS))
