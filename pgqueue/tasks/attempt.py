"""What a task can do inside its body: look at its request, ask for a retry, report progress."""

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, NoReturn, Protocol, Unpack
from zoneinfo import ZoneInfo

import pgqueue.errors as errors
from pgqueue.canvas.replacement import stand_in
from pgqueue.canvas.sender import Sender
from pgqueue.canvas.signatures import Signature
from pgqueue.codec import encode_call, encode_result
from pgqueue.declined.attributes import TASK, Declining
from pgqueue.errors import ValidationError
from pgqueue.options.options import RetryOptions, check_retry_options, read_call
from pgqueue.options.values import instant, seconds
from pgqueue.request import Request, current_request

__all__ = ["Attempt"]

_OWN_STATES = frozenset({"PENDING", "RECEIVED", "STARTED", "RETRY", "SUCCESS", "FAILURE", "REVOKED"})


class Owner(Protocol):
    """The application, as far as a running task needs it."""

    @property
    def zone(self) -> ZoneInfo: ...


class Client(Sender, Protocol):
    """The application, as far as a running task sends something."""

    def report(self, job_id: str, token: int, progress: str) -> None: ...


class Attempt(Declining):
    """The side of a task that its own body sees, as `self` with bind=True."""

    DECLINED = TASK
    MaxRetriesExceededError = errors.MaxRetriesExceededError

    name: str
    max_retries: int
    default_retry_delay: float
    time_limit: float | None
    soft_time_limit: float | None
    _client: Client
    app: Owner
    fits: Callable[[Sequence[Any], Mapping[str, Any]], None]

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if not cls.__module__.startswith("pgqueue."):
            raise errors.UnsupportedOption(
                f"class {cls.__name__}(Task) is not supported: there are no task base classes in this release;"
                " write @app.task over a function, and a decorator around it for what tasks share"
            )

    @property
    def request(self) -> Request:
        """The job that runs here; outside of one, an empty request."""
        return current_request.get() or Request()

    def retry(
        self,
        args: Sequence[Any] | None = None,
        kwargs: Mapping[str, Any] | None = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: datetime | str | None = None,
        countdown: float | timedelta | None = None,
        max_retries: int | None = None,
        **options: Unpack[RetryOptions],
    ) -> errors.Retry:
        """End this attempt and run the job again later.

        Args:
            args, kwargs: of the next attempt; default: the same.
            exc: why; raised instead when no retry is left. Default: the error being handled.
            throw: False returns the Retry instead of raising it.
            eta, countdown: when; default: countdown=default_retry_delay.
            max_retries: instead of the task's, for this decision; None takes the job's or the task's.
            options: queue, priority, expires, time_limit, soft_time_limit, ignore_result of the next attempt.

        Raises:
            Retry: for the worker, which puts the job back.
            MaxRetriesExceededError: no retry is left and there is no error to raise instead.
        """
        request = self.request
        check_retry_options(options, f"{self.name}.retry()")
        if request.called_directly:
            _raise_again(exc or errors.Retry("task can be retried, but runs outside of a worker"))
        limit = max_retries
        if limit is None:
            limit = self.max_retries if request.max_retries is None else request.max_retries
        if request.retries >= limit:
            if exc is not None:
                _raise_again(exc)
            handled = sys.exc_info()[1]
            times = "once" if request.retries == 1 else f"{request.retries} times"
            said = f"can't retry {self.name}[{request.id}]: it was retried {times}"
            raise self.MaxRetriesExceededError(said) from handled
        when: float | datetime = self.default_retry_delay
        try:
            if eta is not None and countdown is not None:
                raise ValueError("give countdown or eta, not both")
            if countdown is not None:
                when = seconds(countdown)
        except ValueError as error:
            raise ValidationError(f"countdown: {error}") from None
        call = read_call({**options, "eta": eta}, self.app.zone, self.soft_time_limit, self.time_limit)
        ret = errors.Retry(
            exc=exc or _handled(), when=call.eta or when, changes=self._changes(request, args, kwargs, options, call)
        )
        if throw:
            raise ret
        return ret

    def snooze(self, countdown: float | timedelta | None = None, eta: datetime | str | None = None) -> NoReturn:
        """End this attempt and run the job later, as if the attempt had not been: it costs no retry.

        Args:
            countdown: seconds or a timedelta from now.
            eta: the same as an instant; a naive one is in the app's time zone.

        Raises:
            Snooze: for the worker, which puts the job back.
            ValidationError: neither is given, or both, or a wrong value.
        """
        try:
            if (countdown is None) == (eta is None):
                raise ValueError("give countdown or eta")
            when = seconds(countdown) if eta is None else instant(eta, self.app.zone)
        except ValueError as error:
            raise ValidationError(f"snooze: {error}") from None
        raise errors.Snooze(when)

    def _changes(
        self, request: Request, args: Sequence[Any] | None, kwargs: Mapping[str, Any] | None, options: Any, call: Any
    ) -> dict[str, Any] | None:
        changes: dict[str, Any] = {}
        if args is not None or kwargs is not None:
            args = request.args if args is None else args
            kwargs = request.kwargs if kwargs is None else kwargs
            self.fits(args, kwargs)
            args_text, kwargs_text = encode_call(args, kwargs)
            changes = {"args": args_text or "[]", "kwargs": kwargs_text or "{}"}
        if call.queue is not None:
            changes["queue"] = call.queue
        if call.priority is not None:
            changes["priority"] = call.priority
        if call.expires_at is not None:
            changes["expires_in"] = max((call.expires_at - datetime.now(UTC)).total_seconds(), 0.0)
        elif call.expires_in is not None:
            changes["expires_in"] = call.expires_in
        if call.options is not None:
            hard, soft = request.timelimit
            before = {"time_limit": hard, "soft_time_limit": soft, "ignore_result": request.ignore_result}
            if request.max_retries is not None:
                before["max_retries"] = request.max_retries
            changes["options"] = {**request.options, **before, **json.loads(call.options)}
        return changes or None

    def replace(self, sig: Signature[Any]) -> Any:
        """End this attempt, and let a signature give this job's result: whoever waits for the job waits for it.

        The job waits, without a worker, until the signature's last task has ended, and ends as that one does: what
        follows the job in a chain or a chord, and its callbacks, go on from there. A group gives the list of its
        results. Of a transactional task the work so far, and the new jobs, commit together.

        Args:
            sig: a signature or a canvas.

        Returns:
            Under apply() the result of the signature, run inline; else it does not return.

        Raises:
            Replaced: for the worker, which puts the new jobs in this one's place.
            ValidationError: in a direct call there is no job to replace.
        """
        request = self.request
        if request.is_eager:
            return sig.apply().get()
        if request.called_directly or request.token is None:
            raise ValidationError(f"replace: no job of {self.name} runs here; call the task through a worker")
        made = stand_in(sig, self._client)
        raise errors.Replaced(made.parameters(self._client.results.keep()))

    def add_to_chord(self, sig: Signature[Any]) -> Any:
        """Enqueue a signature as one more member of the chord of which this job is a member.

        The chord's body waits for it too; its result comes after those of the others.

        Args:
            sig: a signature or a canvas.

        Returns:
            The new member's result.

        Raises:
            ValidationError: this job is no member of a chord that still waits.
        """
        made = stand_in(sig, self._client)
        self._client.add_member(made.workflow, self._member_id(), made.last_id)
        return made.result

    async def aadd_to_chord(self, sig: Signature[Any]) -> Any:
        """add_to_chord() for coroutines."""
        made = stand_in(sig, self._client)
        await self._client.aadd_member(made.workflow, self._member_id(), made.last_id)
        return made.result

    def _member_id(self) -> str:
        request = self.request
        if request.called_directly or request.is_eager or request.id is None:
            raise ValidationError(f"add_to_chord: no job of {self.name} runs here that is a member of a chord")
        return request.id

    def update_state(self, task_id: str | None = None, state: str | None = None, meta: Any = None) -> None:
        """Report the progress of this job: its readers see it at once, until it ends.

        Args:
            task_id: only this job's own id is understood; None means it.
            state: a name of your own; default "PROGRESS". The names of ends (SUCCESS, FAILURE, REVOKED) are refused.
            meta: JSON value, to be read as AsyncResult.info.

        Under apply() and in a direct call there is no job, and nothing happens.

        Raises:
            ValidationError: a wrong state, another job's id, or a meta without a JSON form.
        """
        state = state or "PROGRESS"
        if not isinstance(state, str) or not state.isprintable() or len(state) > 64:
            raise ValidationError("state: expected a name of 1 to 64 characters")
        if state in _OWN_STATES:
            raise ValidationError(f"state: {state} is set by the worker alone; choose a name of your own")
        request = self.request
        if task_id is not None and task_id != request.id:
            raise ValidationError(f"task_id: {self.name} can report the progress of its own job only")
        progress = f'{{"state":{json.dumps(state)},"meta":{encode_result(meta) or "null"}}}'
        if request.id is not None and request.token is not None:
            self._client.report(request.id, request.token, progress)


def _handled() -> BaseException | None:
    return sys.exc_info()[1]


def _raise_again(error: BaseException) -> NoReturn:
    """Raise an error, as the one being handled if it is that, else as its consequence."""
    handled = sys.exc_info()[1]
    if handled is None or handled is error:
        raise error
    raise error from handled
