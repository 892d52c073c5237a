"""task_routes and task_annotations in each of their forms."""

import re
from types import SimpleNamespace
from typing import Any

import pytest

from pgqueue.config.validation import annotations, routes
from pgqueue.errors import ConfigurationError
from pgqueue.tasks.routing import Annotations, Router


class Objects:
    def route_for_task(self, name: str, args: Any = None, kwargs: Any = None) -> dict[str, Any] | None:
        return {"queue": "object"} if name == "o" else None

    def annotate(self, task: Any) -> dict[str, Any] | None:
        return {"time_limit": 9} if task.name == "o" else None


TABLE = {"t": "table"}


def by_argument(name: str, args: Any, kwargs: Any, options: Any, task: Any = None, **kw: Any) -> str | None:
    return f"shard{args[0]}" if args else None


def without_task(name: str, args: Any, kwargs: Any, options: Any) -> dict[str, Any]:
    return {"priority": 3}


@pytest.mark.parametrize(
    ("setting", "name", "args", "found"),
    [
        ({"a.b": "q"}, "a.b", (), {"queue": "q"}),
        ({"a.b": "q"}, "axb", (), {}),
        ({"a.*": {"queue": "q", "priority": 5}}, "a.b.c", (), {"queue": "q", "priority": 5}),
        ({"a.*": "q"}, "b.a.x", (), {}),
        ([("a.?", "one"), ("a.*", "many")], "a.bb", (), {"queue": "many"}),
        ([("a.?", "one"), ("a.*", "many")], "a.b", (), {"queue": "one"}),
        ([(re.compile(r"(video|image)\..*"), "media")], "image.resize", (), {"queue": "media"}),
        (by_argument, "a", (7,), {"queue": "shard7"}),
        ([by_argument, {"a": "q"}], "a", (), {"queue": "q"}),
        (without_task, "a", (), {"priority": 3}),
        (Objects(), "o", (), {"queue": "object"}),
        (f"{__name__}.Objects", "o", (), {"queue": "object"}),
        (f"{__name__}:TABLE", "t", (), {"queue": "table"}),
        (f"{__name__}.by_argument", "a", (1,), {"queue": "shard1"}),
        (None, "a", (), {}),
    ],
)
def test_routes(setting: Any, name: str, args: tuple[Any, ...], found: dict[str, Any]) -> None:
    router = Router(routes(setting))
    assert router.route(name, args) == found
    assert router.route(name, args) == found  # remembered or not
    assert bool(router) == (setting is not None)


def test_a_function_sees_every_call() -> None:
    router = Router(routes([by_argument]))
    assert [router.route("a", (shard,)) for shard in (1, 2)] == [{"queue": "shard1"}, {"queue": "shard2"}]


def test_wrong_routers_are_named() -> None:
    with pytest.raises(ConfigurationError, match="a router gave 5 for a"):
        Router(routes([lambda *args, **kw: 5])).route("a")
    with pytest.raises(ConfigurationError, match="no module 'nowhere'"):
        Router(routes("nowhere.Router"))
    with pytest.raises(ConfigurationError, match="is no router"):
        Router(routes(f"{__name__}:__doc__"))


def test_queues_that_do_not_exist_are_refused() -> None:
    router = Router(routes({"a": "mail", "b": "other"}), ["mail"])
    assert router.route("a") == {"queue": "mail"}
    with pytest.raises(ConfigurationError, match=r"queue 'other' is not among task_queues \(mail\)"):
        router.route("b")
    router.check_queue(None)


@pytest.mark.parametrize(
    ("setting", "found"),
    [
        ({"*": {"time_limit": 1, "priority": 2}, "o": {"time_limit": 3}}, {"time_limit": 3, "priority": 2}),
        ({"other": {"time_limit": 3}}, {}),
        ([{"o": {"time_limit": 1}}, {"*": {"time_limit": 2}}], {"time_limit": 2}),
        (Objects(), {"time_limit": 9}),
        (f"{__name__}:Objects", {"time_limit": 9}),
        (None, {}),
    ],
)
def test_annotations(setting: Any, found: dict[str, Any]) -> None:
    assert Annotations(annotations(setting)).options_for(SimpleNamespace(name="o")) == found


def test_wrong_annotations_are_named() -> None:
    with pytest.raises(ConfigurationError, match=r"annotate\(\) gave 5 for o"):
        Annotations([SimpleNamespace(annotate=lambda task: 5)]).options_for(SimpleNamespace(name="o"))
