"""Every kind of connection that can carry an enqueue, behind one face: begin, savepoint, commit, roll back, enqueue."""

from abc import ABC, abstractmethod
from typing import Any

import asyncpg
import psycopg
import sqlalchemy as sa
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import orm
from sqlalchemy.ext import asyncio as saio

from pgqueue import PgQueue

__all__ = ["ASYNC_KINDS", "SYNC_KINDS", "Kind", "django_wrapper"]


def url(dsn: str, driver: str, **query: str) -> sa.URL:
    """A SQLAlchemy URL of the same database."""
    found = conninfo_to_dict(dsn)
    return sa.URL.create(
        f"postgresql+{driver}",
        username=str(found["user"]),
        host=str(found["host"]),
        port=int(str(found["port"])),
        database=str(found["dbname"]),
        query=query,
    )


class Kind(ABC):
    """One connection; every method is a coroutine so that one test serves all kinds."""

    connection: Any  # what app.using() and connection= are given
    is_async = False

    def __init__(self, dsn: str, autocommit: bool = False) -> None:
        self.dsn = dsn
        self.autocommit = autocommit

    @abstractmethod
    async def open(self) -> None: ...

    @abstractmethod
    async def close(self) -> None: ...

    @abstractmethod
    async def begin(self) -> None:
        """Begin, where the library does not do it by itself."""

    @abstractmethod
    async def commit(self) -> None: ...

    @abstractmethod
    async def rollback(self) -> None: ...

    @abstractmethod
    async def execute(self, sql: str) -> None: ...

    async def savepoint(self) -> None:
        await self.execute("savepoint s")

    async def rollback_to_savepoint(self) -> None:
        await self.execute("rollback to savepoint s")

    async def enqueue(self, app: PgQueue, **options: Any) -> Any:
        """Enqueue through the registered task `t.add`, the way that fits the kind."""
        task = app.tasks["t.add"]
        if self.is_async:
            return await task.aapply_async((1,), connection=self.connection, **options)
        return task.apply_async((1,), connection=self.connection, **options)


class Psycopg(Kind):
    async def open(self) -> None:
        self.connection = psycopg.connect(self.dsn, autocommit=self.autocommit)

    async def close(self) -> None:
        self.connection.close()

    async def begin(self) -> None:
        pass

    async def commit(self) -> None:
        self.connection.commit()

    async def rollback(self) -> None:
        self.connection.rollback()

    async def execute(self, sql: str) -> None:
        self.connection.execute(sql)


class PsycopgClientSide(Psycopg):
    """Parameters bound by the client, rows as dicts: what a user may have chosen for his connection."""

    async def open(self) -> None:
        self.connection = psycopg.connect(
            self.dsn,
            autocommit=self.autocommit,
            cursor_factory=psycopg.ClientCursor,
            row_factory=psycopg.rows.dict_row,
        )


class PsycopgAsync(Kind):
    is_async = True

    async def open(self) -> None:
        self.connection = await psycopg.AsyncConnection.connect(self.dsn, autocommit=self.autocommit)

    async def close(self) -> None:
        await self.connection.close()

    async def begin(self) -> None:
        pass

    async def commit(self) -> None:
        await self.connection.commit()

    async def rollback(self) -> None:
        await self.connection.rollback()

    async def execute(self, sql: str) -> None:
        await self.connection.execute(sql)


class Asyncpg(Kind):
    is_async = True

    async def open(self) -> None:
        found = conninfo_to_dict(self.dsn)
        self.connection = await asyncpg.connect(
            host=found["host"], port=int(str(found["port"])), user=found["user"], database=found["dbname"]
        )
        # What applications teach their connections must not matter.
        for name in ("json", "jsonb"):
            await self.connection.set_type_codec(name, encoder=repr, decoder=len, schema="pg_catalog")

    async def close(self) -> None:
        await self.connection.close()

    async def begin(self) -> None:
        self.transaction = self.connection.transaction()
        await self.transaction.start()

    async def commit(self) -> None:
        await self.transaction.commit()

    async def rollback(self) -> None:
        await self.transaction.rollback()

    async def execute(self, sql: str) -> None:
        await self.connection.execute(sql)


class Alchemy(Kind):
    """Connection and Session, over psycopg."""

    driver = "psycopg"

    def engine(self) -> sa.Engine:
        return sa.create_engine(
            url(self.dsn, self.driver), **({"isolation_level": "AUTOCOMMIT"} if self.autocommit else {})
        )

    async def open(self) -> None:
        self._engine = self.engine()
        self.connection = self._engine.connect()

    async def close(self) -> None:
        self.connection.close()
        self._engine.dispose()

    async def begin(self) -> None:
        pass

    async def commit(self) -> None:
        self.connection.commit()

    async def rollback(self) -> None:
        self.connection.rollback()

    async def execute(self, sql: str) -> None:
        self.connection.execute(sa.text(sql))

    async def savepoint(self) -> None:
        self.nested = self.connection.begin_nested()

    async def rollback_to_savepoint(self) -> None:
        self.nested.rollback()


class AlchemySession(Alchemy):
    async def open(self) -> None:
        self._engine = self.engine()
        self.connection = orm.Session(self._engine)


class AlchemyAsync(Kind):
    is_async = True
    driver = "psycopg"

    def engine(self) -> saio.AsyncEngine:
        return saio.create_async_engine(
            url(self.dsn, self.driver), **({"isolation_level": "AUTOCOMMIT"} if self.autocommit else {})
        )

    async def open(self) -> None:
        self._engine = self.engine()
        self.connection = await self._engine.connect()

    async def close(self) -> None:
        await self.connection.close()
        await self._engine.dispose()

    async def begin(self) -> None:
        pass

    async def commit(self) -> None:
        await self.connection.commit()

    async def rollback(self) -> None:
        await self.connection.rollback()

    async def execute(self, sql: str) -> None:
        await self.connection.execute(sa.text(sql))

    async def savepoint(self) -> None:
        self.nested = await self.connection.begin_nested()

    async def rollback_to_savepoint(self) -> None:
        await self.nested.rollback()


class AlchemyAsyncSession(AlchemyAsync):
    async def open(self) -> None:
        self._engine = self.engine()
        self.connection = saio.AsyncSession(self._engine)


class AlchemyAsyncpg(AlchemyAsync):
    driver = "asyncpg"


class AlchemyAsyncpgSession(AlchemyAsyncSession):
    driver = "asyncpg"


def django_wrapper(dsn: str) -> Any:
    """A connection of Django to this database; not the default one, and without a project's settings."""
    import django
    from django.conf import settings

    if not settings.configured:
        settings.configure(DATABASES={}, USE_TZ=True)
        django.setup()
    from django.db.backends.postgresql.base import DatabaseWrapper

    found = conninfo_to_dict(dsn)
    return DatabaseWrapper(
        {
            "ENGINE": "django.db.backends.postgresql",
            "NAME": found["dbname"],
            "USER": found["user"],
            "PASSWORD": "",
            "HOST": found["host"],
            "PORT": found["port"],
            "OPTIONS": {},
            "TIME_ZONE": None,
            "CONN_MAX_AGE": 0,
            "CONN_HEALTH_CHECKS": False,
            "AUTOCOMMIT": True,
            "ATOMIC_REQUESTS": False,
            "TEST": {},
        },
        alias=f"test{id(dsn)}",
    )


class Django(Kind):
    """atomic() is a block, so begin and end are its __enter__ and __exit__."""

    async def open(self) -> None:
        self.connection = django_wrapper(self.dsn)
        from django.db import connections

        connections[self.connection.alias] = self.connection

    async def close(self) -> None:
        from django.db import connections

        self.connection.close()
        del connections[self.connection.alias]

    async def begin(self) -> None:
        from django.db import transaction

        self.blocks = [transaction.atomic(using=self.connection.alias)]
        self.blocks[0].__enter__()

    async def commit(self) -> None:
        self.blocks.pop().__exit__(None, None, None)

    async def rollback(self) -> None:
        self.blocks.pop().__exit__(ValueError, ValueError(), None)

    async def execute(self, sql: str) -> None:
        with self.connection.cursor() as cursor:
            cursor.execute(sql)

    async def savepoint(self) -> None:
        from django.db import transaction

        self.blocks.append(transaction.atomic(using=self.connection.alias))
        self.blocks[-1].__enter__()

    async def rollback_to_savepoint(self) -> None:
        await self.rollback()


SYNC_KINDS: list[type[Kind]] = [Psycopg, PsycopgClientSide, Alchemy, AlchemySession, Django]
ASYNC_KINDS: list[type[Kind]] = [
    PsycopgAsync,
    Asyncpg,
    AlchemyAsync,
    AlchemyAsyncSession,
    AlchemyAsyncpg,
    AlchemyAsyncpgSession,
]
