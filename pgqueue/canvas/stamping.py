"""Stamps: labels on the parts of a canvas, chosen by a visitor, read by the tasks as self.request.stamps."""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Any

__all__ = ["Stampable", "StampingVisitor", "merged_stamps", "read_stamps"]

_NAMES = "stamped_headers"


class StampingVisitor(ABC):
    """Chooses the stamps of a canvas, part by part: `canvas.stamp(visitor=…)` calls the methods on its way.

    Each returns a dict of stamps, or None. If it has the key "stamped_headers", only the names listed there are stamps.
    What the start of a group, chain or chord header returns is handed on to its parts, as `headers`.
    """

    @abstractmethod
    def on_signature(self, sig: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Stamp a task's signature."""

    def on_group_start(self, group: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Called before the members of a group."""
        return None

    def on_group_end(self, group: Any, **headers: Any) -> None:
        """Called after the members of a group."""
        return

    def on_chain_start(self, chain: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Called before the tasks of a chain."""
        return None

    def on_chain_end(self, chain: Any, **headers: Any) -> None:
        """Called after the tasks of a chain."""
        return

    def on_chord_header_start(self, chord: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Called before the header of a chord; by default as for a group."""
        return self.on_group_start(chord.header, **headers)

    def on_chord_header_end(self, chord: Any, **headers: Any) -> None:
        """Called after the header of a chord; by default as for a group."""
        self.on_group_end(chord.header, **headers)

    def on_chord_body(self, chord: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Called before the body of a chord."""
        return None

    def on_callback(self, callback: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Called before what link() added."""
        return None

    def on_errback(self, errback: Any, **headers: Any) -> Mapping[str, Any] | None:
        """Called before what link_error() added."""
        return None


class Stampable:
    """The side of a signature that carries stamps."""

    __slots__ = ()
    options: Any

    def _linked(self, option: str) -> list[Any]:
        """The callbacks of an option."""
        raise NotImplementedError

    def stamp(self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any) -> Any:
        """Label the signature and its callbacks; the task reads the labels as self.request.stamps.

        Args:
            visitor: chooses labels for each part; see StampingVisitor.
            append_stamps: True collects the values of a label in a list, False keeps the last one.
            headers: labels and their values, which have a JSON form.

        Returns:
            The signature itself.
        """
        self.stamp_links(visitor, append_stamps, **headers)
        self._take_stamps(visitor.on_signature(self, **headers) if visitor else None, append_stamps, headers)
        return self

    def stamp_links(self, visitor: StampingVisitor | None, append_stamps: bool = False, **headers: Any) -> None:
        """Label the callbacks alone."""
        for option, hook in (("link", "on_callback"), ("link_error", "on_errback")):
            found = self._linked(option)
            for callback in found:
                chosen = getattr(visitor, hook)(callback, **headers) if visitor is not None else None
                callback.stamp(visitor, append_stamps, **merged_stamps(headers, chosen, append_stamps))
            if found:
                self.options[option] = found

    def _take_stamps(self, chosen: Mapping[str, Any] | None, append: bool, headers: Mapping[str, Any]) -> None:
        found = merged_stamps(_stamps_of(self.options), merged_stamps(headers, chosen, append), append)
        if found:
            self.options["stamps"] = found


def merged_stamps(stamps: Mapping[str, Any], more: Mapping[str, Any] | None, append: bool) -> dict[str, Any]:
    """Stamps and more of them: where a name is in both, the values as a list (append), or else the later one."""
    found = _stamps(stamps)
    for name, value in _stamps(more or {}).items():
        if append and name in found and found[name] != value:
            found[name] = [*_as_list(found[name]), *_as_list(value)]
        else:
            found[name] = value
    return found


def _stamps_of(options: Mapping[str, Any]) -> dict[str, Any]:
    """The stamps among a signature's options."""
    return dict(options.get("stamps") or {})


def read_stamps(options: dict[str, Any]) -> dict[str, Any]:
    """Options with their stamps in one place; Celery's dicts have them among the options, and their names in a list."""
    names = options.pop(_NAMES, None) or ()
    found = {name: options.pop(name) for name in names if name in options}
    if found:
        options["stamps"] = {**_stamps_of(options), **found}
    return options


def _stamps(values: Mapping[str, Any]) -> dict[str, Any]:
    names = values.get(_NAMES)
    return {name: value for name, value in values.items() if name != _NAMES and (names is None or name in names)}


def _as_list(value: Any) -> list[Any]:
    return list(value) if isinstance(value, list | tuple | set) else [value]
