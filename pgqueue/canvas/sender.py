"""What signatures and canvases need of an application."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Protocol, cast

from pgqueue.eager import EagerResult
from pgqueue.errors import ConfigurationError
from pgqueue.graph import NewWorkflow
from pgqueue.job import NewJob
from pgqueue.options.options import CallOptions
from pgqueue.results.result import AsyncResult, Results

__all__ = ["Application", "Sender", "sender_of"]


class Sender(Protocol):
    """An application, as far as it sends signatures."""

    @property
    def results(self) -> Results: ...

    @property
    def conf(self) -> Any: ...

    def send(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> AsyncResult[Any]: ...

    async def asend(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> AsyncResult[Any]: ...

    def apply(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> EagerResult[Any]: ...

    async def aapply(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], options: CallOptions
    ) -> EagerResult[Any]: ...

    def is_eager(self) -> bool: ...

    def ignores_result(self, name: str) -> bool: ...

    def error_args(
        self, name: str, args: Sequence[Any], kwargs: Mapping[str, Any], failed: EagerResult[Any]
    ) -> Sequence[Any]: ...

    def participant(self, connection: Any = None) -> Any: ...

    def prepare_step(
        self,
        name: str,
        args: Sequence[Any],
        kwargs: Mapping[str, Any],
        options: CallOptions,
        before: int = 0,
        named: Iterable[str] = (),
    ) -> NewJob: ...

    def prepare_members(
        self,
        calls: Sequence[Any],
        before: bool,
        given: CallOptions,
        options: str | None,
        root_id: str | None,
        parent_id: str | None,
    ) -> list[NewJob] | None: ...

    def send_workflow(self, workflow: NewWorkflow, connection: Any = None) -> None: ...

    async def asend_workflow(self, workflow: NewWorkflow, connection: Any = None) -> None: ...

    def add_member(self, workflow: NewWorkflow, member_id: str, last_id: str) -> None: ...

    async def aadd_member(self, workflow: NewWorkflow, member_id: str, last_id: str) -> None: ...


class Application(Protocol):
    """What a person gives as `app=`: it has the sender of its signatures."""

    @property
    def client(self) -> Sender: ...


def sender_of(app: Sender | Application | None) -> Sender | None:
    """What sends the signatures of an application.

    Args:
        app: the application, or the sender itself; None: not known yet.

    Raises:
        ConfigurationError: it is something else.
    """
    found = getattr(app, "client", app)
    if found is not None and not hasattr(found, "send_workflow"):
        raise ConfigurationError(f"app: expected an application (PgQueue), got {type(app).__name__}")
    return cast(Sender | None, found)
