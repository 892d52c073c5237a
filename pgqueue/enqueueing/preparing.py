"""Making jobs of calls: options, routes and arguments are checked; what is the same in all calls is found out once."""

import inspect
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, NamedTuple, cast
from zoneinfo import ZoneInfo

from pgqueue.canvas.signatures import Signature
from pgqueue.codec import encode_call
from pgqueue.errors import ConfigurationError, ValidationError
from pgqueue.job import NewJob, new_job_id, new_job_ids
from pgqueue.options.options import CallOptions, check_call_options, read_call
from pgqueue.options.values import task_name
from pgqueue.request import current_request
from pgqueue.tasks.repeated import fit_each
from pgqueue.tasks.routing import Router
from pgqueue.tasks.task import Plan, Task

__all__ = ["Args", "Kwargs", "Prepared", "Preparer", "ancestry", "simple_job"]

_CLEARED_BY_NONE = frozenset({"expires", "time_limit", "soft_time_limit"})
Args = Sequence[Any]
Kwargs = Mapping[str, Any]


class Prepared(NamedTuple):
    """A job ready to be inserted."""

    job: NewJob
    task_id: str
    duplicate: str  # "raise" or "return"
    connection: Any


class Preparer:
    """Makes the jobs of one application.

    Args:
        conf: the settings.
        tasks: the registry.
        zone: of naive instants.
        begin: freezes the settings; called before the first enqueue.
        embedded: whether a worker of this application runs in this process, so that tasks of __main__ can run.
    """

    def __init__(
        self,
        conf: Any,
        tasks: Mapping[str, Task[..., Any]],
        zone: Callable[[], ZoneInfo],
        begin: Callable[[], None],
        embedded: Callable[[], bool],
    ) -> None:
        self._conf = conf
        self._tasks = tasks
        self._zone = zone
        self._begin = begin
        self._embedded = embedded
        self._router: Router | None = None
        self._unknown_plans: dict[str, Plan] = {}

    @property
    def conf(self) -> Any:
        """The settings."""
        return self._conf

    def signature_of(self, name: str) -> inspect.Signature | None:
        """The parameters of a task's function without the task itself; None of a task that is not registered here."""
        task = self._tasks.get(name)
        return None if task is None else task.signature_of_call

    def ignores_result(self, name: str) -> bool:
        """Whether calls of a task keep no result unless they say so."""
        task = self._tasks.get(name)
        return bool(self._conf.task_ignore_result if task is None else task.ignore_result)

    def plan(self, task: Task[..., Any]) -> Plan:
        """What is the same in all calls of a task."""
        own: dict[str, Any] = {}
        for name in ("queue", "priority", "expires"):
            value = getattr(task, name)
            if value is not None:
                own[name] = value
        plan = self._plan(task.name, own, task)
        return plan._replace(simple=plan.simple and not self._conf.task_always_eager and not _of_main(task))

    def _plan(self, name: str, own: dict[str, Any], task: Any = None) -> Plan:
        conf, router = self._conf, self._routes()
        route = router.route(name, task=task) if router.by_name else {}
        check_call_options(route, f"the route of {name!r}")
        options: dict[str, Any] = {**route, **own}
        call = read_call(options, self._zone(), None, None)
        queue = call.queue or conf.task_default_queue
        router.check_queue(queue)
        simple = router.by_name and options.keys() <= {"queue", "priority", "expires"} and call.expires_at is None
        simple = simple and not (conf.task_inherit_parent_priority and call.priority is None)
        priority = conf.task_default_priority if call.priority is None else call.priority
        return Plan(simple, cast(CallOptions, options), queue, priority, call.expires_in)

    def _routes(self) -> Router:
        if self._router is None:
            conf = self._conf
            self._router = Router(conf.task_routes, None if conf.task_create_missing_queues else conf.task_queues)
        return self._router

    def prepare_step(
        self,
        name: str,
        args: Args,
        kwargs: Kwargs,
        options: CallOptions,
        before: int = 0,
        named: Iterable[str] = (),
    ) -> NewJob:
        """Make the job of a step of a workflow.

        Args:
            name, args, kwargs, options: of the call.
            before: how many arguments other steps will put before its own.
            named: keyword arguments that other steps will give.
        """
        if not options:
            self._begin()
            task = self.simple_task(name)
            if task is not None:
                _check_fit(task, args, kwargs, before, named)
                return simple_job(new_job_id(), name, task.plan, args, kwargs)
        return self.prepare(name, args, kwargs, options, before, named).job

    def prepare_members(
        self,
        calls: Sequence[Signature[Any]],
        before: bool,
        given: CallOptions,
        options: str | None,
        root_id: str | None,
        parent_id: str | None,
    ) -> list[NewJob] | None:
        """Make the jobs of many calls with the same options at once; None if their tasks need more than that.

        Args:
            calls: the calls.
            before: whether another step will put an argument before those of each call that is not immutable.
            given: options of all, none of which ends in the job's own options.
            options: of all, as JSON text.
            root_id, parent_id: of all that are not made inside a job; without a root the first one is it.
        """
        self._begin()
        own_root, own_parent = ancestry()
        root_id, parent_id = own_root or root_id, parent_id or own_parent
        new, jobs, name, task = tuple.__new__, list[NewJob](), "", None
        for job_id, call in zip(new_job_ids(len(calls)), calls, strict=True):
            if call.task != name:
                name, task = call.task, self.simple_task(call.task)
                if task is None:
                    return None
                plan = task.plan
                queue, priority, expires_in = plan.queue, plan.priority, plan.expires_in
                headers = delay = eta = expires_at = None
                if given:
                    first = self.prepare(name, call.args, call.kwargs, given, before and not call.immutable).job
                    queue, priority, headers = first.queue, first.priority, first.headers
                    delay, eta, expires_in, expires_at = first.delay, first.eta, first.expires_in, first.expires_at
            assert task is not None  # noqa: S101 - for the type checker
            task.fits((None, *call.args) if before and not call.immutable else call.args, call.kwargs)
            args, kwargs = encode_call(call.args, call.kwargs)
            fields = (job_id, name, queue, priority, args, kwargs, headers, options, delay, eta, expires_in, expires_at)
            jobs.append(new(NewJob, (*fields, root_id, parent_id, False)))
            root_id = root_id or job_id
        return jobs

    def prepare(
        self,
        name: str,
        args: Args,
        kwargs: Kwargs,
        options: CallOptions,
        before: int = 0,
        named: Iterable[str] = (),
    ) -> Prepared:
        """Check a call with options and make its job; `before` and `named` as in prepare_step()."""
        self._begin()
        check_call_options(options, f"{name}")
        task = self._tasks.get(name)
        if not isinstance(args, list | tuple):
            args = _positional(args)
        if not isinstance(kwargs, Mapping):
            raise ValidationError(f"kwargs: expected a dict, got {type(kwargs).__name__}")
        if task is not None:
            if options.get("over"):
                fit_each(task, args[0], options.get("over") == "starmap")
            else:
                _check_fit(task, args, kwargs, before, named)
            self._refuse_main(task)
            plan, soft, hard = task.plan, task.soft_time_limit, task.time_limit
        else:
            plan, soft, hard = self._plan_of_unknown(name), None, None
        merged: dict[str, Any] = dict(plan.options)
        merged.update(item for item in options.items() if item[1] is not None or item[0] in _CLEARED_BY_NONE)
        router = self._routes()
        if not router.by_name:
            route = router.route(name, args, kwargs, merged, task)
            check_call_options(route, f"the route of {name!r}")
            merged = {**route, **merged}
        call = read_call(merged, self._zone(), soft, hard)
        router.check_queue(call.queue)
        duplicate = merged.get("on_duplicate", "raise")
        if duplicate not in ("raise", "return"):
            raise ValidationError(f"on_duplicate: expected 'raise' or 'return', got {duplicate!r}")
        args_text, kwargs_text = encode_call(args, kwargs)
        job_id = call.job_id or new_job_id()
        root_id, parent_id = ancestry()
        request, priority = current_request.get(), call.priority
        if priority is None:
            inherits = request is not None and self._conf.task_inherit_parent_priority
            priority = request.priority if inherits and request is not None else self._conf.task_default_priority
        job = NewJob(
            job_id,
            name,
            call.queue or plan.queue,
            priority,
            args_text,
            kwargs_text,
            call.headers,
            call.options,
            call.delay,
            call.eta,
            call.expires_in,
            call.expires_at,
            root_id,
            parent_id,
            call.job_id is not None,
        )
        return Prepared(job, call.task_id or job_id, duplicate, merged.get("connection"))

    def simple_task(self, name: str) -> Task[..., Any] | None:
        """The task of this name if calls without options need nothing but its plan."""
        task = self._tasks.get(name)
        return task if task is not None and task.plan.simple else None

    def _plan_of_unknown(self, name: str) -> Plan:
        plan = self._unknown_plans.get(name)
        if plan is None:
            try:
                task_name(name)
            except ValueError as error:
                raise ValidationError(f"task: {error}") from None
            plan = self._plan(name, {})
            if len(self._unknown_plans) < 1000:
                self._unknown_plans[name] = plan
        return plan

    def _refuse_main(self, task: Task[..., Any]) -> None:
        if _of_main(task) and not self._embedded():
            raise ConfigurationError(
                f"task {task.name!r} is defined in the program that was started (__main__), where no worker can find"
                " it: move it into a module that the worker imports (-A, include), or give it the name=… under which"
                " a worker knows it"
            )


def _check_fit(task: Task[..., Any], args: Args, kwargs: Kwargs, before: int, named: Iterable[str]) -> None:
    if before:
        args = (None,) * before + tuple(args)
    task.fits(args, {**dict.fromkeys(named), **kwargs} if named else kwargs)


def simple_job(job_id: str, name: str, plan: Plan, args: Args, kwargs: Kwargs) -> NewJob:
    """The job of a call that needs nothing but its task's plan."""
    args_text, kwargs_text = encode_call(args, kwargs)
    root_id, parent_id = ancestry()
    fields = (job_id, name, plan.queue, plan.priority, args_text, kwargs_text, None, None, None, None, plan.expires_in)
    return tuple.__new__(NewJob, (*fields, None, root_id, parent_id, False))


def ancestry() -> tuple[str | None, str | None]:
    """(root, parent) of what is enqueued here: inside a running job, and not an eager one, which has no row."""
    request = current_request.get()
    if request is None or request.is_eager:
        return None, None
    parent_id = request.id or request.parent_id
    return request.root_id or parent_id, parent_id


def _of_main(task: Task[..., Any]) -> bool:
    return task.run.__module__ == "__main__" and not task.named_by_user


def _positional(args: Any) -> Sequence[Any]:
    if isinstance(args, str | bytes | Mapping) or not isinstance(args, Iterable):
        raise ValidationError(f"args: expected a list or tuple, got {type(args).__name__}")
    return tuple(args)
