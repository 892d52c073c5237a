"""Stamps: chosen by visitors or given by name, read by the tasks that carry them."""

from decimal import Decimal
from typing import Any

import psycopg
import pytest
from psycopg.rows import dict_row

from pgqueue import PgQueue, StampingVisitor, UnsupportedOption, ValidationError, chain, chord, group
from tests.canvas.conftest import Tasks

SECONDS = 30.0


class InGroup(StampingVisitor):
    """The guide's example: which tasks are inside of a group."""

    def __init__(self) -> None:
        self.in_group = False

    def on_group_start(self, group: Any, **headers: Any) -> dict[str, Any]:
        self.in_group = True
        return {"in_group": [self.in_group], "stamped_headers": ["in_group"]}

    def on_group_end(self, group: Any, **headers: Any) -> None:
        self.in_group = False

    def on_chain_start(self, chain: Any, **headers: Any) -> dict[str, Any]:
        return {"in_group": [self.in_group], "stamped_headers": ["in_group"]}

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"in_group": [self.in_group], "other": 1, "stamped_headers": ["in_group"]}


class Everything(StampingVisitor):
    """Says which part it was called for, and hands headers on."""

    def __init__(self) -> None:
        self.seen: list[str] = []

    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        return {"header": "value"}

    def on_chord_body(self, chord: Any, **headers: Any) -> dict[str, Any]:
        self.seen.append("body")
        return {"on_body": True}

    def on_callback(self, callback: Any, **headers: Any) -> dict[str, Any]:
        return {"on_callback": True}

    def on_errback(self, errback: Any, **headers: Any) -> dict[str, Any]:
        return {"on_errback": True}

    def on_chord_header_end(self, chord: Any, **headers: Any) -> None:
        super().on_chord_header_end(chord, **headers)
        self.seen.append("header end")

    def on_chain_end(self, chain: Any, **headers: Any) -> None:
        self.seen.append("chain end")


def stamps(signature: Any) -> Any:
    return signature.options.get("stamps")


def test_by_name(t: Tasks) -> None:
    one = t.add.s(1, 1)
    assert one.stamp(stamp="a").stamp(stamp="b", more=2) is one
    assert stamps(one) == {"stamp": "b", "more": 2}
    one.stamp(append_stamps=True, stamp="c")
    assert stamps(one) == {"stamp": ["b", "c"], "more": 2}


def test_the_guides_visitor(t: Tasks) -> None:
    whole: Any = chain(t.add.s(1, 1), group(t.add.s(1), t.add.s(2)), t.tsum.s())
    whole.stamp(InGroup())
    first, upgraded = whole.tasks
    assert stamps(first) == {"in_group": [False]}
    assert [stamps(task) for task in upgraded.tasks] == [{"in_group": [True]}] * 2
    assert stamps(upgraded.body) == {"in_group": [False]}


def test_callbacks_are_stamped_too(t: Tasks) -> None:
    c = chord([t.add.s(1, 1), t.add.s(2, 2)], t.tsum.s())
    c.link(t.note.s())
    c.link_error(t.note.si().to_dict())
    visitor = Everything()
    c.stamp(visitor=visitor)
    assert [stamps(task) for task in c.tasks] == [{"header": "value"}] * 2
    assert stamps(c.body) == {"header": "value", "on_body": True}
    (callback,), (errback,) = c.body.options["link"], c.body.options["link_error"]
    assert stamps(callback) == {"header": "value", "on_callback": True, "on_body": True}
    assert stamps(errback) == {"header": "value", "on_errback": True, "on_body": True}
    chain(t.add.s(1, 1), t.add.s(2)).stamp(visitor)
    assert visitor.seen == ["header end", "body", "chain end"]


def test_tasks_read_their_stamps(canvas: PgQueue) -> None:
    @canvas.task(name="t.show", bind=True)
    def show(self: Any, *args: Any) -> list[Any]:
        request = self.request
        return [request.stamps, request.stamped_headers, request.group == request.group_id, bool(request.group)]

    with canvas.worker(pool="threads"):
        both: Any = group(show.s(), show.s() | show.s())
        both.stamp(origin="here", level=3)
        wanted = [{"origin": "here", "level": 3}, ["origin", "level"], True, True]
        assert both().get(timeout=SECONDS) == [wanted, wanted]
        assert show.apply_async(stamps={"a": [1]}).get(timeout=SECONDS) == [{"a": [1]}, ["a"], True, False]
        assert show.delay().get(timeout=SECONDS) == [{}, [], True, False]
        assert show.s().stamp(a=1).apply().get() == [{"a": 1}, ["a"], True, False]
    with pytest.raises(ValidationError, match="stamps"):
        show.apply_async(stamps=5)  # type: ignore[arg-type] # what is tested


def test_ancestors(canvas: PgQueue) -> None:
    @canvas.task(name="t.ids", bind=True)
    def ids(self: Any, *args: Any) -> list[Any]:
        request = self.request
        return [request.id, request.root_id, request.parent_id]

    with canvas.worker(pool="threads"):
        result = chain(ids.si(), group(ids.si(), ids.si()), ids.si())()
        last, root, parent = result.get(timeout=SECONDS)
        first = result.parent.parent
        members = [one.id for one in result.parent]
        assert (last, root, parent) == (result.id, first.id, members[1])
        assert [one.get() for one in result.parent] == [[member, first.id, first.id] for member in members]
        assert first.get() == [first.id, first.id, None]


def test_revoking_by_stamps(canvas: PgQueue, t: Tasks) -> None:
    group(t.ident.s(n).set(stamps={"customer": n, "team": ["a", f"t{n}"], "tags": {"x", n}}) for n in range(4))()
    t.ident.delay(4)
    sent = {result["args"][0]: result["id"] for result in _live(canvas)}
    revoke = canvas.control.revoke_by_stamped_headers
    assert revoke({"customer": 0}) == {sent[0]: "cancelled"}
    assert revoke({"customer": [0, 7], "team": "nobody"}) == {}
    assert revoke({"tags": {1, 9}, "unknown": None}) == {sent[1]: "cancelled"}
    assert revoke({"team": ("t2",)}, terminate=True) == {sent[2]: "cancelled"}
    assert revoke({"team": "a"}) == {sent[3]: "cancelled"}
    assert revoke({}) == {}
    assert [result["id"] for result in _live(canvas)] == [sent[4]]
    wrong: Any = "customer"
    with pytest.raises(ValidationError, match="expected a dict of stamps, got str"):
        revoke(wrong)
    with pytest.raises(UnsupportedOption, match="signal is not supported"):
        revoke({"customer": 0}, signal="KILL")


@pytest.mark.asyncio
async def test_revoking_by_stamps_in_async_code(canvas: PgQueue, t: Tasks) -> None:
    result = await t.ident.aapply_async((1,), stamps={"order": {"id": 17, "at": Decimal("1.5")}})
    revoke = canvas.control.arevoke_by_stamped_headers
    assert await revoke({"order": {"id": 17}}) == {}
    assert await revoke({"order": {"id": 17, "at": Decimal("1.5")}}) == {result.id: "cancelled"}


def _live(app: PgQueue) -> list[dict[str, Any]]:
    with psycopg.connect(str(app.conf.dsn), row_factory=dict_row) as connection:
        return connection.execute("select id::text, args from pgqueue.live_jobs").fetchall()
