"""What people and programs read: tables that fit the terminal, JSON, and text that cannot command a terminal."""

import json
import re
import shutil
import sys
from collections.abc import Iterable, Sequence
from datetime import datetime
from typing import Any

import click

__all__ = ["ago", "paint", "print_json", "print_table", "printable", "seconds_of", "span"]

# Control characters, and those that reorder or hide text. Data of jobs is written by whoever may enqueue.
_UNSAFE = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff\ufff9-\ufffb\ud800-\udfff]"
)
_COLOURS = {
    "succeeded": "green",
    "live": "green",
    "failed": "red",
    "lost": "red",
    "silent": "yellow",
    "running": "cyan",
    "cancelled": "yellow",
    "expired": "yellow",
    "skipped": "yellow",
}
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}


def printable(text: object, keep: str = "") -> str:
    """Return text with every character escaped that could move the cursor, change colours or reorder what is read.

    Args:
        text: anything; str() of it is used.
        keep: characters to leave as they are, such as a newline.
    """

    def escape(found: re.Match[str]) -> str:
        character = found[0]
        if character in keep:
            return character
        return f"\\u{ord(character):04x}"  # valid inside of JSON text, too

    return _UNSAFE.sub(escape, str(text))


def paint(state: str) -> str:
    """Return the name of a state in its colour; click drops it where there is none."""
    return click.style(state, fg=_COLOURS[state]) if state in _COLOURS else state


def print_json(value: Any) -> None:
    """Print one value as JSON; instants in ISO form, control characters escaped by JSON itself."""
    click.echo(json.dumps(value, indent=2, default=_plain, ensure_ascii=True))


def _plain(value: Any) -> Any:
    if isinstance(value, datetime):
        return value.isoformat()
    return str(value)


def print_table(
    heads: Sequence[str], rows: Iterable[Sequence[object]], right: Iterable[str] = (), drop: Iterable[str] = ()
) -> None:
    """Print a table. On a terminal its widest columns give way until it fits, but no id; elsewhere nothing is cut.

    Args:
        heads: names of the columns.
        rows: cells; None is left empty.
        right: heads of the columns that are aligned to the right.
        drop: heads of the columns that are left out of a narrow terminal, those that are missed least first.
    """
    lines = [list(heads), *([("" if cell is None else printable(cell)) for cell in row] for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    if sys.stdout.isatty():
        room = shutil.get_terminal_size().columns
        for head in drop:
            if _least(heads, widths) <= room:
                break
            place = heads.index(head)
            heads = [*heads[:place], *heads[place + 1 :]]
            del widths[place]
            for line in lines:
                del line[place]
        _fit(widths, heads, room)
    numbers = set(right)
    for n, line in enumerate(lines):
        cells = []
        for head, cell, width in zip(heads, line, widths, strict=True):
            text = cell if len(cell) <= width else cell[: max(width - 1, 0)] + "~"
            padded = text.rjust(width) if head in numbers else text.ljust(width)
            cells.append(padded.replace(text, paint(text), 1) if n and head in ("state", "status") and text else padded)
        click.echo("  ".join(cells).rstrip())


def _least(heads: Sequence[str], widths: Sequence[int]) -> int:
    """How wide a table must be for its cells to say something still."""
    return sum(w if head == "id" else min(w, 9) for head, w in zip(heads, widths, strict=True)) + 2 * (len(heads) - 1)


def _fit(widths: list[int], heads: Sequence[str], room: int) -> None:
    """Shrink the widest columns that are no ids, never below their heads' first letters."""
    room -= 2 * (len(widths) - 1)
    places = [place for place, head in enumerate(heads) if head != "id"]
    while sum(widths) > room:
        widest = max(places, key=widths.__getitem__, default=None)
        if widest is None or widths[widest] <= 4:
            return
        widths[widest] -= 1


def span(seconds: float | None) -> str:
    """Return a length of time in two figures at most: 3.2 s, 5 min, 2 h 10 min, 3 d."""
    if seconds is None:
        return ""
    if seconds < 0:
        return f"-{span(-seconds)}"
    if seconds < 60:
        return f"{seconds:.1f} s" if seconds < 10 else f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    return f"{hours // 24} d {hours % 24} h" if hours % 24 else f"{hours // 24} d"


def ago(instant: datetime | None, now: datetime) -> str:
    """Return how long ago an instant was: "5 min ago", or "in 5 min"."""
    if instant is None:
        return ""
    seconds = (now - instant).total_seconds()
    return f"{span(seconds)} ago" if seconds >= 0 else f"in {span(-seconds)}"


def seconds_of(text: str) -> float:
    """Return the seconds of a length of time such as 90, 90s, 15m, 2h, 7d or 1w.

    Raises:
        ValueError: it is none, or is negative or longer than ten years.
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smhdw]?)", text.strip(), re.ASCII)
    if found is None or (seconds := float(found[1]) * _UNITS[found[2] or "s"]) > 10 * 366 * 86_400:
        raise ValueError(f"{text!r} is no length of time such as 90, 15m, 2h or 7d")
    return seconds
