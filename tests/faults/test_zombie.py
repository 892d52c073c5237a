"""A worker that is suspended past its lease and comes back; rescue against finish, in both orders."""

import contextlib
import signal
import threading
from typing import Any

import psutil
import psycopg
import pytest

from pgqueue.store import claims
from pgqueue.store.statement import Statement, run
from tests.faults.conftest import Stage
from tests.support.process import CommandLine

pytestmark = pytest.mark.faults


def _everyone(stage: Stage, worker: CommandLine) -> list[psutil.Process]:
    return [psutil.Process(worker.pid), *stage.children(worker)]


def test_a_suspended_worker_changes_nothing_when_it_comes_back(stage: Stage) -> None:  # fault 5
    lease = 1.5
    zombie = stage.worker("-c", "2", lease=lease)
    with stage.load() as load:
        held = [stage.send("hold", stage.gate), stage.send("hold_charge", stage.gate)]
        pids = [stage.pid_of(job_id) for job_id in held]
        stage.wait_until_recorded(*held)
        first = stage.value("select max(id) from pgqueue.workers")
        suspended = _everyone(stage, zombie)
        for process in suspended:
            process.send_signal(signal.SIGSTOP)
        heir = stage.worker("-c", "2", lease=lease)
        again = [stage.pid_of(job_id, attempt=2) for job_id in held]
        assert set(again).isdisjoint(pids)
        stage.open_gate()
        stage.wait("the heir has finished them", lambda: all(stage.state(job_id) == "succeeded" for job_id in held))
        load.more()
        for process in suspended:
            with contextlib.suppress(psutil.NoSuchProcess):  # its worker has noticed meanwhile, and ended it
                process.send_signal(signal.SIGCONT)
        zombie.expect("declared lost")
        stage.wait(
            "it registers anew",
            lambda: stage.value("select count(*) from pgqueue.workers where id > %s and pid = %s", first, zombie.pid),
        )
        # It works again, and alone.
        heir.send_signal(signal.SIGTERM)
        assert heir.wait() == 0
        assert stage.pid_of(stage.send("answer", "alive")) in {child.pid for child in stage.children(zombie)}
        load.more()
    jobs = stage.finish(load)
    for job_id in held:
        assert (jobs[job_id].attempt, jobs[job_id].lost) == (2, 1)


# --- fault 39: both orders of rescue and finish, step by step, on the functions that workers call


class _Race:
    """One job, claimed by a worker row whose lease is over, and two sessions that want it."""

    def __init__(self, stage: Stage) -> None:
        self.stage = stage
        self.queries = stage.app.queries
        self.job_id = stage.send("answer", "raced", queue="raced")
        self.worker_id = stage.value(
            "insert into pgqueue.workers (name, hostname, pid, instance, app, version, queues, tasks, at_most_once,"
            " pools, lease_expires_at) values ('raced', 'raced', 1, 'raced', '', '', '{}', '{}', '{}', '{}',"
            " clock_timestamp() + interval '1 hour') returning id"
        )
        self.fence = [(self.job_id, 42)]
        with psycopg.connect(stage.dsn, autocommit=True) as connection:
            look, jobs = run(
                connection,
                claims.claim_jobs(self.queries, self.worker_id, 42, [("raced", 0, 0, 2**62)], 1, [], None),
            )
            assert run(connection, claims.record_jobs(self.queries, self.fence)) == {self.job_id}
        assert look.last_seq > 0
        assert [str(job.id) for job in jobs] == [self.job_id]

    def expire(self) -> None:
        self.stage.query("update pgqueue.workers set lease_expires_at = '-infinity' where id = %s", self.worker_id)

    def finish(self) -> Statement[list[str]]:
        return claims.finish_jobs(self.queries, self.fence, "succeeded", ['"done"'], None, None, 3600.0)

    def rescue(self) -> Statement[list[tuple[str, str, str]]]:
        return claims.rescue_jobs(self.queries, 3, 100, 3600.0)

    def second_waits(
        self, first: psycopg.Connection[tuple[object, ...]], second: psycopg.Connection[tuple[object, ...]]
    ) -> None:
        pids = first.info.backend_pid, second.info.backend_pid
        self.stage.wait(
            "the second session waits for the first",
            lambda: self.stage.value("select %s = any (pg_blocking_pids(%s))", *pids),
        )


@pytest.mark.parametrize("rescue_first", [False, True], ids=["finish first", "rescue first"])
def test_of_rescue_and_finish_exactly_one_wins(stage: Stage, rescue_first: bool) -> None:  # fault 39
    race = _Race(stage)
    # Its lease is over only now, and no other worker is there to notice.
    race.expire()
    found: dict[str, object] = {}
    with psycopg.connect(stage.dsn) as one, psycopg.connect(stage.dsn) as other:
        statements: dict[str, Statement[Any]] = {"finish": race.finish(), "rescue": race.rescue()}
        first, second = ("rescue", "finish") if rescue_first else ("finish", "rescue")
        found[first] = run(one, statements[first])

        def follow() -> None:
            found[second] = run(other, statements[second])
            other.commit()

        thread = threading.Thread(target=follow)
        thread.start()
        if rescue_first:
            race.second_waits(one, other)
        else:
            thread.join()  # a rescue passes over what another holds
        one.commit()
        thread.join()
    # What its handler would have left.
    stage.query("insert into faults.effects (job_id, kind) values (%s, 'plain')", race.job_id)
    if rescue_first:
        assert found["rescue"] == [("raced", race.job_id, "available")]
        assert found["finish"] == [race.job_id], "the finish must report that its lease was lost"
        assert stage.state(race.job_id) == "available"
    else:
        assert found["finish"] == []
        assert found["rescue"] == []
        assert stage.state(race.job_id) == "succeeded"
    stage.worker("-c", "2", "-Q", "default,raced")
    with stage.load() as load:
        load.more()
    jobs = stage.finish(load)
    assert jobs[race.job_id].lost == rescue_first
