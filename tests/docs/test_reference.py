"""The reference lists what there is, and nothing else."""

import re
from collections.abc import Iterable

import psycopg
import pytest

from pgqueue.cli.declined import WORKER
from pgqueue.config.validation import _BEAT_KEYS
from pgqueue.declined.options import DECLINED_CALL_OPTIONS, DECLINED_TASK_OPTIONS
from pgqueue.options.options import CallOptions, TaskOptions
from pgqueue.schedules.definitions import _DETAILS
from scripts import cli_reference
from tests.support.process import REPOSITORY


def rows(page: str, section: str | None = None) -> list[tuple[str, ...]]:
    """The cells of the rows in a section's tables, without their heads."""
    text = (REPOSITORY / "docs" / "reference" / page).read_text(encoding="utf-8")
    if section:
        text = re.split(rf"^## {re.escape(section)}$", text, flags=re.MULTILINE)[1].split("\n## ")[0]
    lines = [line for line in text.splitlines() if line.startswith("| `")]
    return [tuple(cell.strip().strip("`") for cell in line.strip("|").split(" | ")) for line in lines]


def test_every_option_of_a_task_is_listed() -> None:
    text = (REPOSITORY / "docs/reference/tasks.md").read_text(encoding="utf-8").split("## Inside")[0]
    assert set(re.findall(r"^\| `(\w+)`", text, re.MULTILINE)) == {*TaskOptions.__annotations__, "bind"}


def test_every_option_of_a_call_is_listed() -> None:
    assert {row[0] for row in rows("enqueue.md", "Options")} == set(CallOptions.__annotations__)


def test_every_command_is_listed() -> None:
    text = cli_reference.PAGE.read_text(encoding="utf-8")
    assert text == cli_reference.page(text), "run scripts/cli_reference.py"


@pytest.mark.parametrize(
    "name",
    [
        "all_jobs",
        "all_workflows",
        "attempts",
        "schedules",
        "schedule_ticks",
        "workers",
        "workflow_edges",
        "workflow_steps",
    ],
)
def test_public_columns_are_there(name: str, conn: psycopg.Connection) -> None:
    found = conn.execute(
        "select column_name, case when data_type = 'ARRAY' then 'text[]'"
        " when data_type = 'timestamp with time zone' then 'timestamptz' else data_type end"
        " from information_schema.columns where table_schema = 'pgqueue' and table_name = %s",
        [name],
    ).fetchall()
    listed = [row[:2] for row in rows("sql.md", name)]
    assert listed
    assert not set(listed) - set(found)
    if name not in ("workers", "schedules"):  # which also keep what only workers need of each other
        assert set(listed) == set(found)


@pytest.mark.parametrize("name", ["live_jobs", "finished_jobs"])
def test_columns_of_the_two_tables_are_named(name: str, conn: psycopg.Connection) -> None:
    found = conn.execute(
        "select column_name from information_schema.columns where table_schema = 'pgqueue' and table_name = %s", [name]
    ).fetchall()
    text = (REPOSITORY / "docs/reference/sql.md").read_text(encoding="utf-8").split("## attempts")[0]
    internal = {"claim_token"}
    assert {column for (column,) in found} - internal <= set(re.findall(r"`(\w+)`", text))


def test_the_parameters_of_enqueue_are_listed(conn: psycopg.Connection) -> None:
    row = conn.execute(
        "select proargnames from pg_proc where proname = 'enqueue' and pronamespace = 'pgqueue'::regnamespace"
    ).fetchone()
    assert row is not None
    text = (REPOSITORY / "docs/reference/sql.md").read_text(encoding="utf-8")
    assert f"`pgqueue.enqueue({', '.join(row[0])})`" in text
    how_to = (REPOSITORY / "docs/how-to/sql-enqueue.md").read_text(encoding="utf-8")
    assert re.findall(r"^\| `(\w+)` \|", how_to, re.MULTILINE) == row[0]


@pytest.mark.parametrize(
    ("section", "honoured", "declined"),
    [
        ("Options of tasks", TaskOptions.__annotations__, DECLINED_TASK_OPTIONS),
        ("Options of apply_async", CallOptions.__annotations__, DECLINED_CALL_OPTIONS),
        ("Flags of the worker", (), [name for option in WORKER for name in option.names[:1]]),
    ],
)
def test_porting_lists_what_is_honoured_and_what_is_not(
    section: str, honoured: Iterable[str], declined: Iterable[str]
) -> None:
    text = (REPOSITORY / "docs/porting.md").read_text(encoding="utf-8").split(f"## {section}\n")[1].split("\n## ")[0]
    head, _, table = text.partition("\n| ")
    assert set(honoured) <= set(re.findall(r"`([\w-]+)`", head))
    assert set(declined) <= set(re.findall(r"`([\w-]+)`", table))
    assert not set(declined) & set(re.findall(r"`([\w-]+)`", head))


def test_the_parameters_of_upsert_schedule_are_listed(conn: psycopg.Connection) -> None:
    row = conn.execute(
        "select proargnames from pg_proc where proname = 'upsert_schedule' and pronamespace = 'pgqueue'::regnamespace"
    ).fetchone()
    assert row is not None
    text = (REPOSITORY / "docs/reference/sql.md").read_text(encoding="utf-8")
    assert f"`pgqueue.upsert_schedule({', '.join(row[0])})`" in text


def test_every_option_of_a_schedule_is_listed() -> None:
    taken = {*_DETAILS, *_BEAT_KEYS} - {"task", "schedule"}
    listed = {name for row in rows("schedules.md", "Options of schedules") for name in re.findall(r"\w+", row[0])}
    assert listed == taken
