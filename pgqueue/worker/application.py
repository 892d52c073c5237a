"""How a child process comes to the same application as its worker."""

import logging
import sys
from typing import Any

from pgqueue.app.application import PgQueue
from pgqueue.discovery import find_app, import_tasks
from pgqueue.worker.logs import set_up_logging

__all__ = ["load_application"]


def load_application(settings: dict[str, Any]) -> PgQueue:
    """Import the application that the worker named.

    Args:
        settings: app (module:attribute), include (modules), path (sys.path), overrides (settings given on the
            command line), log (arguments of set_up_logging).
    """
    for entry in reversed(settings["path"]):
        if entry not in sys.path:
            sys.path.insert(0, entry)
    app: PgQueue = find_app(settings["app"])
    app.conf.override(settings["overrides"])
    import_tasks(settings["include"])
    app.finalize()
    set_up_logging(app.conf, **settings["log"])
    logging.getLogger("pgqueue").debug("child is ready")
    return app
