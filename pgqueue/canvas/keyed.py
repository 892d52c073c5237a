"""Reading a signature as the dict that Celery's signatures are: sig["task"], sig["options"]["queue"]."""

from collections.abc import ItemsView
from typing import Any, ClassVar

__all__ = ["KEYS", "Keyed"]

KEYS = ("task", "args", "kwargs", "options", "subtask_type", "immutable")


class Keyed:
    """The side of a signature that is read, and changed, by the keys that Celery's has."""

    __slots__ = ()
    __iter__: ClassVar[None] = None  # else Python would take it for a sequence

    def keys(self) -> tuple[str, ...]:
        """The names of its parts."""
        return KEYS

    def items(self) -> ItemsView[str, Any]:
        """The parts, with their names."""
        return {key: self[key] for key in KEYS}.items()

    def get(self, key: str, default: Any = None) -> Any:
        """Return a part, or a default when there is none of this name."""
        return self[key] if key in KEYS else default

    def __getitem__(self, key: str) -> Any:
        if key not in KEYS:
            raise KeyError(key)
        return getattr(self, key)

    def __setitem__(self, key: str, value: Any) -> None:
        if key not in KEYS or key == "subtask_type":
            raise KeyError(key)
        setattr(self, key, tuple(value) if key == "args" else value)

    def __contains__(self, key: object) -> bool:
        return key in KEYS
