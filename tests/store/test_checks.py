"""Start-up checks: each problem is one line that says what to do."""

from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
from psycopg import sql
from psycopg.conninfo import make_conninfo

from pgqueue.errors import ConfigurationError, DatabaseUnavailable, PgQueueError, SchemaError
from pgqueue.store.schema import check, connect_waiting, connection_problem, migrate, preflight
from pgqueue.store.statement import Queries
from tests.support.cluster import Cluster

QUERIES = Queries("pgqueue")


def refusal(connection: psycopg.Connection[Any]) -> str:
    """What preflight says."""
    connection.rollback()
    connection.autocommit = True
    with pytest.raises(PgQueueError) as caught:
        preflight(connection, QUERIES)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_all_is_well(conn: psycopg.Connection[Any]) -> None:
    check(conn, QUERIES)
    assert preflight(conn, QUERIES) == []


def test_no_schema(empty_dsn: str) -> None:
    with psycopg.connect(empty_dsn) as conn:
        assert refusal(conn).endswith('has no schema "pgqueue" of pgqueue: run `pgqueue migrate`')
        with pytest.raises(SchemaError, match="run `pgqueue --schema other migrate`"):
            check(conn, Queries("other"))


@pytest.mark.parametrize(
    ("found", "said"),
    [
        ("0000", "is at version 0000, this release needs .*: run `pgqueue migrate`"),
        ("0999", "is at version 0999, newer than .* of this release: upgrade pgqueue"),
        ("1f2e", "version table of something else"),
    ],
)
def test_other_versions(conn: psycopg.Connection[Any], found: str, said: str) -> None:
    conn.execute("update pgqueue.alembic_version set version_num = %s", [found])
    for look in (check, preflight):
        with pytest.raises(SchemaError, match=said):
            look(conn, QUERIES)


def test_empty_version_table_is_no_schema(conn: psycopg.Connection[Any]) -> None:
    conn.execute("delete from pgqueue.alembic_version")
    with pytest.raises(SchemaError, match="has no schema"):
        check(conn, QUERIES)


@pytest.fixture
def stranger(server: Cluster, dsn: str) -> Iterator[str]:
    """The name of a role without any right; its database is that of `dsn`."""
    name = f"role_of_{psycopg.conninfo.conninfo_to_dict(dsn)['dbname']}"
    server.add_user(name)
    yield name
    with psycopg.connect(dsn, autocommit=True) as conn:
        conn.execute(sql.SQL("drop owned by {}").format(sql.Identifier(name)))
    server.execute(sql.SQL("drop role {}").format(sql.Identifier(name)))


def test_missing_rights_name_the_statement_that_gives_them(dsn: str, stranger: str) -> None:
    with psycopg.connect(dsn, autocommit=True) as owner, psycopg.connect(make_conninfo(dsn, user=stranger)) as conn:
        asked = []
        for _ in range(10):
            conn.rollback()
            conn.autocommit = True
            try:
                warnings = preflight(conn, QUERIES)
                break
            except SchemaError as error:
                asked.append(str(error).rpartition(": as postgres, ")[2])
                owner.execute(asked[-1])
        assert len(asked) > 2
        assert [f'role "{stranger}" does not own the tables' in warning for warning in warnings] == [True]


def test_read_only(dsn: str) -> None:
    with psycopg.connect(dsn, options="-c default_transaction_read_only=on") as conn:
        assert "the server is read-only for role" in refusal(conn)


def test_durability_that_is_off_is_warned_about(dsn: str) -> None:
    with psycopg.connect(dsn, options="-c synchronous_commit=off", autocommit=True) as conn:
        assert preflight(conn, QUERIES) == [
            "synchronous_commit is off: a crash of the server can lose the last jobs and results"
        ]


def test_encoding_that_keeps_no_text_safe(server: Cluster) -> None:
    server.execute("create database ascii encoding 'SQL_ASCII' template template0")
    try:
        with psycopg.connect(server.dsn("ascii")) as conn:
            assert 'database "ascii" has encoding SQL_ASCII' in refusal(conn)
        with pytest.raises(ConfigurationError, match="SQL_ASCII"):
            migrate(server.dsn("ascii"))
    finally:
        server.drop_database("ascii")


def test_waiting_does_not_cure_a_wrong_password_or_name(server: Cluster) -> None:
    server.add_user("with_password", "right")
    said: list[str] = []
    for dsn, what in {
        server.dsn(user="with_password", password="wrong%secret"): "the password is wrong or missing: connection",
        server.dsn(user="with_password"): "the password is wrong or missing: connection",
        server.dsn("nowhere"): "no such database",
        server.dsn(user="nobody_here"): "no such user",
    }.items():
        with pytest.raises(ConfigurationError, match=what) as caught:
            connect_waiting(lambda dsn=dsn: psycopg.connect(dsn), said.append)  # type: ignore[misc]  # bound in the loop
        assert "secret" not in str(caught.value)
    assert not said


def test_waiting_for_a_server_that_comes_back(private_server: Cluster) -> None:
    private_server.stop()
    said: list[str] = []
    naps: list[float] = []

    def nap(seconds: float) -> None:
        naps.append(seconds)
        if len(naps) == 12:
            private_server.start()

    with connect_waiting(lambda: psycopg.connect(private_server.dsn()), said.append, sleep=nap) as connection:
        assert connection.execute("select 1").fetchone() == (1,)
    assert len(said) == 1
    assert said[0].startswith("no server listens there (not started yet?)")
    assert max(naps) <= 3
    assert naps[10] > naps[0]


def test_waiting_ends(server: Cluster) -> None:
    with pytest.raises(DatabaseUnavailable, match="no server listens there"):
        connect_waiting(lambda: psycopg.connect("host=127.0.0.1 port=1"), lambda reason: None, timeout=0.0)


@pytest.mark.parametrize(
    ("said", "code", "meaning"),
    [
        ("connection to server failed: FATAL:  the database system is starting up", 3, "the server is starting"),
        ("FATAL:  the database system is not yet accepting connections", 3, "the server is starting"),
        ("FATAL:  sorry, too many clients already", 3, "the server has no connection left"),
        ("FATAL:  remaining connection slots are reserved for roles", 3, "the server has no connection left"),
        ("connection timeout expired", 3, "the server does not answer"),
        ('FATAL:  no pg_hba.conf entry for host "1.2.3.4", user "a", database "b"', 2, "does not let this user in"),
        ('FATAL:  permission denied for database "b"', 2, "this user may not connect"),
        ("session is read-only", 2, "no server of the kind"),
        (
            'host "a" refused: Connection refused\nhost "b": FATAL: password authentication failed for user "x"',
            3,
            "no server",
        ),
        ("FATAL:  das Datenbanksystem startet", 3, "das Datenbanksystem startet"),
        ("", 3, "OperationalError"),
    ],
)
def test_what_waiting_cures(said: str, code: int, meaning: str) -> None:
    problem = connection_problem(psycopg.OperationalError(said))
    assert problem.exit_code == code
    assert meaning in problem.message
    assert "\n" not in problem.message
