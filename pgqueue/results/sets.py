"""ResultSet: the outcomes of several jobs as if they were one."""

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Generic, TypeVar

from pgqueue.declined.attributes import RESULT, Declining
from pgqueue.errors import TimeoutError
from pgqueue.results.result import AsyncResult, HasResults, Results
from pgqueue.results.waiting import check_timeout, kept_after, state_of
from pgqueue.store.families import forget_jobs, get_outcomes
from pgqueue.store.jobs import OutcomeRow, cancel_jobs
from pgqueue.store.statement import Statement

__all__ = ["ResultSet"]

R_co = TypeVar("R_co", covariant=True)
_PIECE = 5_000  # outcomes in one answer
_FIRST_LOOK = 100


class ResultSet(Declining, Generic[R_co]):
    """Results of several jobs, in order.

    Args:
        results: AsyncResult or GroupResult each.
        app: the application; needed for results that are given by their ids.
    """

    DECLINED = RESULT

    def __init__(self, results: Iterable[Any] = (), app: "Results | HasResults | None" = None) -> None:
        self._source = None if app is None else app if isinstance(app, Results) else app.results
        self.results: list[Any] = list(results)

    # members

    def add(self, result: Any) -> None:
        """Add a result, unless it is a member."""
        if result not in self.results:
            self.results.append(result)

    def remove(self, result: Any) -> None:
        """Take out a result, or the one of an id; KeyError if it is no member."""
        if isinstance(result, str):
            result = next((one for one in self.results if one.id == result), result)
        try:
            self.results.remove(result)
        except ValueError:
            raise KeyError(result) from None

    def discard(self, result: Any) -> None:
        """remove(), if it is a member."""
        if result in self.results or (isinstance(result, str) and any(one.id == result for one in self.results)):
            self.remove(result)

    def update(self, results: Iterable[Any]) -> None:
        """Add several."""
        for result in results:
            self.add(result)

    def clear(self) -> None:
        """Take out all."""
        self.results.clear()

    def __iter__(self) -> Iterator[Any]:
        return iter(self.results)

    def __len__(self) -> int:
        return len(self.results)

    def __getitem__(self, index: int) -> Any:
        return self.results[index]

    # looking

    def _jobs(self) -> list[AsyncResult[Any]]:
        """The jobs behind the members, those of groups among them too."""
        found: list[AsyncResult[Any]] = []
        for result in self.results:
            found.extend(result._jobs() if isinstance(result, ResultSet) else [result])
        return found

    def _questions(self) -> "Iterator[tuple[Results, Statement[dict[str, OutcomeRow]], list[AsyncResult[Any]]]]":
        """What to ask about all whose end was not seen yet, five thousand at a time."""
        pending = [job for job in self._jobs() if not job._settled]
        for start in range(0, len(pending), _PIECE):
            piece = pending[start : start + _PIECE]
            source, ids = piece[0]._source, [job.job_id for job in piece]
            yield source, get_outcomes(source.database.queries, ids, min(map(kept_after, ids))), piece

    def _look(self) -> list[str]:
        """The states of all jobs, in order."""
        rows: dict[str, OutcomeRow] = {}
        for source, statement, piece in self._questions():
            rows |= _keep(source.database.run(statement, statement), piece)
        return [job.state if job._settled else state_of(rows.get(job.job_id)) for job in self._jobs()]

    async def _alook(self) -> list[str]:
        rows: dict[str, OutcomeRow] = {}
        for source, statement, piece in self._questions():
            rows |= _keep(await source.database.arun(statement, statement), piece)
        return [job.state if job._settled else state_of(rows.get(job.job_id)) for job in self._jobs()]

    def ready(self) -> bool:
        """Whether all are finished."""
        return _OVER.issuperset(self._look())

    async def aready(self) -> bool:
        """ready() for async code."""
        return _OVER.issuperset(await self._alook())

    def waiting(self) -> bool:
        """Whether any is not finished."""
        return not self.ready()

    async def awaiting(self) -> bool:
        """waiting() for async code."""
        return not await self.aready()

    def successful(self) -> bool:
        """Whether all succeeded."""
        return {"SUCCESS"}.issuperset(self._look())

    async def asuccessful(self) -> bool:
        """successful() for async code."""
        return {"SUCCESS"}.issuperset(await self._alook())

    def failed(self) -> bool:
        """Whether any failed."""
        return "FAILURE" in self._look()

    async def afailed(self) -> bool:
        """failed() for async code."""
        return "FAILURE" in await self._alook()

    def completed_count(self) -> int:
        """How many succeeded."""
        return self._look().count("SUCCESS")

    async def acompleted_count(self) -> int:
        """completed_count() for async code."""
        return (await self._alook()).count("SUCCESS")

    def maybe_throw(self, callback: Callable[[str, Any], object] | None = None, propagate: bool = True) -> None:
        """Raise the first error that a member has ended with; does not wait."""
        self._look()
        for result in self.results:
            result.maybe_throw(callback=callback, propagate=propagate)

    maybe_reraise = maybe_throw

    # waiting

    def join(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        disable_sync_subtasks: bool = True,
        **declined: Any,
    ) -> list[Any]:
        """Wait for all and return their values in order.

        Args:
            timeout: seconds for all together; None waits for ever.
            propagate: raise the error of the first member, in order, that has one; False puts errors into the list.
            interval, disable_sync_subtasks: as in AsyncResult.get().
            callback: called with (id, value) of each; the list is empty then.

        Raises:
            As AsyncResult.get().
        """
        left = _budget(timeout)
        looks = _Looks()
        values: list[Any] = []
        for place, result in enumerate(self.results):
            if looks.due(place):
                ahead: ResultSet[Any] = ResultSet(self.results[place : place + looks.size])
                looks.note(ahead._jobs(), ahead._look())
            value = result.get(left(), propagate, interval, disable_sync_subtasks=disable_sync_subtasks, **declined)
            looks.got(place, result)
            _take(result, value, callback, values)
        return values

    async def ajoin(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        callback: Callable[[str, Any], object] | None = None,
        disable_sync_subtasks: bool = True,
        **declined: Any,
    ) -> list[Any]:
        """join() for async code."""
        left = _budget(timeout)
        looks = _Looks()
        values: list[Any] = []
        for place, result in enumerate(self.results):
            if looks.due(place):
                ahead: ResultSet[Any] = ResultSet(self.results[place : place + looks.size])
                looks.note(ahead._jobs(), await ahead._alook())
            value = await result.aget(
                left(), propagate, interval, disable_sync_subtasks=disable_sync_subtasks, **declined
            )
            looks.got(place, result)
            _take(result, value, callback, values)
        return values

    get = join_native = wait = join
    aget = ajoin_native = ajoin

    def iter_native(self, timeout: float | None = None, interval: float = 0.5) -> Iterator[tuple[str, dict[str, Any]]]:
        """Go through the members as they end, as (id, {"status": …, "result": …}).

        Args:
            timeout: seconds for all together.
            interval: longest pause between two looks, seconds.
        """
        left = _budget(timeout)
        waiting, pause = list(self.results), 0.005
        while waiting:
            ResultSet(waiting)._look()
            ended = [result for result in waiting if result.ready()]
            for result in ended:
                yield result.id, _meta(result)
            waiting = [result for result in waiting if result not in ended]
            if not waiting:
                return
            pause = 0.005 if ended else min(pause * 1.5, interval)
            rest = left()
            if rest is not None and rest <= 0:
                raise TimeoutError(f"{len(waiting)} jobs did not finish within {timeout:g} s")
            time.sleep(pause if rest is None else min(pause, rest))

    # ending

    def _rows(self) -> list[AsyncResult[Any]]:
        return [job for job in self._jobs() if job._has_row]

    def _forgotten(self) -> "tuple[Results, Statement[None]] | None":
        jobs = self._rows()
        for job in jobs:
            job._final = None
        if not jobs:
            return None
        source = jobs[0]._source
        return source, forget_jobs(source.database.queries, [job.job_id for job in jobs])

    def forget(self) -> None:
        """Delete the finished jobs and their results."""
        found = self._forgotten()
        if found is not None:
            found[0].database.run(found[1])

    async def aforget(self) -> None:
        """forget() for async code."""
        found = self._forgotten()
        if found is not None:
            await found[0].database.arun(found[1])

    def _revoked(self, terminate: bool) -> "tuple[Results, Statement[dict[str, str]]] | None":
        jobs = self._rows()
        if not jobs:
            return None
        source = jobs[0]._source
        return source, cancel_jobs(source.database.queries, [job.job_id for job in jobs], terminate, source.keep())

    def revoke(self, terminate: bool = False) -> int:
        """Cancel the jobs; see AsyncResult.revoke().

        Returns:
            How many were cancelled or asked to stop.
        """
        found = self._revoked(terminate)
        return _cancelled(found[0].database.run(found[1])) if found is not None else 0

    async def arevoke(self, terminate: bool = False) -> int:
        """revoke() for async code."""
        found = self._revoked(terminate)
        return _cancelled(await found[0].database.arun(found[1])) if found is not None else 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, ResultSet) and self.results == other.results

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: [{', '.join(result.id for result in self.results)}]>"


_OVER = frozenset({"SUCCESS", "FAILURE", "REVOKED", "IGNORED", "REJECTED"})


class _Looks:
    """When a join asks for the next members at once: for more while they turn out to be over, afresh after a wait."""

    def __init__(self) -> None:
        self.size = _FIRST_LOOK
        self._next = 0
        self._over: set[str] = set()

    def due(self, place: int) -> bool:
        if place < self._next:
            return False
        if place and self._over:
            self.size = min(self.size * 2, _PIECE)
        self._next = place + self.size
        return True

    def note(self, jobs: Sequence[AsyncResult[Any]], states: Sequence[str]) -> None:
        self._over = {job.job_id for job, state in zip(jobs, states, strict=True) if state in _OVER}

    def got(self, place: int, result: Any) -> None:
        """After a member that had to be waited for, the next ones are looked at afresh."""
        if isinstance(result, AsyncResult) and result.job_id not in self._over:
            self.size, self._next, self._over = _FIRST_LOOK, place + 1, set()


def _budget(timeout: float | None) -> Callable[[], float | None]:
    check_timeout(timeout)
    if timeout is None:
        return lambda: None
    end = time.monotonic() + timeout
    return lambda: max(end - time.monotonic(), 0.0)


def _keep(rows: dict[str, OutcomeRow], piece: Sequence[AsyncResult[Any]]) -> dict[str, OutcomeRow]:
    for job in piece:
        job._keep(rows.get(job.job_id))
    return rows


def _cancelled(found: dict[str, str]) -> int:
    return sum(outcome in ("cancelled", "asked") for outcome in found.values())


def _take(result: Any, value: Any, callback: Callable[[str, Any], object] | None, values: list[Any]) -> None:
    if callback is not None:
        callback(result.id, value)
    else:
        values.append(value)


def _meta(result: Any) -> dict[str, Any]:
    if isinstance(result, ResultSet):
        return {"status": "SUCCESS" if result.successful() else "FAILURE", "result": result.join(propagate=False)}
    return {"status": result.state, "result": result.result}
