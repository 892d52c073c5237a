"""Retention: partitions of finished jobs and attempts, made ahead of their day and dropped after it."""

import math
from datetime import date
from typing import Any, NamedTuple

import psycopg
from psycopg import errors, sql

from pgqueue.store.statement import Queries, Statement, run

__all__ = ["Partition", "Pruned", "days_ahead", "delete_older", "drop_expired", "ensure_partitions", "list_partitions"]

DAY = 86_400
SPARE_DAYS = 3

# Somebody holds a lock that we wait for, or another session is dropping the same partition: the next round tries again.
_LATER = (
    errors.LockNotAvailable,
    errors.QueryCanceled,
    errors.DeadlockDetected,
    errors.ObjectNotInPrerequisiteState,
    errors.UndefinedTable,
    errors.ObjectInUse,
)


class Partition(NamedTuple):
    """One day of finished_jobs or attempts, in the order of the query list_partitions."""

    parent: str
    name: str
    day: date
    expired: bool  # nothing in it is kept any more
    attached: bool
    pending: bool  # a detach was interrupted
    rows: int  # as last analysed
    bytes: int


class Pruned(NamedTuple):
    """What drop_expired did.

    Attributes:
        dropped: names of the dropped partitions.
        left: name to reason of those that could not be dropped now.
    """

    dropped: list[str]
    left: dict[str, str]


def days_ahead(*keep_seconds: float | None) -> int:
    """Return how many days ahead partitions are needed for these retentions (None keeps for ever)."""
    longest = max((seconds for seconds in keep_seconds if seconds is not None), default=0.0)
    return math.ceil(longest / DAY) + SPARE_DAYS


def ensure_partitions(queries: Queries, days: int) -> Statement[int]:
    """Make the missing partitions of today and of `days` days ahead; returns how many were made."""
    return Statement(queries["ensure_partitions"], {"days": days}, lambda rows: int(rows[0][0]))


def list_partitions(queries: Queries) -> Statement[list[Partition]]:
    """Return the partitions of single days, oldest first, jobs before attempts."""
    return Statement(queries["list_partitions"], (), lambda rows: [Partition._make(row) for row in rows])


def drop_expired(connection: psycopg.Connection[Any], queries: Queries, lock_timeout: float = 2.0) -> Pruned:
    """Drop the partitions of which no row is kept any more: detached concurrently first, so that nobody waits for it.

    Args:
        connection: in autocommit, used by nobody else meanwhile.
        queries: of the schema.
        lock_timeout: seconds to wait at each step for transactions that use the partition; what cannot be had by then
            is left for the next call, which also ends a detach that was interrupted.

    Raises:
        psycopg.Error: the connection broke, or this role does not own the tables.
    """
    done = Pruned([], {})
    connection.execute(queries["set_session_lock_timeout"], {"milliseconds": str(round(lock_timeout * 1000))})
    try:
        for partition in run(connection, list_partitions(queries)):
            if not partition.expired:
                continue
            try:
                _drop(connection, queries, partition)
            except _LATER as error:
                done.left[partition.name] = " ".join(str(error).split())
            else:
                done.dropped.append(partition.name)
    finally:
        if not connection.closed:
            connection.execute(queries["reset_lock_timeout"])
    return done


def delete_older(
    connection: psycopg.Connection[Any], queries: Queries, partition: Partition, age_seconds: float
) -> int:
    """Delete the rows of one partition that ended more than `age_seconds` ago, before their time; returns how many."""
    query = "delete_old_jobs" if partition.parent == "finished_jobs" else "delete_old_attempts"
    return connection.execute(_named(queries, query, partition), {"age": age_seconds}).rowcount


def _drop(connection: psycopg.Connection[Any], queries: Queries, partition: Partition) -> None:
    if partition.attached:
        step = "finalize_detach" if partition.pending else "detach_partition"
        connection.execute(_named(queries, step, partition))
    connection.execute(_named(queries, "drop_partition", partition))


def _named(queries: Queries, query: str, partition: Partition) -> sql.Composed:
    return sql.SQL(queries[query]).format(
        parent=sql.Identifier(partition.parent), partition=sql.Identifier(partition.name)
    )
