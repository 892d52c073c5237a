"""What becomes of a schedule that is due: which ticks get a job, and when to look again. No database, no clock."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from pgqueue.store.schedules import DueRow, Move

__all__ = ["move", "refused"]

SKIP_DEADLINE = 60.0  # seconds a tick of catch_up "skip" may be late
LOOK_AGAIN = timedelta(seconds=1)  # while a tick waits for the end of the last job
TRY_AGAIN = timedelta(minutes=1)  # or another scheduler does, which may have what is missing here
_MICROSECOND = timedelta(microseconds=1)
_TOLERANCE = timedelta(minutes=1)


def move(row: DueRow) -> Move:
    """Decide about one schedule, as of row.now."""
    try:
        return _move(row)
    except ImportError as error:
        return refused(row, f"{error}: install pgqueue[solar] where schedulers run")
    except Exception as error:
        # Whatever is wrong with one schedule, the others tick.
        return refused(row, f"cannot be planned: {error}")


def refused(row: DueRow, problem: str) -> Move:
    """What becomes of a schedule that has a problem here: it is looked at again soon, its due ticks are not lost."""
    return Move(row.id, row.next_run_at, None, row.queued_at, row.now + TRY_AGAIN, problem[:500])


def _move(row: DueRow) -> Move:
    timing, now = row.timing, row.now
    first = row.next_run_at
    if first is None:
        begin = row.plan_from - _TOLERANCE if row.once_at is not None else row.plan_from
        first = timing.next_after(max(begin, row.last_run_at or begin))
    due: list[datetime] = []
    following = first
    if first is not None and first <= now:
        count = row.catch_up_limit if row.catch_up == "all" else 1
        due = timing.last_ticks(first - _MICROSECOND, now, count)
        deadline = row.starting_deadline
        if deadline is None and row.catch_up == "skip":
            deadline = SKIP_DEADLINE
        if deadline is not None:
            due = [tick for tick in due if tick >= now - timedelta(seconds=deadline)]
        following = timing.next_after(now)
    queued, ticks = _without_overlap(row, due)
    wake = following
    if queued is not None:
        wake = min(now + LOOK_AGAIN, following) if following is not None else now + LOOK_AGAIN
    return Move(row.id, following, due[-1] if due else None, queued, wake, None, ticks)


def _without_overlap(row: DueRow, due: Sequence[datetime]) -> tuple[datetime | None, list[tuple[datetime, bool]]]:
    """The tick that waits from now on, and what happens to the others."""
    if row.overlap == "allow":
        return None, [(tick, True) for tick in due]
    if row.overlap == "skip":
        runs = due[-1:] if not row.busy else ()
        return None, [(tick, tick in runs) for tick in due]
    waiting = [row.queued_at, *due] if row.queued_at is not None else list(due)
    running = [] if row.busy else waiting[:1]
    left = waiting[len(running) :]
    return (left[0] if left else None), [(tick, True) for tick in running] + [(tick, False) for tick in left[1:]]
