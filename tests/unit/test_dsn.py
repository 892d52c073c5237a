"""Connection strings: what is accepted, what is refused in one line, and that no password is shown."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import conninfo_to_dict

from pgqueue.config.dsn import describe, normalise, redact, with_credentials
from pgqueue.errors import ConfigurationError


@pytest.mark.parametrize(
    ("dsn", "parts"),
    [
        ("postgres://u:p@h:5433/d", {"user": "u", "password": "p", "host": "h", "port": "5433", "dbname": "d"}),
        ("postgresql://h/d", {"host": "h", "dbname": "d"}),
        ("  POSTGRESQL://h/d\n", {"host": "h", "dbname": "d"}),
        ("postgresql+psycopg://h/d", {"host": "h", "dbname": "d"}),
        ("postgresql+asyncpg://h/d?ssl=require", {"host": "h", "dbname": "d", "sslmode": "require"}),
        ("postgresql+psycopg2://h/d?sslmode=disable", {"host": "h", "dbname": "d", "sslmode": "disable"}),
        ("db+postgresql://h/d", {"host": "h", "dbname": "d"}),
        ("postgresql://u:p%40%3A%2F%25@h/d", {"user": "u", "password": "p@:/%", "host": "h", "dbname": "d"}),
        ("postgresql://[::1]:5433/d", {"host": "::1", "port": "5433", "dbname": "d"}),
        (
            "postgresql://a:1,b:2/d?target_session_attrs=read-write",
            {"host": "a,b", "port": "1,2", "dbname": "d", "target_session_attrs": "read-write"},
        ),
        ("postgresql:///d?host=/run/pg", {"dbname": "d", "host": "/run/pg"}),
        ("postgresql://", {}),
        ("host=h dbname=d", {"host": "h", "dbname": "d"}),
        ("service=shop", {"service": "shop"}),
        (r"host=h password='it\'s @:/%'", {"host": "h", "password": "it's @:/%"}),
    ],
)
def test_accepted_spellings(dsn: str, parts: dict[str, str]) -> None:
    found = normalise(dsn)
    assert conninfo_to_dict(found) == parts
    assert conninfo_to_dict(normalise(found) if found else "") == parts


SECRET = "s3cr3t"


@pytest.mark.parametrize(
    ("dsn", "message"),
    [
        ("", "empty"),
        ("   ", "empty"),
        ("shop", "missing '='"),
        ("foo=bar", 'invalid connection option "foo"'),
        (f"mysql://u:{SECRET}@h/d", "mysql:// is not PostgreSQL"),
        ("sqlite:///x.db", "sqlite:// is not PostgreSQL"),
        (f"redis://:{SECRET}@h/0", "redis:// is not PostgreSQL"),
        ("amqp://guest@h//", "amqp:// is not PostgreSQL"),
        ("mysql+pymysql://h/d", "mysql+pymysql:// is not PostgreSQL"),
        ("postgresql+odbc://h/d", "unknown driver 'odbc'"),
        (f"postgresql://u:{SECRET}@x@h/d", "@ as %40"),
        (f"postgresql://u:{SECRET}/x@h/d", "/ as %2F"),
        (f"postgresql://u:{SECRET}%zz@h/d", "invalid percent-encoded token"),
        (f"postgresql://u:{SECRET} x@h/d", "unexpected spaces"),
        (f"postgresql://u:{SECRET}@[::1/d", "looking for matching"),
        (f"postgresql://u:{SECRET}@h:99999/d", "port '99999' is not between"),
        (f"postgresql://u:{SECRET}@h:0/d", "port '0' is not between"),
        ("postgresql://h:abc/d", "port 'abc' is not between"),
        ("postgresql://a:1,b:2,c/d", "ports for"),
        ("postgresql://h/d?nonsense=1", 'invalid URI query parameter: "nonsense"'),
        (f"host=h password=a {SECRET}", "missing '='"),
        (f"host=h password='{SECRET}", "unterminated quoted string"),
        ("postgresql://h/d\0", "NUL"),
    ],
)
def test_refused_in_one_line_without_the_password(dsn: str, message: str) -> None:
    with pytest.raises(ConfigurationError) as caught:
        normalise(dsn)
    said = str(caught.value)
    assert message in said
    assert SECRET not in said
    assert "\n" not in said
    assert caught.value.__cause__ is None


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
def test_any_password_survives_as_a_key(password: str) -> None:
    quoted = password.replace("\\", "\\\\").replace("'", "\\'")
    found = normalise(f"host=h password='{quoted}'")
    assert conninfo_to_dict(found)["password"] == password
    assert redact(found) in ("password=*** host=h", "password=***")


@settings(deadline=None)
@given(
    st.text(st.characters(codec="ascii", categories=["L", "N", "P", "S"]), min_size=8).map(lambda tail: SECRET + tail)
)
def test_no_password_in_a_url_is_shown(password: str) -> None:
    shown = redact(f"cannot connect to postgresql://u:{password}@h/d now")
    assert SECRET not in shown
    assert shown.startswith("cannot connect to postgresql://u:***@")


@pytest.mark.parametrize(
    "text",
    [
        f"password={SECRET}",
        f"PASSWORD = '{SECRET} x\\' {SECRET}' host=h",
        f"postgresql://h/d?user=u&password={SECRET}&sslmode=require",
        f"{{'user': 'u', 'password': '{SECRET}'}}",
        f'{{"sslpassword": "{SECRET}"}}',
        f"PGPASSWORD={SECRET} psql",
        f"password=a\\ {SECRET}",
        f"redis://:{SECRET}@h",
    ],
)
def test_redacted_everywhere(text: str) -> None:
    assert SECRET not in redact(text)
    assert "***" in redact(text)


def test_other_text_is_left_alone() -> None:
    assert redact("postgresql://h:5432/d, user a@b.c") == "postgresql://h:5432/d, user a@b.c"


@pytest.mark.parametrize(
    ("dsn", "shown"),
    [
        (f"postgresql://u:{SECRET}@h:5433/d", "u@h:5433/d"),
        ("postgresql://[::1]:5433/d", "[::1]:5433/d"),
        ("postgresql://a:1,b:2/d", "a:1,b:2/d"),
        ("host=a,b port=5 dbname=d", "a:5,b:5/d"),
        ("dbname=d", "local socket/d"),
        ("service=x", "service x"),
    ],
)
def test_described_for_people(dsn: str, shown: str) -> None:
    assert describe(dsn) == shown


def test_credentials_are_asked_every_time() -> None:
    tokens = iter(["one", "two"])
    found = [conninfo_to_dict(with_credentials("host=h", lambda: next(tokens))) for _ in range(2)]
    assert found == [{"host": "h", "password": "one"}, {"host": "h", "password": "two"}]
    assert conninfo_to_dict(with_credentials("host=h", lambda: {"user": "u"})) == {"host": "h", "user": "u"}
    assert with_credentials("host=h", None) == "host=h"


def test_wrong_credentials_are_told_without_them() -> None:
    def broken() -> str:
        raise RuntimeError(f"password={SECRET}")

    with pytest.raises(ConfigurationError, match=r"credentials: RuntimeError: password=\*\*\*"):
        with_credentials("host=h", broken)
    with pytest.raises(ConfigurationError, match="expected a password or a dict, got int"):
        with_credentials("host=h", lambda: 5)  # type: ignore[arg-type, return-value] # wrong on purpose
    with pytest.raises(ConfigurationError, match="invalid connection option"):
        with_credentials("host=h", lambda: {"nonsense": "x"})
