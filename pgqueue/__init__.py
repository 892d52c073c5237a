"""A job queue for Python in PostgreSQL: enqueue in your own transaction, a worker runs it, SQL shows the result."""

from importlib import import_module
from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pgqueue.api import *  # noqa: F403 - whatever it offers
    from pgqueue.api import __all__ as __all__
else:
    # Loaded when the first name is asked for: the command line's --help and completion do without the database driver.

    def __getattr__(name: str) -> object:
        api = import_module("pgqueue.api")
        declined = import_module("pgqueue.declined.attributes").PACKAGE
        if name in declined:
            # Not an AttributeError: `from pgqueue import …` would say less.
            raise ImportError(f"pgqueue.{name} is not supported: {declined[name]}")
        if name not in (*api.__all__, "__all__"):
            raise AttributeError(f"module 'pgqueue' has no attribute {name!r}")
        value = globals()[name] = getattr(api, name)
        return value

    def __dir__() -> list[str]:
        return ["__version__", *import_module("pgqueue.api").__all__]
