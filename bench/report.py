"""Figures, the table that people read, and the files that programs read."""

import html
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

__all__ = ["Figure", "at_least", "at_most", "at_most_times", "percentile", "table", "write"]


@dataclass
class Figure:
    """One bar, measured.

    Attributes:
        name: of the row.
        value: measured on pgqueue: the median of its runs.
        unit: of value and floor.
        bar: what is asked for, as text.
        holds: whether it was reached.
        floor: the same on the bare floor; None when there is none.
        ratio: value by floor, for rates and times alike.
        runs, floor_runs: what the medians were taken from.
        note: what else to know.
    """

    name: str
    value: float
    unit: str
    bar: str
    holds: bool
    floor: float | None = None
    ratio: float | None = None
    runs: list[float] = field(default_factory=list)
    floor_runs: list[float] = field(default_factory=list)
    note: str = ""
    share: float = 0.0  # how far the bar was reached: 1.0 is exactly

    def as_json(self) -> dict[str, Any]:
        """Return what build/bench/latest.json holds of it."""
        return {
            "name": self.name,
            "value": _rounded(self.value),
            "unit": self.unit,
            "floor": _rounded(self.floor),
            "ratio": _rounded(self.ratio),
            "bar": self.bar,
            "holds": self.holds,
        }


def at_least(
    name: str, unit: str, runs: Sequence[float], floors: Sequence[float], factor: float, note: str = ""
) -> Figure:
    """A rate that must reach `factor` x its floor; both are medians of runs that took turns."""
    value, floor = statistics.median(runs), statistics.median(floors)
    ratio = value / floor
    bar = f">= {factor:g} x floor"
    return Figure(name, value, unit, bar, ratio >= factor, floor, ratio, list(runs), list(floors), note, ratio / factor)


def at_most_times(
    name: str, unit: str, runs: Sequence[float], floors: Sequence[float], factor: float, note: str = ""
) -> Figure:
    """A time that must not exceed `factor` x its floor."""
    value, floor = statistics.median(runs), statistics.median(floors)
    ratio = value / floor
    bar = f"<= {factor:g} x floor"
    return Figure(name, value, unit, bar, ratio <= factor, floor, ratio, list(runs), list(floors), note, factor / ratio)


def at_most(
    name: str, unit: str, runs: Sequence[float], most: float, floors: Sequence[float] = (), note: str = ""
) -> Figure:
    """A figure with an absolute bar; a floor, if any, is shown for comparison."""
    value = statistics.median(runs)
    floor = statistics.median(floors) if floors else None
    ratio = value / floor if floor else None
    bar = f"<= {most:g} {unit}"
    share = most / value if value else 99.0
    return Figure(name, value, unit, bar, value <= most, floor, ratio, list(runs), list(floors), note, share)


def percentile(values: Sequence[float], share: float) -> float:
    """Return the value below which `share` of the values lie."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * share))]


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.5g}")


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _spread(runs: Sequence[float]) -> str:
    return f"{_number(min(runs))}..{_number(max(runs))}" if len(runs) > 1 else "-"


def table(figures: Sequence[Figure]) -> str:
    """Return the figures as an aligned table, notes below it."""
    head = ("what", "value", "spread", "floor", "floor's spread", "unit", "ratio", "bar", "holds")
    rows = [
        (
            figure.name,
            _number(figure.value),
            _spread(figure.runs),
            _number(figure.floor),
            _spread(figure.floor_runs),
            figure.unit,
            "-" if figure.ratio is None else f"{figure.ratio:.2f}",
            figure.bar,
            "yes" if figure.holds else "NO",
        )
        for figure in figures
    ]
    widths = [max(len(row[i]) for row in (head, *rows)) for i in range(len(head))]
    left = (0, 5, 7, 8)

    def line(row: Sequence[str]) -> str:
        cells = (
            cell.ljust(width) if i in left else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        return "  ".join(cells).rstrip()

    notes = [f"  {figure.name}: {figure.note}" for figure in figures if figure.note]
    return "\n".join(
        [line(head), line(["-" * width for width in widths]), *map(line, rows), *([""] if notes else []), *notes]
    )


def write(folder: Path, figures: Sequence[Figure], facts: dict[str, Any]) -> None:
    """Write latest.json (the list of figures), details.json (runs and circumstances) and latest.svg."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "latest.json").write_text(json.dumps([figure.as_json() for figure in figures], indent=1) + "\n")
    details = [
        {**figure.as_json(), "runs": figure.runs, "floor_runs": figure.floor_runs, "note": figure.note}
        for figure in figures
    ]
    (folder / "details.json").write_text(json.dumps({**facts, "figures": details}, indent=1, default=str) + "\n")
    (folder / "latest.svg").write_text(_plot(figures))


def _plot(figures: Sequence[Figure]) -> str:
    """Draw how far each bar was reached; the line marks 1."""
    step, left, unit, most = 22, 330, 180, 2.5
    height = step * len(figures) + 40
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{left + unit * most + 120:.0f}" height="{height}"'
        ' font-family="sans-serif" font-size="12">',
        '<rect width="100%" height="100%" fill="white"/>',
        f'<text x="{left}" y="16">share of the bar that was reached (1 = the bar; longer is better)</text>',
    ]
    for i, figure in enumerate(figures):
        y = 30 + i * step
        width = min(figure.share, most) * unit
        colour = "#3a7d44" if figure.holds else "#b3372f"
        parts.append(f'<text x="{left - 8}" y="{y + 12}" text-anchor="end">{html.escape(figure.name)}</text>')
        parts.append(f'<rect x="{left}" y="{y}" width="{width:.1f}" height="{step - 6}" fill="{colour}"/>')
        label = f"{_number(figure.value)} {figure.unit}"
        parts.append(f'<text x="{left + width + 6:.1f}" y="{y + 12}">{html.escape(label)}</text>')
    parts.append(f'<line x1="{left + unit}" x2="{left + unit}" y1="24" y2="{height - 8}" stroke="black"/>')
    parts.append("</svg>\n")
    return "\n".join(parts)
