"""enqueue, enqueue_job, enqueue_jobs, stage_jobs: what comes in, and what is refused without any effect."""

import datetime
import uuid
from typing import Any, LiteralString

import psycopg
import pytest

from pgqueue.job import NewJob, new_job_id
from pgqueue.store import jobs
from tests.store.store import Store


def test_a_plain_job_is_available_with_everything_it_was_given(store: Store) -> None:
    root, parent = new_job_id(), new_job_id()
    job_id = store.enqueue(
        "shop.mail",
        "mail",
        priority=7,
        args='[1, "a"]',
        kwargs='{"b": 2}',
        headers='{"h": 1}',
        options='{"time_limit": 3}',
        root_id=root,
        parent_id=parent,
        expires_in=60.0,
    )
    row = store.live(job_id)
    assert row["state"] == "available"
    assert (row["task"], row["queue"], row["priority"], row["attempt"], row["lost"]) == ("shop.mail", "mail", 7, 0, 0)
    assert (row["args"], row["kwargs"], row["headers"]) == ('[1, "a"]', '{"b": 2}', '{"h": 1}')
    assert (row["options"], row["root_id"], row["parent_id"]) == ('{"time_limit": 3}', root, parent)
    assert row["run_at"] is None
    assert store.value("select expires_at - enqueued_at = '60 s' from pgqueue.live_jobs")


@pytest.mark.parametrize(
    ("fields", "state"),
    [
        ({"delay": 30.0}, "scheduled"),
        ({"delay": 0.0}, "available"),
        ({"eta": datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC)}, "scheduled"),
        ({"eta": datetime.datetime(1999, 1, 1, tzinfo=datetime.UTC)}, "available"),
    ],
)
def test_a_job_that_is_due_later_is_scheduled(store: Store, fields: dict[str, Any], state: str) -> None:
    one, many = store.enqueue(**fields), store.enqueue_many(2, **fields)
    assert store.states([one, *many]) == [state] * 3


def test_an_own_id_is_taken_while_its_job_is_live_and_while_it_is_kept(store: Store) -> None:
    job = NewJob(id=new_job_id(), task="t", queue="default", own_id=True)
    assert store.run(jobs.insert_job(store.queries, job)) is True
    assert store.run(jobs.insert_job(store.queries, job)) is False
    store.finish(store.claim(store.worker()))
    assert store.run(jobs.insert_job(store.queries, job)) is False
    store.finished(job.id)
    store.run(jobs.forget_job(store.queries, job.id))
    assert store.run(jobs.insert_job(store.queries, job)) is True
    assert store.live(job.id)["state"] == "available"


def test_many_jobs_come_in_as_they_were_given(store: Store) -> None:
    eta = datetime.datetime(2999, 1, 1, tzinfo=datetime.UTC)
    given = [
        NewJob(new_job_id(), "a", "q1", 0, args='["x\\"y,{}\\\\"]'),
        NewJob(new_job_id(), "b", "q2", 9, kwargs='{"k": null}', delay=60.0, expires_in=90.0),
        NewJob(new_job_id(), "c", "q1", 5, headers="{}", options='{"o": 1}', eta=eta, expires_at=eta),
    ]
    assert store.run(jobs.insert_jobs(store.queries, given, None, None)) == 3
    rows = [store.live(job.id) for job in given]
    assert [(row["task"], row["queue"], row["priority"]) for row in rows] == [
        ("a", "q1", 0),
        ("b", "q2", 9),
        ("c", "q1", 5),
    ]
    assert [row["args"] for row in rows] == ['["x\\"y,{}\\\\"]', None, None]
    assert [row["kwargs"] for row in rows] == [None, '{"k": null}', None]
    assert [row["options"] for row in rows] == [None, None, '{"o": 1}']
    assert [row["state"] for row in rows] == ["available", "scheduled", "scheduled"]
    assert store.value("select run_at = expires_at from pgqueue.live_jobs where task = 'c'")
    assert store.value("select expires_at - run_at = '30 s' from pgqueue.live_jobs where task = 'b'")
    assert rows[0]["seq"] < rows[1]["seq"] < rows[2]["seq"]


def test_one_bad_job_of_many_refuses_all(store: Store) -> None:
    good = [NewJob(new_job_id(), "t", "default") for _ in range(3)]
    for bad, state in (
        (good[0], "23505"),
        (NewJob(new_job_id(), "t", "default", priority=10), "23514"),
        (NewJob(new_job_id(), "t", "default", args="[1"), "22P02"),
    ):
        with pytest.raises(psycopg.Error) as refused:
            store.run(jobs.insert_jobs(store.queries, [*good, bad], None, None))
        assert refused.value.sqlstate == state
    assert store.value("select count(*) from pgqueue.live_jobs") == 0


@pytest.mark.parametrize(
    "arrays",
    [
        ("array[gen_random_uuid(), gen_random_uuid()]", "array['t']", "array['q', 'q']", "array[0, 0]::smallint[]"),
        ("array[gen_random_uuid()]", "array['t', 't']", "array['q']", "array[0]::smallint[]"),
        ("array[gen_random_uuid()]", "array['t']", "array[null]", "array[0]::smallint[]"),
        ("array[gen_random_uuid()]", "array['t']", "array['q']", "null"),
        ("array[null]::uuid[]", "array['t']", "array['q']", "array[0]::smallint[]"),
    ],
)
def test_arrays_of_unlike_length_and_nulls_inside_are_refused(store: Store, arrays: tuple[LiteralString, ...]) -> None:
    call: LiteralString = (
        "select pgqueue.enqueue_jobs("
        + ", ".join(arrays)
        + ", null, null, null, null, null, null, null, null, null, null)"
    )
    with pytest.raises(psycopg.errors.NotNullViolation):
        store.rows(call)
    assert store.value("select count(*) from pgqueue.live_jobs") == 0


def test_no_jobs_are_no_error(store: Store) -> None:
    assert (
        store.value(
            """select pgqueue.enqueue_jobs('{}', '{}', '{}', '{}', null, null, null, null, null, null, null, null,
                                           null, null)"""
        )
        == 0
    )


# --- the public function


def test_sql_enqueues_with_a_name_alone(store: Store) -> None:
    job_id = str(store.value("select pgqueue.enqueue('shop.mail')"))
    row = store.live(job_id)
    assert (row["task"], row["queue"], row["priority"], row["args"], row["kwargs"]) == (
        "shop.mail",
        "default",
        0,
        None,
        None,
    )
    assert uuid.UUID(job_id).version == 7


def test_sql_enqueues_with_all_there_is(store: Store) -> None:
    job_id = store.value(
        """select pgqueue.enqueue('t', '[1, "it''s \\\\ \\"quoted\\""]', kwargs => '{"a": 1}',
                                  queue => 'a.b:c-d_E9', priority => 9,
                                  countdown => '1 hour', expires => now() + '2 hours',
                                  task_id => '00000000-0000-4000-8000-000000000001', headers => '{"x": 1}')"""
    )
    row = store.live(job_id)
    assert job_id == "00000000-0000-4000-8000-000000000001"
    assert (row["state"], row["priority"], row["queue"], row["kwargs"]) == ("scheduled", 9, "a.b:c-d_E9", '{"a": 1}')
    assert row["args"] == r'[1, "it' + r"""'s \\ \"quoted\""]"""
    assert store.value("select run_at - enqueued_at = '1 hour' from pgqueue.live_jobs")


def test_ids_made_by_sql_ascend_within_a_millisecond_and_with_those_of_clients(store: Store) -> None:
    made = [str(row[0]) for row in store.rows("select pgqueue.enqueue('t') from generate_series(1, 1000)")]
    assert made == sorted(made)
    assert len({job_id[:13] for job_id in made}) < len(made), "some share a millisecond"
    assert made == [str(row[0]) for row in store.rows("select id from pgqueue.live_jobs order by seq")]
    for job_id in made[::100]:
        found = uuid.UUID(job_id)
        assert (found.version, found.variant) == (7, uuid.RFC_4122)
    made_at = store.value(
        "select to_timestamp(('x' || left(replace(%s, '-', ''), 12))::bit(48)::bigint / 1000.0)", [made[0]]
    )
    assert store.value(
        "select enqueued_at - %s::timestamptz < '1 s' from pgqueue.live_jobs order by seq limit 1", [made_at]
    )
    between = [new_job_id(), str(store.value("select pgqueue.new_job_id()")), new_job_id()]
    assert between == sorted(between), "one clock, one way to write it down"


def test_a_trigger_enqueues_with_its_row(store: Store) -> None:
    store.rows("create table public.orders (id int)")
    store.rows(
        """create function public.mail() returns trigger language plpgsql as $$
           begin perform pgqueue.enqueue('mail', jsonb_build_array(new.id)); return new; end $$"""
    )
    store.rows("create trigger mail after insert on public.orders for each row execute function public.mail()")
    store.rows("insert into public.orders values (5), (6)")
    with store.conn.transaction(force_rollback=True):
        store.rows("insert into public.orders values (7)")
    assert store.rows("select args::text from pgqueue.live_jobs order by seq") == [("[5]",), ("[6]",)]


@pytest.mark.parametrize(
    ("call", "field"),
    [
        ("null", "task"),
        ("''", "task"),
        ("'a b'", "task"),
        ("repeat('a', 256)", "task"),
        ("E'a\\n'", "task"),
        ("'t', 'null'", "args"),
        ("'t', null", "args"),
        ("'t', '{}'", "args"),
        ("'t', '1'", "args"),
        ("'t', kwargs => '[]'", "kwargs"),
        ("'t', kwargs => null", "kwargs"),
        ("'t', headers => '[]'", "headers"),
        ("'t', queue => ''", "queue"),
        ("'t', queue => null", "queue"),
        ("'t', queue => 'a b'", "queue"),
        ("'t', queue => 'Ünïcode'", "queue"),
        ("'t', queue => 'q;DROP TABLE'", "queue"),
        ("'t', queue => E'q\\n'", "queue"),
        ("'t', queue => repeat('a', 129)", "queue"),
        ("'t', priority => null", "priority"),
        ("'t', priority => 10", "priority"),
        ("'t', priority => -1", "priority"),
        ("'t', countdown => '-1 s'", "countdown"),
        ("'t', countdown => '11 years'", "countdown"),
        ("'t', countdown => '1 s', eta => now()", "countdown"),
        ("'t', eta => 'infinity'", "eta"),
        ("'t', eta => '-infinity'", "eta"),
        ("'t', eta => '9999-12-31'", "eta"),
        ("'t', expires => 'infinity'", "expires"),
        ("'t', jsonb_build_array(repeat('a', 1048577))", "args"),
    ],
)
def test_bad_input_is_refused_by_its_name_with_no_effect(store: Store, call: LiteralString, field: str) -> None:
    with pytest.raises(psycopg.Error) as refused:
        store.rows("select pgqueue.enqueue(" + call + ")")
    assert refused.value.sqlstate in {"22023", "54000"}
    message = str(refused.value.diag.message_primary)
    assert field in message.partition(":")[0]
    assert "\n" not in message
    assert len(message) < 200
    assert store.value("select count(*) from pgqueue.live_jobs") == 0


def test_a_taken_id_is_refused_by_name(store: Store) -> None:
    job_id = store.enqueue()
    with pytest.raises(psycopg.errors.UniqueViolation, match="is still kept"):
        store.rows("select pgqueue.enqueue('t', task_id => %s)", [job_id])
    store.live(job_id)


def test_what_is_no_json_or_no_instant_never_reaches_the_function(store: Store) -> None:
    for call, state in (
        ("'t', '[NaN]'", "22P02"),
        ("'t', '[\"\\u0000\"]'", "22P05"),
        ("'t', '[\"\\ud800\"]'", "22P02"),
        ("'t', eta => 'NaN'", "22007"),
        ("'t', task_id => 'x'", "22P02"),
    ):
        with pytest.raises(psycopg.Error) as refused:
            store.rows("select pgqueue.enqueue(" + call + ")")
        assert refused.value.sqlstate == state, call
    assert store.value("select count(*) from pgqueue.live_jobs") == 0


# --- due


def test_due_jobs_get_a_new_place_in_the_order_in_which_they_were_due(store: Store) -> None:
    first, second, later = (store.enqueue(delay=delay) for delay in (50.0, 20.0, 3600.0))
    plain = store.enqueue()
    store.rows("update pgqueue.live_jobs set run_at = run_at - interval '1 minute'")
    assert store.value("select pgqueue.stage_jobs('-infinity', 10)") == 2
    assert store.states([first, second, later]) == ["available", "available", "scheduled"]
    assert [attempt.job.id for attempt in store.claim(store.worker())] == [plain, second, first]


def test_staging_keeps_to_its_limit_and_to_its_window(store: Store) -> None:
    ids = store.enqueue_many(5, delay=10.0)
    store.rows("update pgqueue.live_jobs set run_at = now() - seq * interval '1 hour'")
    assert store.value("select pgqueue.stage_jobs('-infinity', 2)") == 2
    assert store.states(ids) == ["scheduled"] * 3 + ["available"] * 2
    assert store.value("select pgqueue.stage_jobs(now() - interval '90 minutes', 10)") == 1
    assert store.states(ids) == ["available"] + ["scheduled"] * 2 + ["available"] * 2


def test_staging_skips_what_somebody_holds(store: Store) -> None:
    held, free = store.enqueue_many(2, delay=10.0)
    store.rows("update pgqueue.live_jobs set run_at = now()")
    other = store.session()
    with other.conn.transaction():
        other.rows("select from pgqueue.live_jobs where id = %s for update", [held])
        assert store.value("select pgqueue.stage_jobs('-infinity', 10)") == 1
        assert store.states([held, free]) == ["scheduled", "available"]
