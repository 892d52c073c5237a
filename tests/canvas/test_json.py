"""Signatures of every kind as JSON and back, Celery's own dicts among them."""

import copy
import json
import pickle
from datetime import date
from typing import Any

import pytest

from pgqueue import (
    ConfigurationError,
    PgQueue,
    Signature,
    ValidationError,
    chain,
    chord,
    chunks,
    group,
    maybe_signature,
    signature,
    xmap,
)
from tests.canvas.conftest import Tasks
from tests.canvas.test_build import draw


def test_every_kind_comes_back(canvas: PgQueue, t: Tasks) -> None:
    add, tsum = t.add, t.tsum
    linked = add.s(date(2026, 1, 2), 1)
    linked.link(tsum.s() | add.s(1))
    linked.link_error(t.note.si())
    stamped: Any = group(add.s(1, 1), add.s(2, 2))
    stamped.stamp(origin="x")
    for one in (
        linked,
        chain(add.s(1, 1), add.s(2)).set(queue="q", link=[tsum.s()]),
        stamped,
        chord([add.s(1, 1), chain(add.s(1, 1), add.s(1))], group(tsum.s(), tsum.si([1]))),
        chord([add.s(1, 1)]),
        tsum.map([[1], [date(2026, 1, 2)]]),
        add.starmap([(1, 2)]),
        add.chunks([(1, 2), (3, 4)], 1),
        add.si(1, 1),
    ):
        values = json.loads(json.dumps(one.to_dict()))
        back = Signature.from_dict(values, canvas.client)
        assert type(back) is type(one)
        assert back.to_dict() == one.to_dict()
        if not (isinstance(one, chord) and one.body is None):
            assert draw(back) == draw(one)


def test_dicts_of_celery(canvas: PgQueue) -> None:
    def task(*args: Any, **more: Any) -> dict[str, Any]:
        return {"task": "t.add", "args": args, "kwargs": {}, "options": {}, "subtask_type": None, **more}

    whole = canvas.signature(
        {
            "task": "celery.chord",
            "args": [],
            "kwargs": {
                "kwargs": {},
                "header": {
                    "task": "celery.group",
                    "args": [],
                    "kwargs": {"tasks": [task(1, 1), task(2, 2, options={"stamped_headers": ["a"], "a": 1})]},
                    "options": {},
                    "subtask_type": "group",
                    "immutable": False,
                },
                "body": {
                    "task": "celery.chain",
                    "args": [],
                    "kwargs": {"tasks": [{**task(), "task": "t.tsum"}, task(5)]},
                    "options": {"link_error": [{**task(immutable=True), "task": "t.note"}]},
                    "subtask_type": "chain",
                    "immutable": False,
                },
            },
            "options": {},
            "subtask_type": "chord",
            "immutable": False,
        }
    )
    assert isinstance(whole, chord)
    assert whole.tasks[1].options == {"stamps": {"a": 1}}
    assert draw(whole) == [
        "add[1,1]",
        "add[2,2]",
        "tsum[] <value list- 0 1",
        "add[5] <value value- 2",
        "note[] <error error- 2 3",
    ]


def test_what_is_a_signature(canvas: PgQueue, t: Tasks) -> None:
    one = t.add.s(1)
    assert maybe_signature(one) is one
    assert maybe_signature(None) is None
    assert maybe_signature(t.add) == t.add.s()
    assert signature(one) == one
    assert signature(one) is not one
    assert signature(one, (5,)).args == (5, 1)
    assert one.replace(args=(7,)).args == (7,)
    assert {"chain", "group", "chord", "chunks", "xmap", "xstarmap"} <= Signature.TYPES.keys()
    assert isinstance(t.tsum.map([[1]]), xmap)
    assert isinstance(t.add.chunks([(1, 1)], 1), chunks)
    with pytest.raises(ValidationError, match="herd"):
        Signature.from_dict({"task": "x", "subtask_type": "herd"})
    with pytest.raises(ValidationError, match="by itself"):
        canvas.enqueue_many([chain(t.add.s(1, 1))])
    with pytest.raises(ValidationError, match="link"):
        canvas.enqueue_many([t.add.s(1, 1).set(link=t.add.s(1))])
    whole = chain(t.add.s(1, 1), t.add.s(2))
    for copied in (whole.clone(), copy.deepcopy(whole), canvas.signature(pickle.loads(pickle.dumps(whole)))):  # noqa: S301
        assert copied == whole
        copied.tasks[0].set(queue="other")
        assert whole.tasks[0].options == {}
        assert draw(copied) == draw(whole)


@Signature.register_type()
class urgent(Signature[Any]):  # noqa: N801 - a kind of signature of the tests
    """A kind of one's own."""

    @classmethod
    def from_dict(cls, values: Any, app: Any = None) -> "Signature[Any]":
        return cls(values["task"], tuple(values["args"]), app=app)


def test_a_kind_of_ones_own(canvas: PgQueue) -> None:
    back = canvas.signature(json.loads(json.dumps(urgent("t.add", (1, 1)).to_dict())))
    assert isinstance(back, urgent)
    assert draw(back) == ["add[1,1]"]


def test_a_signature_is_read_by_the_keys_of_celerys(t: Tasks) -> None:
    one = t.add.s(2, debug=True).set(queue="mail")
    assert (one["task"], one["args"], one["kwargs"], one["options"]) == (
        "t.add",
        (2,),
        {"debug": True},
        {"queue": "mail"},
    )
    assert (one["subtask_type"], one["immutable"], one.get("chord_size"), one.get("task")) == (
        None,
        False,
        None,
        "t.add",
    )
    assert ("options" in one, "queue" in one) == (True, False)
    one["options"]["queue"] = "post"
    one["args"] = [3]
    one["immutable"] = True
    assert (one.options, one.args, one.immutable) == ({"queue": "post"}, (3,), True)
    assert dict(one) == dict(one.items()) == {key: one[key] for key in one.keys()}  # noqa: SIM118 - what is tested
    assert [task["task"] for task in group(t.add.s(1), t.mul.s(1))["kwargs"]["tasks"]] == ["t.add", "t.mul"]
    assert chain(t.add.s(1), t.mul.s(1))["subtask_type"] == "chain"
    for wrong in ("queue", 0):
        with pytest.raises(KeyError):
            one[wrong]
    with pytest.raises(KeyError):
        one["subtask_type"] = "chain"
    with pytest.raises(TypeError, match="not iterable"):
        list(one)


def test_the_application_itself_may_be_given(canvas: PgQueue) -> None:
    given: dict[str, Any] = {"task": "t.add", "args": (1, 2)}
    for made in (
        signature("t.add", (1, 2), app=canvas),
        signature(given, app=canvas),
        chain(signature(given), app=canvas),
        group(signature(given), app=canvas),
        chord([signature(given)], signature(given), app=canvas),
    ):
        assert made.app is canvas.client, made
    wrong: Any = "shop"
    with pytest.raises(ConfigurationError, match="app: expected an application"):
        signature("t.add", app=wrong)
