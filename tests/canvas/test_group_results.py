"""GroupResult and ResultSet: many results as one."""

import json
import pickle
from typing import Any

import pytest

from pgqueue import (
    AsyncResult,
    GroupResult,
    PgQueue,
    PgQueueError,
    ResultSet,
    TimeoutError,
    UnsupportedOption,
    Workflow,
    chain,
    chord,
    group,
    result_from_tuple,
)
from pgqueue.canvas.submission import build
from pgqueue.declined.attributes import RESULT
from tests.canvas.conftest import Tasks

SECONDS = 30.0


def test_members_come_and_go(canvas: PgQueue) -> None:
    results: list[AsyncResult[Any]] = [AsyncResult(name, canvas) for name in ("a", "b", "c")]
    one, two, three = results
    found: ResultSet[Any] = canvas.ResultSet([one])
    found.add(two)
    found.add(two)
    found.update([one, three])
    assert [result.id for result in found] == ["a", "b", "c"]
    assert (len(found), found[1]) == (3, two)
    found.remove("a")
    found.discard("nobody")
    found.discard(three)
    with pytest.raises(KeyError):
        found.remove(three)
    assert found == ResultSet([two])
    assert repr(found) == "<ResultSet: [b]>"
    found.clear()
    assert found.results == []
    assert found.get() == []
    assert found.ready()
    assert found.successful()


def test_looking_while_members_end(canvas: PgQueue, t: Tasks) -> None:
    several = group(t.ident.s(i) for i in range(3))()
    assert not several.ready()
    assert several.waiting()
    assert not several.successful()
    assert not several.failed()
    assert several.completed_count() == 0
    with pytest.raises(TimeoutError):
        several.get(timeout=0)
    several.maybe_throw()
    with canvas.worker(pool="threads"):
        assert several.get(timeout=SECONDS) == [0, 1, 2]
    assert several.completed_count() == 3
    assert dict(several.iter_native()) == {
        one.id: {"status": "SUCCESS", "result": number} for number, one in enumerate(several)
    }
    collected: dict[str, Any] = {}
    assert several.join(callback=collected.__setitem__) == []
    assert list(collected.values()) == [0, 1, 2]
    several.forget()
    assert not any(one.exists() for one in several)


def test_many_members(working: PgQueue, t: Tasks) -> None:
    several = group(t.ident.s(i) for i in range(700))()
    assert several.join(timeout=SECONDS) == list(range(700))
    assert GroupResult.restore(several.id, working) == several


def test_restoring(canvas: PgQueue, t: Tasks) -> None:
    several = group(t.ident.s(1), t.ident.s(2) | t.ident.s()).apply_async(task_id="my herd")
    several.save()
    found = GroupResult.restore("my herd", canvas)
    assert found == several
    assert isinstance(found, GroupResult)
    assert [one.id for one in found] == [one.id for one in several]
    result = chord([t.ident.s(1)], t.ident.s())()
    assert GroupResult.restore(result.parent.id, canvas) == result.parent
    assert canvas.GroupResult.restore(result.parent.id) == result.parent
    assert GroupResult.restore("another", canvas) is None
    several.delete()
    assert GroupResult.restore("my herd", canvas) == several


def test_restoring_groups_inside(canvas: PgQueue, t: Tasks) -> None:
    result: Any = (group(t.ident.s(1), t.ident.s(2)) | t.tsum.s() | group(t.ident.s(), t.ident.s() | t.ident.s()))()
    last, first = result, result.parent.parent
    assert isinstance(last, GroupResult)
    assert GroupResult.restore(last.id, canvas) == last
    assert GroupResult.restore(first.id, canvas) == first

    members = [t.ident.s(n) | group(t.ident.s(), t.ident.s()) for n in range(3)]
    nested = group(members).apply_async(task_id="herd of herds")
    for herd in nested:
        assert GroupResult.restore(herd.id, canvas) == herd
    named: Any = group(t.ident.si(1), t.ident.si(2)).set(task_id="again")
    for _ in range(2):
        sent = (group(t.ident.s(0), t.ident.s(3)) | t.ident.s() | named)()
        assert GroupResult.restore("again", canvas) == sent


def test_restoring_the_group_of_a_step_and_of_what_replaces_a_job(canvas: PgQueue, t: Tasks) -> None:
    @canvas.task(name="t.spread", bind=True)
    def spread(self: Any) -> None:
        self.replace(group(t.ident.s(n) for n in range(3)).set(task_id="replaced"))

    flow = Workflow()
    flow.step("many", group(t.ident.s(n) for n in range(2)).set(task_id="step"))
    with canvas.worker(pool="threads"):
        assert flow.apply_async().get(timeout=SECONDS) == {"many": [0, 1]}
        assert spread.delay().get(timeout=SECONDS) == [0, 1, 2]
    for name, members in (("step", [0, 1]), ("replaced", [0, 1, 2])):
        found = GroupResult.restore(name, canvas)
        assert found is not None
        assert found.get(timeout=SECONDS) == members


def test_revoking(canvas: PgQueue, t: Tasks) -> None:
    several = group(t.ident.s(i) for i in range(3))()
    assert several.revoke() == 3
    assert several.ready()
    assert [one.state for one in several] == ["REVOKED"] * 3
    assert several.revoke() == 0


def test_groups_in_groups(working: PgQueue, t: Tasks) -> None:
    several: Any = group(t.ident.s(1), t.ident.s(2) | group(t.ident.s(), t.ident.s()))()
    assert several.get(timeout=SECONDS) == [1, [2, 2]]
    assert several.completed_count() == 3
    assert isinstance(several[1], GroupResult)
    # A lone member that ends in a group is that group.
    assert group(t.ident.s(1) | group(t.ident.s(), t.ident.s()))().get(timeout=SECONDS) == [1, 1]


def test_as_tuples_and_pickled(canvas: PgQueue, t: Tasks) -> None:
    result = chain(t.ident.s(1), group(t.ident.s(), t.ident.s()), t.ident.s())()
    for back in (
        result_from_tuple(json.loads(json.dumps(result.as_tuple())), canvas),
        pickle.loads(pickle.dumps(result)),  # noqa: S301 - our own
        canvas.AsyncResult(result.id),
    ):
        assert back == result
    assert back.parent is None
    back = result_from_tuple(result.as_tuple(), canvas)
    assert isinstance(back.parent, GroupResult)
    assert back.parent == result.parent
    assert back.parent.parent == result.parent.parent
    assert back.as_list() == result.as_list()
    herd = pickle.loads(pickle.dumps(result.parent))  # noqa: S301 - our own
    assert (herd, herd.parent) == (result.parent, result.parent.parent)
    assert herd == canvas.GroupResult(herd.id, herd.results)
    assert (str(herd), hash(herd), bool(herd), herd.children) == (herd.id, hash(herd.id), True, herd.results)
    assert result_from_tuple(result, canvas) is result
    with pytest.raises(PgQueueError, match="as_tuple"):
        result_from_tuple(5, canvas)


def test_long_chains(canvas: PgQueue, t: Tasks) -> None:
    whole: Any = chain(t.ident.s() for _ in range(3000))
    result = build(whole, (1,), {}, {}).result
    assert len(result.as_list()) == 3000
    back = pickle.loads(pickle.dumps(result))  # noqa: S301 - our own
    assert back.as_list() == result.as_list()
    assert whole.apply((1,)).get() == 1
    piped: Any = t.ident.s(1)
    for _ in range(300):
        piped = piped | t.ident.s()
    assert len(piped.tasks) == 301


def test_throwing(working: PgQueue, t: Tasks) -> None:
    several = group(t.ident.s(1), t.fail.s())()
    with pytest.raises(ValueError, match="something"):
        several.get(timeout=SECONDS)
    with pytest.raises(ValueError, match="something"):
        several.maybe_throw()
    with pytest.raises(ValueError, match="something"):
        several[1].maybe_reraise()
    seen: list[Any] = []
    assert several[0].maybe_throw(callback=lambda *found: seen.append(found)) == 1
    assert isinstance(several[1].maybe_throw(propagate=False), ValueError)
    assert seen == [(several[0].id, 1)]


def test_what_a_task_enqueued_is_its_child(canvas: PgQueue, t: Tasks) -> None:
    @canvas.task(name="t.parent")
    def parent() -> None:
        t.ident.delay(5)
        chain(t.ident.s(6), t.ident.s())()

    with canvas.worker(pool="threads"):
        found = parent.delay()
        found.get(timeout=SECONDS)
        one, two = found.children
        assert two.get(timeout=SECONDS) == 6
        (three,) = two.children
        assert [one.get(timeout=SECONDS), three.get(timeout=SECONDS)] == [5, 6]
    assert [value for _, value in found.collect()] == [None, 5, 6, 6]
    assert len(found.graph) == 4


@pytest.mark.parametrize("name", [*RESULT])
def test_what_celerys_results_have_beyond_ours_is_refused_by_its_name(canvas: PgQueue, name: str) -> None:
    results: list[Any] = [canvas.AsyncResult("a"), canvas.ResultSet([]), canvas.GroupResult("g")]
    for one in results:
        with pytest.raises(UnsupportedOption, match=rf"Result\w*\.{name} is not supported: \w"):
            getattr(one, name)
        assert not hasattr(one, "no_such_thing")
