"""What Celery's app, control and request have and ours have not is refused by its name, with the way out."""

import importlib
import re
from typing import Any

import pytest

import pgqueue
from pgqueue import AsyncResult, PgQueue, PgQueueError, TimeoutError, UnsupportedOption
from pgqueue.declined.attributes import APP, CONTROL, PACKAGE, REQUEST, RESULT, TASK
from pgqueue.request import Request
from pgqueue.results.result import Results


@pytest.fixture
def app() -> PgQueue:
    """An application that never connects."""
    return PgQueue("shop", dsn="postgresql://nobody@127.0.0.1:1/nowhere")


@pytest.mark.parametrize("name", [*PACKAGE])
def test_of_the_package(name: str) -> None:
    with pytest.raises(ImportError, match=rf"^pgqueue\.{name} is not supported: \w"):
        getattr(pgqueue, name)


@pytest.mark.parametrize("module", ["signals", "exceptions", "result", "utils", "utils.log"])
def test_of_modules(module: str) -> None:
    with pytest.raises(ImportError, match=rf"^pgqueue\.{module.partition('.')[0]} is not supported: \w") as caught:
        importlib.import_module(f"pgqueue.{module}")
    for name in re.findall(r"import ([\w, ]+)", str(caught.value)):
        assert set(name.split(", ")) <= set(pgqueue.__all__)


def test_a_class_of_tasks() -> None:
    with pytest.raises(
        UnsupportedOption, match=r"^class Mine\(Task\) is not supported: there are no task base classes"
    ):
        type("Mine", (pgqueue.Task,), {})


@pytest.mark.parametrize("name", [*APP])
def test_of_the_application(app: PgQueue, name: str) -> None:
    with pytest.raises(UnsupportedOption, match=rf"^PgQueue\.{name} is not supported: \w"):
        getattr(app, name)


@pytest.mark.parametrize("name", [*CONTROL])
def test_of_control(app: PgQueue, name: str) -> None:
    with pytest.raises(UnsupportedOption, match=rf"^Control\.{name} is not supported: \w"):
        getattr(app.control, name)


@pytest.mark.parametrize("name", [*REQUEST])
def test_of_the_request(name: str) -> None:
    with pytest.raises(UnsupportedOption, match=rf"^Request\.{name} is not supported: \w"):
        getattr(Request(), name)
    assert Request().get(name, "nothing") == "nothing"


@pytest.mark.parametrize("name", [*TASK])
def test_of_a_task(app: PgQueue, name: str) -> None:
    @app.task(name="t.pay", bind=True)
    def pay(self: Any) -> None: ...

    with pytest.raises(UnsupportedOption, match=rf"^Task\.{name} is not supported: \w"):
        getattr(pay, name)
    assert not hasattr(pay, "delay_on_comit")


@pytest.mark.parametrize("name", [*RESULT])
def test_of_a_result(app: PgQueue, name: str) -> None:
    with pytest.raises(UnsupportedOption, match=rf"^AsyncResult\.{name} is not supported: \w"):
        getattr(app.AsyncResult("17"), name)


def test_a_result_knows_its_own_timeout(app: PgQueue) -> None:
    assert app.AsyncResult("17").TimeoutError is TimeoutError


def test_other_names_are_ordinary_mistakes(app: PgQueue) -> None:
    wrong: tuple[Any, ...] = (app, app.control, Request())
    for one in wrong:
        assert not hasattr(one, "no_such_thing")
        assert not hasattr(one, "inspekt")


@pytest.mark.parametrize("option", ["signal", "connection", "destination", "reply", "timeout"])
def test_options_of_revoke(app: PgQueue, option: str) -> None:
    given: dict[str, Any] = {option: 1}
    for revoke in (lambda: app.control.revoke("x", **given), lambda: app.AsyncResult("x").revoke(**given)):
        with pytest.raises(UnsupportedOption, match=rf"revoke\(\): {option} is not supported: "):
            revoke()
    with pytest.raises(TypeError, match="unexpected keyword argument 'sygnal'"):
        app.control.revoke("x", sygnal=9)


def test_parts_of_the_time_limit() -> None:
    request = Request(timelimit=(30.0, 20.0))
    assert (request.time_limit, request.soft_time_limit) == (30, 20)


@pytest.mark.parametrize("option", ["backend", "task_name"])
def test_options_of_a_result(app: PgQueue, option: str) -> None:
    given: dict[str, Any] = {option: 1}
    with pytest.raises(UnsupportedOption, match=rf"AsyncResult\(\): {option} is not supported: "):
        AsyncResult("x", app, **given)
    with pytest.raises(TypeError, match="unexpected keyword argument 'nmae'"):
        AsyncResult("x", app, nmae=1)


def test_options_of_an_application() -> None:
    with pytest.raises(UnsupportedOption, match="broker is not supported"):
        PgQueue("x", broker="redis://")


def test_a_result_finds_the_only_application(app: PgQueue, monkeypatch: pytest.MonkeyPatch) -> None:
    known: dict[str, Results] = {"shop": app.results}
    monkeypatch.setattr("pgqueue.results.result._sources", known)
    found: AsyncResult[Any] = AsyncResult("17")
    assert found._source is app.results
    known["other"] = app.results
    with pytest.raises(PgQueueError, match="which of 2 applications"):
        AsyncResult("17")
