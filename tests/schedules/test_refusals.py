"""Bad input that looks harmless: refused from Python and SQL alike, with its field, before anything is written."""

import sys
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from typing import Any, LiteralString

import psycopg
import pytest
from psycopg import sql
from psycopg.types.json import Json, Jsonb

from pgqueue import PgQueue, UnsupportedOption, ValidationError
from pgqueue.codec import MAX_DEPTH
from pgqueue.timing.cron import Cron, check_expression, fires
from pgqueue.timing.recurrence import crontab, schedule, solar

NEVER = datetime(2026, 1, 1, tzinfo=UTC)


@pytest.fixture
def shop(dsn: str) -> Iterator[PgQueue]:
    app = PgQueue("shop", dsn=dsn)

    @app.task(name="shop.bill", typing=False)
    def bill() -> None: ...

    yield app
    app.close()


def nested(depth: int) -> Any:
    """A list in a list in a list."""
    found: Any = []
    for _ in range(depth - 1):
        found = [found]
    return found


BAD: list[tuple[dict[str, Any], str]] = [
    ({"schedule": 10**400}, "schedule: expected an interval of 0.1 seconds to 3660 days, got 1000"),
    ({"schedule": 10**5000}, "schedule: expected an interval of 0.1 seconds to 3660 days, got int of too many"),
    ({"schedule": -(10**400)}, "schedule: expected an interval"),
    ({"starting_deadline": 10**400}, "starting_deadline: expected 1 seconds to 10 years, got 1000"),
    ({"jitter": 10**400}, "jitter: expected 0 seconds to 10 years"),
    ({"jitter": []}, "jitter: expected seconds"),
    ({"catch_up_limit": 10**5000}, "catch_up_limit: expected a whole number from 1 to 10,000"),
    ({"options": {"countdown": 10**400}}, "countdown: expected 0 seconds to 10 years"),
    ({"options": []}, "options: expected a dict, got list"),
    ({"kwargs": []}, "kwargs: expected a dict, got list"),
    ({"args": {1}}, "args: expected a list or tuple, got set"),
    ({"args": set()}, "args: expected a list or tuple, got set"),
    ({"args": {}}, "args: expected a list or tuple, got dict"),
    ({"args": "text"}, "args: expected a list or tuple, got str"),
    ({"args": [nested(MAX_DEPTH + 2)]}, "args"),
    ({"task": []}, "task: expected a task or its name, got []"),
    ({"task": None}, "task: expected a task or its name, got None"),
    ({"check_task": "no"}, "check_task: expected True or False, got 'no'"),
    ({"enabled": 1}, "enabled: expected True or False, got 1"),
    ({"schedule": "0 0 30 2 */2"}, "schedule: '0 0 30 2 */2' never fires"),
    ({"schedule": "0 0 1 * */7"}, ""),
]


@pytest.mark.parametrize(("given", "said"), BAD)
def test_python_refuses_it(shop: PgQueue, given: dict[str, Any], said: str) -> None:
    whole: dict[str, Any] = {"task": "shop.bill", "schedule": "* * * * *", **given}
    if not said:
        shop.schedules.upsert("s", **whole)
        return
    with pytest.raises(ValidationError) as caught:
        shop.schedules.upsert("s", **whole)
    assert str(caught.value).startswith(said)
    assert len(str(caught.value)) < 500
    assert shop.schedules.list() == []


@pytest.mark.parametrize("given", [{"args": {1}}, {"kwargs": []}, {"options": []}])
def test_what_the_code_declares_is_held_to_the_same(given: dict[str, Any]) -> None:
    app = PgQueue("shop", beat_schedule={"x": {"task": "t", "schedule": 1, **given}})
    with pytest.raises(ValidationError, match=f"schedule 'x': {next(iter(given))}: expected a "):
        app.schedules.definitions.declarations()
    call = app.task(name="t")(lambda: None).s()
    with pytest.raises(ValidationError, match="add_periodic_task: "):
        app.add_periodic_task(1.0, call, **given)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: crontab(minute=10**5000), "minute: "),
        (lambda: crontab(minute=[]), "minute: expected a number, a text or numbers"),
        (lambda: crontab(minute="1 2"), "minute: '1 2' is no value"),
        (lambda: crontab(minute=b"5"), "minute: expected a number"),
        (lambda: crontab(hour={1: 2}), "hour: expected a number"),
        (lambda: crontab(hour=[1, 2.5]), "hour: expected numbers"),
        (lambda: crontab(day_of_week=range(10**9)), "day_of_week: "),
        (lambda: solar("sunset", 10**400, 0), "solar: lat: "),
        (lambda: solar([], 0, 0), "solar: expected dawn"),  # type: ignore[arg-type] # that is what is tested
    ],
)
def test_fields_of_celerys_schedules(make: Callable[[], object], said: str) -> None:
    with pytest.raises(ValueError, match=said) as caught:
        make()
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    "make",
    [
        lambda: crontab(hour=2, nowfun=print),
        lambda: schedule(60, nowfun=print),
        lambda: solar("sunset", 1, 2, nowfun=print),
    ],
)
def test_a_clock_of_ones_own(make: Callable[[], object]) -> None:
    with pytest.raises(UnsupportedOption, match="nowfun is not supported: the time is the database's"):
        make()


def test_lists_of_fields_may_have_spaces() -> None:
    assert crontab(minute="0, 30", hour=" 7 ").expression == "0,30 7 * * *"
    assert crontab(minute=[30, 5, 10]).expression == "5,10,30 * * * *"


SQL_BAD: list[tuple[LiteralString, Any, str]] = [
    ("args", Json(nested(MAX_DEPTH + 2)), "args: at most 100 levels"),
    ("args", r'["\u0000"]', "args: at most 100 levels can be nested, without"),
    ("kwargs", Json({"a": nested(MAX_DEPTH + 1)}), "kwargs: at most 100 levels"),
    ("options", Jsonb({"headers": {"a": nested(MAX_DEPTH + 1)}}), "options: at most 100 levels"),
    ("options", Jsonb({"headers": {"a": "x" * 70_000}}), "options: headers: at most 65536 bytes"),
    ("options", Jsonb({"stamps": [1]}), "options: stamps: a JSON object is needed"),
    ("options", Jsonb({"over": "reduce"}), 'options: over: "map" or "starmap" is needed'),
    ("options", Jsonb({"time_limit": 0}), "options: time_limit: seconds from 0.001"),
    ("options", Jsonb({"time_limit": 5, "soft_time_limit": 6}), "options: soft_time_limit: 6 s is longer"),
    ("options", Jsonb({"expires": "infinity"}), "options: expires: an instant between"),
    ("options", Jsonb({"expires": "9999-01-01"}), "options: expires: an instant between"),
    ("options", Jsonb({"eta": "2030-01-01"}), "options: 'eta' is none of"),
    ("options", Jsonb({"linked": {}}), "options: linked: what link and link_error make"),
    ("options", Jsonb({"linked": {"steps": 1, "edges": 2}}), "options: linked: "),
    ("solar", "sunset 91 0", "solar: a latitude of -90 to 90"),
    ("solar", "sunset 0 180.5", "solar: a latitude of -90 to 90 and a longitude of -180 to 180"),
    ("cron", "0 0 30 2 */2", "cron: day of month: no such month has a day 30"),
    ("cron", "0 0 */2 2 mon#6", "cron: day of week: "),
    ("cron", "0 0 31 * ?#5", "cron: "),
]


@pytest.mark.parametrize(("column", "value", "said"), SQL_BAD)
def test_sql_refuses_it(conn: psycopg.Connection[Any], column: LiteralString, value: Any, said: str) -> None:
    conn.execute("set pgqueue.check_task = off")
    every = {} if column in ("solar", "cron") else {"every": "1 hour"}
    columns = {"name": "s", "task": "t", **every, column: value}
    statement = sql.SQL("insert into pgqueue.schedules ({}) values ({})").format(
        sql.SQL(", ").join(map(sql.Identifier, columns)), sql.SQL(", ").join([sql.Placeholder()] * len(columns))
    )
    with pytest.raises(psycopg.errors.InvalidParameterValue) as caught:
        conn.execute(statement, list(columns.values()))
    assert str(caught.value).startswith(said)


def test_both_sides_have_the_same_limits(shop: PgQueue, dsn: str) -> None:
    deepest = next(depth for depth in range(MAX_DEPTH + 9, 0, -1) if not refuses(shop, depth))
    with psycopg.connect(dsn, autocommit=True) as connection:
        connection.execute("update pgqueue.schedules set args = %s", [Json([nested(deepest)])])
        with pytest.raises(psycopg.errors.InvalidParameterValue, match="args: "):
            connection.execute("update pgqueue.schedules set args = %s", [Json([nested(deepest + 1)])])


def refuses(shop: PgQueue, depth: int) -> bool:
    try:
        shop.schedules.upsert("s", task="shop.bill", schedule=1, args=[nested(depth)])
    except ValidationError:
        return True
    return False


def test_a_plain_insert_of_a_task_that_nobody_has_is_refused(conn: psycopg.Connection[Any]) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="task: 't' is registered neither here") as caught:
        conn.execute("insert into pgqueue.schedules (name, task, every) values ('s', 't', '1 hour')")
    assert "check_task => false" in (caught.value.diag.message_hint or "")
    conn.rollback()
    conn.execute("select pgqueue.upsert_schedule('s', 't', every => '1 hour', check_task => false)")
    conn.execute("update pgqueue.schedules set every = '2 hours', task = 't'")
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="task: 'u' is registered neither here"):
        conn.execute("update pgqueue.schedules set task = 'u'")


def test_a_session_may_leave_the_check_of_tasks_out(dsn: str) -> None:
    """As a restore of data alone has to."""
    with psycopg.connect(dsn, options="-c pgqueue.check_task=off") as connection:
        connection.execute("insert into pgqueue.schedules (name, task, every) values ('s', 't', '1 hour')")


FIELDS = [
    *("0 0 30 2 */2", "0 0 29 2 */2", "0 0 1-7 * fri#2", "0 0 1-8 * fri#2", "0 0 28 2 fri#5", "0 0 29 2 fri#5"),
    *("0 0 31 4 *", "0 0 L 2 fri#4", "0 0 L 4 fri#4", "0 0 22 2 l5", "0 0 21 2 l5", "0 0 24 4 l5", "0 0 25 1 l5"),
    *("0 0 31 2,3 l5", "0 0 31 2,4 mon", "0 0 ? 2 fri#5", "0 0 L * 1,fri#1", "0 0 5 * fri#1,sat#2", "@yearly"),
]


@pytest.mark.parametrize("text", FIELDS)
@pytest.mark.parametrize("both", [False, True])
def test_what_never_fires_is_found_without_a_search(conn: psycopg.Connection[Any], text: str, both: bool) -> None:
    """By Python, by SQL, and by walking through fifty years."""
    try:
        python = fires(check_expression(text), both)
    except ValueError:
        python = False
    assert python == (Cron(text.lower(), "UTC", both).next_after(NEVER) is not None)
    refused = False
    try:
        conn.execute("select pgqueue.check_cron(%s, %s)", [text, both])
    except psycopg.errors.InvalidParameterValue:
        refused = True
    assert refused is not python


COLD = r"""
import time
from pgqueue.timing.recurrence import crontab, timing_of
for given in %r:
    began = time.process_time()
    try:
        timing_of(crontab.from_string(given) if given.endswith("both") else given, "America/Santiago")
    except ValueError:
        pass
    print(time.process_time() - began)
"""


def test_each_is_answered_within_ten_milliseconds_by_a_process_that_has_just_begun(
    spawn: Callable[..., Any],
) -> None:
    """The fastest of three: what is slow by itself is slow each time."""
    given = ["0 0 30 2 */2", "0 0 31 * fri#1", "0 0 29 2 mon", "0 0 L * *", "30 2 * * *", "*" * 10_000, "@reboot"]
    best = [1.0] * len(given)
    for _ in range(3):
        process = spawn(sys.executable, "-c", COLD % (given,), cwd=None)
        assert process.wait() == 0, process.output
        best = [min(pair) for pair in zip(best, map(float, process.output.split()), strict=True)]
    assert max(best) < 0.01, dict(zip(given, best, strict=True))


def test_no_answer_needs_the_clock(shop: PgQueue) -> None:
    shop.schedules.list()
    began = time.process_time()
    with pytest.raises(ValidationError):
        shop.schedules.upsert("s", task="shop.bill", schedule=crontab(0, 0, "mon", "31", "4,6,9,11"))
    assert time.process_time() - began < 0.05
