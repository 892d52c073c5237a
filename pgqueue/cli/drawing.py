"""A workflow drawn: as a tree for terminals, as Mermaid text for pages. Members that look alike are one node."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import click

from pgqueue.cli.output import paint, printable
from pgqueue.graph import NewEdge
from pgqueue.store.workflows import StepRow

__all__ = ["Drawing"]

_SIGNS = {"succeeded": "●", "failed": "✗", "cancelled": "✗", "expired": "✗", "skipped": "–", "running": "▶"}
_PLAIN = {
    "●": "*",
    "✗": "x",
    "–": "-",
    "▶": ">",
    "○": "o",
    "×": "x",
    "├─ ": "|- ",
    "└─ ": "`- ",
    "│  ": "|  ",
    "↶": "undo",
}
_FILLS = {
    "succeeded": "#d3f2d3",
    "failed": "#f8d0d0",
    "cancelled": "#f6e7b5",
    "expired": "#f6e7b5",
    "skipped": "#eeeeee",
    "running": "#cfe8f7",
}
_ARROWS = {"value": "-->", "order": "-.->", "when": "-->|when|", "error": "-.->|error|", "undo": "-.->|undo|"}


@dataclass(slots=True)
class Node:
    """One step, or several that have the same task and the same parents."""

    steps: list[StepRow] = field(default_factory=list)
    parents: dict[int, str] = field(default_factory=dict)  # place of the parent's node -> kind of edge


class _Key(NamedTuple):
    task: str | None
    parents: frozenset[int]


class Drawing:
    """The nodes of one workflow, each behind its parents.

    Args:
        steps, edges: of the workflow.
    """

    def __init__(self, steps: Sequence[StepRow], edges: Sequence[NewEdge]) -> None:
        self.nodes: list[Node] = []
        above: dict[str, dict[str, str]] = {}
        for edge in edges:
            above.setdefault(edge.child_id, {})[edge.parent_id] = edge.kind
        place_of: dict[str, int] = {}
        alike: dict[_Key, int] = {}
        for step in steps:
            if step.run == "settle":
                continue
            if step.compensates is not None:
                parents = {place_of[step.compensates]: "undo"} if step.compensates in place_of else {}
            else:
                given = above.get(step.job_id, {})
                parents = {place_of[one]: kind for one, kind in given.items() if one in place_of}
            key = _Key(step.task, frozenset(parents))
            place = alike.get(key) if step.name is None else None
            if place is None:
                place = len(self.nodes)
                self.nodes.append(Node(parents=parents))
                if step.name is None:
                    alike[key] = place
            self.nodes[place].steps.append(step)
            place_of[step.job_id] = place

    def tree(self, unicode: bool = True) -> Iterator[str]:
        """Its lines: a step stands under the last of its parents; what follows alone stands below, not beside."""
        children: dict[int | None, list[int]] = {}
        for place, node in enumerate(self.nodes):
            last = max(node.parents, default=None)
            children.setdefault(last, []).append(place)
        waiting = [(place, "", "├─ " if n < len(children[None]) - 1 else "└─ ")
                   for n, place in enumerate(children.get(None, []))][::-1]  # fmt: skip
        while waiting:
            place, margin, branch = waiting.pop()
            line = f"{margin}{branch}{self._line(self.nodes[place])}"
            yield line if unicode else _plain(line)
            below = children.get(place, [])
            inner = margin + {"├─ ": "│  ", "└─ ": "   ", "": ""}[branch]
            if len(below) == 1:
                waiting.append((below[0], inner, ""))
            else:
                for n, one in reversed(list(enumerate(below))):
                    waiting.append((one, inner, "├─ " if n < len(below) - 1 else "└─ "))

    def _line(self, node: Node) -> str:
        first = node.steps[0]
        states = Counter(step.state for step in node.steps)
        if len(node.steps) > 1:
            worst = next((state for state in ("failed", "running") if states[state]), first.state)
            told = ", ".join(f"{count:,} {paint(state)}" for state, count in states.items())
            after = f"  after {self._names(node)}" if len(node.parents) > 1 else ""
            return f"{_sign(worst)} {len(node.steps):,} × {printable(first.task)}  {told}{after}"
        undo = "↶ " if first.compensates is not None else ""
        parts = [f"{_sign(first.state)} {undo}{printable(first.name or first.task)}", paint(first.state)]
        if first.name is not None and first.run is None:
            parts.append(printable(first.task))
        if len(node.parents) > 1:
            parts.append(f"after {self._names(node)}")
        parts.append(_remark(first))
        return "  ".join(part for part in parts if part)

    def _names(self, node: Node) -> str:
        return ", ".join(self._name(place) for place in node.parents)

    def _name(self, place: int) -> str:
        node = self.nodes[place]
        name = printable(node.steps[0].name or node.steps[0].task)
        return name if len(node.steps) == 1 else f"{len(node.steps):,} × {name}"

    def mermaid(self) -> Iterator[str]:
        """Its lines as a Mermaid flowchart."""
        yield "flowchart TD"
        for place, node in enumerate(self.nodes):
            first = node.steps[0]
            states = Counter(step.state for step in node.steps)
            told = ", ".join(state if count == 1 else f"{count:,} {state}" for state, count in states.items())
            task = first.task if first.name is not None and first.run is None else None
            text = "<br/>".join(_quoted(part) for part in (self._name(place), task, told) if part)
            style = first.state if len(states) == 1 else "failed" if states["failed"] else "running"
            yield f'    s{place}["{text}"]' + (f":::{style}" if style in _FILLS else "")
        for place, node in enumerate(self.nodes):
            for parent, kind in node.parents.items():
                yield f"    s{parent} {_ARROWS[kind]} s{place}"
        for state, fill in _FILLS.items():
            yield f"    classDef {state} fill:{fill},stroke:#888"


def _sign(state: str) -> str:
    sign = _SIGNS.get(state, "○")
    return paint(state).replace(state, sign) if state in _SIGNS else sign


def _remark(step: StepRow) -> str:
    if step.error_type is not None:
        said = (step.error or "").splitlines()
        return printable(f"{'stopped by ' if step.propagated else ''}{step.error_type}: {said[0] if said else ''}")
    if step.state == "waiting" and step.remaining:
        return f"waits for {step.remaining:,} of {step.waits_for:,}"
    if step.run == "wait" and step.state in ("waiting", "scheduled"):
        return "waits for its event"
    return "sleeps" if step.run == "sleep" and step.state == "scheduled" else ""


def _quoted(text: str) -> str:
    """Text inside of a Mermaid label."""
    for character, code in (("&", "&amp;"), ('"', "&quot;"), ("<", "&lt;"), (">", "&gt;"), ("#", "&num;")):
        text = text.replace(character, code)
    return click.unstyle(text)


def _plain(line: str) -> str:
    for sign, replacement in _PLAIN.items():
        line = line.replace(sign, replacement)
    return line
