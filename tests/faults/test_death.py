"""Processes that die or hang: child, supervisor, after the work, between finish and COMMIT, again and again."""

import signal

import psutil
import psycopg
import pytest

from tests.faults.conftest import Stage

pytestmark = pytest.mark.faults


def test_a_killed_child_costs_one_attempt_of_one_job(stage: Stage) -> None:  # fault 1
    worker = stage.worker("-c", "2")
    with stage.load() as load:
        victim, sibling = stage.send("hold", stage.gate), stage.send("hold", stage.gate)
        pid = stage.pid_of(victim)
        assert pid != stage.pid_of(sibling)
        psutil.Process(pid).kill()
        # Both slots are held by jobs that do not end: only a new child can start the job again.
        assert stage.pid_of(victim, attempt=2) not in (pid, stage.pid_of(sibling))
        assert len(stage.children(worker)) >= 2
        load.more()
        stage.open_gate()
    jobs = stage.finish(load)
    assert (jobs[victim].attempt, jobs[victim].lost) == (2, 1)
    assert (jobs[sibling].attempt, jobs[sibling].lost) == (1, 0)
    assert sum(job.lost for job in jobs.values()) == 1


def test_a_killed_supervisor_takes_its_children_along_and_another_worker_goes_on(stage: Stage) -> None:  # fault 2
    doomed = stage.worker("-c", "2", lease=2)
    with stage.load() as load:
        held = [stage.send("hold", stage.gate), stage.send("hold_charge", stage.gate)]
        pids = {stage.pid_of(job_id) for job_id in held}
        children = stage.children(doomed)
        assert pids <= {child.pid for child in children}
        # On another host, for what it can know: it waits for the lease.
        stage.query("update pgqueue.workers set instance = 'elsewhere'")
        stage.worker("-c", "2", lease=2)
        stage.wait_until_recorded(*held)
        doomed.send_signal(signal.SIGKILL)
        _, alive = psutil.wait_procs(children, timeout=10)
        assert not alive
        assert {stage.pid_of(job_id, attempt=2) for job_id in held}.isdisjoint(pids)
        load.more()
    jobs = stage.finish(load)
    assert all(jobs[job_id].lost == 1 for job_id in held)


def test_a_worker_that_starts_again_releases_its_predecessors_jobs_at_once(stage: Stage) -> None:  # fault 2
    doomed = stage.worker("-c", "2", lease=3600)
    with stage.load() as load:
        held = stage.send("hold", stage.gate)
        stage.pid_of(held)
        stage.wait_until_recorded(held)
        children = stage.children(doomed)
        doomed.send_signal(signal.SIGKILL)
        psutil.wait_procs(children, timeout=10)
        doomed.wait()
        stage.worker("-c", "2", lease=3600)
        stage.pid_of(held, attempt=2)
        load.more()
    jobs = stage.finish(load)
    assert jobs[held].lost == 1


def test_killed_after_its_work_before_its_report_a_plain_job_runs_twice(stage: Stage) -> None:  # fault 3
    stage.worker("-c", "2")
    with stage.load() as load:
        victims = [stage.send("work_then_die") for _ in range(3)]
        load.more()
    jobs = stage.finish(load)
    for victim in victims:
        assert (jobs[victim].attempt, jobs[victim].lost, jobs[victim].plain) == (2, 1, 2)


def test_killed_after_its_finish_before_its_commit_a_transaction_is_undone_and_runs_again(stage: Stage) -> None:
    # Fault 4, on a SQLAlchemy Session, whose hook kills the process between the finish and the COMMIT.
    stage.worker("-c", "2")
    with stage.load() as load:
        victims = [stage.send("die_before_commit") for _ in range(2)]
        load.more()
    jobs = stage.finish(load)
    for victim in victims:
        assert (jobs[victim].attempt, jobs[victim].lost, jobs[victim].transactional) == (2, 1, 1)


LOCK = 815
SLOW_COMMIT = f"""
create function faults.wait_at_commit() returns trigger language plpgsql as $$
begin
    perform pg_advisory_xact_lock_shared({LOCK});
    return null;
end $$;
create constraint trigger wait_at_commit after insert on faults.slow deferrable initially deferred
    for each row execute function faults.wait_at_commit();
"""


def test_killed_at_its_commit_a_transaction_counts_once_and_holds_up_nobody(stage: Stage) -> None:
    # Fault 4: its server process would go on at COMMIT, with the job's row locked, but for the worker that ends it.
    stage.query(SLOW_COMMIT)
    worker = stage.worker("-c", "2")
    with psycopg.connect(stage.dsn, autocommit=True) as blocker, stage.load() as load:
        blocker.execute("select pg_advisory_lock(%s)", [LOCK])
        victim = stage.send("slow_commit")
        waiting = "select pid from pg_stat_activity where wait_event = 'advisory' and query ilike 'commit%'"
        backend = stage.wait("the job waits at its COMMIT", lambda: stage.value(waiting))
        next(child for child in stage.children(worker) if _is_client(child, stage, backend)).kill()
        alive = "select count(*) from pg_stat_activity where pid = %s"
        stage.wait("its session has ended", lambda: stage.value(alive, backend) == 0)
        done = stage.send("answer", "meanwhile")
        stage.wait("other jobs end meanwhile", lambda: stage.state(done) == "succeeded")
        blocker.execute("select pg_advisory_unlock(%s)", [LOCK])
        load.more()
    jobs = stage.finish(load)
    assert (jobs[victim].transactional, jobs[victim].attempt, jobs[victim].lost) == (1, 2, 1)


def _is_client(child: psutil.Process, stage: Stage, backend: int) -> bool:
    port = stage.value("select client_port from pg_stat_activity where pid = %s", backend)
    return any(c.laddr.port == port for c in child.net_connections("tcp") if c.laddr)


def test_a_job_that_holds_the_interpreter_costs_no_lease(stage: Stage) -> None:  # fault 6
    worker = stage.worker("-c", "2", lease=1)
    with stage.load() as load:
        long = stage.send("hold_gil", 2.5)
        stage.pid_of(long)
        overdue = stage.send("hold_gil_limited")
        load.more()
        jobs = stage.finish(load, may_fail=("hold_gil_limited",))
    assert (jobs[long].attempt, jobs[long].plain) == (1, 1)
    assert jobs[overdue].state == "failed"
    assert "TimeLimitExceeded" in str(jobs[overdue].error_type)
    assert "declared lost" not in worker.output


@pytest.mark.parametrize(("task", "pool"), [("spin", "processes"), ("deadlock", "threads")])
def test_a_hung_job_is_ended_by_its_limit_and_its_place_is_free_again(stage: Stage, task: str, pool: str) -> None:
    stage.worker("-P", pool, "-c", "1")  # fault 7
    with stage.load() as load:
        hung = [stage.send(task) for _ in range(2)]
        stage.pid_of(hung[1])
        load.more()
    jobs = stage.finish(load, may_fail=(task,))
    for job_id in hung:
        assert jobs[job_id].state == "failed"
        assert "TimeLimitExceeded" in str(jobs[job_id].error_type)
        assert jobs[job_id].attempt == 1


@pytest.mark.parametrize("how", ["exit", "segfault", "killed"])
def test_a_job_that_kills_every_worker_fails_after_some_and_others_go_on(stage: Stage, how: str) -> None:  # fault 9
    worker = stage.worker("-c", "2", worker_lost_limit="3")
    with stage.load() as load:
        poison = stage.send("poison", how)
        once = stage.send("poison_once")
        stage.wait("the poison job is given up", lambda: stage.state(poison) == "failed")
        load.more()
    jobs = stage.finish(load, may_fail=("poison", "poison_once"))
    assert (jobs[poison].lost, jobs[poison].plain) == (3, 3)
    assert "WorkerLostError" in str(jobs[poison].error_type)
    assert "lost 3 times" in str(jobs[poison].error)
    assert (jobs[once].plain, jobs[once].error_type) == (1, jobs[poison].error_type)
    reasons = stage.query("select outcome from pgqueue.attempts where job_id = %s", poison)
    assert reasons == [("lost",)] * 3
    assert worker.process.poll() is None
