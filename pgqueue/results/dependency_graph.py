"""DependencyGraph: which result followed from which, for people and for Graphviz."""

from collections.abc import Iterable, Iterator
from graphlib import TopologicalSorter
from typing import Generic, Protocol, TypeVar

__all__ = ["DependencyGraph"]

T = TypeVar("T")


class Writable(Protocol):
    """A text file."""

    def write(self, text: str, /) -> object: ...


class DependencyGraph(Generic[T]):
    """A directed graph without cycles; an edge leads from an object to one that followed from it.

    Args:
        it: pairs of an object and those that it leads to.
    """

    def __init__(self, it: Iterable[tuple[T, Iterable[T]]] = ()) -> None:
        self.adjacent: dict[T, list[T]] = {}
        self.update(it)

    def add_arc(self, obj: T) -> None:
        """Add an object."""
        self.adjacent.setdefault(obj, [])

    def add_edge(self, from_: T, to: T) -> None:
        """Add an edge from an object that is there."""
        self.adjacent[from_].append(to)

    def update(self, it: Iterable[tuple[T, Iterable[T]]]) -> None:
        """Add pairs of an object and those that it leads to."""
        pairs = [(obj, list(leads_to)) for obj, leads_to in it]
        for obj, _ in pairs:
            self.add_arc(obj)
        for obj, leads_to in pairs:
            for other in leads_to:
                self.add_edge(obj, other)

    def connect(self, graph: "DependencyGraph[T]") -> None:
        """Add the objects and edges of another graph."""
        self.adjacent.update(graph.adjacent)

    def topsort(self) -> list[T]:
        """Return the objects, each behind those that it leads to."""
        return list(TopologicalSorter(self.adjacent).static_order())

    def valency_of(self, obj: T) -> int:
        """Return how many edges begin at an object and at what follows from it."""
        leads_to = self.adjacent.get(obj, [])
        return len(leads_to) + sum(map(self.valency_of, leads_to))

    def edges(self) -> Iterator[T]:
        """The objects that lead to others."""
        return (obj for obj, leads_to in self.adjacent.items() if leads_to)

    def items(self) -> Iterable[tuple[T, list[T]]]:
        """Objects with what they lead to."""
        return self.adjacent.items()

    def to_dot(self, fh: Writable) -> None:
        """Write the graph in the language of Graphviz: `dot -Tpng graph.dot -o graph.png` draws it."""
        fh.write("digraph dependencies {\n    node [shape=oval];\n")
        for obj, leads_to in self.adjacent.items():
            fh.write(f'    "{obj}";\n')
            for other in leads_to:
                fh.write(f'    "{obj}" -> "{other}";\n')
        fh.write("}\n")

    def __getitem__(self, obj: T) -> list[T]:
        return self.adjacent[obj]

    def __contains__(self, obj: object) -> bool:
        return obj in self.adjacent

    def __iter__(self) -> Iterator[T]:
        return iter(self.adjacent)

    def __len__(self) -> int:
        return len(self.adjacent)

    def __repr__(self) -> str:
        return "\n".join(line for obj in self.adjacent for line in self._lines(obj, ""))

    def _lines(self, obj: T, margin: str) -> Iterator[str]:
        yield f"{margin}{obj}({self.valency_of(obj)})"
        for other in self.adjacent.get(obj, []):
            yield from self._lines(other, margin + "    ")
