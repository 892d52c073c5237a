"""The writer of outcomes beside what keeps it from writing: nothing is dropped, and what can be written is."""

from collections import deque
from collections.abc import Iterator
from typing import LiteralString

import psycopg
import pytest

from pgqueue.worker.completer import Completer
from pgqueue.worker.held import Entry, Held
from pgqueue.worker.session import PatientConnection, mind_poolers
from tests.store.store import Store
from tests.support.process import wait_until


@pytest.fixture
def store(dsn: str) -> Iterator[Store]:
    opened = Store(dsn)
    yield opened
    opened.close()


class Writing:
    """A completer of one worker, whose claims the test makes."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.worker = store.worker()
        self.completer = Completer(self._connect, store.queries, lambda task, kind: 60.0, 3, 40, lambda: None)

    def _connect(self) -> PatientConnection:
        connection = PatientConnection.connect(self.store.dsn, autocommit=True)
        connection.server_started = mind_poolers(connection, self.store.queries)
        return connection

    def claim(self, count: int) -> list[Held]:
        """Claim so many new jobs."""
        self.store.enqueue_many(count)
        return [Held(attempt.job, attempt.token) for attempt in self.store.claim(self.worker, count)]

    def succeed(self, held: list[Held]) -> None:
        self.completer.put([(one, ("succeeded", str(number))) for number, one in enumerate(held)])

    def states(self, held: list[Held]) -> list[str]:
        return self.store.states([one.job.id for one in held])

    def until_ended(self, held: list[Held]) -> None:
        wait_until(lambda: "running" not in self.states(held), what=lambda: f"all have ended: {self.states(held)}")


@pytest.fixture
def writing(store: Store) -> Iterator[Writing]:
    found = Writing(store)
    yield found
    found.completer.stop(30)


def refuse(store: Store, code: str, when: LiteralString = "true") -> None:
    """From now on an error keeps finished rows from being stored."""
    store.rows(
        """create function public.refuse() returns trigger language plpgsql as $$
           begin raise exception 'not now' using errcode = tg_argv[0]; end $$"""
    )
    text = f"before insert on pgqueue.finished_jobs for each row when ({when}) execute function public.refuse('{code}')"
    store.conn.execute(f"create trigger refuse {text}".encode())


@pytest.mark.parametrize("code", ["25006", "28000", "42501", "42883", "53100", "57P05", "58030", "XX000"])
def test_an_error_that_no_row_is_to_blame_for_is_waited_out(
    writing: Writing, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    refuse(writing.store, code)
    held = writing.claim(3)
    writing.succeed(held)
    writing.completer.start()
    wait_until(lambda: "cannot write outcomes now (3 wait)" in caplog.text, what="it has tried")
    assert writing.completer.pending == 3
    writing.store.rows("drop trigger refuse on pgqueue.finished_jobs")
    writing.until_ended(held)
    assert writing.states(held) == ["succeeded"] * 3


def test_a_partition_that_another_is_about_to_make_is_waited_for(
    writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    store = writing.store
    for (table,) in store.rows("select relname from pg_class where relname ~ '^finished_jobs_2' and relkind = 'r'"):
        store.conn.execute(f"drop table pgqueue.{table}".encode())
    held = writing.claim(3)
    with psycopg.connect(store.dsn) as other:
        other.execute("select pg_advisory_xact_lock(hashtext('pgqueue/partitions'), 0)")
        writing.succeed(held)
        writing.completer.start()
        wait_until(lambda: "cannot write outcomes now (3 wait)" in caplog.text, what="it has tried")
    writing.until_ended(held)
    assert writing.states(held) == ["succeeded"] * 3


def test_a_bad_row_fails_alone(writing: Writing) -> None:
    refuse(writing.store, "22023", "new.result::text = '5'")
    held = writing.claim(10)
    writing.succeed(held)
    writing.completer.start()
    writing.until_ended(held)
    assert writing.states(held) == ["failed" if number == 5 else "succeeded" for number in range(10)]
    assert "cannot be stored" in str(writing.store.finished(held[5].job.id)["error"])


def test_a_row_that_can_end_in_no_way_keeps_nothing_else_from_being_written(writing: Writing) -> None:
    held = writing.claim(5)
    writing.store.rows(
        """create function public.refuse() returns trigger language plpgsql as $$
           begin raise exception 'never' using errcode = '22023'; end $$"""
    )
    when = f"when (old.id = '{held[2].job.id}')"
    what = f"before update or delete on pgqueue.live_jobs for each row {when} execute function public.refuse()"
    writing.store.conn.execute(f"create trigger refuse {what}".encode())
    writing.succeed(held)
    writing.completer.start()
    wait_until(lambda: not writing.completer.pending)
    assert writing.states(held) == ["succeeded", "succeeded", "running", "succeeded", "succeeded"]


def test_a_transaction_that_may_not_be_ended_keeps_nothing_from_being_written(
    writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    store = writing.store
    store.rows(
        """do $$ begin create role completing login; exception when duplicate_object then null; end $$;
           grant usage on schema pgqueue to completing;
           grant all on all tables in schema pgqueue to completing;
           grant pg_read_all_stats to completing"""
    )
    with psycopg.connect(store.dsn) as left_open:
        row = left_open.execute("select pg_backend_pid(), pg_current_xact_id()::xid::text").fetchone()
        assert row is not None
        own_dsn = store.dsn
        store.dsn = psycopg.conninfo.make_conninfo(own_dsn, user="completing")
        held = writing.claim(2)
        writing.completer.end_transactions({row[0]: row[1]})
        writing.completer.end_transactions({row[0]: row[1]})
        writing.succeed(held)
        writing.completer.start()
        writing.until_ended(held)
        assert left_open.execute("select 1").fetchone() == (1,)
    store.dsn = own_dsn
    assert caplog.text.count("pg_signal_backend") == 1
    assert writing.states(held) == ["succeeded"] * 2


def test_what_is_pending_is_counted_at_every_moment(writing: Writing) -> None:
    held = writing.claim(4)
    seen: list[int] = []

    class Watched(deque[Entry]):
        """Looks whenever one is taken out."""

        def popleft(self) -> Entry:
            entry = super().popleft()
            seen.append(writing.completer.pending)
            return entry

    writing.completer._entries = Watched()
    writing.succeed(held)
    writing.completer.start()
    writing.until_ended(held)
    wait_until(lambda: not writing.completer.pending)
    assert min(seen) >= 4


def test_what_cannot_be_written_before_the_end_is_told(writing: Writing) -> None:
    refuse(writing.store, "53100")
    held = writing.claim(1)
    writing.succeed(held)
    writing.completer.start()
    assert not writing.completer.stop(60.0)
    assert writing.completer.pending == 1
    assert writing.states(held) == ["running"]


def test_a_locked_row_keeps_nothing_else_from_being_written(writing: Writing, caplog: pytest.LogCaptureFixture) -> None:
    held = writing.claim(10)
    late = writing.claim(10)
    recorded: list[str] = []
    begin = writing.claim(2)
    with psycopg.connect(writing.store.dsn) as other:
        stuck = [held[5], held[6], late[3], begin[0]]
        other.execute("select 1 from pgqueue.live_jobs where id = any (%s) for update", [[s.job.id for s in stuck]])
        writing.succeed(held)
        writing.completer.put_progress(held[5].job.id, held[5].token, '{"n": 1}')
        writing.completer.start()
        writing.until_ended([one for one in held if one not in stuck])
        writing.completer.put([(one, ("failed", "{}", None)) for one in late])
        writing.completer.record(begin, lambda _, ours: recorded.extend(ours))
        writing.until_ended([one for one in late if one not in stuck])
        wait_until(lambda: recorded == [begin[1].job.id], what="what is free begins")
        wait_until(lambda: writing.completer.pending == 4)
        assert writing.states(stuck) == ["running"] * 4
    wait_until(lambda: not writing.completer.pending)
    assert writing.states(stuck) == ["succeeded", "succeeded", "failed", "running"]
    assert recorded == [begin[1].job.id, begin[0].job.id]
    assert "is locked by another session" in caplog.text


def test_what_was_locked_is_written_while_there_is_always_something_else_to_write(writing: Writing) -> None:
    locked, *others = writing.claim(3_000)
    with psycopg.connect(writing.store.dsn) as other:
        other.execute("select 1 from pgqueue.live_jobs where id = %s for update", [locked.job.id])
        writing.succeed([locked])
        writing.completer.start()
        wait_until(lambda: writing.completer._set_aside)

    def bring_the_next() -> None:
        if others and writing.completer._set_aside:
            writing.succeed([others.pop()])

    writing.completer._on_written = bring_the_next
    writing.succeed([others.pop()])
    writing.until_ended([locked])
    assert others, "it was written before nothing else was left"


def test_what_hangs_together_with_a_locked_row_is_found_by_halving(writing: Writing) -> None:
    store = writing.store
    store.rows("create table public.busy (id uuid primary key)")
    store.rows(
        """create function public.touch() returns trigger language plpgsql as $$
           begin perform 1 from public.busy b where b.id = new.id for update; return new; end $$"""
    )
    store.rows(
        """create trigger touch before insert on pgqueue.finished_jobs
           for each row execute function public.touch()"""
    )
    held = writing.claim(4)
    store.rows("insert into public.busy values (%s)", [held[2].job.id])
    with psycopg.connect(store.dsn) as other:
        other.execute("select 1 from public.busy for update")
        writing.succeed(held)
        writing.completer.start()
        writing.until_ended([one for one in held if one is not held[2]])
        assert writing.states(held)[2] == "running"
    writing.until_ended(held)
    assert writing.states(held) == ["succeeded"] * 4
