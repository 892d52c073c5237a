"""The network between: replies that are lost, connections that go silent, a listener that no longer hears."""

from collections.abc import Callable

import pytest

from pgqueue import PgQueue
from pgqueue.errors import UnknownCommit
from pgqueue.job import new_job_id
from tests.faults.conftest import Stage
from tests.faults.proxy import UNLISTEN, Link, Proxy

pytestmark = pytest.mark.faults

# A claimer holds the wake lock of its queue while it sleeps.
ASLEEP = """select exists (
    select from pg_locks l join pg_database d on d.oid = l.database
    where d.datname = current_database() and l.locktype = 'advisory' and l.mode = 'ExclusiveLock'
      and l.classid::bigint = hashtext('pgqueue')::bigint & 4294967295)"""


def _executes(statement: bytes) -> Callable[[Link, bytes], bool]:
    """Whether a message is the execution of a statement that its connection prepared or sent."""

    def hit(link: Link, message: bytes) -> bool:
        return (message[:1] == b"E" and statement in link.said) or (message[:1] == b"Q" and statement in message)

    return hit


def _commits(link: Link, message: bytes) -> bool:
    return message[:1] == b"Q" and message[5:].lower().startswith(b"commit")


@pytest.mark.parametrize("statement", ["unnest(pgqueue.finish_jobs(", "retry_jobs(", "claim_jobs("])
def test_a_lost_reply_to_the_worker_changes_nothing(stage: Stage, statement: str) -> None:  # fault 15
    with Proxy(stage.dsn) as proxy:
        worker = stage.worker("-c", "2", lease=3, dsn=proxy.dsn)
        with stage.load() as load:
            for _ in range(3):
                proxy.drop_next_reply(_executes(statement.encode()))
                stage.wait("a reply was lost", proxy.dropped)
                load.more(30)
        jobs = stage.finish(load)
    assert worker.process.poll() is None
    if statement != "claim_jobs(":
        assert all(job.lost == 0 for job in jobs.values())


def test_a_transaction_whose_commit_went_unheard_counts_once(stage: Stage) -> None:  # fault 15
    with Proxy(stage.dsn) as proxy:
        stage.worker("-c", "2", dsn=proxy.dsn)
        with stage.load() as load:
            for _ in range(3):
                proxy.drop_next_reply(_commits)
                stage.wait("a reply to COMMIT was lost", proxy.dropped)
                load.more(30)
        stage.finish(load)


@pytest.mark.parametrize("own_id", [False, True], ids=["any id", "own id"])
def test_an_enqueue_whose_commit_went_unheard_makes_one_job_or_says_so(stage: Stage, own_id: bool) -> None:
    stage.worker("-c", "2")  # fault 15
    with Proxy(stage.dsn) as proxy, stage.load() as load:
        app = PgQueue("through the proxy", dsn=proxy.dsn)
        first = str(app.send_task("answer", ("connects",)).id)
        proxy.drop_next_reply(_executes(b"enqueue_job"))
        if own_id:
            # Whether an earlier call has made the job of this id cannot be told: sending it again settles it.
            job_id = new_job_id()
            with pytest.raises(UnknownCommit, match=job_id):
                app.send_task("answer", ("unheard",), task_id=job_id)
            assert str(app.send_task("answer", ("unheard",), task_id=job_id, on_duplicate="return").id) == job_id
        else:
            job_id = str(app.send_task("answer", ("unheard",)).id)
        assert proxy.dropped()
        app.close()
        load.more(30)
    jobs = stage.finish(load)
    assert {jobs[first].result, jobs[job_id].result} == {"connects", "unheard"}
    assert sum(job.result == "unheard" for job in jobs.values()) == 1


@pytest.mark.parametrize("saying", ["claim_jobs(", "listen pgqueue", "unnest(pgqueue.finish_jobs(", "renew_lease("])
def test_a_connection_that_goes_silent_is_noticed_and_replaced(stage: Stage, saying: str) -> None:  # fault 16
    with Proxy(stage.dsn) as proxy:
        worker = stage.worker("-c", "2", lease=3, dsn=proxy.dsn)
        with stage.load() as load:
            (link,) = stage.wait("the connection is used", lambda: proxy.open_links(saying.encode()))
            link.stall()
            stage.wait(
                "another one took its place",
                lambda: [other for other in proxy.open_links(saying.encode()) if other is not link],
                timeout=45,
            )
            load.more(30)
        stage.finish(load)
        assert worker.process.poll() is None


def test_a_listener_that_hears_nothing_costs_no_more_than_the_poll_interval(stage: Stage) -> None:  # fault 19
    with Proxy(stage.dsn) as proxy:
        worker = stage.worker("-c", "1", dsn=proxy.dsn, worker_poll_interval="0.5")
        (link,) = stage.wait("it listens", lambda: proxy.open_links(b"listen pgqueue"))
        stage.wait("it sleeps, and asks nothing on that link", lambda: stage.value(ASLEEP))
        link.inject(UNLISTEN)
        stage.wait("it hears nothing", link.injected)
        for number in range(3):
            stage.wait_for_success(stage.send("answer", str(number)))
        # Its own test of the session tells, and it listens anew on another.
        worker.expect("no longer receives notifications", timeout=60)
        stage.wait("it listens again", lambda: proxy.open_links(b"listen pgqueue"))
        with stage.load() as load:
            load.more()
        stage.finish(load)
