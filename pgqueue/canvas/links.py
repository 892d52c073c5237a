"""What is linked to a call: callbacks among its options."""

from collections.abc import Mapping
from typing import Any

__all__ = ["callbacks"]


def callbacks(options: Mapping[str, Any], option: str) -> list[Any]:
    """What an option links: a list of signatures, or of their dicts.

    Args:
        options: of a signature.
        option: `link` or `link_error`.
    """
    found = options.get(option)
    if found is None:
        return []
    return list(found) if isinstance(found, list | tuple) else [found]
