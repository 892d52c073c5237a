"""The invariants that hold after every fault, read from the tables and from a log of all state changes.

The log is written by triggers on our tables, as an application's own audit would be.
"""

from collections.abc import Callable, Collection
from typing import Any, NamedTuple, Protocol

import psycopg

__all__ = ["Acknowledged", "Ended", "check", "install"]

Query = Callable[[str], list[tuple[Any, ...]]]

_INSTALL = """
create schema faults;
create table faults.effects (job_id uuid, kind text, attempt integer, token bigint, pid integer,
                             noted_at timestamptz default clock_timestamp());
create index on faults.effects (job_id);
create table faults.slow (pid integer);
create table faults.history (n bigint generated always as identity, id uuid, change text, state text, transaction xid8);
create index on faults.history (id);
create function faults.log() returns trigger language plpgsql as $$
begin
    insert into faults.history (id, change, state, transaction)
    values (case when tg_op = 'DELETE' then old.id else new.id end, lower(tg_argv[0] || ' ' || tg_op),
            case when tg_op = 'DELETE' then old.state else new.state end, pg_current_xact_id());
    return null;
end $$;
create trigger faults_log after insert or delete or update of state on pgqueue.live_jobs
    for each row execute function faults.log('live');
create trigger faults_log after insert or delete or update on pgqueue.finished_jobs
    for each row execute function faults.log('finished');
"""

# A job sent again under its own id is inserted and taken back in one transaction: that is no transition.
_RESURRECTED = """
select h.id, string_agg(h.change || ' ' || h.state, ', ' order by h.n) as story
from faults.history h
join (select id, min(n) as n from faults.history where change = 'finished insert' group by id) f on f.id = h.id
where h.n > f.n and h.change not in ('live delete')
  and not (h.change = 'live insert' and exists (
        select from faults.history d
        where d.id = h.id and d.transaction = h.transaction and d.n > h.n and d.change = 'live delete'))
group by h.id
"""

_ENDED = """
select f.id::text, f.state, f.task, f.attempt, f.lost, f.error ->> 'type', f.error ->> 'message', f.result,
       e.plain, e.transactional
from pgqueue.finished_jobs f cross join lateral (
    select count(*) filter (where kind = 'plain') as plain,
           count(*) filter (where kind = 'transactional') as transactional
    from faults.effects e where e.job_id = f.id) e
"""

TRANSACTIONAL = {
    "charge",
    "acharge",
    "total",
    "alert",
    "hold_charge",
    "die_before_commit",
    "slow_commit",
    "misuse",
    "sleep_in_database",
    "idle_in_transaction",
    "locked_out",
}
PLAIN = {
    "plain",
    "retrying",
    "hold",
    "work_then_die",
    "poison",
    "poison_once",
    "hold_gil",
    "hold_gil_limited",
    "spin",
    "deadlock",
    "answer",
}


class Acknowledged(Protocol):
    """What a load generator knows of its jobs."""

    acknowledged: list[str]
    unknown: list[list[str]]
    refused: list[str]


class Ended(NamedTuple):
    """One finished job with its traces."""

    id: str
    state: str
    task: str
    attempt: int
    lost: int
    error_type: str | None
    error: str | None
    result: Any
    plain: int
    transactional: int


def install(dsn: str) -> None:
    """Create the schema `faults` and the triggers that log every state change."""
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute(_INSTALL)


def ended(query: Query) -> dict[str, Ended]:
    """Every finished job by its id."""
    rows = [Ended._make(row) for row in query(_ENDED)]
    found = {row.id: row for row in rows}
    assert len(found) == len(rows), "a job has two final rows"
    return found


def check(
    query: Query,
    load: Acknowledged | None = None,
    *,
    may_fail: Collection[str] = (),
    deleted: Collection[str] = (),
) -> dict[str, Ended]:
    """Check the invariants once every job has ended.

    Args:
        query: runs a statement and gives its rows.
        load: what was acknowledged.
        may_fail: tasks that may end in another state than succeeded.
        deleted: ids of jobs that the test itself deleted: nothing is promised for them.

    Returns:
        Every finished job by its id.
    """
    live = query("select id::text, state, task, worker_id from pgqueue.live_jobs")
    resurrected = query(_RESURRECTED)
    finals = query(
        "select id::text, count(*) from faults.history where change = 'finished insert' group by 1 having count(*) > 1"
    )
    strays = query(
        "select e.job_id::text, e.kind from faults.effects e where not exists"
        " (select from faults.history h where h.id = e.job_id)"
    )
    jobs = ended(query)
    assert not live, f"jobs have not ended: {live[:5]}"
    assert not resurrected, f"changed after their end: {resurrected[:5]}"
    assert not finals, f"ended more than once: {finals[:5]}"
    assert not strays, f"effects of jobs that never were: {strays[:5]}"
    for job in jobs.values():
        if job.task in TRANSACTIONAL:
            wanted = job.state == "succeeded"
            assert job.transactional == wanted, f"transactional work must count exactly once, if it succeeded: {job}"
        elif job.task in PLAIN and job.state == "succeeded":
            assert job.plain >= 1, f"ended without having run: {job}"
        assert job.state in ("succeeded", "skipped") or job.task in may_fail, f"did not succeed: {job}"
    if load is not None:
        gone = set(deleted)
        lost = [job_id for job_id in load.acknowledged if job_id not in jobs and job_id not in gone]
        assert not lost, f"{len(lost)} of {len(load.acknowledged)} acknowledged jobs are lost: {lost[:5]}"
        phantoms = [job_id for job_id in load.refused if job_id in jobs]
        assert not phantoms, f"refused and yet there: {phantoms[:5]}"
        for batch in load.unknown:
            there = sum(job_id in jobs for job_id in batch)
            assert there in (0, len(batch)), f"an unknown commit did {there} of {len(batch)}"
    return jobs
