"""AsyncResult: a job's state and outcome by its id, from any process."""

import json
import weakref
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Generic, Protocol, TypeVar, cast

import pgqueue.errors as errors
from pgqueue.codec import decode_error, decode_result
from pgqueue.declined.attributes import RESULT, Declining
from pgqueue.declined.options import DECLINED_GET_OPTIONS, DECLINED_RESULT_OPTIONS, DECLINED_REVOKE_OPTIONS
from pgqueue.errors import PgQueueError, TaskRevokedError, UnsupportedOption
from pgqueue.job import JobState
from pgqueue.options.options import task_identity
from pgqueue.request import current_request
from pgqueue.results.details import Details
from pgqueue.results.families import Family
from pgqueue.results.waiting import alook, await_end, is_over, look, state_of, wait_for_end
from pgqueue.store.database import Database
from pgqueue.store.jobs import OutcomeRow, cancel_jobs, forget_job, last_error

__all__ = ["AsyncResult", "HasResults", "InTransaction", "Results", "refuse_revoke", "source_of"]

R_co = TypeVar("R_co", covariant=True)


class InTransaction(Protocol):
    """The connection on which a job was enqueued."""

    @property
    def in_transaction(self) -> bool: ...


class HasResults(Protocol):
    """An application, as AsyncResult sees it."""

    @property
    def results(self) -> "Results": ...


class Results:
    """Where the results of one application are.

    Args:
        name: of the application; a pickled AsyncResult finds it again by it.
        database: opens the database; called when it is first needed.
        keep: gives the seconds that a cancelled job is kept, or None.
        known: gives the application's exception class of a name, or None.
    """

    def __init__(
        self,
        name: str,
        database: Callable[[], Database],
        keep: Callable[[], float | None],
        known: Callable[[str], type[BaseException] | None],
    ) -> None:
        self.name = name
        self.keep = keep
        self.known = known
        self._open = database
        _sources[name] = self

    @property
    def database(self) -> Database:
        """The database, opened now if it was not."""
        return self._open()


_sources: weakref.WeakValueDictionary[str, Results] = weakref.WeakValueDictionary()


def _restored(line: Sequence[str], name: str, above: Any) -> Any:
    source, found = source_of(name), above
    for task_id in reversed(line):
        found = AsyncResult(task_id, source, found)
    return found


def source_of(name: str | None) -> Results:
    """The results of the application of this name in this process, or of the only one there is."""
    source = None if name is None else _sources.get(name)
    if source is None and len(_sources) == 1:
        source = next(iter(_sources.values()), None)
    if source is None and name is None:
        raise PgQueueError(
            f"AsyncResult: which of {len(_sources)} applications? Pass app=…, or call app.AsyncResult(id)"
        )
    if source is None:
        raise PgQueueError(f"a result of the application {name!r} was unpickled where there is no such application")
    return source


class AsyncResult(Family, Details, Declining, Generic[R_co]):
    """The outcome of a job, now or later. Equal, hashed and pickled by its id.

    Args:
        id: the task_id, as it was given or returned at the enqueue.
        app: the application; default: the only one in this process.
        parent: the result of what came before it in a chain, or of the header of its chord.

    Reading state, result, info and traceback asks the database each time until the job is finished.
    """

    __slots__ = ("_final", "_source", "_transaction", "id", "job_id", "parent")
    DECLINED = RESULT
    TimeoutError = errors.TimeoutError
    _has_row = True

    def __init__(self, id: str, app: "Results | HasResults | None" = None, parent: Any = None, **declined: Any) -> None:
        _refuse("AsyncResult", declined, DECLINED_RESULT_OPTIONS)
        self.id, self.job_id, _ = task_identity(id)
        self.parent = parent
        self._source = source_of(None) if app is None else app if isinstance(app, Results) else app.results
        self._transaction: InTransaction | None = None
        self._final: OutcomeRow | None = None

    @classmethod
    def of_enqueued(
        cls, task_id: str, job_id: str, source: Results, transaction: InTransaction | None
    ) -> "AsyncResult[R_co]":
        """The result of a job just enqueued, without checks of its id."""
        self = cls.__new__(cls)
        self.id = task_id
        self.job_id = job_id
        self._source = source
        self._transaction = transaction
        self._final = None
        self.parent = None
        return self

    def _relative(self, job_id: str) -> "AsyncResult[Any]":
        return AsyncResult.of_enqueued(job_id, job_id, self._source, None)

    # looking

    def _look(self) -> OutcomeRow | None:
        return self._final or self._keep(look(self._source.database, self.job_id))

    async def _alook(self) -> OutcomeRow | None:
        return self._final or self._keep(await alook(self._source.database, self.job_id))

    @property
    def _settled(self) -> bool:
        """Whether its end was seen, so that nothing has to be asked."""
        return self._final is not None

    def _keep(self, row: OutcomeRow | None) -> OutcomeRow | None:
        if row is not None and row.state in ("succeeded", "failed"):
            self._final = row
        return row

    @property
    def task_id(self) -> str:
        """The id."""
        return self.id

    @property
    def state(self) -> str:
        """PENDING, STARTED, RETRY, SUCCESS, FAILURE, REVOKED, or what update_state() set; PENDING for an unknown id."""
        return state_of(self._look())

    async def astate(self) -> str:
        """`state` for async code."""
        return state_of(await self._alook())

    status = state

    @property
    def result(self) -> Any:
        """The value returned, the error raised, the meta data of a custom state; None when there is nothing yet."""
        row = self._look()
        if state_of(row) == "RETRY":
            statement = last_error(self._source.database.queries, self.job_id)
            return self._last(self._source.database.run(statement, statement))
        return self._info(row)

    info = result

    async def aresult(self) -> Any:
        """`result` for async code."""
        row = await self._alook()
        if state_of(row) == "RETRY":
            statement = last_error(self._source.database.queries, self.job_id)
            return self._last(await self._source.database.arun(statement, statement))
        return self._info(row)

    def _last(self, found: tuple[str | None, str | None]) -> BaseException | None:
        return None if found[0] is None else self._error(found[0], found[1])

    def _info(self, row: OutcomeRow | None) -> Any:
        if row is None:
            return None
        if row.state == JobState.SUCCEEDED:
            return decode_result(row.result)
        if row.state == JobState.RUNNING:
            return decode_result(json.dumps(json.loads(row.progress).get("meta"))) if row.progress else None
        if row.state == JobState.FAILED:
            return self._error(row.error, row.traceback)
        if row.state in (JobState.CANCELLED, JobState.EXPIRED):
            return TaskRevokedError("expired before it could start" if row.state == "expired" else "cancelled")
        return None

    def _error(self, text: str | None, traceback: str | None) -> BaseException:
        error = decode_error(text, self._source.known)
        if traceback:
            error.add_note(f"\nTraceback in the worker:\n{traceback.rstrip()}")
        return error

    @property
    def traceback(self) -> str | None:
        """The traceback of the error, as text."""
        row = self._look()
        return row.traceback if row else None

    def ready(self) -> bool:
        """Whether the job is finished: succeeded, failed, cancelled or expired."""
        return is_over(self._look())

    async def aready(self) -> bool:
        """ready() for async code."""
        return is_over(await self._alook())

    def successful(self) -> bool:
        """Whether it succeeded."""
        return self.state == "SUCCESS"

    async def asuccessful(self) -> bool:
        """successful() for async code."""
        return await self.astate() == "SUCCESS"

    def failed(self) -> bool:
        """Whether it failed."""
        return self.state == "FAILURE"

    async def afailed(self) -> bool:
        """failed() for async code."""
        return await self.astate() == "FAILURE"

    def exists(self) -> bool:
        """Whether a job of this id is kept; only this tells a job in line from an id that nobody knows."""
        return self._look() is not None

    async def aexists(self) -> bool:
        """exists() for async code."""
        return await self._alook() is not None

    # waiting

    def get(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        disable_sync_subtasks: bool = True,
        **declined: Any,
    ) -> R_co:
        """Wait for the end of the job and return what it returned.

        Args:
            timeout: seconds to wait; None waits for ever, 0 only looks.
            propagate: raise the job's error; False returns it.
            interval: longest pause in seconds between two looks where notifications do not arrive (a pooler).
            disable_sync_subtasks: False allows waiting inside a task, which may wait for ever when all workers do.

        Raises:
            TimeoutError: it did not finish in time.
            RuntimeError: called inside a task, or inside the transaction in which the job was enqueued.
            TaskRevokedError: it was cancelled or expired.
            Exception: what the task raised, if its type is known here; else RemoteError.
        """
        self._refuse(disable_sync_subtasks, declined)
        row = self._look()
        if not is_over(row):
            self._refuse_own_transaction(row)
            row = wait_for_end(self._source.database, self.job_id, timeout, interval, self.id)
        return self._value(row, propagate)

    async def aget(
        self,
        timeout: float | None = None,
        propagate: bool = True,
        interval: float = 0.5,
        disable_sync_subtasks: bool = True,
        **declined: Any,
    ) -> R_co:
        """get() for async code."""
        self._refuse(disable_sync_subtasks, declined)
        row = await self._alook()
        if not is_over(row):
            self._refuse_own_transaction(row)
            row = await await_end(self._source.database, self.job_id, timeout, interval, self.id)
        return self._value(row, propagate)

    wait = get

    def maybe_throw(self, propagate: bool = True, callback: Callable[[str, Any], object] | None = None) -> Any:
        """Raise the job's error if it has ended with one; else return its value so far. Does not wait.

        Args:
            propagate: False returns the error.
            callback: called with the id and the value.
        """
        row = self._look()
        value = self._value(row, propagate) if is_over(row) else self._info(row)
        if callback is not None:
            callback(self.id, value)
        return value

    maybe_reraise = maybe_throw

    def _value(self, row: OutcomeRow | None, propagate: bool) -> R_co:
        value: Any = self._info(self._keep(row))
        if propagate and row is not None and row.state not in (JobState.SUCCEEDED, JobState.SKIPPED):
            raise value
        return cast(R_co, value)

    def _refuse(self, disable_sync_subtasks: bool, declined: dict[str, Any]) -> None:
        _refuse("get", declined, DECLINED_GET_OPTIONS)
        request = current_request.get()
        if disable_sync_subtasks and request is not None and not (request.called_directly or request.is_eager):
            raise RuntimeError(
                "Never call result.get() within a task: when all workers wait, none is left to run what they wait for."
                " Enqueue what follows at the end of the other task; or pass disable_sync_subtasks=False"
            )

    def _refuse_own_transaction(self, row: OutcomeRow | None) -> None:
        if row is None and self._transaction is not None and self._transaction.in_transaction:
            raise RuntimeError(
                f"job {self.id} was enqueued in a transaction that is still open: it cannot run before the commit."
                " Commit first, then wait for the result"
            )

    # ending

    def forget(self) -> None:
        """Delete the finished job and its result; nothing happens to one that is not finished."""
        self._final = None
        self._source.database.run(forget_job(self._source.database.queries, self.job_id))

    async def aforget(self) -> None:
        """forget() for async code."""
        self._final = None
        await self._source.database.arun(forget_job(self._source.database.queries, self.job_id))

    def revoke(self, terminate: bool = False, **declined: Any) -> bool:
        """Cancel the job: durably, and at once if it is not running.

        Args:
            terminate: stop it also when it runs; its worker does so as its pool can.

        Returns:
            Whether it was cancelled or asked to stop; False when it runs (without `terminate`), is finished or unknown.
        """
        refuse_revoke(declined)
        database = self._source.database
        found = database.run(cancel_jobs(database.queries, [self.job_id], terminate, self._source.keep()))
        return found.get(self.job_id) in ("cancelled", "asked")

    async def arevoke(self, terminate: bool = False, **declined: Any) -> bool:
        """revoke() for async code."""
        refuse_revoke(declined)
        database = self._source.database
        found = await database.arun(cancel_jobs(database.queries, [self.job_id], terminate, self._source.keep()))
        return found.get(self.job_id) in ("cancelled", "asked")

    def __eq__(self, other: object) -> bool:
        return isinstance(other, AsyncResult) and self.id == other.id

    def __hash__(self) -> int:
        return hash(self.id)

    def __str__(self) -> str:
        return self.id

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.id}>"

    def __reduce__(self) -> Any:
        # The whole line at once: a long chain must not be as many levels of recursion.
        line, node = [self.id], self.parent
        while type(node) is AsyncResult:
            line.append(node.id)
            node = node.parent
        return _restored, (line, self._source.name, node)


def refuse_revoke(declined: dict[str, Any]) -> None:
    """Refuse what Celery's revoke() takes and ours does not."""
    _refuse("revoke", declined, DECLINED_REVOKE_OPTIONS)


def _refuse(function: str, given: Mapping[str, Any], ways_out: Mapping[str, str]) -> None:
    for name in given:
        if name not in ways_out:
            raise TypeError(f"{function}() got an unexpected keyword argument {name!r}")
        raise UnsupportedOption(f"{function}(): {name} is not supported: {ways_out[name]}")
