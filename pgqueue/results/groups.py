"""GroupResult: the results of a group's members, by the id of the group."""

from collections.abc import Iterable, Sequence
from typing import Any, TypeVar

from pgqueue.errors import PgQueueError
from pgqueue.job import as_job_id
from pgqueue.results.result import AsyncResult, HasResults, Results
from pgqueue.results.sets import ResultSet
from pgqueue.store.families import members_of_group
from pgqueue.store.statement import Statement

__all__ = ["GroupResult", "GroupResults", "result_from_tuple"]

R_co = TypeVar("R_co", covariant=True)


class GroupResult(ResultSet[R_co]):
    """The results of a group's members, in the order of the group.

    Args:
        id: of the group.
        results: of the members.
        parent: result of what came before the group in a chain.
        app: the application.
    """

    def __init__(
        self,
        id: str,
        results: Iterable[Any] = (),
        parent: Any = None,
        app: "Results | HasResults | None" = None,
    ) -> None:
        super().__init__(results, app)
        self.id = id
        self.parent = parent

    @property
    def children(self) -> list[Any]:
        """The members."""
        return self.results

    def as_tuple(self) -> tuple[Any, Any]:
        """Return the ids as nested tuples, for result_from_tuple()."""
        return (self.id, self.parent and self.parent.as_tuple()), [result.as_tuple() for result in self.results]

    def as_list(self) -> list[str]:
        """Return the ids of the group and its parents."""
        return [self.id, *(self.parent.as_list() if self.parent is not None else [])]

    def save(self) -> None:
        """Nothing is left to do: the members of a group are rows, which restore() finds as long as they are kept."""

    def delete(self) -> None:
        """Nothing was saved; forget() deletes what the members left."""

    @classmethod
    def restore(cls, id: str, app: "Results | HasResults") -> "GroupResult[Any] | None":
        """Return the result of a group by its id: those of its members, in their order, of groups in it one by one.

        Args:
            id: of the group.
            app: the application.

        Returns:
            The result; None for an id that no kept workflow has.
        """
        source = app if isinstance(app, Results) else app.results
        return cls._of(id, source, source.database.run(_members(source, id)))

    @classmethod
    async def arestore(cls, id: str, app: "Results | HasResults") -> "GroupResult[Any] | None":
        """restore() for async code."""
        source = app if isinstance(app, Results) else app.results
        return cls._of(id, source, await source.database.arun(_members(source, id)))

    @classmethod
    def _of(cls, id: str, source: Results, job_ids: Sequence[str]) -> "GroupResult[Any] | None":
        members: list[AsyncResult[Any]] = [AsyncResult.of_enqueued(job_id, job_id, source, None) for job_id in job_ids]
        return cls(id, members, app=source) if members else None

    def __bool__(self) -> bool:
        return True

    def __eq__(self, other: object) -> bool:
        return isinstance(other, GroupResult) and (self.id, self.results) == (other.id, other.results)

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id} [{', '.join(result.id for result in self.results)}]>"

    def __reduce__(self) -> Any:
        return GroupResult, (self.id, self.results, self.parent)


class GroupResults:
    """What app.GroupResult is: calling it makes the result of a group; restore() finds it.

    Args:
        source: of the application.
    """

    def __init__(self, source: Results) -> None:
        self._source = source

    def __call__(self, id: str, results: Iterable[Any] = (), parent: Any = None) -> GroupResult[Any]:
        """Return the result of a group from those of its members."""
        return GroupResult(id, results, parent, self._source)

    def restore(self, id: str) -> GroupResult[Any] | None:
        """Return the result of a group by its id; see GroupResult.restore()."""
        return GroupResult.restore(id, self._source)

    async def arestore(self, id: str) -> GroupResult[Any] | None:
        """restore() for async code."""
        return await GroupResult.arestore(id, self._source)


def _members(source: Results, id: str) -> Statement[Sequence[str]]:
    return members_of_group(source.database.queries, as_job_id(id)[0], id)


def result_from_tuple(found: Any, app: "Results | HasResults") -> Any:
    """Return the AsyncResult or GroupResult that as_tuple() described, also after a trip through JSON.

    Args:
        found: the tuple, or a result, which is returned as it is.
        app: the application.
    """
    if isinstance(found, AsyncResult | GroupResult):
        return found
    try:
        head, members = found
        own_id, parent = head if isinstance(head, list | tuple) else (head, None)
    except (TypeError, ValueError):
        raise PgQueueError("result_from_tuple(): expected what as_tuple() gives") from None
    above = result_from_tuple(parent, app) if parent else None
    if members is None:
        return AsyncResult(own_id, app, above)
    return GroupResult(own_id, [result_from_tuple(one, app) for one in members], above, app)
