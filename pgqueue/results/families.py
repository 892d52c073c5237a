"""What followed from a job, as its result shows it: children, the graph of them, the values of all."""

from collections import deque
from collections.abc import AsyncIterator, Iterator
from typing import Any, Protocol

from pgqueue.errors import IncompleteStream
from pgqueue.results.dependency_graph import DependencyGraph
from pgqueue.results.waiting import kept_after
from pgqueue.store.database import Database
from pgqueue.store.families import children_of

__all__ = ["Family"]


class Source(Protocol):
    """Where results are."""

    @property
    def database(self) -> Database: ...


class Family:
    """The side of a result that knows its relatives."""

    __slots__ = ()

    id: str
    job_id: str
    parent: Any
    _source: Any

    def _relative(self, job_id: str) -> Any:
        raise NotImplementedError

    @property
    def children(self) -> list[Any]:
        """Results of what followed from it so far: the next steps of its workflow, callbacks, and what it enqueued."""
        database = self._source.database
        statement = children_of(database.queries, self.job_id, kept_after(self.job_id))
        return [self._relative(job_id) for job_id in database.run(statement, statement)]

    async def achildren(self) -> list[Any]:
        """`children` for async code."""
        database = self._source.database
        statement = children_of(database.queries, self.job_id, kept_after(self.job_id))
        return [self._relative(job_id) for job_id in await database.arun(statement, statement)]

    def iterdeps(self, intermediate: bool = False) -> Iterator[tuple[Any, Any]]:
        """Go through all that followed from it, as (parent, result), each result once.

        Args:
            intermediate: False raises IncompleteStream at one that is not finished; True goes on.
        """
        waiting: deque[tuple[Any, Any]] = deque([(None, self)])
        seen: set[str] = set()
        while waiting:
            parent, node = waiting.popleft()
            ready = node.ready()
            if not ready and not intermediate:
                raise IncompleteStream(f"job {node.id} is not finished yet")
            yield parent, node
            if ready and node.id not in seen:
                seen.add(node.id)
                waiting.extend((node, child) for child in node.children)

    async def aiterdeps(self, intermediate: bool = False) -> AsyncIterator[tuple[Any, Any]]:
        """iterdeps() for async code."""
        waiting: deque[tuple[Any, Any]] = deque([(None, self)])
        seen: set[str] = set()
        while waiting:
            parent, node = waiting.popleft()
            ready = await node.aready()
            if not ready and not intermediate:
                raise IncompleteStream(f"job {node.id} is not finished yet")
            yield parent, node
            if ready and node.id not in seen:
                seen.add(node.id)
                waiting.extend((node, child) for child in await node.achildren())

    def collect(self, intermediate: bool = False, **options: Any) -> Iterator[tuple[Any, Any]]:
        """Go through all that followed from it, as (result, value), each once.

        Args:
            intermediate: False raises IncompleteStream at one that is not finished; True gives None as its value.
            options: of get().
        """
        seen: set[str] = set()
        for _, node in self.iterdeps(intermediate):
            if node.id not in seen:
                seen.add(node.id)
                yield node, (node.get(**options) if node.ready() else None)

    async def acollect(self, intermediate: bool = False, **options: Any) -> AsyncIterator[tuple[Any, Any]]:
        """collect() for async code."""
        seen: set[str] = set()
        async for _, node in self.aiterdeps(intermediate):
            if node.id not in seen:
                seen.add(node.id)
                yield node, (await node.aget(**options) if await node.aready() else None)

    def get_leaf(self) -> Any:
        """Return the value of the last result of collect()."""
        return deque(self.collect(), maxlen=1)[0][1]

    def build_graph(self, intermediate: bool = False) -> DependencyGraph[Any]:
        """Return the graph of all that followed from it."""
        graph: DependencyGraph[Any] = DependencyGraph()
        for parent, node in self.iterdeps(intermediate):
            graph.add_arc(node)
            if parent is not None and node not in graph[parent]:
                graph.add_edge(parent, node)
        return graph

    @property
    def graph(self) -> DependencyGraph[Any]:
        """build_graph() of what is finished."""
        return self.build_graph()

    def as_tuple(self) -> tuple[Any, Any]:
        """Return the ids of it and its parents as nested tuples, for result_from_tuple()."""
        return (self.id, self.parent and self.parent.as_tuple()), None

    def as_list(self) -> list[str]:
        """Return the ids of it and its parents."""
        found, node = [self.id], self.parent
        while node is not None:
            found.append(node.id)
            node = node.parent
        return found
