"""Up, down, again, at once, killed, blocked, forbidden: the schema is whole or not there."""

import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgqueue.errors import ConfigurationError, SchemaError
from pgqueue.store.schema import downgrade, expected_version, migrate, upgrade_sql
from scripts.dump_schema import TARGET, dump
from tests.support.cluster import Cluster
from tests.support.process import CommandLine, wait_until

LONGEST = "a" * 48


def objects(dsn: str) -> list[tuple[Any, ...]]:
    """Everything in a database that did not come with PostgreSQL."""
    with psycopg.connect(dsn) as conn:
        return conn.execute(
            """
            select 'relation', n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace
            where n.nspname !~ '^(pg_|information_schema)'
            union all
            select 'function', n.nspname, p.proname from pg_proc p join pg_namespace n on n.oid = p.pronamespace
            where n.nspname !~ '^(pg_|information_schema)'
            union all select 'schema', nspname, '' from pg_namespace
            where nspname !~ '^(pg_|information_schema|public)' order by 1, 2, 3
            """
        ).fetchall()


def waits_for_a_lock(server: Cluster, dbname: str) -> bool:
    """Whether a session in this database waits for a lock."""
    return bool(
        server.execute(
            "select 1 from pg_stat_activity where datname = %s and wait_event_type = 'Lock'", (dbname,), dbname=dbname
        )
    )


def name_of(dsn: str) -> str:
    """The database's name."""
    return psycopg.conninfo.conninfo_to_dict(dsn)["dbname"]  # type: ignore[return-value]  # set by the fixture


@pytest.fixture
def whole(dsn: str) -> str:
    """What a migrated database holds."""
    with psycopg.connect(dsn) as conn:
        return dump(conn)


@pytest.mark.matrix
def test_dump_is_what_the_migrations_make(whole: str) -> None:
    assert whole == TARGET.read_text(), "run: python scripts/dump_schema.py"


def test_lines_of_sql_are_as_short_as_those_of_python() -> None:
    top = TARGET.parents[1]
    files = [path for folder in ("migrations/sql", "sql") for path in (top / folder).glob("*.sql") if path != TARGET]
    assert len(files) > 12
    long = [
        f"{path.name}:{number}"
        for path in files
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        if len(line) > 120
    ]
    assert not long


@pytest.mark.parametrize("schema", ["_2", LONGEST, "jobs_of_the_shop"])
def test_the_schema_is_the_same_under_any_name(empty_dsn: str, schema: str, whole: str) -> None:
    migrate(empty_dsn, schema)
    with psycopg.connect(empty_dsn) as conn:
        assert dump(conn, schema) == whole


def test_second_run_does_nothing(empty_dsn: str) -> None:
    steps: list[tuple[str, str]] = []
    migrate(empty_dsn, on_step=lambda version, way: steps.append((version, way)))
    assert steps[-1] == (expected_version(), "up")
    before = objects(empty_dsn)
    migrate(empty_dsn, on_step=lambda version, way: steps.append((version, "again")))
    assert (expected_version(), "again") not in steps
    assert objects(empty_dsn) == before


def test_down_leaves_nothing(empty_dsn: str) -> None:
    before = objects(empty_dsn)
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn, autocommit=True) as conn:
        # A partition whose drop was interrupted after its detach.
        row = conn.execute("select 'finished_jobs_' || to_char(now() at time zone 'UTC', 'YYYYMMDD')").fetchone()
        assert row is not None
        conn.execute(
            sql.SQL("alter table pgqueue.finished_jobs detach partition pgqueue.{}").format(sql.Identifier(row[0]))
        )
    downgrade(empty_dsn)
    assert objects(empty_dsn) == before
    migrate(empty_dsn)  # and up again


def test_down_keeps_what_others_put_into_the_schema(empty_dsn: str) -> None:
    migrate(empty_dsn)
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("create table pgqueue.notes (text text)")
    downgrade(empty_dsn)
    assert ("relation", "pgqueue", "notes") in objects(empty_dsn)


def test_schemas_live_side_by_side(empty_dsn: str) -> None:
    migrate(empty_dsn, "one")
    migrate(empty_dsn, "two")
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("select one.enqueue('a'), two.enqueue('b')")
        assert conn.execute("select task from one.all_jobs").fetchall() == [("a",)]
        assert conn.execute("select task from two.all_jobs").fetchall() == [("b",)]
    downgrade(empty_dsn, "one")
    with psycopg.connect(empty_dsn) as conn:
        assert conn.execute("select task from two.all_jobs").fetchall() == [("b",)]


@pytest.mark.parametrize("schema", ["", "public; --", "Upper", "a" * 49, "order", "pg_queue", "9lives", "naïve", 'a"b'])
def test_bad_schema_names_are_refused_before_anything_happens(empty_dsn: str, schema: str) -> None:
    before = objects(empty_dsn)
    with pytest.raises(ConfigurationError, match="schema: "):
        migrate(empty_dsn, schema)
    assert objects(empty_dsn) == before


def test_several_at_once_take_turns(empty_dsn: str) -> None:
    steps: list[str] = []
    failures: list[BaseException] = []
    start = threading.Barrier(4)

    def one() -> None:
        start.wait()
        try:
            migrate(empty_dsn, on_step=lambda version, way: steps.append(version))
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=one) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failures
    assert len(steps) == len(set(steps)) > 0


def test_the_second_says_that_it_waits(server: Cluster, empty_dsn: str) -> None:
    waiting = threading.Event()
    steps: list[str] = []
    with psycopg.connect(empty_dsn) as other:
        other.execute("select pg_advisory_xact_lock(hashtext('pgqueue/migrate'), 0)")
        second = threading.Thread(
            target=migrate,
            args=(empty_dsn,),
            kwargs={"on_wait": waiting.set, "on_step": lambda version, way: steps.append(version)},
        )
        second.start()
        assert waiting.wait(20)
        wait_until(lambda: waits_for_a_lock(server, name_of(empty_dsn)), what="the second waits")
        assert not steps
    second.join(20)
    assert steps


def test_killed_halfway_is_resumed(
    server: Cluster, empty_dsn: str, spawn_cli: Callable[..., CommandLine], tmp_path: Path, whole: str
) -> None:
    dbname = name_of(empty_dsn)
    with psycopg.connect(empty_dsn) as blocker:
        blocker.execute("create schema pgqueue")
        blocker.commit()
        # The step makes its first tables, then waits for our uncommitted one.
        blocker.execute("create table pgqueue.workers (id int)")
        killed = spawn_cli("migrate", "--lock-timeout", "60s", env={"PGQUEUE_DSN": empty_dsn}, cwd=tmp_path)
        wait_until(lambda: waits_for_a_lock(server, dbname), what=lambda: f"the step is under way: {killed.output}")
        killed.send_signal(signal.SIGKILL)
        killed.wait()
        blocker.rollback()
    migrate(empty_dsn)  # waits for the end of the killed one's session, if need be
    with psycopg.connect(empty_dsn) as conn:
        assert dump(conn) == whole


def test_lock_timeout_is_respected_and_tells_who_is_in_the_way(empty_dsn: str) -> None:
    migrate(empty_dsn, target="0001")
    before = objects(empty_dsn)
    with psycopg.connect(empty_dsn, application_name="a long report") as reader:
        reader.execute("select count(*) from pgqueue.live_jobs")
        with pytest.raises(SchemaError) as caught:
            downgrade(empty_dsn, lock_timeout=0.05)
        assert objects(empty_dsn) == before
        message = str(caught.value)
        assert "lock_timeout of 0.05 s" in message
        assert f"pid {reader.info.backend_pid} (a long report, idle in transaction" in message
        assert "live_jobs" in message
        assert "\n" not in message
    downgrade(empty_dsn, lock_timeout=0.05)


def test_nothing_to_do_does_not_wait_for_anybody(dsn: str) -> None:
    with psycopg.connect(dsn) as worker:
        worker.execute("lock table pgqueue.live_jobs, pgqueue.workers")
        migrate(dsn, lock_timeout=0.05, on_step=lambda version, way: pytest.fail("there was nothing to do"))


def test_without_rights_one_line_says_whose_they_are(server: Cluster, empty_dsn: str) -> None:
    name = f"stranger_of_{name_of(empty_dsn)}"
    server.add_user(name)
    stranger = server.dsn(name_of(empty_dsn), user=name)
    try:
        with pytest.raises(SchemaError, match=rf'role "{name}" may not migrate: .*there is no schema "pgqueue" yet'):
            migrate(stranger)
        migrate(empty_dsn)
        with pytest.raises(SchemaError, match=rf'role "{name}" may not use schema "pgqueue": as postgres, grant'):
            downgrade(stranger)
        server.execute(
            sql.SQL("grant usage on schema pgqueue to {0}").format(sql.Identifier(name)), dbname=name_of(empty_dsn)
        )
        with pytest.raises(SchemaError, match="may not read the tables"):
            migrate(stranger)
        server.execute(
            sql.SQL("grant all on all tables in schema pgqueue to {0}").format(sql.Identifier(name)),
            dbname=name_of(empty_dsn),
        )
        with pytest.raises(SchemaError, match=r'may not migrate: must be owner.*schema "pgqueue" belongs to postgres'):
            downgrade(stranger)
        migrate(stranger)  # at head, nothing is needed
    finally:
        server.drop_database(name_of(empty_dsn))
        server.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


@pytest.mark.parametrize(
    "theirs", ["create table pgqueue.workers (id int)", "create view pgqueue.all_jobs as select 1"]
)
def test_a_table_of_the_same_name_is_left_alone(empty_dsn: str, theirs: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("create schema pgqueue")
        conn.execute(sql.SQL(theirs))
    before = objects(empty_dsn)
    with pytest.raises(SchemaError, match=r"already holds something of that name that pgqueue did not make \(relation"):
        migrate(empty_dsn)
    assert objects(empty_dsn) == before


def test_version_table_of_another_application(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("create schema pgqueue create table alembic_version (version_num text)")
        conn.execute("insert into pgqueue.alembic_version values ('ae1027a6acf')")
    with pytest.raises(SchemaError, match="version table of something else"):
        migrate(empty_dsn)


def test_newer_schema_is_left_alone(dsn: str) -> None:
    with psycopg.connect(dsn) as conn:
        conn.execute("update pgqueue.alembic_version set version_num = '0999'")
    for change in (migrate, downgrade):
        with pytest.raises(SchemaError, match=r"0999, newer than .*: upgrade pgqueue"):
            change(dsn)


@pytest.mark.parametrize("target", ["0999", "9", "abc", "000", "base"])
def test_unknown_target(empty_dsn: str, target: str) -> None:
    with pytest.raises(SchemaError, match=rf"^there is no version '{target}' of the schema; there are 0001, 0002, "):
        migrate(empty_dsn, target=target)


def test_up_never_goes_down_and_down_never_up(empty_dsn: str) -> None:
    newest = expected_version()
    migrate(empty_dsn)
    with pytest.raises(SchemaError, match=rf"at version {newest}, newer than 0001: .*`pgqueue migrate down --to 0001`"):
        migrate(empty_dsn, target="0001")
    downgrade(empty_dsn, target="0002")
    downgrade(empty_dsn, target="0002")
    for target in ("head", newest):
        with pytest.raises(SchemaError, match=rf"at version 0002, older than {newest}: `pgqueue migrate up --to"):
            downgrade(empty_dsn, target=target)
    with psycopg.connect(empty_dsn) as conn:
        assert conn.execute("select version_num from pgqueue.alembic_version").fetchall() == [("0002",)]


def test_search_path_of_the_role_does_not_matter(server: Cluster, empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        conn.execute("create schema decoy")
        conn.execute("create table decoy.live_jobs (id int)")
        conn.execute("create function decoy.now() returns timestamptz language sql as 'select null::timestamptz'")
    hostile = psycopg.conninfo.make_conninfo(empty_dsn, options="-c search_path=decoy,pg_catalog")
    migrate(hostile)
    with psycopg.connect(hostile) as conn:
        conn.execute("select pgqueue.enqueue('a')")
        assert conn.execute("select state, enqueued_at is not null from pgqueue.all_jobs").fetchall() == [
            ("available", True)
        ]


def test_printed_sql_makes_the_same(empty_dsn: str, whole: str) -> None:
    for schema in ("pgqueue", "other"):
        with psycopg.connect(empty_dsn, autocommit=True) as conn:
            conn.execute(upgrade_sql(schema))
            assert dump(conn, schema) == whole
        migrate(empty_dsn, schema, on_step=lambda version, way: pytest.fail("it was there already"))


def test_users_may_add_to_our_tables(dsn: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute("alter table pgqueue.live_jobs add column note text, add column made timestamptz default now()")
        conn.execute("create index on pgqueue.live_jobs (note)")
        conn.execute("create table told (task text)")
        conn.execute(
            "create function tell() returns trigger language plpgsql as"
            # Our functions pin search_path, so a trigger names schemas.
            " $$begin insert into public.told values (new.task); return new; end$$"
        )
        conn.execute("create trigger tell after insert on pgqueue.live_jobs for each row execute function tell()")
        migrate(dsn)
        conn.execute("select pgqueue.enqueue('a')")
        assert conn.execute("select * from told").fetchall() == [("a",)]
