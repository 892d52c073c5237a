"""Every setting: honoured (SETTINGS), another's spelling (MAPPED), or declined with its way out (declined/settings.py).

conf.py applies this table; scripts/porting_table.py writes it into docs/porting.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pgqueue.config import validation as v
from pgqueue.config.validation import Check, flag, only, optional, queue, queues, seconds, text, whole
from pgqueue.config.validation import parse_flag as from_flag
from pgqueue.config.validation import parse_names as from_names
from pgqueue.config.validation import parse_number as from_number
from pgqueue.config.validation import parse_text as from_text
from pgqueue.options.values import pool

__all__ = ["MAPPED", "RELATIONS", "SETTINGS", "Mapped", "Setting"]

DAY = 86_400.0


@dataclass(frozen=True, slots=True)
class Setting:
    """One honoured setting.

    Attributes:
        name: as an attribute of app.conf, and as a key of pgqueue.toml.
        check: validates a value and gives the one to keep.
        default: used when nothing sets it.
        doc: one line.
        celery: whether Celery has a setting of this name.
        parse: from the text of PGQUEUE_<NAME>; None: not settable there.
    """

    name: str
    check: Check
    default: Any
    doc: str
    celery: bool = True
    parse: Callable[[str], Any] | None = None


@dataclass(frozen=True, slots=True)
class Mapped:
    """A setting of Celery that is kept under another name."""

    name: str
    target: str
    check: Check
    doc: str


_S = Setting
_limit = optional(seconds(0.001, 30 * DAY))
_keep = optional(seconds(1, 3650 * DAY))
_REASON_TRACKED = "that a job runs, and where, is always recorded"
_LOG = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
_TASK_LOG = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"

SETTINGS: dict[str, Setting] = {
    setting.name: setting
    for setting in (
        _S("dsn", v.dsn, None, "PostgreSQL connection string; also PGQUEUE_DSN, DATABASE_URL", False, from_text),
        _S(
            "listen_dsn",
            optional(v.dsn),
            None,
            "another one for LISTEN, past a PgBouncer in transaction mode",
            False,
            from_text,
        ),
        _S("schema", v.schema, "pgqueue", "schema that holds the tables", False, from_text),
        _S(
            "credentials",
            optional(v.credentials),
            None,
            "callable giving the password, or a dict, for each connection",
            False,
        ),
        _S(
            "environment",
            v.one_of("development", "production"),
            "development",
            "production never starts the embedded server",
            False,
            from_text,
        ),
        _S(
            "beat_schedule",
            v.beat_schedule,
            MappingProxyType({}),
            "name to entry: task, schedule, args, kwargs, options, timezone, …",
        ),
        _S(
            "beat_max_loop_interval",
            seconds(0, 3600),
            30.0,
            "seconds after which a sleeping scheduler looks at the table by itself; 0 is the default",
            True,
            from_number,
        ),
        _S(
            "beat_cron_starting_deadline",
            optional(seconds(1, 3650 * DAY)),
            None,
            "seconds that a tick of a declared cron schedule may be late; None: any",
            True,
            from_number,
        ),
        _S("connect_timeout", seconds(1, 3600), 10.0, "seconds to wait for a connection", False, from_number),
        _S(
            "pool_max_size",
            whole(1, 10_000),
            10,
            "most pooled connections of one process that enqueues",
            False,
            from_number,
        ),
        _S(
            "migration_lock_timeout",
            seconds(0.001, 3600),
            5.0,
            "seconds that `pgqueue migrate` waits for a lock",
            False,
            from_number,
        ),
        _S("timezone", v.zone, "UTC", "zone of naive eta and expires, and of cron", True, from_text),
        _S("enable_utc", only(True, "instants are stored with their zone"), True, "instants are stored in UTC"),
        _S("imports", v.names, (), "modules with tasks, imported first", True, from_names),
        _S("include", v.names, (), "more modules with tasks, imported after `imports`", True, from_names),
        _S("task_default_queue", queue, "default", "queue of tasks that name none (Celery: 'celery')", True, from_text),
        _S(
            "task_queues",
            optional(queues),
            None,
            "names of the queues that exist; a worker without -Q serves them",
            True,
            from_names,
        ),
        _S(
            "task_create_missing_queues",
            flag,
            True,
            "False: a queue that task_queues does not name is refused",
            True,
            from_flag,
        ),
        _S("task_routes", v.routes, (), "task name, glob or pattern to queue and options; functions, router objects"),
        _S("task_annotations", v.annotations, (), "task options changed from outside; '*' is every task"),
        _S("task_default_priority", whole(0, 9), 0, "priority of tasks that name none; 9 first", True, from_number),
        _S("task_inherit_parent_priority", flag, False, "a job enqueued by a job has its priority", True, from_flag),
        _S(
            "task_default_max_retries",
            optional(whole(0, 1000)),
            3,
            "retries of tasks that name none; None is 1,000",
            False,
            from_number,
        ),
        _S("task_default_pool", optional(pool), None, "pool of tasks that name none", False, from_text),
        _S(
            "task_acks_late",
            flag,
            True,
            "True (Celery: False): at least once; False: at most once, a lost worker fails its jobs",
            True,
            from_flag,
        ),
        _S(
            "task_reject_on_worker_lost",
            only(True, "set acks_late=False on tasks that must not run again"),
            True,
            "a lost worker's jobs run again, unless acks_late=False",
        ),
        _S("task_track_started", only(True, _REASON_TRACKED), True, _REASON_TRACKED),
        _S("task_time_limit", _limit, None, "seconds after which a task is killed", True, from_number),
        _S(
            "task_soft_time_limit",
            _limit,
            None,
            "seconds after which SoftTimeLimitExceeded is raised in a task",
            True,
            from_number,
        ),
        _S("task_ignore_result", flag, False, "drop return values; the finished job stays", True, from_flag),
        _S(
            "task_store_errors_even_if_ignored",
            only(True, "errors are kept with their jobs"),
            True,
            "always: an error is part of the job's row (Celery: False)",
            True,
            from_flag,
        ),
        _S(
            "task_always_eager",
            flag,
            False,
            "delay() runs the task at once, in this process (for tests)",
            True,
            from_flag,
        ),
        _S(
            "task_allow_error_cb_on_chord_header",
            flag,
            False,
            "an error callback of a chord is called for each member that fails, not for the body alone",
            True,
            from_flag,
        ),
        _S("task_eager_propagates", flag, False, "errors of eager tasks are raised", True, from_flag),
        _S("task_serializer", v.json_only, "json", "JSON with exact types", True, from_text),
        _S("result_serializer", v.json_only, "json", "JSON with exact types", True, from_text),
        _S("event_serializer", v.json_only, "json", "JSON with exact types", True, from_text),
        _S("accept_content", v.json_list, ("json",), "JSON with exact types", True, from_names),
        _S("result_accept_content", optional(v.json_list), None, "JSON with exact types", True, from_names),
        _S(
            "result_expires",
            _keep,
            7 * DAY,
            "seconds or timedelta that finished jobs are kept; None keeps them (Celery: 1 day)",
            True,
            from_number,
        ),
        _S("failed_result_expires", _keep, 30 * DAY, "the same for failed ones", False, from_number),
        _S(
            "result_extended",
            only(True, "name, arguments, worker and queue are columns"),
            True,
            "always: they are columns",
        ),
        _S("worker_concurrency", optional(whole(1, 10_000)), None, "tasks at once; default: cores", True, from_number),
        _S(
            "worker_pool",
            pool,
            "processes",
            "processes (prefork), threads, loop (coroutines always run on it) or solo",
            True,
            from_text,
        ),
        _S(
            "worker_queues",
            optional(queues),
            None,
            "queues to serve when -Q is not given; default: all that the application knows",
            False,
            from_names,
        ),
        _S(
            "worker_lease",
            seconds(1, DAY),
            20.0,
            "seconds after its last heartbeat until a worker is held for dead",
            False,
            from_number,
        ),
        _S("worker_heartbeat", seconds(0.1, 3600), 5.0, "seconds between heartbeats", False, from_number),
        _S(
            "worker_poll_interval",
            seconds(0.01, 3600),
            2.0,
            "seconds between polls when no notification comes",
            False,
            from_number,
        ),
        _S("worker_buffer", seconds(0, 60), 1.0, "seconds of work claimed ahead", False, from_number),
        _S("worker_claim_batch", whole(1, 10_000), 500, "most jobs of one claim", False, from_number),
        _S(
            "worker_lost_limit",
            whole(1, 1000),
            3,
            "a job whose worker was lost this often fails (poison)",
            False,
            from_number,
        ),
        _S(
            "worker_shutdown_timeout",
            seconds(0, DAY),
            25.0,
            "seconds that running tasks get to finish after TERM",
            False,
            from_number,
        ),
        _S(
            "worker_max_tasks_per_child",
            optional(whole(1, 2**31)),
            None,
            "tasks after which a child process is replaced",
            True,
            from_number,
        ),
        _S(
            "worker_max_memory_per_child",
            optional(whole(1024, 2**40)),
            None,
            "KiB of memory after which a child is replaced",
            True,
            from_number,
        ),
        _S(
            "worker_proc_alive_timeout",
            seconds(0.1, 3600),
            60.0,
            "seconds that a child process gets to start and import the application (Celery: 4)",
            True,
            from_number,
        ),
        _S(
            "worker_log_format",
            text,
            _LOG,
            "format of the worker's log lines; json: one JSON object a line",
            True,
            from_text,
        ),
        _S("worker_task_log_format", text, _TASK_LOG, "format of get_task_logger's lines", True, from_text),
        _S("worker_log_color", optional(flag), None, "colours in the log; default: on a terminal", True, from_flag),
        _S(
            "worker_hijack_root_logger",
            flag,
            False,
            "replace the root logger's handlers (Celery: True)",
            True,
            from_flag,
        ),
        _S("worker_redirect_stdouts", flag, True, "what tasks print goes to the log, with their job", True, from_flag),
        _S("worker_redirect_stdouts_level", v.level, "WARNING", "level of what tasks print", True, from_text),
    )
}

MAPPED: dict[str, Mapped] = {
    mapped.name: mapped
    for mapped in (
        Mapped("broker_url", "dsn", v.postgres_broker, "if it is PostgreSQL's; other brokers are refused"),
        Mapped("database_url", "dsn", v.postgres_broker, "if it is PostgreSQL's"),
        Mapped("broker_connection_timeout", "connect_timeout", seconds(1, 3600), "the same"),
        Mapped("broker_pool_limit", "pool_max_size", whole(1, 10_000), "the same; None and 0 (no pool) are refused"),
    )
}


def _lease(conf: Mapping[str, Any]) -> str | None:
    lease, beat = conf["worker_lease"], conf["worker_heartbeat"]
    if lease >= 3 * beat:
        return None
    return (
        f"worker_lease ({lease:g} s) must be at least 3 x worker_heartbeat ({beat:g} s): two lost beats must not end it"
    )


def _limits(conf: Mapping[str, Any]) -> str | None:
    soft, hard = conf["task_soft_time_limit"], conf["task_time_limit"]
    if soft is None or hard is None or soft < hard:
        return None
    return f"task_soft_time_limit ({soft:g} s) must be shorter than task_time_limit ({hard:g} s)"


def _known_queue(conf: Mapping[str, Any]) -> str | None:
    known = conf["task_queues"]
    if known is None or conf["task_create_missing_queues"] or conf["task_default_queue"] in known:
        return None
    return (
        f"task_default_queue {conf['task_default_queue']!r} is not among task_queues, and missing ones are not created"
    )


RELATIONS: tuple[Callable[[Mapping[str, Any]], str | None], ...] = (_lease, _limits, _known_queue)
