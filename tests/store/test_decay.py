"""A claim costs the same after fifty thousand others, also while somebody holds an old snapshot or writes for long."""

import pytest

from pgqueue.store import claims
from pgqueue.store.workers import renew_lease
from pgqueue.worker.lanes import LAG, STRIDE, Lanes
from tests.store.store import Store

pytestmark = pytest.mark.matrix

JOBS, BATCH = 50_000, 500


class Claimer:
    """Claims and finishes as a worker does."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.worker = store.worker()
        self.now = 0.0
        self.lanes = Lanes(["default"], lambda: self.now)
        self.kinds: list[str] = []
        self.costs: list[int] = []  # entries read by each look

    def look(self, limit: int = BATCH) -> int:
        ranges, kind = self.lanes.plan()
        before = entries_read(self.store)
        look, attempts = self.store.look(self.worker, limit, ranges=ranges, window=60)
        self.kinds.append(kind)
        self.costs.append(entries_read(self.store) - before)
        # What it takes on a quiet machine, so that the machine under test does not matter.
        seconds = 0.0005 + 8e-6 * len(attempts) + 0.2e-6 * self.costs[-1]
        self.now += seconds
        self.lanes.learn(kind, look, [attempt.job for attempt in attempts], len(attempts) < limit, seconds)
        if behind := self.lanes.behind():
            self.lanes.move(behind, self.store.run(claims.first_places(self.store.queries, behind, [])))
        self.store.finish(attempts)
        self.now += 10e-6 * len(attempts)
        return len(attempts)


def entries_read(store: Store) -> int:
    """Entries of the index of available jobs that have been read so far, dead ones included."""
    store.rows("select pg_stat_force_next_flush()")
    return int(store.value("select idx_tup_read from pg_stat_user_indexes where indexrelname = 'live_jobs_available'"))


def rows_read(store: Store) -> int:
    """Entries read so far of all indexes of live jobs, and rows of the table itself, dead ones included."""
    store.rows("select pg_stat_force_next_flush()")
    return int(
        store.value(
            """select seq_tup_read + (select sum(idx_tup_read) from pg_stat_user_indexes where relname = 'live_jobs')
               from pg_stat_user_tables where relname = 'live_jobs'"""
        )
    )


@pytest.fixture
def claimer(store: Store) -> Claimer:
    store.rows("alter table pgqueue.live_jobs set (autovacuum_enabled = off)")
    store.rows("set synchronous_commit = off")
    return Claimer(store)


def drain(claimer: Claimer) -> list[int]:
    """Entries read by each look of a drain whose jobs come in as it goes."""
    for _ in range(JOBS // BATCH):
        claimer.store.enqueue_many(BATCH)
        assert claimer.look() == BATCH
    return claimer.costs


def test_a_held_snapshot_does_not_make_claims_dearer(store: Store, claimer: Claimer) -> None:
    reader = store.session()
    reader.conn.execute("begin isolation level repeatable read")
    reader.rows("select count(*) from pgqueue.live_jobs")
    costs = drain(claimer)
    assert max(costs[10:]) <= 2 * (LAG + STRIDE + 2 * BATCH), costs
    assert max(costs[-20:]) <= 2 * max(costs[10:30]), costs
    # An idle look, too.
    before = entries_read(store)
    claimer.look()
    assert entries_read(store) - before <= LAG + STRIDE + BATCH
    # And a heartbeat, though each job that ever ran has left an entry.
    asked = store.enqueue()
    store.claim(claimer.worker)
    store.cancel([asked], terminate=True)
    before = rows_read(store)
    assert store.run(renew_lease(store.queries, claimer.worker, 60, 1, 0)).asked == [asked]
    assert rows_read(store) - before <= 10


def test_a_long_writer_does_not_make_claims_dearer(store: Store, claimer: Claimer) -> None:
    writer = store.session()
    writer.conn.execute("begin")
    late = writer.enqueue()
    costs = drain(claimer)
    heads = [cost for cost, kind in zip(costs, claimer.kinds, strict=True) if kind == "head"]
    assert max(heads) <= LAG + 2 * BATCH, costs
    # Once it is known as a straggler, the mark goes on without it.
    assert max(costs[-30:]) <= LAG + STRIDE + 2 * BATCH, costs
    writer.conn.execute("commit")
    # What it had drawn long ago is found from where it was left behind, by the second look after its end.
    assert [claimer.look(), claimer.look()] == [0, 1]
    assert store.states([late]) == ["succeeded"]
    before = entries_read(store)
    claimer.look()
    assert entries_read(store) - before <= LAG + STRIDE + BATCH


def test_without_lanes_the_same_claims_would_decay(store: Store, claimer: Claimer) -> None:
    """That the two tests above can fail: a claim from the beginning reads all that was claimed before."""
    reader = store.session()
    reader.conn.execute("begin isolation level repeatable read")
    reader.rows("select count(*) from pgqueue.live_jobs")
    for _ in range(20):
        store.enqueue_many(BATCH)
        assert claimer.look() == BATCH
    store.enqueue()
    before = entries_read(store)
    assert len(store.claim(claimer.worker)) == 1
    assert entries_read(store) - before > 15 * BATCH


def test_no_mark_passes_a_place_that_is_still_uncommitted(store: Store, claimer: Claimer) -> None:
    """Writers whose transactions overlap, commit late and in any order, and roll back."""
    open_writers: list[tuple[Store, str]] = []
    lates: list[str] = []
    for number in range(120):
        if number % 3 == 0:
            writer = store.session() if len(open_writers) < 6 else open_writers.pop(number * 7 % 6)[0]
            if writer.conn.info.transaction_status.name == "INTRANS":
                writer.conn.execute("rollback" if number % 5 == 0 else "commit")
            writer.conn.execute("begin")
            open_writers.append((writer, writer.enqueue()))
            lates.append(open_writers[-1][1])
        store.enqueue_many(BATCH)
        claimer.look(BATCH + 10)
        lanes = claimer.lanes
        for writer, job in open_writers:
            place, xid = writer.rows(
                "select seq, pg_current_xact_id()::text::bigint from pgqueue.live_jobs where id = %s", [job]
            )[0]
            # A straggler has a mark of its own, to which all go back at its end.
            assert lanes._stragglers.get(xid, lanes._mark["default", 0]) < place
    for writer, _ in open_writers:
        writer.conn.execute("commit")
    for _ in range(10_000):
        claimer.look()
        if store.value("select count(*) from pgqueue.live_jobs") == 0:
            break
    claimer.look()
    kept = store.rows("select state from pgqueue.all_jobs where id = any (%s::uuid[])", [lates])
    assert set(kept) == {("succeeded",)}
    assert claimer.kinds.count("full") == 1
