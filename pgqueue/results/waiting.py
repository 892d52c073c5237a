"""Waiting for the end of a job: woken by its notification, polling where there is none."""

import asyncio
import json
import math
import time
import warnings
from typing import Any

import psycopg

from pgqueue.errors import DatabaseUnavailable, TimeoutError, ValidationError
from pgqueue.job import JobState
from pgqueue.store.database import Database
from pgqueue.store.jobs import OutcomeRow, get_outcome, live_worker_exists, mark_waited_for

__all__ = ["alook", "await_end", "check_timeout", "is_over", "kept_after", "look", "state_of", "wait_for_end"]

_SAFETY_LOOK = 1.0
_FIRST_POLL, _LAST_POLL = 0.005, 0.5
_PATIENCE = 5.0
_NO_SUCH_JOB = "no such job: rolled back, or not committed yet?"


def kept_after(job_id: str) -> str:
    """An instant before the deletion of a finished job of this id: a UUIDv7 tells when it was made."""
    if job_id[14] != "7":
        return "-infinity"
    made = int(job_id[:8] + job_id[9:13], 16) / 1000 - 86_400
    return f"{time.strftime('%Y-%m-%d %H:%M:%S', time.gmtime(max(made, 0)))}+00" if made < 253e9 else "-infinity"


def look(database: Database, job_id: str) -> OutcomeRow | None:
    """Return state and outcome of a job, None when it is not kept."""
    after = kept_after(job_id)
    statement = get_outcome(database.queries, job_id, after)
    found = database.run(statement, statement)
    if found is None and after != "-infinity":  # an id from a clock that goes wrong
        statement = get_outcome(database.queries, job_id)
        found = database.run(statement, statement)
    return found


async def alook(database: Database, job_id: str) -> OutcomeRow | None:
    """look() for async code."""
    after = kept_after(job_id)
    statement = get_outcome(database.queries, job_id, after)
    found = await database.arun(statement, statement)
    if found is None and after != "-infinity":
        statement = get_outcome(database.queries, job_id)
        found = await database.arun(statement, statement)
    return found


def is_over(row: OutcomeRow | None) -> bool:
    """Whether a job is finished; one that is not kept is not."""
    return row is not None and JobState(row.state).finished


def state_of(row: OutcomeRow | None) -> str:
    """A job's state as Celery calls it; PENDING for one that is not kept."""
    if row is None:
        return "PENDING"
    if row.state == JobState.RUNNING and row.progress:
        return str(json.loads(row.progress).get("state") or "STARTED")
    if row.state in (JobState.SCHEDULED, JobState.AVAILABLE):
        return "RETRY" if row.runs > 0 else "PENDING"
    return JobState(row.state).celery_name


def check_timeout(timeout: object) -> None:
    """Raise ValidationError unless it is seconds or None."""
    number = isinstance(timeout, int | float) and not isinstance(timeout, bool) and not math.isnan(timeout)
    if timeout is not None and not number:
        raise ValidationError(f"timeout: expected seconds as a number, or None, got {timeout!r}")


class _Patience:
    """What a wait knows of time: its deadline, the next pause, whether it has warned."""

    def __init__(self, name: str, timeout: float | None, interval: float) -> None:
        check_timeout(timeout)
        self._name = name
        self._timeout = timeout
        self._interval = min(max(interval, _FIRST_POLL), _LAST_POLL)
        self._start = time.monotonic()
        self._pause = _FIRST_POLL
        self._warned = False

    def pause(self, listening: bool, found: bool) -> float:
        """Seconds until the next look; raises TimeoutError when none are left."""
        pause = self._pause
        if listening and found:
            pause = _SAFETY_LOOK
        else:
            self._pause = min(self._pause * 1.5, self._interval)
        if self._timeout is None:
            return pause
        left = self._start + self._timeout - time.monotonic()
        if left <= 0:
            why = "" if found else f": {_NO_SUCH_JOB}"
            raise TimeoutError(f"job {self._name} did not finish within {self._timeout:g} s{why}")
        return min(pause, left)

    def runs_out(self) -> bool:
        """Whether it is time to ask, once, if there is such a job, and any worker that serves its queue."""
        if self._warned or time.monotonic() - self._start < _PATIENCE:
            return False
        self._warned = True
        return True

    def warn(self, served: bool | None) -> None:
        """Say what keeps the caller waiting, if that is known: `served` is None when the job is not live."""
        if served is None:
            told = f"get() has waited for {_PATIENCE:g} s for job {self._name}: {_NO_SUCH_JOB}"
        else:
            told = f"job {self._name} has waited for {_PATIENCE:g} s and no live worker serves its queue: start one"
        if not served:
            warnings.warn(told, RuntimeWarning, stacklevel=4)


def wait_for_end(
    database: Database, job_id: str, timeout: float | None, interval: float, name: str | None = None
) -> OutcomeRow:
    """Wait until a job is finished.

    Args:
        database: where to look.
        job_id: of the job, which need not exist yet.
        timeout: seconds; None waits for ever.
        interval: longest pause between two looks where notifications do not arrive, seconds.
        name: what the caller calls the job, for messages; default: its id.

    Raises:
        TimeoutError: it did not finish in time.
    """
    patience = _Patience(name or job_id, timeout, interval)
    mark = mark_waited_for(database.queries, job_id)
    listener = _listener(database)
    heard = False
    try:
        while True:
            # In this order (listening began before): what ends after the mark notifies, what ended before is seen.
            if listener is not None and not heard:
                database.run(mark, mark)
            row = look(database, job_id)
            if row is not None and JobState(row.state).finished:
                return row
            if heard:  # it ended, and was put back in line since
                heard = False
                continue
            if patience.runs_out():
                ask = live_worker_exists(database.queries, job_id)
                served = database.run(ask, ask)
                if served is not None or row is None:
                    patience.warn(served)
            pause = patience.pause(listener is not None, row is not None)
            if listener is None:
                time.sleep(pause)
                continue
            try:
                heard = _hear(listener, job_id, pause)
            except psycopg.Error:
                database.listeners.give_checked(listener)
                database.listeners.drop_idle()
                listener = _listener(database)
    finally:
        if listener is not None:
            database.listeners.give_checked(listener)


def _listener(database: Database) -> psycopg.Connection[Any] | None:
    try:
        return database.listeners.take(wait=False)
    except (psycopg.Error, OSError, DatabaseUnavailable):
        return None


def _hear(listener: psycopg.Connection[Any], job_id: str, seconds: float) -> bool:
    """Listen for so long; true as soon as the job's end is told."""
    end = time.monotonic() + seconds
    while seconds > 0:
        for notification in listener.notifies(timeout=seconds, stop_after=1):
            if notification.payload == job_id:
                return True
        seconds = end - time.monotonic()
    return False


async def await_end(
    database: Database, job_id: str, timeout: float | None, interval: float, name: str | None = None
) -> OutcomeRow:
    """wait_for_end() for async code."""
    patience = _Patience(name or job_id, timeout, interval)
    mark = mark_waited_for(database.queries, job_id)
    _, listeners = database.loop_pools()
    listener = await _alistener(database)
    heard = False
    try:
        while True:
            if listener is not None and not heard:
                await database.arun(mark, mark)
            row = await alook(database, job_id)
            if row is not None and JobState(row.state).finished:
                return row
            if heard:
                heard = False
                continue
            if patience.runs_out():
                ask = live_worker_exists(database.queries, job_id)
                served = await database.arun(ask, ask)
                if served is not None or row is None:
                    patience.warn(served)
            pause = patience.pause(listener is not None, row is not None)
            if listener is None:
                await asyncio.sleep(pause)
                continue
            try:
                heard = await _ahear(listener, job_id, pause)
            except psycopg.Error:
                listeners.give(listener)
                listeners.drop_idle()
                listener = await _alistener(database)
    finally:
        if listener is not None:
            listeners.give(listener)


async def _alistener(database: Database) -> psycopg.AsyncConnection[Any] | None:
    try:
        return await database.loop_pools()[1].take(wait=False)
    except (psycopg.Error, OSError, DatabaseUnavailable):
        return None


async def _ahear(listener: psycopg.AsyncConnection[Any], job_id: str, seconds: float) -> bool:
    end = time.monotonic() + seconds
    while seconds > 0:
        async for notification in listener.notifies(timeout=seconds, stop_after=1):
            if notification.payload == job_id:
                return True
        seconds = end - time.monotonic()
    return False
