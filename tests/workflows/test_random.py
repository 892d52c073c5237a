"""Random graphs of named steps against a plain evaluation of what each step should be given and how it should end."""

import random
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from pgqueue import PgQueue, Workflow

ROUNDS = 60


@dataclass
class Node:
    """A step: `parents` maps names to policies; `asks` is what its condition says, if it has one."""

    name: str
    kind: str
    parents: dict[str, str] = field(default_factory=dict)
    asks: bool | None = None
    undone: bool = False


def drawn(choose: random.Random) -> list[Node]:
    """A graph of up to eight steps."""
    nodes: list[Node] = []
    for number in range(choose.randint(1, 8)):
        earlier = [node.name for node in nodes]
        chosen = choose.sample(earlier, choose.randint(0, min(3, len(earlier))))
        policies = {parent: choose.choice(["stop", "stop", "value", "ignore"]) for parent in chosen}
        kind = choose.choice(["good", "good", "good", "bad", "wait", "sleep"])
        of_task = kind in ("good", "bad")
        asks = choose.choice([None, None, True, False]) if of_task else None
        nodes.append(Node(f"s{number}", kind, policies, asks, of_task and choose.random() < 0.5))
    return nodes


class Model:
    """What should become of a graph."""

    def __init__(self, nodes: list[Node]) -> None:
        self.states: dict[str, str] = {}
        self.values: dict[str, str] = {}
        kinds = {node.name: node.kind for node in nodes}
        for node in nodes:
            stopped = any(self.states[one] == "failed" and policy == "stop" for one, policy in node.parents.items())
            idle = bool(node.parents) and all(self.states[one] == "skipped" for one in node.parents)
            state = "failed" if stopped else "skipped" if idle else ""
            if node.asks is not None:
                self.states[f"{node.name}.when"] = state or "succeeded"
                state = state or ("" if node.asks else "skipped")
            self.states[node.name] = state or ("failed" if node.kind == "bad" else "succeeded")
            inputs = [self._given(one, policy) for one, policy in node.parents.items() if kinds[one] != "sleep"]
            self.values[node.name] = node.name if node.kind == "wait" else f"{node.name}({','.join(inputs)})"
        tolerated = {
            name: bool(policies := [node.parents[name] for node in nodes if name in node.parents])
            and "stop" not in policies
            for name in self.states
        }
        self.state = "succeeded"
        if any(state == "failed" and not tolerated[name] for name, state in self.states.items()):
            self.state = "failed"
        self.undone = {
            node.name
            for node in nodes
            if node.undone and self.state == "failed" and self.states[node.name] == "succeeded"
        }

    def _given(self, name: str, policy: str) -> str:
        if self.states[name] == "succeeded":
            return self.values[name]
        return "error" if self.states[name] == "failed" and policy == "value" else "-"


@pytest.mark.slow
def test_random_graphs(app: PgQueue, start: Callable[[], None]) -> None:
    undone: list[str] = []

    def shown(value: Any) -> str:
        return "-" if value is None else "error" if isinstance(value, dict) else str(value)

    @app.task(name="good")
    def good(*values: Any) -> str:
        *inputs, name = values
        return f"{name}({','.join(map(shown, inputs))})"

    @app.task(name="bad", throws=(ValueError,))
    def bad(*values: Any) -> None:
        raise ValueError("boom")

    @app.task(name="asks")
    def asks(*values: Any) -> bool:
        return bool(values[-1])

    @app.task(name="undo")
    def undo(name: str) -> None:
        undone.append(name)

    start()

    for seed in range(ROUNDS):
        nodes = drawn(random.Random(seed))
        undone.clear()
        flow = Workflow(app=app)
        for node in nodes:
            edges: dict[str, Any] = {"after": list(node.parents), "on_failure": dict(node.parents)}
            if node.kind == "wait":
                flow.wait_for(node.name, **edges)
            elif node.kind == "sleep":
                flow.sleep(0, node.name, **edges)
            else:
                task = good if node.kind == "good" else bad
                when = None if node.asks is None else asks.s(node.asks)
                flow.step(
                    node.name,
                    task.s(node.name),
                    when=when,
                    compensate=undo.s(node.name) if node.undone else None,
                    **edges,
                )
        result = flow.apply_async()
        expected = Model(nodes)
        for node in nodes:
            if node.kind == "wait" and expected.states[node.name] == "succeeded":
                result.resolve(node.name, node.name)
        values = result.get(timeout=30, propagate=False)
        found = {step.name: step.state for step in result.steps if step.name and not step.name.endswith(".undo")}
        assert {name: found[name] for name in expected.states} == expected.states, (seed, nodes)
        assert result.state == expected.state, (seed, nodes)
        assert sorted(undone) == sorted(expected.undone), (seed, nodes)
        for node in nodes:
            if expected.states[node.name] == "succeeded" and node.kind != "sleep":
                assert values[node.name] == expected.values[node.name], (seed, nodes)
            for place, name in enumerate(undone):
                assert node.name not in undone[place:] or not _precedes(nodes, name, node.name) or name == node.name


def _precedes(nodes: list[Node], first: str, second: str) -> bool:
    """Whether a step is before another one, on whatever way."""
    parents = {node.name: set(node.parents) for node in nodes}
    waiting, seen = [second], {second}
    while waiting:
        for parent in parents[waiting.pop()] - seen:
            seen.add(parent)
            waiting.append(parent)
    return first in seen - {second}
