"""The only writer of outcomes: batches them into finishes, and keeps them through a lost connection.

Outcomes come from the pools; each ends the attempt it belongs to or is refused by the fence. What cannot be written now
is kept and tried again: an outcome is dropped only when the database says that the attempt is no longer ours. One whose
row somebody has locked is set aside, so that the others need not wait.
"""

import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import psycopg

from pgqueue.codec import clean_text, encode_error
from pgqueue.errors import PgQueueError
from pgqueue.store.claims import (
    end_transactions,
    finish_jobs,
    finished_attempts,
    locked_jobs,
    lose_jobs,
    record_jobs,
    release_jobs,
    retry_jobs,
)
from pgqueue.store.jobs import update_progress
from pgqueue.store.partitions import ensure_partitions
from pgqueue.store.statement import Queries, Statement, run
from pgqueue.store.workflows import replace_job
from pgqueue.worker.held import Entry, Held, Recorded
from pgqueue.worker.logs import about, first_line
from pgqueue.worker.refusals import is_of_a_row, misses_a_partition
from pgqueue.worker.session import PatientConnection

__all__ = ["Completer"]

logger = logging.getLogger("pgqueue.worker")

BATCH = 500
# A burst waits for its own retries that are due within this time.
BRIEF_RETRY_SECONDS = 10.0
# Until outcomes that were set aside are looked at again: twice as long each time.
LEAST_ASIDE_SECONDS, MOST_ASIDE_SECONDS = 0.1, 5.0
ENDS = frozenset({"succeeded", "failed", "cancelled", "expired", "skipped"})


class Completer:
    """A thread that writes outcomes.

    Attributes:
        writing: outcomes in the statement that is under way.
        finished: jobs that ended.
        retries_due: when the last of those attempts that were put back for a brief time is due (monotonic seconds).

    Args:
        connect: opens its connection.
        queries: of the schema.
        keep_seconds: (task name, state) -> how long its finished row is kept; None for ever.
        lost_limit: lost attempts after which a job fails.
        partition_days: how far ahead partitions are needed.
        on_written: called after outcomes were written, and when they can be written again, from this thread.
    """

    def __init__(
        self,
        connect: Callable[[], PatientConnection],
        queries: Queries,
        keep_seconds: Callable[[str, str], float | None],
        lost_limit: int,
        partition_days: int,
        on_written: Callable[[], None],
    ) -> None:
        self._connect = connect
        self._queries = queries
        self._keep_seconds = keep_seconds
        self._lost_limit = lost_limit
        self._partition_days = partition_days
        self._on_written = on_written
        self._entries: deque[Entry] = deque()
        self._set_aside: list[Entry] = []  # their rows are locked
        self._aside_until = 0.0
        self._aside_seconds = LEAST_ASIDE_SECONDS
        self._progress: dict[str, tuple[int, str]] = {}
        self._left_open: deque[Mapping[int, str]] = deque()
        self._moves = threading.RLock()  # of outcomes between these, so that each counts
        self._wake = threading.Event()
        self._stopping = self._given_up = False
        self._may_end_transactions = True
        self._connection: PatientConnection | None = None
        self.writing = 0
        self.finished = 0
        self.retries_due = 0.0
        self._thread = threading.Thread(target=self._work, name="pgqueue-completer", daemon=True)

    @property
    def pending(self) -> int:
        """Outcomes that are not written yet."""
        with self._moves:
            return len(self._entries) + self.writing + len(self._set_aside)

    @property
    def connected(self) -> bool:
        """Whether it can write: a worker that cannot must not claim."""
        return self._connection is not None

    def start(self) -> None:
        """Start the thread, which connects at once."""
        self._wake.set()
        self._thread.start()

    def stop(self, timeout: float) -> bool:
        """Write what is pending and end; false when not all could be written within `timeout` seconds."""
        self._stopping = True
        self._wake.set()
        if self._thread.ident is not None:
            self._thread.join(timeout)
        self._given_up = True
        return not self._thread.is_alive() and not self.pending

    def put(self, entries: Iterable[Entry]) -> None:
        """Queue outcomes; safe from any thread."""
        self._entries.extend(entries)
        self._wake.set()

    def put_progress(self, job_id: str, token: int, progress: str) -> None:
        """Queue what update_state() reports; only the last of a job is written."""
        self._progress[job_id] = (token, progress)
        self._wake.set()

    def record(self, begun: list[Held], then: Recorded | None) -> None:
        """Record that attempts begin, or have begun, and call `then` from this thread; safe from any thread."""
        self._entries.extendleft([(held, ("begun", then)) for held in reversed(begun)])
        self._wake.set()

    def end_transactions(self, left_open: Mapping[int, str]) -> None:
        """End what a dead process left open (transaction ids by their session's pid) before what is put from now on.

        Safe from any thread.
        """
        self._left_open.append(left_open)

    def _work(self) -> None:
        delay = 0.1
        while not self._given_up:
            self._wake.wait(max(0.0, self._aside_until - time.monotonic()) if self._set_aside else None)
            self._wake.clear()
            try:
                if self._connection is None and (self.pending or self._progress or not self._stopping):
                    self._connection = self._connect()
                    self._on_written()
                while True:
                    self._look_at_set_aside()
                    if not (self._entries or self._progress):
                        break
                    self._write_some()
                    delay = 0.1
            except psycopg.Error as error:
                logger.warning("cannot write outcomes now (%d wait): %s", self.pending, first_line(error))
                self._disconnect()
                if self._stopping and delay > 2:
                    return
                time.sleep(delay * random.uniform(0.5, 1.0))
                delay = min(delay * 2, 5.0)
                self._wake.set()
                continue
            except Exception:
                logger.exception("the completer failed; it goes on")
                time.sleep(0.5)
                self._wake.set()
                continue
            if self._stopping and not self.pending:
                break
        self._disconnect()

    def _write_some(self) -> None:
        self._end_left_open()
        self._write_progress()
        entries = self._entries
        with self._moves:
            count = self.writing = min(len(entries), BATCH)
            unwritten = [[entries.popleft() for _ in range(count)]]  # in parts; the last one is next
        if not count:
            return
        try:
            if self._set_aside:
                # Somebody has rows locked, and perhaps some of these: to find that out at a write takes long.
                unwritten = [free] if (free := self._without_locked(unwritten[0])) else []
            while unwritten:
                head, rest = _same_kind(unwritten[-1], self._keep_seconds)
                unwritten[-1:] = [rest, head] if rest else [head]
                unwritten[-1:] = self._write(head)
        finally:
            with self._moves:
                for part in unwritten:
                    entries.extendleft(reversed(part))
                self.writing = 0
        self._on_written()

    def _end_left_open(self) -> None:
        while self._left_open:
            try:
                if self._may_end_transactions:
                    self._run(end_transactions(self._queries, self._left_open[0]))
            except psycopg.errors.InsufficientPrivilege as error:
                self._may_end_transactions = False
                logger.warning(
                    "transactions of processes that die end with their statements only, as this role may not end them"
                    " (pg_signal_backend): %s",
                    str(error).strip(),
                )
            self._left_open.popleft()

    def _write_progress(self) -> None:
        while self._progress:
            job_id, (token, progress) = next(iter(self._progress.items()))
            try:
                self._run(update_progress(self._queries, job_id, token, progress))
            except psycopg.Error as error:
                if not is_of_a_row(error):
                    raise
                logger.warning("the progress of job %s cannot be stored: %s", job_id, str(error).strip())
            if self._progress.get(job_id) == (token, progress):
                del self._progress[job_id]

    def _write(self, batch: list[Entry]) -> list[list[Entry]]:
        """Write outcomes of one kind; returns, the next one last, the parts in which they are to be tried again.

        A bad row is found by halving, and fails alone.
        """
        try:
            if batch[0][1][0] == "begun":
                self._record(batch)
            else:
                self._end_attempts(batch)
        except (psycopg.Error, ValueError) as error:
            locked = isinstance(error, psycopg.errors.LockNotAvailable)
            if locked and (free := self._without_locked(batch)) != batch:
                return [free] if free else []
            if not locked and not is_of_a_row(error):
                raise
            if len(batch) == 1 and locked:  # what hangs together with it is locked, a workflow perhaps
                self._put_aside(batch)
                return []
            if len(batch) == 1:
                return self._refuse(*batch[0], error)
            middle = len(batch) // 2
            return [batch[middle:], batch[:middle]]
        return []

    def _without_locked(self, batch: list[Entry]) -> list[Entry]:
        """Set those aside whose rows are locked; returns the others."""
        locked = self._run(locked_jobs(self._queries, [held.job.id for held, _ in batch]))
        self._put_aside([entry for entry in batch if entry[0].job.id in locked])
        return [entry for entry in batch if entry[0].job.id not in locked]

    def _put_aside(self, entries: list[Entry]) -> None:
        if entries and not self._set_aside:
            self._aside_until = time.monotonic() + self._aside_seconds
            logger.warning("job %s is locked by another session: its outcome waits", entries[0][0].job.id)
        self._set_aside += entries

    def _look_at_set_aside(self) -> None:
        aside, now = self._set_aside, time.monotonic()
        if not aside:
            self._aside_seconds = LEAST_ASIDE_SECONDS
        elif now >= self._aside_until:
            self._aside_seconds = min(2 * self._aside_seconds, MOST_ASIDE_SECONDS)
            self._aside_until = now + self._aside_seconds
            locked = self._run(locked_jobs(self._queries, [held.job.id for held, _ in aside]))
            with self._moves:
                self._entries.extendleft([entry for entry in reversed(aside) if entry[0].job.id not in locked])
                self._set_aside = [entry for entry in aside if entry[0].job.id in locked]

    def _record(self, batch: list[Entry]) -> None:
        begun = [held for held, _ in batch]
        ours = self._run(record_jobs(self._queries, [held.fence for held in begun]))
        for held in begun:
            held.recorded = True
        then: Recorded | None = batch[0][1][1]
        if then is not None:
            then(begun, ours)

    def _end_attempts(self, batch: list[Entry]) -> None:
        kind = batch[0][1][0]
        try:
            if kind == "unstored":
                self._run(ensure_partitions(self._queries, self._partition_days))
            lost = self._run(self._statement(batch))
        except psycopg.errors.CheckViolation as error:
            if not misses_a_partition(error):
                raise
            if not self._run(ensure_partitions(self._queries, self._partition_days)):
                time.sleep(0.1)  # another is making them
            lost = self._run(self._statement(batch))
        if kind == "retry":
            brief = [outcome[1] for _, outcome in batch if outcome[1] <= BRIEF_RETRY_SECONDS]
            self.retries_due = max(self.retries_due, time.monotonic() + max(brief, default=0.0))
        if kind in ENDS:
            self.finished += len(batch) - len(lost)
        if lost:
            self._explain(batch, lost)

    def _refuse(self, held: Held, outcome: tuple[Any, ...], error: Exception) -> list[list[Entry]]:
        """An outcome cannot be stored: the attempt fails, or goes back where not even that can be stored."""
        kind = outcome[0]
        logger.error("the outcome (%s) of job %s cannot be stored: %s", kind, held.job.id, str(error).strip())
        if kind == "released" or outcome == ("begun", None):
            return []
        if kind == "begun":
            outcome[1]([held], set())
        if kind == "begun" or (kind == "failed" and outcome[2] is None):
            return [[(held, ("released",))]]
        refusal = encode_error(PgQueueError(clean_text(f"the outcome cannot be stored: {error}", 2000)))
        return [[(held, ("failed", refusal, None))]]

    def _statement(self, batch: list[Entry]) -> Statement[list[str]]:
        queries = self._queries
        fence = [held.fence for held, _ in batch]
        micros = [held.micros for held, _ in batch]
        kind = batch[0][1][0]
        keep = self._keep_seconds(batch[0][0].job.task, kind)
        if kind == "succeeded":
            return finish_jobs(queries, fence, kind, [outcome[1] for _, outcome in batch], None, None, keep, micros)
        if kind == "retry":
            columns = list(zip(*(outcome[1:] for _, outcome in batch), strict=True))
            return retry_jobs(queries, fence, columns[0], columns[1], columns[2], columns[3], keep, micros)
        if kind == "replaced":
            return replace_job(queries, *fence[0], batch[0][1][1])
        if kind in ("released", "unstored") or (kind == "adrift" and self._is_new_server(batch[0][1][3])):
            return release_jobs(queries, fence, keep)
        if kind in ("lost", "adrift"):
            once = [held.job.task for held, outcome in batch if outcome[2]]
            lose = lose_jobs(queries, fence, self._lost_limit, once, batch[0][1][1], keep)
            return Statement(lose.sql, lose.params, lambda rows: _not_lost(batch, dict(rows)))
        errors = [outcome[1] for _, outcome in batch]
        tracebacks = [outcome[2] for _, outcome in batch]
        return finish_jobs(queries, fence, kind, [None] * len(batch), errors, tracebacks, keep, micros)

    def _is_new_server(self, started: str) -> bool:
        """Whether the server that ended a session has ended itself, and every session: nobody's fault here."""
        return self._connection is not None and self._connection.server_started != started

    def _explain(self, batch: list[Entry], lost: list[str]) -> None:
        """Say which attempts were no longer ours; those that an unknown commit had finished already are well."""
        ended = self._run(finished_attempts(self._queries, lost))
        for held, outcome in batch:
            if held.job.id in lost and held.job.id not in ended:
                dropped = "job %s: lease lost, its outcome (%s) was dropped"
                logger.warning(dropped, held.job.id, outcome[0], extra=about(held.job))

    def _run(self, statement: Statement[Any]) -> Any:
        if self._connection is None:
            raise psycopg.OperationalError("the connection is closed")
        return run(self._connection, statement)

    def _disconnect(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None


def _same_kind(batch: list[Entry], keep_seconds: Callable[[str, str], float | None]) -> tuple[list[Entry], list[Entry]]:
    """Part a batch into what one statement can write (same kind, same retention, each job once) and the rest."""
    first = batch[0]
    kind = first[1][0]
    reason = first[1][1:] if kind in ("begun", "lost", "adrift", "replaced") else None
    keep = keep_seconds(first[0].job.task, kind)
    head: list[Entry] = []
    rest: list[Entry] = []
    keeps: dict[str, bool] = {first[0].job.task: True}
    for entry in batch:
        outcome = entry[1]
        task = entry[0].job.task
        if task not in keeps:
            keeps[task] = keep_seconds(task, kind) == keep
        same = outcome[0] == kind and keeps[task] and (reason is None or outcome[1:] == reason)
        (head if same else rest).append(entry)
    return head, rest


def _not_lost(batch: list[Entry], states: dict[Any, str]) -> list[str]:
    """The ids of attempts that were no longer ours to lose; says which jobs failed for good."""
    found = {str(job_id): state for job_id, state in states.items()}
    for job, reason in [(held.job, outcome[1]) for held, outcome in batch if found.get(held.job.id) == "failed"]:
        failed = "Task %s[%s] failed at attempt %d: WorkerLostError(%r)"
        logger.error(failed, job.task, job.id, job.attempt, reason, extra=about(job))
    return [held.job.id for held, _ in batch if held.job.id not in found]
