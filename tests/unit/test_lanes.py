"""Lanes against a simulated table: transactions draw places, commit late, abort, lock rows in passing; nothing is lost.

The simulation keeps what PostgreSQL promises and no more: transaction ids ascend in the order of their first use, a
look sees what had committed when it began, skips locked rows, and stops at its limit.
"""

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from pgqueue.job import ClaimedJob, LookRow
from pgqueue.worker import lanes as lanes_room
from pgqueue.worker.lanes import FULL_LOOK_SECONDS, LAG, STRAGGLER_SECONDS, STRIDE, Kind, Lanes

QUEUES = ["a", "b", "c"]


def claimed(place: int, queue: str = "a", priority: int = 0, task: str = "t") -> ClaimedJob:
    blank: dict[str, Any] = dict.fromkeys(ClaimedJob._fields)
    return ClaimedJob(**{**blank, "seq": place, "queue": queue, "priority": priority, "task": task})


class Clock:
    """Seconds that pass when a test says so."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class Row:
    """A job: available, or gone."""

    def __init__(self, place: int, queue: str, priority: int, task: str, writer: int) -> None:
        self.place, self.queue, self.priority, self.task, self.writer = place, queue, priority, task, writer
        self.locked = False


class Table:
    """Jobs and the transactions that make them."""

    def __init__(self) -> None:
        self.clock = Clock()
        self.lanes = Lanes(QUEUES, self.clock)
        self.next_xid = 100
        self.last_seq = 0
        self.open: set[int] = set()
        self.ended = 0  # the highest id of an ended transaction
        self.rows: list[Row] = []
        self.waited: dict[int, int] = {}  # id(row) -> looks from the mark that had room and yet missed it

    def begin(self) -> int:
        self.next_xid += 1
        self.open.add(self.next_xid)
        return self.next_xid

    def draw(self, writer: int, queue: str, priority: int, task: str, gap: int = 1) -> None:
        self.last_seq += gap
        self.rows.append(Row(self.last_seq, queue, priority, task, writer))

    def visible(self) -> list[Row]:
        return [row for row in self.rows if row.writer not in self.open]

    def look(self, limit: int, excluded: frozenset[str], seconds: float, concurrent: int | None = None) -> list[Row]:
        """One look as the claimer makes it; `concurrent` begins and draws between the look's id and its snapshot."""
        ranges, kind = self.lanes.plan(excluded)
        last_seq = self.last_seq
        self.next_xid += 1
        look_xid = self.next_xid
        # As PostgreSQL has it: ids above the last one that ended count as open, and are not listed.
        listed = [xid for xid in sorted(self.open) if xid < self.ended]
        snapshot = f"{min([*listed, self.ended + 1])}:{self.ended + 1}:{','.join(map(str, listed))}"
        taken: list[Row] = []
        for queue, priority, after, before in ranges:
            lane = sorted(
                (r for r in self.visible() if (r.queue, r.priority) == (queue, priority)), key=lambda r: r.place
            )
            for row in lane:
                if after < row.place < before and not row.locked and row.task not in excluded and len(taken) < limit:
                    taken.append(row)
        for row in taken:
            self.rows.remove(row)
        jobs = [claimed(row.place, row.queue, row.priority, row.task) for row in taken]
        self.lanes.learn(kind, LookRow(look_xid, snapshot, last_seq, None), jobs, len(taken) < limit, seconds)
        if asked := self.lanes.behind():
            self.lanes.move(asked, [self.first(*lane) for lane in asked])
        self.clock.now += seconds
        self.end(look_xid)
        return taken

    def end(self, xid: int) -> None:
        self.open.discard(xid)
        self.ended = max(self.ended, xid)

    def first(self, queue: str, priority: int, after: int) -> int | None:
        places = [r.place for r in self.visible() if (r.queue, r.priority) == (queue, priority) and r.place > after]
        return min(places, default=None)

    def marks(self) -> dict[tuple[str, int], int]:
        return self.lanes._mark


class Life(RuleBasedStateMachine):
    """Anything that may happen between looks."""

    def __init__(self) -> None:
        super().__init__()
        self.table = Table()

    @rule(
        queue=st.sampled_from(QUEUES),
        priority=st.sampled_from([0, 0, 9]),
        task=st.sampled_from(["t", "slow"]),
        gap=st.sampled_from([1, 1, 700, 5000]),
        commits=st.booleans(),
    )
    def enqueue(self, queue: str, priority: int, task: str, gap: int, commits: bool) -> None:
        writer = self.table.begin()
        self.table.draw(writer, queue, priority, task, gap)
        if commits:
            self.table.end(writer)

    @precondition(lambda self: self.table.open)
    @rule(data=st.data(), gap=st.sampled_from([1, 3000]))
    def draw_again(self, data: st.DataObject, gap: int) -> None:
        self.table.draw(data.draw(st.sampled_from(sorted(self.table.open))), "a", 0, "t", gap)

    @rule()
    def somebody_writes_elsewhere(self) -> None:
        self.table.begin()

    @precondition(lambda self: self.table.open)
    @rule(data=st.data(), aborts=st.booleans())
    def end(self, data: st.DataObject, aborts: bool) -> None:
        writer = data.draw(st.sampled_from(sorted(self.table.open)))
        if aborts:
            self.table.rows = [row for row in self.table.rows if row.writer != writer]
        self.table.end(writer)

    @rule(limit=st.sampled_from([1, 3, 100]), slow=st.booleans(), seconds=st.sampled_from([0.001, 0.01, 1.0]))
    def look(self, limit: int, slow: bool, seconds: float) -> None:
        self.table.look(limit, frozenset({"slow"} if slow else ()), seconds)

    @precondition(lambda self: self.table.visible())
    @rule(data=st.data())
    def lock_or_unlock(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self.table.visible()))
        row.locked = not row.locked

    @precondition(lambda self: self.table.visible())
    @rule(data=st.data())
    def claimed_elsewhere_and_given_back(self, data: st.DataObject) -> None:
        row = data.draw(st.sampled_from(self.table.visible()))
        if row.place > 0:
            row.place -= 2**62

    @rule(seconds=st.sampled_from([0.01, 3.0]))
    def time_passes(self, seconds: float) -> None:
        self.table.clock.now += seconds

    @rule()
    def reconnect(self) -> None:
        self.table.lanes.forget()

    @invariant()
    def no_mark_has_passed_a_job(self) -> None:
        marks, stragglers = self.table.marks(), self.table.lanes._stragglers
        for row in self.table.rows:
            passed_by = marks[row.queue, row.priority]
            if (left_from := self.table.lanes._left_from) is not None:
                passed_by = min(passed_by, left_from)
            passed_by = min(passed_by, stragglers.get(row.writer, passed_by))
            assert row.place < 0 or row.place > passed_by, (row.place, marks, stragglers)

    def teardown(self) -> None:
        # Whatever happened: once all transactions have ended, every job is taken, without any full look.
        table = self.table
        for xid in sorted(table.open):
            table.end(xid)
        for row in table.rows:
            row.locked = False
        table.lanes._full_look_at = float("inf")
        left = len(table.rows)
        for _ in range(left + 2):
            table.clock.now += 1 / lanes_room.LOOK_BEHIND_DUTY
            table.look(1, frozenset(), 0.001)
        assert not table.rows


def test_no_job_is_ever_passed_by_a_mark_nor_left_for_ever() -> None:
    run_state_machine_as_test(
        Life,
        settings=settings(
            max_examples=80,
            stateful_step_count=40,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )


@given(limit=st.integers(1, 20))
@settings(max_examples=20, deadline=None, database=None)
def test_queues_of_equal_priority_take_turns(limit: int) -> None:
    table = Table()
    table.look(1, frozenset(), 0.001)
    writer = table.begin()
    for _ in range(limit * len(QUEUES)):
        for queue in QUEUES:
            table.draw(writer, queue, 0, "t")
    table.end(writer)
    first = [table.look(limit, frozenset(), 0.001) for _ in QUEUES]
    assert {rows[0].queue for rows in first} == set(QUEUES)


def drained(table: Table, count: int = 3 * LAG, batch: int = 500) -> None:
    """Jobs that came and went, in lane (a, 0)."""
    for _ in range(0, count, batch):
        writer = table.begin()
        for _ in range(batch):
            table.draw(writer, "a", 0, "t")
        table.end(writer)
        table.look(batch, frozenset(), 0.004)


def after_of(
    table: Table, lane: tuple[str, int] = ("a", 0), excluded: frozenset[str] = frozenset()
) -> tuple[int, Kind]:
    """Where the next look starts in a lane, and its kind."""
    ranges, kind = table.lanes.plan(excluded)
    return next(after for queue, priority, after, _ in ranges if (queue, priority) == lane and after >= 0), kind


def test_a_drained_lane_is_not_walked_again() -> None:
    table = Table()
    drained(table)
    table.look(500, frozenset(), 0.001)
    for lane in (("a", 0), ("b", 3)):
        after, kind = after_of(table, lane)
        assert kind == "mark"
        assert after >= 3 * LAG - STRIDE - 500


def test_an_open_transaction_that_drew_nothing_yet_holds_the_mark() -> None:
    table = Table()
    drained(table)
    held, writer = table.marks()["a", 0], table.begin()
    drained(table)
    assert table.marks()["a", 0] <= table.last_seq - 3 * LAG
    assert table.marks()["a", 0] >= held
    table.end(writer)
    drained(table, 1500)
    assert table.marks()["a", 0] >= table.last_seq - STRIDE - 500


def test_of_two_open_transactions_the_younger_one_counts_too() -> None:
    """The older one's end moves the oldest open id past the snapshot's xmax of the look, and yet nothing is safe."""
    table = Table()
    older, younger = table.begin(), table.begin()
    table.draw(younger, "a", 0, "t")
    table.last_seq += 3 * STRIDE
    table.look(10, frozenset(), 0.001)
    table.end(older)
    for _ in range(3):
        table.look(10, frozenset(), 0.001)
    assert table.marks()["a", 0] == 0
    table.end(younger)
    assert [row.place for row in table.look(10, frozenset(), 0.001)] == [1]


def test_behind_overlapping_transactions_looks_start_near_the_head_and_from_the_mark_only_now_and_then() -> None:
    table = Table()
    drained(table)
    spent = dict.fromkeys(("full", "mark", "head"), 0.0)
    began, open_one = table.clock.now, table.begin()
    for number in range(1, 401):
        if number % 40 == 0:
            # None lives long enough to be a straggler, and yet there is always one that holds the mark back.
            next_one = table.begin()
            table.end(open_one)
            open_one = next_one
        writer = table.begin()
        for _ in range(500):
            table.draw(writer, "a", 0, "t")
        table.end(writer)
        after, kind = after_of(table)
        table.lanes._turns[kind] -= 1
        assert kind == "mark" or after >= table.last_seq - 500 - LAG
        far = kind == "mark" and table.last_seq - after > 500 + 2 * LAG
        seconds = 0.030 if far else 0.001
        spent[kind] += seconds if far or kind != "mark" else 0
        table.look(500, frozenset(), seconds)
        table.clock.now += 0.004
    assert spent["full"] == 0
    assert table.lanes._stragglers == {}
    assert spent["head"] > 0
    assert 0 < spent["mark"] <= 0.06 * (table.clock.now - began)


def test_a_straggler_does_not_hold_the_mark_and_what_it_leaves_is_found_at_its_end() -> None:
    table = Table()
    drained(table)
    straggler = table.begin()
    table.draw(straggler, "a", 0, "t")
    first = table.last_seq
    drained(table, 4 * LAG)
    table.clock.now += STRAGGLER_SECONDS
    drained(table, 4 * LAG)
    assert straggler in table.lanes._stragglers
    assert table.marks()["a", 0] >= table.last_seq - STRIDE - 500
    table.draw(straggler, "b", 9, "t")
    last = table.last_seq
    drained(table, 4 * LAG)
    table.end(straggler)
    assert table.lanes.owed() is None
    assert table.look(10, frozenset(), 0.001) == []  # it learns that the straggler has ended
    assert (table.lanes.owed(), table.lanes.went_back) == (0, False)
    table.lanes.plan()
    assert table.lanes.went_back  # so that due jobs are looked for as far back, too
    found = [row.place for _ in range(2) for row in table.look(10, frozenset(), 0.001)]
    assert found == [last, first]
    table.look(10, frozenset(), 0.001)
    assert table.marks()["a", 0] >= table.last_seq - STRIDE - 500


def test_how_often_ended_stragglers_are_followed_depends_on_what_it_costs() -> None:
    table = Table()
    drained(table)
    stragglers = [table.begin(), table.begin()]
    drained(table, 4 * LAG)
    table.clock.now += STRAGGLER_SECONDS
    drained(table, 4 * LAG)
    table.end(stragglers[0])
    table.look(10, frozenset(), 0.001)  # learns of it
    assert after_of(table)[0] <= table.last_seq - 8 * LAG
    table.look(10, frozenset(), 1.0)
    table.end(stragglers[1])
    table.look(10, frozenset(), 0.001)
    assert after_of(table)[0] >= table.last_seq - STRIDE - LAG
    table.clock.now += 1.0 / lanes_room.LOOK_BEHIND_DUTY
    assert after_of(table)[0] <= table.last_seq - 8 * LAG


def test_a_look_from_the_mark_that_stalled_does_not_put_the_next_one_off_for_ever() -> None:
    lanes = Lanes(["a"], clock := Clock())
    lanes._full_look_at = float("inf")
    lanes.learn(lanes.plan()[1], LookRow(100, "100:100:", 0, None), [], True, 0.001)
    # Of a transaction that has drawn many places and is still open.
    lanes.learn(lanes.plan()[1], LookRow(102, "101:102:101", 4 * LAG, None), [], True, 0.001)
    clock.now += 0.1
    _, kind = lanes.plan()
    assert kind == "mark"
    clock.now += 600.0  # the server stood still
    lanes.learn(kind, LookRow(103, "101:103:101", 4 * LAG, None), [], True, 600.0)
    assert lanes.plan()[1] == "head"
    clock.now += lanes_room.LOOK_BEHIND_SECONDS
    assert lanes.plan()[1] == "mark"


def test_a_full_look_that_took_long_does_not_make_others_wait_for_what_a_straggler_left() -> None:
    table = Table()
    drained(table)
    straggler = table.begin()
    table.draw(straggler, "a", 0, "t")
    drained(table, 4 * LAG)
    table.clock.now += FULL_LOOK_SECONDS
    assert after_of(table)[1] == "full"
    table.look(10, frozenset(), 5.0)
    table.end(straggler)
    assert [len(table.look(10, frozenset(), 0.001)) for _ in range(2)] == [0, 1]


def test_a_late_commit_far_below_the_head_is_found_by_the_next_look_from_the_mark() -> None:
    table = Table()
    drained(table)
    long, late = table.begin(), table.begin()
    table.draw(late, "a", 0, "t")
    place = table.last_seq
    drained(table, 4 * LAG)
    table.end(late)
    assert long in table.open
    for _ in range(200):
        if [row.place for row in table.look(10, frozenset(), 0.001)] == [place]:
            return
        table.clock.now += 0.005
    pytest.fail("not found within a second")


def test_jobs_of_a_full_pool_are_looked_for_as_soon_as_it_has_room() -> None:
    table = Table()
    drained(table)
    writer = table.begin()
    table.draw(writer, "a", 0, "slow")
    table.end(writer)
    full = frozenset({"slow"})
    for _ in range(20):
        drained_one = table.begin()
        for _ in range(500):
            table.draw(drained_one, "a", 0, "t")
        table.end(drained_one)
        table.look(500, full, 1.0)
    assert after_of(table, excluded=full)[1] == "head"
    assert [row.task for row in table.look(500, frozenset(), 0.001)] == ["slow"]


def test_a_job_put_below_the_mark_by_hand_is_found_by_a_full_look_and_those_beside_it_at_once() -> None:
    table = Table()
    drained(table)
    for place in (10, 11, 12):
        table.rows.append(Row(place, "a", 0, "t", 0))
    assert table.look(1, frozenset(), 0.001) == []
    table.clock.now += FULL_LOOK_SECONDS
    assert [table.look(1, frozenset(), 0.001)[0].place for _ in range(3)] == [10, 11, 12]


def test_a_sequence_that_was_set_back_starts_everything_again() -> None:
    table = Table()
    drained(table)
    table.last_seq = 0
    writer = table.begin()
    table.draw(writer, "a", 0, "t")
    table.end(writer)
    table.look(1, frozenset(), 0.001)
    assert [row.place for row in table.look(1, frozenset(), 0.001)] == [1]


def test_full_looks_keep_to_their_share_of_time() -> None:
    table = Table()
    table.look(10, frozenset(), 3.0)
    kinds = []
    for _ in range(40):
        kinds.append(after_of(table)[1])
        table.look(10, frozenset(), 3.0)
        table.clock.now += 57
    assert kinds.count("full") <= 40 * 60 / 300 + 1


def test_what_was_given_back_is_looked_at_first_of_its_lane_in_every_look() -> None:
    ranges, _ = Lanes(["a"], Clock()).plan()
    assert [priority for _, priority, _, _ in ranges] == [p for p in range(9, -1, -1) for _ in range(2)]
    for (_, _, first, first_end), (_, _, then, _) in zip(ranges[::2], ranges[1::2], strict=True):
        assert (first, first_end, then) == (-(2**63), 0, 0)


def test_without_queues_there_is_nothing_to_look_at() -> None:
    assert Lanes([], Clock()).plan()[0] == []
