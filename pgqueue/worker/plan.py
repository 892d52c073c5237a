"""What a worker is asked to be: queues, pools, limits. Made of options and settings, checked before anything starts."""

import os
import socket
import sys
from dataclasses import dataclass, field
from typing import Any

from pgqueue.app.application import PgQueue
from pgqueue.errors import ConfigurationError

__all__ = ["WorkerPlan", "child_settings", "make_plan", "parse_pools"]

KINDS = ("processes", "threads", "loop", "solo")
_ALIASES = {"prefork": "processes", "asyncio": "loop", "coroutines": "loop"}
DEFAULT_THREADS = 16
DEFAULT_COROUTINES = 200
MAX_CONCURRENCY = 10_000


@dataclass(frozen=True, slots=True)
class WorkerPlan:
    """Everything a worker needs to know that is not in the database.

    Attributes:
        name: shown to people; `%h` host, `%n` application, `%d` domain were replaced.
        queues: names to serve.
        pools: kind -> concurrency; the first takes plain functions that name no pool.
        autoscale: (most, least) children of the processes pool; None: fixed.
        in_process: run jobs in threads of this process instead of children.
        burst: end when nothing is left to do.
        scheduler: serve schedules, too.
    """

    name: str
    queues: tuple[str, ...]
    pools: dict[str, int]
    time_limit: float | None = None
    soft_time_limit: float | None = None
    max_tasks_per_child: int | None = None
    max_memory_per_child: int | None = None
    autoscale: tuple[int, int] | None = None
    in_process: bool = False
    burst: bool = False
    scheduler: bool = True
    include: tuple[str, ...] = ()
    loglevel: str = "WARNING"
    logfile: str | None = None
    spec: str | None = None
    unknown_queues: tuple[str, ...] = field(default=())

    @property
    def main_pool(self) -> str:
        """The pool of plain functions that name none."""
        return next(kind for kind in self.pools if kind != "loop" or len(self.pools) == 1)


def parse_pools(text: str | None, concurrency: int | None, default: str) -> dict[str, int]:
    """Read `-P`: a kind, or several as "processes:4,threads:20".

    Raises:
        ConfigurationError: an unknown kind, or a concurrency outside 1 to 10,000.
    """
    pools: dict[str, int] = {}
    for part in (text or default).split(","):
        kind, _, count = part.strip().partition(":")
        kind = _ALIASES.get(kind, kind)
        if kind in ("gevent", "eventlet"):
            raise ConfigurationError(
                f"pool {kind!r} is not offered: blocking tasks run in threads (-P threads), coroutines (async def)"
                " on an event loop that every worker has"
            )
        if kind not in KINDS:
            raise ConfigurationError(f"pool {kind!r} is unknown; there are {', '.join(KINDS)}")
        if kind in pools:
            raise ConfigurationError(f"pool {kind!r} is given twice")
        if count and (not count.isdecimal() or int(count) == 0):
            raise ConfigurationError(f"pool {part.strip()!r}: the concurrency must be 1 to {MAX_CONCURRENCY}")
        pools[kind] = int(count) if count else 0
    for kind, size in pools.items():
        if size == 0:
            size = concurrency if concurrency is not None and len(pools) == 1 else _default_size(kind, concurrency)
        if not 1 <= size <= MAX_CONCURRENCY:
            raise ConfigurationError(f"concurrency must be 1 to {MAX_CONCURRENCY}, not {size}")
        pools[kind] = 1 if kind == "solo" else size
    return pools


def _default_size(kind: str, concurrency: int | None) -> int:
    if kind == "processes":
        return concurrency or os.cpu_count() or 1
    return {"threads": concurrency or DEFAULT_THREADS, "loop": DEFAULT_COROUTINES, "solo": 1}[kind]


def _queue_names(app: PgQueue) -> set[str]:
    """The queues that the application knows: its default, task_queues, and those of its tasks."""
    names = {app.conf.task_default_queue, *(app.conf.task_queues or ())}
    return names | {task.plan.queue for task in app.tasks.values() if task.plan.queue is not None}


def make_plan(
    app: PgQueue,
    *,
    queues: list[str] | None = None,
    exclude_queues: list[str] | None = None,
    concurrency: int | None = None,
    pool: str | None = None,
    name: str | None = None,
    time_limit: float | None = None,
    soft_time_limit: float | None = None,
    max_tasks_per_child: int | None = None,
    max_memory_per_child: int | None = None,
    autoscale: tuple[int, int] | None = None,
    in_process: bool = False,
    burst: bool = False,
    scheduler: bool = True,
    include: tuple[str, ...] = (),
    loglevel: str = "WARNING",
    logfile: str | None = None,
    spec: str | None = None,
) -> WorkerPlan:
    """Complete options with the application's settings and tasks.

    Raises:
        ConfigurationError: options that contradict each other or the limits.
    """
    app.finalize()
    conf = app.conf
    known = _queue_names(app)
    wanted = queues if queues is not None else conf.worker_queues or sorted(known)
    serving = tuple(queue for queue in dict.fromkeys(wanted) if queue not in set(exclude_queues or ()))
    if not serving:
        raise ConfigurationError("no queue is left to serve; name some with -Q")
    soft = soft_time_limit if soft_time_limit is not None else conf.task_soft_time_limit
    hard = time_limit if time_limit is not None else conf.task_time_limit
    if soft is not None and hard is not None and soft >= hard:
        raise ConfigurationError(f"soft_time_limit ({soft:g} s) must be shorter than time_limit ({hard:g} s)")
    pools = parse_pools(pool, concurrency if concurrency is not None else conf.worker_concurrency, conf.worker_pool)
    if autoscale is not None:
        most, least = autoscale
        if not 1 <= least <= most <= MAX_CONCURRENCY:
            raise ConfigurationError(f"autoscale wants MOST,LEAST with {MAX_CONCURRENCY} >= MOST >= LEAST >= 1")
        if "processes" not in pools:
            raise ConfigurationError("autoscale is for the processes pool; threads and coroutines cost nothing idle")
        pools["processes"] = least
    for task in app.tasks.values():
        if task.pool is not None and task.pool not in pools:
            pools[task.pool] = _default_size(task.pool, None)
    if any(task.is_coroutine for task in app.tasks.values()) and "loop" not in pools:
        pools["loop"] = DEFAULT_COROUTINES
    if list(pools) == ["loop"] and any(not task.is_coroutine for task in app.tasks.values()):
        pools["threads"] = DEFAULT_THREADS
    if in_process and "processes" in pools:
        size = pools.pop("processes")
        pools = {"threads": pools.get("threads", size), **pools}
    host = socket.gethostname()
    label = (name or "%n@%h").replace("%h", host).replace("%n", app.main or "app").replace("%d", host.partition(".")[2])
    return WorkerPlan(
        name=label,
        queues=serving,
        pools=pools,
        time_limit=hard,
        soft_time_limit=soft,
        max_tasks_per_child=max_tasks_per_child or conf.worker_max_tasks_per_child,
        max_memory_per_child=max_memory_per_child or conf.worker_max_memory_per_child,
        autoscale=autoscale,
        in_process=in_process or sys.platform == "win32",
        burst=burst,
        scheduler=scheduler and not burst,
        include=include,
        loglevel=loglevel,
        logfile=logfile,
        spec=spec,
        unknown_queues=tuple(queue for queue in serving if queue not in known),
    )


def child_settings(app: PgQueue, plan: WorkerPlan, application_name: str) -> dict[str, Any]:
    """Return what a child process of a worker needs to know.

    Args:
        app: whose tasks it runs.
        plan: of the worker.
        application_name: of its database sessions.

    Raises:
        ConfigurationError: a child could not import the application.
    """
    if plan.spec is None:
        raise ConfigurationError("child processes import the application: name it with -A module:app")
    return {
        "app": plan.spec,
        "include": list(plan.include),
        "path": sys.path,
        "overrides": {
            "dsn": app.dsn,
            "schema": app.queries.schema,
            "task_time_limit": plan.time_limit,
            "task_soft_time_limit": plan.soft_time_limit,
            "worker_log_color": app.conf.worker_log_color,
        },
        "name": plan.name,
        "application_name": application_name,
        "log": {"level": plan.loglevel, "logfile": plan.logfile},
    }
