"""app.control: what can be asked of jobs by their ids."""

from collections.abc import Iterable, Mapping
from typing import Any

from pgqueue.codec import encode_result
from pgqueue.declined.attributes import CONTROL, Declining
from pgqueue.errors import ValidationError
from pgqueue.options.options import task_identity
from pgqueue.results.result import AsyncResult, Results, refuse_revoke
from pgqueue.store.families import jobs_by_stamps
from pgqueue.store.jobs import cancel_jobs
from pgqueue.store.statement import Statement

__all__ = ["Control"]


class Control(Declining):
    """Revokes jobs.

    Args:
        results: of the application.
    """

    DECLINED = CONTROL

    def __init__(self, results: Results) -> None:
        self._results = results

    def revoke(
        self,
        ids: "str | AsyncResult[Any] | Iterable[str | AsyncResult[Any]]",
        terminate: bool = False,
        **declined: Any,
    ) -> dict[str, str]:
        """Cancel jobs: durably, and at once those that do not run.

        Args:
            ids: one task_id or result, or several.
            terminate: stop those that run, too.

        Returns:
            task_id to "cancelled", "asked" (it runs and will be stopped) or "running" (it runs, and `terminate` was not
            given); unknown and finished ids are absent.

        Raises:
            ValidationError: one is no task_id.
            UnsupportedOption: an option of Celery's revoke() that is not honoured.
        """
        refuse_revoke(declined)
        names, statement = self._statement(ids, terminate)
        return {names[job_id]: outcome for job_id, outcome in self._results.database.run(statement).items()}

    async def arevoke(
        self,
        ids: "str | AsyncResult[Any] | Iterable[str | AsyncResult[Any]]",
        terminate: bool = False,
        **declined: Any,
    ) -> dict[str, str]:
        """revoke() for async code."""
        refuse_revoke(declined)
        names, statement = self._statement(ids, terminate)
        return {names[job_id]: outcome for job_id, outcome in (await self._results.database.arun(statement)).items()}

    def revoke_by_stamped_headers(
        self, headers: Mapping[str, Any], terminate: bool = False, **declined: Any
    ) -> dict[str, str]:
        """Cancel the jobs that have one of these stamps; those that are enqueued later are not concerned.

        Args:
            headers: stamps by their names: the value, or a list, tuple or set of values.
            terminate: as in revoke().

        Returns:
            As revoke().

        Raises:
            ValidationError: headers is no dict.
            UnsupportedOption: as in revoke().
        """
        refuse_revoke(declined)
        return self.revoke(self._results.database.run(self._stamped(headers)), terminate)

    async def arevoke_by_stamped_headers(
        self, headers: Mapping[str, Any], terminate: bool = False, **declined: Any
    ) -> dict[str, str]:
        """revoke_by_stamped_headers() for async code."""
        refuse_revoke(declined)
        ids: list[str] = await self._results.database.arun(self._stamped(headers))
        return await self.arevoke(ids, terminate)

    def _stamped(self, headers: Any) -> Statement[list[str]]:
        if not isinstance(headers, Mapping):
            raise ValidationError(f"headers: expected a dict of stamps, got {type(headers).__name__}")
        several = (list, tuple, set, frozenset)
        wanted = {name: list(one) if isinstance(one, several) else [one] for name, one in headers.items()}
        return jobs_by_stamps(self._results.database.queries, encode_result(wanted) or "{}")

    def _statement(self, ids: Any, terminate: bool) -> Any:
        given = [ids] if isinstance(ids, str | AsyncResult) else list(ids)
        names = {}
        for one in given:
            task_id, job_id, _ = task_identity(one.id if isinstance(one, AsyncResult) else one)
            names[job_id] = task_id
        return names, cancel_jobs(self._results.database.queries, list(names), terminate, self._results.keep())
