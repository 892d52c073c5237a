"""Write the tables of settings into docs/porting.md; `--check` only compares them (exit 1 when they differ)."""

import sys
from collections.abc import Mapping
from pathlib import Path

from pgqueue.config.settings import MAPPED, SETTINGS
from pgqueue.declined.settings import DECLINED

PAGE = Path(__file__).parent.parent / "docs" / "porting.md"
BEGIN, END = "<!-- settings: begin -->", "<!-- settings: end -->"


def table() -> str:
    """The three tables as Markdown."""
    lines = ["### Honoured", "", "| setting | default | meaning |", "|---|---|---|"]
    for setting in SETTINGS.values():
        ours = "" if setting.celery else " (ours)"
        lines.append(f"| `{setting.name}`{ours} | `{_shown(setting.default)}` | {_cell(setting.doc)} |")
    lines += ["", "### Mapped", "", "| setting | is | how |", "|---|---|---|"]
    lines += [f"| `{mapped.name}` | `{mapped.target}` | {_cell(mapped.doc)} |" for mapped in MAPPED.values()]
    lines += ["", "### Declined", "", "Setting one raises UnsupportedOption.", "", "| setting | instead |", "|---|---|"]
    lines += [f"| `{name}` | {_cell(way_out)} |" for name, way_out in sorted(DECLINED.items())]
    return "\n".join(lines)


def _shown(value: object) -> str:
    if isinstance(value, str):
        return value.replace("|", "\\|")
    if isinstance(value, Mapping):
        value = dict(value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def page(text: str) -> str:
    """The page's text with its tables as they should be."""
    head, _, rest = text.partition(BEGIN)
    _, _, tail = rest.partition(END)
    return f"{head}{BEGIN}\n\n{table()}\n\n{END}{tail}"


def main() -> int:
    text = PAGE.read_text(encoding="utf-8")
    wanted = page(text)
    if "--check" in sys.argv:
        return int(text != wanted)
    PAGE.write_text(wanted, encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
