"""What the commands share: which application, its database, and what is said beside the results."""

import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    import psycopg

    from pgqueue.app.application import PgQueue
    from pgqueue.store.statement import Queries

__all__ = ["Session", "pass_session"]

_USUAL_MODULES = ("tasks", "app")


class Session:
    """One run of the command line.

    Args:
        app: what -A or PGQUEUE_APP named.
        schema: what --schema named.
        quiet: whether notes are left out.
    """

    def __init__(self, app: str | None = None, schema: str | None = None, quiet: bool = False) -> None:
        self.app_name = app
        self.quiet = quiet
        self._schema = schema
        self._app: PgQueue | None = None

    def note(self, text: str) -> None:
        """Say something beside the results, on stderr."""
        if not self.quiet:
            click.echo(f"pgqueue: {text}", err=True)

    @property
    def app(self) -> "PgQueue":
        """The application that was named, else the one in tasks.py or app.py here, else one without tasks."""
        if self._app is None:
            self._app = self._find()
            if self._schema is not None:
                self._app.conf.override({"schema": self._schema})
            context = click.get_current_context(silent=True)
            if context is not None and context.color is False:
                self._app.conf.override({"worker_log_color": False})
        return self._app

    @property
    def queries(self) -> "Queries":
        """The named queries, for the application's schema."""
        return self.app.queries

    def connect(self) -> "psycopg.Connection[Any]":
        """Open a connection to the application's database, in autocommit."""
        connection: psycopg.Connection[Any] = self.app.new_connection()
        connection.autocommit = True
        return connection

    def checked(self) -> "psycopg.Connection[Any]":
        """Open a connection and check the schema's version."""
        from pgqueue.store.schema import check  # noqa: PLC0415 - loaded by commands that need it only

        connection = self.connect()
        try:
            check(connection, self.queries)
        except BaseException:
            connection.close()
            raise
        return connection

    def _find(self) -> "PgQueue":
        from pgqueue.app.application import PgQueue  # noqa: PLC0415 - takes longer than --help may
        from pgqueue.discovery import find_app  # noqa: PLC0415 - as above

        if self.app_name is None:
            self.app_name = self._usual_module()
        if self.app_name is None:
            return PgQueue("pgqueue")
        here = str(Path.cwd())
        if here not in sys.path:
            sys.path.insert(0, here)
        app: PgQueue = find_app(self.app_name)
        return app

    def _usual_module(self) -> str | None:
        for name in _USUAL_MODULES:
            try:
                text = Path(f"{name}.py").read_text(encoding="utf-8", errors="replace")
            except OSError:
                continue
            if "PgQueue" in text:
                self.note(f"no -A given: using {name}.py in {os.getcwd()}")
                return name
        return None


pass_session = click.make_pass_decorator(Session)
