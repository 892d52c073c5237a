"""Many values as one parameter: arrays and separated texts, and the usual ways to read an answer."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

from pgqueue.store.statement import Rows

__all__ = ["SEPARATOR", "array", "column", "first", "joined", "nothing", "texts"]

SEPARATOR = "\x1f"  # neither names nor JSON texts hold it


def first(rows: Rows) -> Any:
    """The first value of the first row."""
    return rows[0][0]


def nothing(rows: Rows) -> None:
    """No answer is wanted."""
    return


def texts(rows: Rows) -> list[str]:
    """The first column as text."""
    return [str(row[0]) for row in rows]


def array(values: Iterable[Any]) -> str:
    """An array of values that need no quoting."""
    return "{" + ",".join(map(str, values)) + "}"


def column(values: Sequence[Any], text: Callable[[Any], str]) -> str | None:
    """An array of values of which some may be missing; None when all are."""
    if values.count(None) == len(values):
        return None
    return "{" + ",".join("null" if value is None else f'"{text(value)}"' for value in values) + "}"


def joined(values: Sequence[str | None]) -> str | None:
    """Texts with the separator between them; None when all are missing."""
    missing = values.count(None)
    if missing == len(values):
        return None
    return SEPARATOR.join(value or "" for value in values) if missing else SEPARATOR.join(cast(Any, values))
