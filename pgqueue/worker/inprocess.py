"""`with app.worker(...)`: a worker in threads of the program itself, for notebooks, web applications and tests."""

from typing import Any

from pgqueue.app import PgQueue
from pgqueue.worker.plan import make_plan
from pgqueue.worker.worker import Worker

__all__ = ["worker_in_process"]


def worker_in_process(app: PgQueue, **options: Any) -> Worker:
    """Return a worker that runs jobs in threads and on an event loop of this process.

    Args:
        app: the application.
        **options: of make_plan(): queues, exclude_queues, concurrency, pool ("threads", "loop", "solo"), name, burst.

    Raises:
        ConfigurationError: options that do not fit.
    """
    return Worker(app, make_plan(app, in_process=True, **options))
