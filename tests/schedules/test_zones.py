"""Time zones are named as in PostgreSQL: capital letters do not matter, what is no zone is refused by name."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import psycopg
import pytest

from pgqueue import PgQueue, ValidationError
from pgqueue.schedules import Backfill
from pgqueue.store.statement import Queries
from pgqueue.timing.zones import zone_of
from pgqueue.worker.scheduler import fire_batch

DAY = datetime(2026, 6, 1, tzinfo=UTC)


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("europe/berlin", "Europe/Berlin"),
        ("AMERICA/PORT-AU-PRINCE", "America/Port-au-Prince"),
        ("america/argentina/buenos_aires", "America/Argentina/Buenos_Aires"),
        ("utc", "UTC"),
        ("etc/gmt+5", "Etc/GMT+5"),
        ("Asia/Kolkata", "Asia/Kolkata"),
        (ZoneInfo("Africa/Cairo"), "Africa/Cairo"),
    ],
)
def test_capital_letters_do_not_matter(name: object, key: str) -> None:
    assert zone_of(name).key == key


@pytest.mark.parametrize(
    "name", ["Mars/Base", "", "Europe", "../etc/passwd", "UTC+25", None, 3, "a" * 10_000, "é", b"UTC"]
)
def test_what_is_no_zone_is_refused(name: object) -> None:
    with pytest.raises(ValueError, match="expected the name of a time zone such as 'Europe/Berlin', got ") as caught:
        zone_of(name)
    assert len(str(caught.value)) < 200


def test_one_rule_in_python_and_sql(dsn: str) -> None:
    with PgQueue("shop", dsn=dsn) as app, psycopg.connect(dsn, autocommit=True) as connection:
        app.schedules.upsert("python", task="t", schedule="0 9 * * *", timezone="europe/berlin", check_task=False)
        assert app.schedules.get("python").timing.timezone == "Europe/Berlin"
        connection.execute(
            "select pgqueue.upsert_schedule('sql', 't', '0 9 * * *', timezone => 'europe/BERLIN', check_task => false)"
        )
        assert fire_batch(connection, Queries("pgqueue")) == (2, 0)
        planned = connection.execute("select count(distinct next_run_at), max(problem) from pgqueue.schedules")
        assert planned.fetchone() == (1, None)
        for name in ("python", "sql"):
            found = app.schedules.backfill(
                name, DAY.replace(tzinfo=None), DAY.replace(tzinfo=None) + timedelta(hours=9)
            )
            assert found == Backfill(1, 1)
        made = connection.execute("select distinct headers ->> 'scheduled_for' from pgqueue.all_jobs").fetchall()
        assert made == [("2026-06-01T07:00:00.000000+00:00",)]


@pytest.mark.asyncio
async def test_a_zone_that_this_machine_does_not_know(dsn: str) -> None:
    """The server may know one that Python does not."""
    with PgQueue("shop", dsn=dsn) as app, psycopg.connect(dsn, autocommit=True) as connection:
        app.schedules.upsert("s", task="t", schedule="0 9 * * *", check_task=False)
        connection.execute("set session_replication_role = replica")  # without the trigger that checks
        connection.execute("update pgqueue.schedules set timezone = 'Mars/Base'")
        with pytest.raises(ValidationError, match=r"timezone: expected the name of a time zone .* got 'Mars/Base'"):
            app.schedules.backfill("s", DAY, DAY + timedelta(days=1))
        with pytest.raises(ValidationError, match="timezone: "):
            await app.schedules.abackfill("s", DAY, DAY + timedelta(days=1))
        assert app.schedules.get("s").next_run_at is None
        assert fire_batch(connection, Queries("pgqueue")) == (1, 0)
        problem = app.schedules.get("s").problem
        assert problem is not None
        assert problem.startswith("cannot be planned: expected the name of a time zone")
