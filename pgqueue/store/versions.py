"""The versions that a schema can have, and which way leads from one to another: `up` never goes down."""

import functools
import re
from typing import Literal

from pgqueue.errors import SchemaError
from pgqueue.store.statement import sql_folder

__all__ = ["Way", "expected_version", "goal_of", "refuse_other_way", "steps_down", "versions"]

Way = Literal["up", "down"]


@functools.cache
def versions() -> dict[str, str]:
    """Return every version of this release, oldest first, with what it brought: {"0001": "initial", …}."""
    names = sorted(path.name for path in (sql_folder("migrations") / "sql").glob("*.up.sql"))
    return {found[1]: found[2] for name in names if (found := re.fullmatch(r"(\d{4})_(.+)\.up\.sql", name))}


def expected_version() -> str:
    """Return the version that this release works with."""
    return max(versions())


def goal_of(target: str, way: Way) -> str | None:
    """Return the version that `target` names: "head" is the newest; "base", only on the way down, is None.

    Raises:
        SchemaError: there is no such version; those that there are are named.
    """
    if target == "head":
        return expected_version()
    if target == "base" and way == "down":
        return None
    if target not in versions():
        known = ", ".join([*(["base"] if way == "down" else []), *versions()])
        raise SchemaError(f"there is no version {target[:40]!r} of the schema; there are {known}")
    return target


def refuse_other_way(current: str | None, goal: str | None, way: Way, schema: str) -> None:
    """Raise SchemaError when the goal lies on the other side of where the schema is; the way out is named."""
    at = "empty" if current is None else f"at version {current}"
    command = "pgqueue migrate" if schema == "pgqueue" else f"pgqueue --schema {schema} migrate"
    if way == "up" and (goal or "") < (current or ""):
        raise SchemaError(
            f'schema "{schema}" is {at}, newer than {goal}: going down deletes data, and is done by'
            f" `{command} down --to {goal}`"
        )
    if way == "down" and (goal or "") > (current or ""):
        raise SchemaError(f'schema "{schema}" is {at}, older than {goal}: `{command} up --to {goal}` goes up')


def steps_down(current: str | None, goal: str | None) -> list[str]:
    """Return the versions whose tables go on the way down, newest first."""
    return [version for version in reversed(versions()) if (goal or "") < version <= (current or "")]
