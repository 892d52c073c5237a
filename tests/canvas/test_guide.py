"""The examples of Celery's guide to canvases, run by a worker, in the order of the guide."""

import io
from typing import Any

import pytest

from pgqueue import AsyncResult, GroupResult, IncompleteStream, PgQueue, chain, chord, group, signature
from tests.canvas.conftest import Tasks

SECONDS = 30.0


def test_signatures(working: PgQueue, t: Tasks) -> None:
    add = t.add
    by_name = working.signature("t.add", args=(2, 2), countdown=0.01)
    assert by_name == add.signature((2, 2), countdown=0.01)
    one = add.signature((2, 2), {"debug": True}, countdown=10)
    assert (one.args, one.kwargs, one.options) == ((2, 2), {"debug": True}, {"countdown": 10})
    assert repr(add.s(2, 2, debug=True)) == "t.add(2, 2, debug=True)"
    assert add(2, 2) == add.s(2, 2)() == 4
    assert add.delay(2, 2).get(timeout=SECONDS) == 4
    assert add.s(2, 2).set(countdown=0.01).apply_async().get(timeout=SECONDS) == 4
    assert by_name.delay().get(timeout=SECONDS) == 4
    assert ~add.s(2, 2) == 4


def test_partials(working: PgQueue, t: Tasks) -> None:
    add = t.add
    partial = add.s(2)
    assert partial.delay(4).get(timeout=SECONDS) == 6
    assert partial.apply_async((4,)).get(timeout=SECONDS) == 6
    assert add.s("b").delay("a").get(timeout=SECONDS) == "ab"
    assert add.s(2, 2).delay(debug=True).get(timeout=SECONDS) == 4
    assert add.s(2, 2).apply_async(kwargs={"debug": True}).kwargs == {"debug": True}
    assert add.signature((2, 2), countdown=100).apply_async(countdown=0).get(timeout=SECONDS) == 4
    copy = partial.clone(args=(4,), kwargs={"debug": True})
    assert repr(copy) == "t.add(4, 2, debug=True)"
    assert repr(partial) == "t.add(2)"


def test_immutable_signatures_and_callbacks(working: PgQueue, t: Tasks) -> None:
    add, note = t.add, t.note
    for callback in (note.signature(immutable=True), note.si()):
        found = add.apply_async((2, 2), link=callback)
        assert found.get(timeout=SECONDS) == 4
        assert [child.get(timeout=SECONDS) for child in found.children] == [[]]
    found = add.apply_async((2, 2), link=add.s(8))
    assert found.get(timeout=SECONDS) == 4
    assert found.children[0].get(timeout=SECONDS) == 12
    assert add.s(10).delay(5).get(timeout=SECONDS) == 15


def test_the_primitives(working: PgQueue, t: Tasks) -> None:
    add, tsum = t.add, t.tsum
    assert chain(add.s(2, 2), add.s(4), add.s(8))().get(timeout=SECONDS) == 16
    assert (add.s(2, 2) | add.s(4) | add.s(8))().get(timeout=SECONDS) == 16
    res = (add.si(2, 2) | add.si(4, 4) | add.si(8, 8))()
    assert [res.get(timeout=SECONDS), res.parent.get(), res.parent.parent.get()] == [16, 8, 4]
    assert group(add.s(i, i) for i in range(10))().get(timeout=SECONDS) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert chord((add.s(i, i) for i in range(10)), tsum.s())().get(timeout=SECONDS) == 90
    done = chord((t.ident.s(c) for c in "abc"), t.note.si(17)).apply_async()
    assert done.get(timeout=SECONDS) == [17]


def test_combining(working: PgQueue, t: Tasks) -> None:
    add, mul, tsum = t.add, t.mul, t.tsum
    c1 = add.s(4) | mul.s(8)
    assert c1(16).get(timeout=SECONDS) == 160
    c2 = add.s(4, 16) | mul.s(2) | (add.s(4) | mul.s(8))
    assert c2().get(timeout=SECONDS) == 352
    c3 = group(add.s(i, i) for i in range(10)) | tsum.s()
    assert isinstance(c3, chord)
    assert c3().get(timeout=SECONDS) == 90

    res: Any = (add.s(4, 4) | group(add.si(i, i) for i in range(10)))()
    assert res.get(timeout=SECONDS) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert res.parent.get(timeout=SECONDS) == 8


def test_arguments_in_parts(canvas: PgQueue, t: Tasks) -> None:
    @canvas.task(name="t.create_user")
    def create_user(username: str, first: str, last: str, email: str) -> dict[str, str]:
        return {"username": username, "email": email}

    new_user = create_user.s() | group(t.ident.s(), t.note.s("welcome"))
    with canvas.worker(pool="threads"):
        res: Any = new_user.delay(username="artv", first="Art", last="Vandelay", email="art@vandelay.com")
        user = {"username": "artv", "email": "art@vandelay.com"}
        assert res.get(timeout=SECONDS) == [user, [user, "welcome"]]


def test_chains(working: PgQueue, t: Tasks) -> None:
    add, mul = t.add, t.mul
    res = add.apply_async((2, 2), link=mul.s(16))
    assert res.get(timeout=SECONDS) == 4
    (child,) = res.children
    assert child.get(timeout=SECONDS) == 64
    assert list(res.collect()) == [(res, 4), (child, 64)]
    assert res.get_leaf() == 64
    twice = add.s(2, 2)
    twice.link(mul.s(4))
    twice.link(t.note.s())
    res = twice.delay()
    assert res.get(timeout=SECONDS) == 4
    assert [one.get(timeout=SECONDS) for one in res.children] == [16, [4]]
    res = chain(add.s(4, 4), mul.s(8), mul.s(10))()
    assert repr(chain(add.s(4, 4), mul.s(8), mul.s(10))) == "t.add(4, 4) | t.mul(8) | t.mul(10)"
    assert [res.get(timeout=SECONDS), res.parent.get(), res.parent.parent.get()] == [640, 64, 8]
    assert (add.s(2, 2) | mul.s(8) | mul.s(10)).apply_async(task_id="the last").id == "the last"


def test_graphs(working: PgQueue, t: Tasks) -> None:
    res = chain(t.add.s(4, 4), t.mul.s(8), t.mul.s(10))()
    res.get(timeout=SECONDS)
    first = res.parent.parent
    graph = first.graph
    assert [(one.id, [other.id for other in after]) for one, after in graph.items()] == [
        (first.id, [res.parent.id]),
        (res.parent.id, [res.id]),
        (res.id, []),
    ]
    assert repr(graph).splitlines()[:2] == [f"{first.id}(2)", f"    {res.parent.id}(1)"]
    assert graph.topsort() == [res, res.parent, first]
    file = io.StringIO()
    graph.to_dot(file)
    assert f'"{first.id}" -> "{res.parent.id}";' in file.getvalue()
    assert first.as_list() == [first.id]
    assert res.as_list() == [res.id, res.parent.id, first.id]


def test_a_graph_that_is_not_complete(canvas: PgQueue, t: Tasks) -> None:
    first = (t.add.s(1, 1) | t.add.s(2))().parent
    with pytest.raises(IncompleteStream):
        list(first.collect())
    assert [node for _, node in first.iterdeps(intermediate=True)] == [first]


def test_groups(working: PgQueue, t: Tasks) -> None:
    add = t.add
    assert repr(group(add.s(2, 2), add.s(4, 4))) == "group(t.add(2, 2), t.add(4, 4))"
    assert group(add.s(2, 2), add.s(4, 4))().get(timeout=SECONDS) == [4, 8]
    assert group(add.s(i, i) for i in range(100))().get(timeout=SECONDS)[-1] == 198
    job = group([add.s(2, 2), add.s(4, 4), add.s(8, 8), add.s(16, 16), add.s(32, 32)])
    result = job.apply_async()
    assert result.get(timeout=SECONDS) == result.join() == [4, 8, 16, 32, 64]
    assert result.ready()
    assert result.successful()
    assert not result.failed()
    assert not result.waiting()
    assert result.completed_count() == 5
    linked: Any = group(add.s(2, 2), add.s(4, 4))
    linked.link(t.note.s())
    res = linked()
    assert res.get(timeout=SECONDS) == [4, 8]
    assert [child.get(timeout=SECONDS) for child in res[0].children] == [[]]


def test_group_unrolling(working: PgQueue, t: Tasks) -> None:
    add = t.add
    assert repr(chain(add.s(2, 2), group(add.s(1)), add.s(1))) == "t.add(2, 2) | t.add(1) | t.add(1)"
    assert chain(add.s(2, 2), group(add.s(1)), add.s(1))().get(timeout=SECONDS) == 6
    assert repr(chain(group(add.s(1, 1)), add.s(2))) == "t.add(1, 1) | t.add(2)"
    upgraded: Any = chain(add.s(2, 2), group(add.s(1), add.s(2)), t.tsum.s())
    assert [type(step).__name__ for step in upgraded.tasks] == ["Signature", "chord"]
    assert upgraded().get(timeout=SECONDS) == 11


def test_chords(working: PgQueue, t: Tasks) -> None:
    add, tsum = t.add, t.tsum
    assert chord(add.s(i, i) for i in range(100))(tsum.s()).get(timeout=SECONDS) == 9900
    callback = tsum.s()
    header = [add.s(i, i) for i in range(100)]
    result = chord(header)(callback)
    assert result.get(timeout=SECONDS) == 9900
    assert isinstance(result.parent, GroupResult)
    assert len(result.parent) == 100
    delayed = (group(add.s(1, 1), add.s(2, 2)) | tsum.s()).apply_async(countdown=0.01)
    assert delayed.get(timeout=SECONDS) == 6


def test_map_and_starmap(working: PgQueue, t: Tasks) -> None:
    add, tsum = t.add, t.tsum
    assert ~tsum.map([list(range(10)), list(range(100))]) == [45, 4950]
    assert ~add.starmap(zip(range(10), range(10), strict=True)) == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    later = add.starmap(zip(range(3), range(3), strict=True)).apply_async(countdown=0.01)
    assert later.get(timeout=SECONDS) == [0, 2, 4]
    assert later.name == "t.add"
    assert repr(add.starmap([(1, 2)])) == "[t.add(*x) for x in [(1, 2)]]"
    assert (add.starmap([(1, 1), (2, 2)]) | tsum.s())().get(timeout=SECONDS) == 6


def test_chunks(working: PgQueue, t: Tasks) -> None:
    add = t.add
    wanted = [[2 * i for i in range(ten, ten + 10)] for ten in range(0, 100, 10)]
    assert add.chunks(zip(range(100), range(100), strict=True), 10)().get(timeout=SECONDS) == wanted
    assert add.chunks(zip(range(100), range(100), strict=True), 10).apply_async().get(timeout=SECONDS) == wanted
    parts = add.chunks(zip(range(100), range(100), strict=True), 10).group()
    assert parts.skew(start=0.01, stop=0.05, step=0.01)().get(timeout=SECONDS) == wanted


def test_an_async_task_in_a_map_and_in_a_chain(canvas: PgQueue, t: Tasks) -> None:
    @canvas.task(name="t.later")
    async def later(x: int) -> int:
        return x + 1

    with canvas.worker(pool="loop"):
        assert (later.map([1, 2]) | t.tsum.s() | later.s())().get(timeout=SECONDS) == 6


async def _all(app: PgQueue, t: Tasks) -> list[Any]:
    add, tsum = t.add, t.tsum
    found: list[Any] = [await (await chain(add.s(2, 2), add.s(4)).aapply_async()).aget(timeout=SECONDS)]
    several = await group(add.s(1, 1), add.s(2, 2)).adelay()
    found.append(await several.aget(timeout=SECONDS))
    found += [await several.aready(), await several.asuccessful(), await several.acompleted_count()]
    restored = await GroupResult.arestore(several.id, app)
    found.append(restored == several)
    result = await (await signature(chord([add.s(1, 1)], tsum.s())).adelay()).aget(timeout=SECONDS)
    found.append(result)
    linked: AsyncResult[Any] = await add.aapply_async((1, 1), link=add.s(1))
    await linked.aget(timeout=SECONDS)
    (child,) = await linked.achildren()
    found.append(await child.aget(timeout=SECONDS))
    found.append([value async for _, value in linked.acollect()])
    return found


@pytest.mark.asyncio
async def test_async_code(working: PgQueue, t: Tasks) -> None:
    assert await _all(working, t) == [8, [2, 4], True, True, 2, True, 2, 3, [2, 3]]
