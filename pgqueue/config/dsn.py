"""Connection strings: which spellings are accepted, what is shown of them, whose credentials they carry."""

import re
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode

from pgqueue.errors import ConfigurationError

__all__ = ["Credentials", "describe", "normalise", "redact", "refuse_other_databases", "with_credentials"]


Credentials = Callable[[], str | Mapping[str, Any]]

_POSTGRES = frozenset({"postgres", "postgresql"})
_DRIVERS = frozenset({"psycopg", "psycopg_async", "psycopg2", "psycopg2cffi", "asyncpg", "pg8000"})
_URL = re.compile(r"\s*(?P<scheme>[A-Za-z][A-Za-z0-9+.\-]*(?::[A-Za-z]+)?)://(?P<rest>.*)", re.DOTALL)
_URL_SECRET = re.compile(r"(\b[A-Za-z][\w+.\-]*://[^\s:/@]*):\S*@")
_KEY_SECRET = re.compile(
    r"""(?ix) ( \b \w*(?:password|passwd) ["']? \s* (?:=|:(?!//)) \s* )
        (?: '(?:\\.|[^'\\])*(?:'|$) | "(?:\\.|[^"\\])*(?:"|$) )? (?:\\.|[^\s\\])*"""
)


def normalise(dsn: str) -> str:
    """Check a connection string and give it libpq's key=value form.

    Args:
        dsn: a URL (postgres://, postgresql://, SQLAlchemy's postgresql+driver://, Celery's db+postgresql://) with one
            or several hosts, or libpq's ``key=value`` form, ``service=name`` included.

    Returns:
        The same as a ``key=value`` string.

    Raises:
        ConfigurationError: empty, malformed, or of another database; the message holds no password.
    """
    if not isinstance(dsn, str):
        raise ConfigurationError(f"dsn: expected a connection string, got {type(dsn).__name__}")
    if not dsn.strip():
        raise ConfigurationError("dsn: empty; write postgresql://user@host/database, or leave it out")
    if "\0" in dsn:
        raise ConfigurationError("dsn: contains a NUL character")
    url = _URL.match(dsn)
    text = dsn.strip() if url is None else _postgres_url(url["scheme"].lower(), url["rest"].strip())
    from psycopg import Error, conninfo  # noqa: PLC0415 - psycopg takes 50 ms, and settings are read without it

    try:
        found = conninfo.conninfo_to_dict(text)
    except Error as error:
        raise ConfigurationError(f"dsn: {_libpq_says(error)}; write postgresql://user@host/database") from None
    _check_ports(found)
    return conninfo.make_conninfo("", **found)


def refuse_other_databases(dsn: str) -> None:
    """Raise ConfigurationError if this is the URL of anything but PostgreSQL; normalise() checks the rest."""
    url = _URL.match(dsn)
    if url is not None:
        _check_scheme(url["scheme"].lower())


def _check_scheme(scheme: str) -> None:
    base = scheme.removeprefix("db+").removeprefix("jdbc:")
    dialect, _, driver = base.partition("+")
    if dialect not in _POSTGRES:
        raise ConfigurationError(f"{scheme}:// is not PostgreSQL; pgqueue needs postgresql://user@host/database")
    if driver and driver not in _DRIVERS:
        raise ConfigurationError(f"unknown driver {driver!r}; write postgresql://")


def _postgres_url(scheme: str, rest: str) -> str:
    _check_scheme(scheme)
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    if authority.count("@") > 1:
        raise ConfigurationError("dsn: more than one '@' before the host; in a password write @ as %40")
    if "@" not in authority and "@" in rest.partition("?")[0]:
        raise ConfigurationError(
            "dsn: '/', '?' or '#' before the '@'; in a password write / as %2F, ? as %3F, # as %23"
        )
    return "postgresql://" + _query_of_libpq(rest)


def _query_of_libpq(rest: str) -> str:
    """asyncpg's and SQLAlchemy's ?ssl=require is libpq's ?sslmode=require."""
    head, mark, query = rest.partition("?")
    if not mark or "ssl=" not in query:
        return rest
    modes = {"true": "require", "1": "require", "false": "disable", "0": "disable"}
    pairs = [
        ("sslmode", modes.get(value.lower(), value)) if key == "ssl" else (key, value)
        for key, value in parse_qsl(query, keep_blank_values=True)
    ]
    return f"{head}?{urlencode(pairs)}"


def _libpq_says(error: Exception) -> str:
    """libpq quotes what it could not read, which may be part of a password: only options are repeated."""
    message = " ".join(str(error).split())
    if not message.startswith(("invalid connection option", "invalid URI query parameter")):
        message = re.sub(r'"([^"])"', r"'\1'", message).partition('"')[0].rstrip(" :")
    return message


def _check_ports(found: Mapping[str, Any]) -> None:
    ports = [port for port in str(found.get("port") or "").split(",") if port]
    for port in ports:
        if not port.isascii() or not port.isdigit() or not 1 <= int(port) <= 65535:
            raise ConfigurationError(f"dsn: port {port!r} is not between 1 and 65535")
    hosts = str(found.get("host") or found.get("hostaddr") or "").split(",")
    if len(ports) > 1 and len(ports) != len(hosts):
        raise ConfigurationError(f"dsn: {len(ports)} ports for {len(hosts)} hosts")


def describe(dsn: str) -> str:
    """What a banner shows: ``user@host:port/database``, without the password; unset parts are left out."""
    from psycopg import conninfo  # noqa: PLC0415 - as in normalise

    found = conninfo.conninfo_to_dict(normalise(dsn))
    if found.get("service"):
        return f"service {found['service']}"
    hosts = str(found.get("host") or found.get("hostaddr") or "").split(",")
    ports = str(found.get("port") or "").split(",")
    where = ",".join(
        (f"[{host}]" if ":" in host else host) + (f":{port}" if port else "")
        for host, port in zip(hosts, ports if len(ports) == len(hosts) else ports[:1] * len(hosts), strict=True)
    )
    user = f"{found['user']}@" if found.get("user") else ""
    return f"{user}{where or 'local socket'}/{found.get('dbname') or ''}"


def redact(text: str) -> str:
    """Any text with passwords in URLs and ``password=…`` replaced by ***; rather too much is hidden than too little."""
    return _KEY_SECRET.sub(r"\1***", _URL_SECRET.sub(r"\1:***@", text))


def with_credentials(dsn: str, credentials: Credentials | None) -> str:
    """The connection string for one new connection.

    Args:
        dsn: as in normalise.
        credentials: called for every new connection, so that tokens may expire; gives the password, or a mapping of
            connection parameters such as {"user": …, "password": …}. None leaves the DSN as it is.

    Raises:
        ConfigurationError: the callable raised, or gave something else.
    """
    text = normalise(dsn)
    if credentials is None:
        return text
    try:
        found = credentials()
    except Exception as error:
        raise ConfigurationError(f"credentials: {type(error).__name__}: {redact(str(error))}") from error
    parameters = {"password": found} if isinstance(found, str) else found
    if not isinstance(parameters, Mapping):
        raise ConfigurationError(f"credentials: expected a password or a dict, got {type(found).__name__}")
    from psycopg import Error, conninfo  # noqa: PLC0415 - as in normalise

    try:
        return conninfo.make_conninfo(text, **parameters)
    except (Error, TypeError) as error:
        raise ConfigurationError(f"credentials: {_libpq_says(error)}") from None
