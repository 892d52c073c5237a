"""Who sleeps is told, who does not sleep costs nothing, and no job that comes in meanwhile is overlooked."""

import random
import threading
from concurrent.futures import ThreadPoolExecutor

import psycopg

from pgqueue.store import claims
from tests.store.store import Store, listened


def key(store: Store, queue: str) -> int:
    """The wake key of a queue."""
    return int(store.value("select pgqueue.queue_key(%s)", [queue]))


def two_queues(store: Store) -> tuple[str, str]:
    """Queues whose keys differ."""
    names = [f"q{n}" for n in range(20)]
    return next((a, b) for a in names for b in names if key(store, a) < key(store, b))


def listener(store: Store) -> Store:
    """A listening session."""
    session = store.session()
    session.rows("listen pgqueue")
    return session


def fall_asleep(session: Store, *queues: str) -> tuple[set[int], set[int], bool]:
    """The keys for which the session answers now, those for which others do, and whether it may sleep."""
    keys, others, asleep = session.run(claims.fall_asleep(session.queries, queues))
    return set(keys), set(others), asleep


def test_an_enqueue_wakes_a_sleeper_of_its_queue_and_nobody_else(store: Store) -> None:
    queue, other = two_queues(store)
    sleeper = listener(store)
    assert fall_asleep(sleeper, queue) == ({key(store, queue)}, set(), True)
    store.enqueue(queue=other)
    assert listened(sleeper.conn) == []
    store.enqueue(queue=queue)
    store.enqueue_many(3, queue=queue)
    store.enqueue(queue=queue, delay=1.0)
    assert listened(sleeper.conn) == [f"w{key(store, queue)}"] * 3
    store.enqueue(queue=queue, delay=3600.0)
    assert listened(sleeper.conn) == []


def test_many_jobs_notify_once_a_key(store: Store) -> None:
    sleeper = listener(store)
    fall_asleep(sleeper, "default")
    with store.conn.transaction():
        for _ in range(5):
            store.enqueue()
    assert listened(sleeper.conn) == [f"w{key(store, 'default')}"]


def test_without_a_sleeper_nobody_notifies(store: Store) -> None:
    ear = listener(store)
    store.enqueue()
    store.enqueue_many(3)
    sleeper = store.session()
    fall_asleep(sleeper, "default")
    sleeper.run(claims.wake_up(sleeper.queries, ["default"], False))
    store.enqueue()
    assert listened(ear.conn) == []


def test_an_enqueue_in_flight_keeps_the_claimer_awake_until_it_has_committed(store: Store) -> None:
    sleeper, writer = listener(store), store.session()
    for ending in ("commit", "rollback"):
        sleeper.run(claims.wake_up(sleeper.queries, ["default"], False))
        writer.conn.execute("begin")
        writer.enqueue()
        assert fall_asleep(sleeper, "default") == ({key(store, "default")}, set(), False)
        writer.conn.execute(ending)
        assert fall_asleep(sleeper, "default")[2]
        assert listened(sleeper.conn) == []


def test_all_that_makes_a_job_available_wakes(store: Store) -> None:
    sleeper, worker = listener(store), store.worker()
    ids = store.enqueue_many(6)
    attempts = store.claim(worker)
    store.cancel(ids[5:], terminate=True)
    fall_asleep(sleeper, "default")
    listened(sleeper.conn)
    told = [f"w{key(store, 'default')}"]
    store.retry(attempts[:1])
    assert listened(sleeper.conn) == told
    store.release(attempts[1:2])
    assert listened(sleeper.conn) == told
    store.lose(attempts[2:3])
    assert listened(sleeper.conn) == told
    store.finish(attempts[3:4], "failed", error="{}")
    assert listened(sleeper.conn) == []
    store.revive(ids[3:4])
    assert listened(sleeper.conn) == told
    store.expire(worker)
    store.rescue()
    assert listened(sleeper.conn) == told
    store.enqueue(delay=60.0)
    listened(sleeper.conn)
    store.rows("update pgqueue.live_jobs set run_at = now() where state = 'scheduled'")
    store.rows("select pgqueue.stage_jobs('-infinity', 10)")
    assert listened(sleeper.conn) == told


def test_two_idle_workers_answer_for_their_queues_one_by_one(store: Store) -> None:
    """Each key has one who answers, also when the workers serve different sets of queues."""
    first_queue, second_queue = two_queues(store)
    low, high = key(store, first_queue), key(store, second_queue)
    one, two = listener(store), listener(store)
    assert fall_asleep(one, first_queue) == ({low}, set(), True)
    assert fall_asleep(two, first_queue, second_queue) == ({high}, {low}, True)
    store.enqueue(queue=second_queue)
    assert listened(two.conn) == [f"w{high}"]
    # The first one goes, and hands over what it answered for.
    one.run(claims.wake_up(one.queries, [first_queue], True))
    assert listened(two.conn) == [f"h{low}"]
    assert fall_asleep(two, first_queue, second_queue) == ({low, high}, set(), True)


def test_the_locks_of_a_sleeper_go_with_its_session(store: Store) -> None:
    one, two = listener(store), listener(store)
    fall_asleep(one, "default")
    assert fall_asleep(two, "default") == (set(), {key(store, "default")}, True)
    one.conn.close()
    # Waits for the end of the session.
    store.rows("select pg_advisory_lock(hashtext('pgqueue'), %s)", [key(store, "default")])
    store.rows("select pg_advisory_unlock_all()")
    assert fall_asleep(two, "default")[0] == {key(store, "default")}


def test_of_three_hundred_bursts_no_job_is_overlooked(store: Store) -> None:
    """Two producers against one claimer that sleeps on notifications alone: without polling it must see every job."""
    worker = store.worker()
    sleeper = listener(store)
    seen, wanted = 0, 300
    turn = threading.Semaphore(0)

    def produce(seed: int) -> None:
        with psycopg.connect(store.dsn, autocommit=True) as conn:
            for number in range(wanted // 2):
                turn.acquire(timeout=30)
                with conn.transaction():
                    conn.execute("select pgqueue.enqueue('t')")
                    if (number + seed) % 3 == 0:  # in flight while the claimer looks and falls asleep
                        conn.execute("select from generate_series(1, %s)", [random.randrange(20_000)])

    with ThreadPoolExecutor(2) as producers:
        done = [producers.submit(produce, seed) for seed in range(2)]
        turn.release(2)
        while seen < wanted:
            attempts = store.claim(worker)
            if attempts:
                store.finish(attempts)
                seen += len(attempts)
                turn.release(len(attempts))
                continue
            if fall_asleep(sleeper, "default")[2]:
                attempts = store.claim(worker)  # the one more look
                if not attempts:
                    assert list(sleeper.conn.notifies(timeout=20, stop_after=1)), f"{seen} of {wanted}: overslept"
                else:
                    store.finish(attempts)
                    seen += len(attempts)
                    turn.release(len(attempts))
        for future in done:
            future.result(30)
    assert seen == wanted
