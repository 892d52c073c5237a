"""Rows that will not fit, rows that are gone, partitions that are missing."""

import random

import pytest

from tests.faults.conftest import Stage

pytestmark = pytest.mark.faults


@pytest.mark.parametrize("task", ["answer", "charge"])
def test_an_outcome_that_cannot_be_stored_fails_alone(stage: Stage, task: str) -> None:  # fault 43
    stage.query("alter table pgqueue.finished_jobs add constraint theirs check (result::text !~ 'unfit|^666$')")
    worker = stage.worker("-c", "2")
    with stage.load() as load:
        bad = stage.send(task, "unfit" if task == "answer" else 666)
        load.more()
        jobs = stage.finish(load, may_fail=(task,))
    failed = [job for job in jobs.values() if job.state != "succeeded"]
    assert bad in [job.id for job in failed]
    # The load numbers its jobs: its own 666 may be among them.
    assert len(failed) <= 2
    assert "theirs" in str(jobs[bad].error)
    assert worker.process.poll() is None


def test_rows_that_are_deleted_under_its_hands_do_not_stop_a_worker(stage: Stage) -> None:  # fault 44
    worker = stage.worker("-c", "2")
    random.seed(44)
    deleted: list[str] = []
    with stage.load() as load:
        held = [stage.send("hold", stage.gate), stage.send("hold_charge", stage.gate)]
        for job_id in held:
            stage.pid_of(job_id)
        for _ in range(10):
            victims = random.sample(load.acknowledged, 10)
            deleted += [
                row[0]
                for row in stage.query(
                    "delete from pgqueue.live_jobs where id = any (%s::uuid[]) returning id::text", victims
                )
            ]
            load.more(10)
        stage.query("delete from pgqueue.live_jobs where id = any (%s::uuid[])", held)
        stage.query("truncate pgqueue.attempts")
        stage.open_gate()
        load.more()
    jobs = stage.finish(load, deleted=deleted)
    assert not set(held) & set(jobs)
    assert stage.value("select count(*) from faults.effects where kind = 'transactional' and job_id = %s", held[1]) == 0
    worker.expect("lease lost")
    assert worker.process.poll() is None


def test_missing_partitions_are_made_by_whoever_needs_them(stage: Stage) -> None:  # fault 45
    worker = stage.worker("-c", "2")
    with stage.load() as load:
        held = stage.send("hold_charge", stage.gate)
        stage.pid_of(held)
        for table in ("finished_jobs", "attempts"):
            # As if nobody had looked after them for weeks: the rows stay, the partitions of the days to come do not.
            for (name,) in stage.query(
                "select inhrelid::regclass::text from pg_inherits where inhparent = %s::regclass"
                " and inhrelid::regclass::text ~ '_[0-9]{8}$'",
                f"pgqueue.{table}",
            ):
                stage.query(
                    f"do $$ begin set local lock_timeout = '10s'; if not exists (select from {name}) then"
                    f" drop table {name}; else alter table pgqueue.{table} detach partition {name};"
                    f" alter table {name} rename to {name.split('.')[-1].replace('_2', '_old_2')}; end if; end $$"
                )
        stage.open_gate()
        load.more()
    stage.wait("all have ended", lambda: not stage.query("select id from pgqueue.live_jobs limit 1"))
    # What was detached comes back, so that every final row is counted.
    for (name,) in stage.query("select c.oid::regclass::text from pg_class c where relname ~ '^finished_jobs_old_'"):
        stage.query(f"alter table {name} drop constraint if exists finished_jobs_state")
        stage.query("insert into pgqueue.finished_jobs table " + name)
        stage.query("delete from faults.history where transaction = (select max(transaction) from faults.history)")
    jobs = stage.finish(load)
    assert jobs[held].state == "succeeded"
    assert worker.process.poll() is None
