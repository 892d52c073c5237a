"""What is kept of a job besides its outcome, as its result shows it."""

from datetime import datetime
from typing import Any

from pgqueue.codec import decode_args, decode_kwargs
from pgqueue.results.waiting import kept_after
from pgqueue.store.jobs import JobRow, get_job

__all__ = ["Details"]


class Details:
    """The side of a result that reads the whole row; each attribute asks the database, None for an unknown job."""

    __slots__ = ()

    job_id: str
    _source: Any

    def _row(self) -> JobRow | None:
        database = self._source.database
        for after in dict.fromkeys((kept_after(self.job_id), "-infinity")):
            statement = get_job(database.queries, self.job_id, after)
            found: JobRow | None = database.run(statement, statement)
            if found is not None:
                return found
        return None

    @property
    def name(self) -> str | None:
        """Name of the task."""
        row = self._row()
        return row.task if row else None

    @property
    def args(self) -> list[Any] | None:
        """Positional arguments."""
        row = self._row()
        return decode_args(row.args) if row else None

    @property
    def kwargs(self) -> dict[str, Any] | None:
        """Keyword arguments."""
        row = self._row()
        return decode_kwargs(row.kwargs) if row else None

    @property
    def worker(self) -> str | None:
        """Name of the worker that runs it or ran it last."""
        row = self._row()
        return row.worker if row else None

    @property
    def date_done(self) -> datetime | None:
        """When it finished, aware."""
        row = self._row()
        return row.finished_at if row else None

    @property
    def retries(self) -> int | None:
        """How often it was retried."""
        row = self._row()
        return max(row.attempt - row.lost - (row.started_at is not None), 0) if row else None

    @property
    def queue(self) -> str | None:
        """Its queue."""
        row = self._row()
        return row.queue if row else None
