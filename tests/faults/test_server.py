"""The server goes away: sessions ended one by one, crashes, restarts, time-outs, no connection left."""

import contextlib
from collections.abc import Iterator

import psycopg
import pytest

from tests.faults.conftest import LONG, Stage
from tests.support.cluster import Cluster, StopMode

pytestmark = pytest.mark.faults

SESSIONS = (
    "select pid, query from pg_stat_activity where datname = current_database()"
    " and application_name ~ '^pgqueue(/[0-9]+| worker)$'"
)
ROLES = {
    "claim": "claim_jobs",
    "listen": "fall_asleep|wake_up|listen ",
    "finish": "finish_jobs\\(|retry_jobs|release_jobs",
    "lease": "renew_lease|rescue_jobs",
    "handler": "finish_task|begin_task|effects|discard|commit",
}


def test_every_session_of_a_worker_may_be_ended_at_any_time(stage: Stage) -> None:  # fault 11
    worker = stage.worker("-c", "2", worker_lost_limit="1000")  # one job may be hit each time
    ended: dict[str, int] = dict.fromkeys(ROLES, 0)
    with stage.load() as load:
        for _ in range(6):
            for role, pattern in ROLES.items():
                ended[role] += _end(stage, role, pattern)
                load.more(10)
        load.more()
    stage.finish(load)
    assert min(ended.values()) >= 6
    assert worker.process.poll() is None
    # It listens again, and answers for its queue: an enqueue knows that somebody sleeps.
    stage.wait(
        "the idle worker holds its wake lock again",
        lambda: stage.value(
            "select count(*) from pg_locks where locktype = 'advisory' and objsubid = 2 and granted"
            " and classid::bigint = hashtext('pgqueue')::bigint & 4294967295"
        ),
    )


def _end(stage: Stage, role: str, pattern: str) -> int:
    """End the sessions that do this, once there are any; how many."""
    statement = SESSIONS.replace("pid, query", "pid, pg_terminate_backend(pid)") + " and query ~* %s"
    return len(stage.wait(f"the worker has a session to {role} again", lambda: stage.query(statement, pattern)))


@pytest.mark.parametrize("mode", ["immediate", "fast"])
def test_nothing_acknowledged_is_lost_when_the_server_restarts(
    private_stage: Stage, private_server: Cluster, mode: StopMode
) -> None:  # faults 12 and 13
    stage = private_stage
    workers = [stage.worker("-c", "1", lease=10), stage.worker("-P", "threads", "-c", "4", lease=10)]
    with stage.load() as load:
        for _ in range(20 if LONG else 8):
            private_server.restart(mode)
            load.more()
    stage.finish(load)
    assert all(worker.process.poll() is None for worker in workers)
    assert not any("declared lost" in worker.output for worker in workers)


def test_a_killed_server_and_an_outage_longer_than_the_lease(private_stage: Stage, private_server: Cluster) -> None:
    stage = private_stage  # faults 12 and 14
    workers = [stage.worker("-c", "1", lease=1), stage.worker("-P", "threads", "-c", "4", lease=1)]
    with stage.load() as load:
        held = stage.send("hold", stage.gate)
        stage.pid_of(held)
        private_server.kill()
        for worker in workers:
            worker.expect("cannot renew the lease now")
        stage.wait("the lease would be over", lambda: all(w.output.count("cannot renew") >= 4 for w in workers))
        private_server.start()
        load.more()
    jobs = stage.finish(load)
    assert jobs[held].state == "succeeded"
    assert all(worker.process.poll() is None for worker in workers)


@pytest.mark.parametrize(
    "setting", ["statement_timeout", "lock_timeout", "idle_in_transaction_session_timeout", "transaction_timeout"]
)
def test_a_time_out_of_the_server_is_the_jobs_own(stage: Stage, server: Cluster, setting: str) -> None:  # fault 25
    if setting == "transaction_timeout" and server.major < 17:
        pytest.skip("transaction_timeout came with PostgreSQL 17")
    name = stage.value("select current_database()")
    stage.query("insert into faults.slow values (0)")
    stage.query(f'alter database "{name}" set {setting} = 1000')
    worker = stage.worker("-c", "2")
    with psycopg.connect(stage.dsn) as blocker, stage.load() as load:
        if setting == "lock_timeout":
            blocker.execute("select from faults.slow for update")
            victim = stage.send("locked_out")
            stage.wait(
                "the job was locked out, and tries again",
                lambda: stage.value("select count(*) from pgqueue.attempts where job_id = %s", victim) >= 2,
            )
            blocker.commit()
        elif setting == "idle_in_transaction_session_timeout":
            blocker.commit()
            victim = stage.send("idle_in_transaction", stage.gate)
            stage.pid_of(victim)
            backend = stage.wait(
                "its session is idle",
                lambda: stage.value(
                    "select pid from pg_stat_activity where datname = current_database()"
                    " and state = 'idle in transaction' and query ilike 'insert into faults.effects%'"
                    " and application_name ~ '^pgqueue/' and state_change < clock_timestamp() - interval '0.4 s'"
                ),
            )
            stage.wait(
                "it is ended", lambda: not stage.query("select pid from pg_stat_activity where pid = %s", backend)
            )
            stage.open_gate()
        else:
            victim = stage.send("sleep_in_database", 60)
        load.more()
    jobs = stage.finish(load, may_fail=("sleep_in_database", "idle_in_transaction"))
    assert jobs[victim].state == ("succeeded" if setting == "lock_timeout" else "failed")
    assert jobs[victim].lost == 0
    assert worker.process.poll() is None


@contextlib.contextmanager
def _every_connection(server: Cluster, dsn: str) -> Iterator[list[psycopg.Connection[tuple[object, ...]]]]:
    """Hold every connection that the server has left."""
    held: list[psycopg.Connection[tuple[object, ...]]] = []
    try:
        with contextlib.suppress(psycopg.OperationalError):
            while True:
                held.append(psycopg.connect(dsn, autocommit=True, application_name="hog"))
        yield held
    finally:
        for connection in held:
            connection.close()


def test_no_connection_left(private_server: Cluster, private_stage: Stage) -> None:  # fault 27
    stage = private_stage
    private_server.execute("alter system set max_connections = 20")
    private_server.restart()
    worker = stage.worker("-c", "1", lease=2, pool_max_size="2")
    with stage.load() as load, _every_connection(private_server, stage.dsn) as hogs:
        eye = hogs.pop()

        def starved() -> bool:
            """Of the worker's sessions its lease alone is left; at first the worker may be the faster one."""
            lost = [
                pid
                for pid, query in eye.execute(SESSIONS).fetchall()
                if not any(word in str(query) for word in ("renew_lease", "rescue_jobs"))
            ]
            for pid in lost:
                eye.execute("select pg_terminate_backend(%s)", [pid])
            while _take(stage.dsn, hogs):
                pass
            return not lost

        stage.wait("the worker's lease alone is left", starved)
        worker.expect("too many clients")
        second = stage.worker("-c", "1", lease=2, ready=False, pool_max_size="2")
        second.expect("no connection left")
        beats = "select count(distinct heartbeat_at) from pgqueue.workers"
        seen: set[object] = set()

        def heartbeats() -> bool:
            row = eye.execute("select max(heartbeat_at) from pgqueue.workers").fetchone()
            seen.add(row)
            return len(seen) > 8

        stage.wait("the lease outlives its time", heartbeats)
        assert eye.execute(beats).fetchone() == (1,)
        for hog in hogs:
            hog.close()
        eye.close()
        second.expect("is ready")
        load.more()
    jobs = stage.finish(load)
    assert "declared lost" not in worker.output
    assert sum(job.lost for job in jobs.values() if job.task in ("plain", "retrying")) == 0


def _take(dsn: str, hogs: list[psycopg.Connection[tuple[object, ...]]]) -> bool:
    try:
        hogs.append(psycopg.connect(dsn, autocommit=True, application_name="hog"))
    except psycopg.OperationalError:
        return False
    return True


def test_a_fleet_larger_than_the_server_has_connections_for(private_server: Cluster, private_stage: Stage) -> None:
    stage = private_stage  # fault 27
    private_server.execute("alter system set max_connections = 20")
    private_server.restart()
    with stage.load(most=500, mix=["sleepless"] * 5) as load:
        fleet = [stage.worker("-P", "solo", lease=3, ready=False) for _ in range(30 if LONG else 10)]
        stage.wait("one is ready", lambda: any("is ready" in worker.output for worker in fleet))
        load.more(400)
    stage.finish(load)
    assert all(worker.process.poll() is None for worker in fleet)
