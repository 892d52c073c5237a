"""`with app.worker(...)`: a worker in threads of the program itself, for notebooks, web applications and tests."""

from difflib import get_close_matches
from typing import Any

from pgqueue.app.application import PgQueue
from pgqueue.errors import ConfigurationError
from pgqueue.worker.plan import make_plan
from pgqueue.worker.worker import Worker

__all__ = ["worker_in_process"]

_OPTIONS = frozenset({"queues", "exclude_queues", "concurrency", "pool", "name", "burst", "scheduler"})
# What `pgqueue worker` takes, and a program says elsewhere.
_ELSEWHERE = {
    "time_limit": "set task_time_limit, or the task's own",
    "soft_time_limit": "set task_soft_time_limit, or the task's own",
    "include": "import the modules, or set include",
    **dict.fromkeys(("loglevel", "logfile"), "the logging is your program's own"),
    **dict.fromkeys(("autoscale", "max_tasks_per_child", "max_memory_per_child"), "there are no child processes here"),
}


def worker_in_process(app: PgQueue, **options: Any) -> Worker:
    """Return a worker that runs jobs in threads and on an event loop of this process.

    Args:
        app: the application.
        **options: of make_plan(): queues, exclude_queues, concurrency, pool ("threads", "loop", "solo"), name, burst,
            scheduler.

    Raises:
        ConfigurationError: options that do not fit.
    """
    for name in options:
        if name in _ELSEWHERE:
            raise ConfigurationError(f"app.worker(): {name} is not taken: {_ELSEWHERE[name]}")
        if name not in _OPTIONS:
            near = get_close_matches(name, _OPTIONS, 1)
            hint = f"; did you mean {near[0]!r}?" if near else f"; known are {', '.join(sorted(_OPTIONS))}"
            raise ConfigurationError(f"app.worker(): there is no option {name!r}{hint}")
    return Worker(app, make_plan(app, in_process=True, **options))
