"""Time zones by their names. As in PostgreSQL, capital letters do not matter."""

import functools
import os
import re
import zoneinfo
from importlib.util import find_spec
from zoneinfo import ZoneInfo

__all__ = ["zone_of"]

_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_+/-]{0,62}", re.ASCII)


def zone_of(name: object) -> ZoneInfo:
    """Return the time zone of a name such as "Europe/Berlin" or "europe/berlin"; its `key` is spelled as it should be.

    Args:
        name: or a ZoneInfo.

    Raises:
        ValueError: there is no such time zone on this machine.
    """
    key = name.key if isinstance(name, ZoneInfo) else name
    if isinstance(key, str) and _NAME.fullmatch(key):
        for spelling in (key, _spelled(key)):
            try:
                return ZoneInfo(spelling)
            except (ValueError, OSError, KeyError):
                continue
    raise ValueError(f"expected the name of a time zone such as 'Europe/Berlin', got {str(key)[:60]!r}")


@functools.lru_cache(maxsize=256)
def _spelled(name: str) -> str:
    """The name of a file of the zones' data that differs in capital letters alone; else the name itself."""
    package = find_spec("tzdata")
    packaged = (
        [os.path.join(folder, "zoneinfo") for folder in (package.submodule_search_locations or ())] if package else []
    )
    for root in (*zoneinfo.TZPATH, *packaged):
        found: list[str] = []
        for part in name.lower().split("/"):
            try:
                names = os.listdir(os.path.join(root, *found))
            except OSError:
                break
            spelling = next((each for each in names if each.lower() == part), None)
            if spelling is None:
                break
            found.append(spelling)
        else:
            return "/".join(found)
    return name
