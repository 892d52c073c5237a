"""How an application comes to its database: the DSN, connections of its own, pooled ones, the embedded server."""

import importlib
import sys
import threading
from typing import Any, TypeVar, overload

import psycopg
from psycopg import conninfo

from pgqueue.config.conf import Conf
from pgqueue.config.dsn import normalise, with_credentials
from pgqueue.store.database import Database
from pgqueue.store.statement import Queries

__all__ = ["Connector"]

Sync = TypeVar("Sync", bound="psycopg.Connection[Any]")
Async = TypeVar("Async", bound="psycopg.AsyncConnection[Any]")


class Connector:
    """What an application knows of its database; opened when it is first needed.

    Args:
        conf: the settings.
    """

    def __init__(self, conf: Conf) -> None:
        self.conf = conf
        self._lock = threading.RLock()
        self._closed = False
        self._dsn: str | None = None
        self._queries: Queries | None = None
        self._database: Database | None = None

    def freeze(self) -> None:
        """Refuse changes of settings from now on."""
        if not self.conf.frozen:
            self.conf.freeze("the first enqueue or the start of a worker")

    @property
    def dsn(self) -> str:
        """The connection string in libpq's form; starts the embedded server when none is set.

        Raises:
            ConfigurationError: none is set, and the embedded server is absent or production is declared.
        """
        if self._dsn is None:
            with self._lock:
                given = self.conf.dsn
                if given is None:
                    given = _embedded(self.conf.environment == "production", self.queries)
                self._dsn = normalise(given)
        return self._dsn

    @property
    def queries(self) -> Queries:
        """The named queries for this application's schema."""
        if self._queries is None:
            self._queries = Queries(self.conf.schema)
        return self._queries

    @property
    def database(self) -> Database:
        """The pooled connections of this process."""
        if self._database is None:
            with self._lock:
                if self._database is None:
                    self.freeze()
                    conf = self.conf
                    database = Database(
                        self.queries,
                        self.new_connection,
                        self.new_async_connection,
                        conf.pool_max_size,
                        conf.connect_timeout,
                    )
                    if self._closed:
                        database.close()
                    self._database = database
        return self._database

    @overload
    def new_connection(
        self,
        *,
        autocommit: bool = True,
        application_name: str = "pgqueue",
        listen: bool = False,
        dsn: str | None = None,
    ) -> psycopg.Connection[Any]: ...
    @overload
    def new_connection(
        self,
        *,
        autocommit: bool = True,
        application_name: str = "pgqueue",
        listen: bool = False,
        dsn: str | None = None,
        connection_class: type[Sync],
    ) -> Sync: ...

    def new_connection(
        self,
        *,
        autocommit: bool = True,
        application_name: str = "pgqueue",
        listen: bool = False,
        dsn: str | None = None,
        connection_class: type[psycopg.Connection[Any]] = psycopg.Connection,
    ) -> Any:
        """Open a connection of its own; the caller closes it.

        Args:
            autocommit: of psycopg.
            application_name: that the server shows.
            listen: use listen_dsn, if that is set.
            dsn: instead of the application's.
            connection_class: to make it of; default psycopg.Connection.

        Raises:
            psycopg.OperationalError: it cannot be opened.
        """
        return connection_class.connect(self._conninfo(application_name, listen, dsn), autocommit=autocommit)

    @overload
    async def new_async_connection(
        self,
        *,
        autocommit: bool = True,
        application_name: str = "pgqueue",
        listen: bool = False,
        dsn: str | None = None,
    ) -> psycopg.AsyncConnection[Any]: ...
    @overload
    async def new_async_connection(
        self,
        *,
        autocommit: bool = True,
        application_name: str = "pgqueue",
        listen: bool = False,
        dsn: str | None = None,
        connection_class: type[Async],
    ) -> Async: ...

    async def new_async_connection(
        self,
        *,
        autocommit: bool = True,
        application_name: str = "pgqueue",
        listen: bool = False,
        dsn: str | None = None,
        connection_class: type[psycopg.AsyncConnection[Any]] = psycopg.AsyncConnection,
    ) -> Any:
        """new_connection() for async code."""
        return await connection_class.connect(self._conninfo(application_name, listen, dsn), autocommit=autocommit)

    def _conninfo(self, application_name: str, listen: bool, dsn: str | None) -> str:
        conf = self.conf
        if dsn is None:
            dsn = conf.listen_dsn if listen and conf.listen_dsn else self.dsn
        given = conninfo.conninfo_to_dict(with_credentials(dsn, conf.credentials))
        given["application_name"] = application_name
        given.setdefault("connect_timeout", max(2, round(conf.connect_timeout)))
        return conninfo.make_conninfo("", **given)

    def close(self) -> None:
        """Close the pooled connections; enqueues and looks fail from now on."""
        with self._lock:
            self._closed = True
            if self._database is not None:
                self._database.close()


_noticed = False


def _embedded(production: bool, queries: Queries) -> str:
    """Start the embedded server, with our schema in it: nobody else looks after a server of development."""
    global _noticed
    # By name, when they are needed: most applications have a DSN and never pay for these modules.
    embedded = importlib.import_module("pgqueue.embedded")
    schema = importlib.import_module("pgqueue.store.schema")
    dsn: str = embedded.start(production)
    with psycopg.connect(dsn, autocommit=True) as connection:
        migrated = schema.found_version(connection, queries) is not None
    if not migrated:
        schema.migrate(dsn, queries.schema)
    if not _noticed:
        _noticed = True
        print(embedded.notice(), file=sys.stderr)  # noqa: T201 - it is meant for a person, once
    return dsn
