"""Attributes and methods of Celery's objects that pgqueue does not have, each with the way out."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, ClassVar

from pgqueue.errors import UnsupportedAttribute

__all__ = ["APP", "CONTROL", "PACKAGE", "REQUEST", "RESULT", "TASK", "Declining"]


class Declining:
    """Refuses the attributes that Celery's object of the same kind has, by name.

    Attributes:
        DECLINED: name to what to do instead.
    """

    __slots__ = ()
    DECLINED: ClassVar[Mapping[str, str]] = {}

    if not TYPE_CHECKING:  # a type checker would take every misspelt attribute for one that is found here

        def __getattr__(self, name):
            kind = type(self).__name__
            if hasattr(type(self), name):  # there is one, and getting it raised an AttributeError: that is to be told
                return object.__getattribute__(self, name)
            if name in self.DECLINED:
                raise UnsupportedAttribute(f"{kind}.{name} is not supported: {self.DECLINED[name]}")
            raise AttributeError(f"{kind!r} object has no attribute {name!r}")


_CURRENT = "there is no current app; import yours"
_SELF = "declare the task with bind=True and use self"
_BROKER = "there is no broker; app.using(connection) names the transaction to enqueue in"
_EVENTS = "not in this release; SQL over pgqueue.all_jobs and `pgqueue status --watch` show what happens"
_LOGGING = "the worker leaves your logging alone; configure it yourself, pgqueue.get_task_logger() makes task loggers"
_CLASSES = "there are no task base classes in this release; write @app.task over a function"
_PARTS = "the worker is not built of replaceable parts"
_SIGNALS = (
    "not in this release; wrap the function of the task, or use try/except/finally in it;"
    " app.on_after_configure and app.on_after_finalize are signals of the application"
)
_SIGNING = "messages are not signed: who may write rows is for PostgreSQL's roles"

PACKAGE: dict[str, str] = {
    "Celery": "the application is pgqueue.PgQueue",
    "shared_task": f"{_CURRENT} and write @app.task",
    "current_app": _CURRENT,
    "current_task": _SELF,
    **dict.fromkeys(
        ("crontab", "schedule", "solar"), "it is in pgqueue.schedules: from pgqueue.schedules import crontab"
    ),
    **dict.fromkeys(("signals", "bootsteps"), _SIGNALS),
    "states": "a job's state is a text such as 'SUCCESS'; pgqueue.JobState has those of the rows",
    **dict.fromkeys(("exceptions", "result", "utils"), "there is no such module: from pgqueue import … has all names"),
    **dict.fromkeys(("subtask",), "the same is pgqueue.signature"),
    "uuid": "str(uuid.uuid4()) of Python's uuid",
}
APP: dict[str, str] = {
    "amqp": _BROKER,
    **dict.fromkeys(("connection", "connection_for_read", "connection_for_write", "connection_or_acquire"), _BROKER),
    **dict.fromkeys(("pool", "producer_pool", "producer_or_acquire"), _BROKER),
    "backend": "results are rows: app.AsyncResult(id), or SQL over pgqueue.all_jobs",
    "loader": "settings are read by app.conf, modules by include, imports and app.autodiscover_tasks()",
    "events": _EVENTS,
    "log": _LOGGING,
    **dict.fromkeys(("current_task", "current_worker_task"), _SELF),
    **dict.fromkeys(("set_current", "set_default"), _CURRENT),
    **dict.fromkeys(("register_task", "create_task_cls", "Task", "task_cls", "subclass_with_self"), _CLASSES),
    "gen_task_name": "a task's name is module.function, or what name=… says",
    "add_defaults": "set app.conf before anything else does; files and the environment come below it",
    "config_from_cmdline": "options of the command line are those of `pgqueue worker --help`",
    "setup_security": _SIGNING,
    **dict.fromkeys(("worker_main", "start"), "run `pgqueue -A module:app worker`, or inside a program app.worker()"),
    **dict.fromkeys(
        ("Worker", "WorkController"), "run `pgqueue -A module:app worker`, or inside a program app.worker()"
    ),
    "Beat": "every worker serves schedules; `pgqueue beat` does it alone",
    "select_queues": "name the queues with -Q, worker_queues or task_queues",
    "steps": _PARTS,
    "user_options": "read the environment in your own module; the command line takes no options of others",
    "bugreport": "type `pgqueue status` and `pgqueue --version`",
    "now": "datetime.now(app.zone)",
    "uses_utc_timezone": "app.conf.timezone == 'UTC'",
    "annotations": "app.conf.task_annotations",
    **dict.fromkeys(("oid", "thread_oid"), "results have no reply queues"),
    "on_configure": "set app.conf where the application is made; app.on_after_configure comes when it is complete",
    "on_after_fork": "worker processes are started afresh, never forked; import what they need",
}
_INSPECT = "not in this release; `pgqueue status --json`, `pgqueue jobs list`, or SQL over pgqueue.workers and all_jobs"
_SIZES = "not in this release; start the worker with -c or --autoscale"
CONTROL: dict[str, str] = {
    "inspect": _INSPECT,
    "ping": "a worker that lives renews its lease: `pgqueue health --worker NAME`",
    **dict.fromkeys(("purge", "discard_all"), "type `pgqueue purge -Q QUEUE`, which says what it will cancel and asks"),
    "terminate": "app.control.revoke(id, terminate=True)",
    "rate_limit": "not in this release; give the task a queue of its own and its worker a small -c",
    "time_limit": "set it in task_annotations, and send the workers HUP",
    **dict.fromkeys(("add_consumer", "cancel_consumer"), "start another worker with -Q, or send this one TERM"),
    **dict.fromkeys(("enable_events", "disable_events"), _EVENTS),
    **dict.fromkeys(("pool_grow", "pool_shrink", "autoscale"), _SIZES),
    "pool_restart": "send the worker HUP",
    "shutdown": "send the worker TERM",
    "heartbeat": "a worker's last heartbeat is pgqueue.workers.heartbeat_at",
    "election": "schedules need no leader; use an advisory lock for what else does",
    "broadcast": "workers do not talk to each other; enqueue one job per receiver's queue",
}
REQUEST: dict[str, str] = {
    **dict.fromkeys(("callbacks", "errbacks", "chain"), "what follows a job are rows, in pgqueue.workflow_steps"),
    "chord": "the body is a row, in pgqueue.workflow_edges; self.add_to_chord(…) adds members",
    "group_index": "the order of a group is that of its GroupResult; pass the number to the task as an argument",
    "children": "AsyncResult(self.request.id, app).children",
    "reply_to": "results are rows, which AsyncResult(id) finds from anywhere",
    "origin": "pass what you need as headers={…}",
    "properties": "there is no message; delivery_info has queue and priority",
    "shadow": "a job is shown under its task's name",
    "replaced_task_nesting": "a replaced job waits for what replaces it",
    **dict.fromkeys(("logfile", "loglevel"), _LOGGING),
    **dict.fromkeys(("update", "clear", "as_execution_options"), "a request is read only; pass options to retry()"),
}
_THEN = "link a callback, or await aget(); get(callback=…) of several results calls it for each"
RESULT: dict[str, str] = {
    **dict.fromkeys(("then", "on_ready"), _THEN),
    "throw": "maybe_throw()",
    "ignored": "the row tells: the value of a job with ignore_result is None",
    "app": "keep your application beside it",
    "backend": "results are rows: SQL over pgqueue.all_jobs",
    "supports_native_join": "join() asks for all at once, always",
    "revoke_by_stamped_headers": "app.control.revoke_by_stamped_headers({…})",
}
_ON_COMMIT = "a job that is enqueued inside atomic(), or with app.using(connection), exists if and only if it commits"
_HOOKS = "hooks are not in this release; wrap the function, or use try/except/finally in it"
TASK: dict[str, str] = {
    "delay_on_commit": f"delay(): {_ON_COMMIT}",
    "apply_async_on_commit": f"apply_async(): {_ON_COMMIT}",
    **dict.fromkeys(("before_start", "on_success", "on_failure", "on_retry", "after_return"), _HOOKS),
    **dict.fromkeys(("on_replace", "on_bound", "annotate", "add_around", "from_config"), _HOOKS),
    **dict.fromkeys(("signature_from_request", "subtask_from_request"), "self.retry(), or self.s(*self.request.args)"),
    "send_event": _EVENTS,
    "add_trail": "jobs keep the ids of their parent and root",
    **dict.fromkeys(
        ("push_request", "pop_request", "request_stack"), "a worker sets the request; task.apply() does, too"
    ),
    "override_max_retries": "pass max_retries to apply_async() or retry()",
    "shadow_name": "a job is shown under its task's name",
    "backend": "results are rows: task.AsyncResult(id), or SQL over pgqueue.all_jobs",
    "rate_limit": "not in this release; give the task a queue of its own and its worker a small -c",
    **dict.fromkeys(("serializer", "compression"), "values travel as JSON, which PostgreSQL compresses"),
    "track_started": "that a job runs, and where, is always recorded",
}
