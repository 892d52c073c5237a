"""What Celery's app, control and request have and ours have not is refused by its name, with the way out."""

from typing import Any

import pytest

from pgqueue import PgQueue, UnsupportedOption
from pgqueue.declined_attributes import APP, CONTROL, REQUEST
from pgqueue.request import Request


@pytest.fixture
def app() -> PgQueue:
    """An application that never connects."""
    return PgQueue("shop", dsn="postgresql://nobody@127.0.0.1:1/nowhere")


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
