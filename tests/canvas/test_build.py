"""What canvases become: the steps and edges of one workflow. No database."""

import json
from collections.abc import Callable
from typing import Any

import pytest

from pgqueue import GraphError, PgQueue, ValidationError, chain, chord, group
from pgqueue.canvas.submission import build
from pgqueue.graph import NewWorkflow
from tests.canvas.conftest import Tasks

Draw = Callable[..., list[str]]


def drawn(workflow: NewWorkflow) -> list[str]:
    """Each step as `name(args) <kind inputs- parents`, in order; steps are named by their place."""
    place = {step.job.id: str(number) for number, step in enumerate(workflow.steps)}
    lines = []
    for step in workflow.steps:
        edges = [edge for edge in workflow.edges if edge.child_id == step.job.id]
        assert [edge.position for edge in edges] == list(range(len(edges)))
        text = f"{step.job.task.removeprefix('t.')}{step.job.args or '[]'}"
        if edges:
            kinds = "/".join(sorted({edge.kind for edge in edges}))
            text += f" <{kinds} {step.inputs}- {' '.join(place[edge.parent_id] for edge in edges)}"
        lines.append(text)
    return lines


def draw(canvas: Any, *args: Any, **kwargs: Any) -> list[str]:
    """The steps of a canvas that is called with these arguments."""
    return drawn(build(canvas, args, kwargs, {}).workflow)


def options(canvas: Any, **given: Any) -> list[dict[str, Any]]:
    """The options that the steps of a canvas carry."""
    return [json.loads(step.job.options or "{}") for step in build(canvas, (), {}, given).workflow.steps]


def test_chains(t: Tasks) -> None:
    add, mul = t.add, t.mul
    wanted = ["add[2,2]", "add[4] <value value- 0", "add[8] <value value- 1"]
    assert draw(chain(add.s(2, 2), add.s(4), add.s(8))) == wanted
    assert draw(add.s(2, 2) | add.s(4) | add.s(8)) == wanted
    assert draw(add.s(2, 2) | (add.s(4) | add.s(8))) == wanted
    assert draw(chain(task for task in (add.s(2, 2), add.s(4), add.s(8)))) == wanted
    assert draw(add.s(4) | mul.s(8), 16) == ["add[16,4]", "mul[8] <value value- 0"]
    assert draw(add.si(2, 2) | add.si(4, 4)) == ["add[2,2]", "add[4,4] <order None- 0"]
    assert draw(chain(add.s(1, 1))) == ["add[1,1]"]


def test_a_group_in_a_chain(t: Tasks) -> None:
    add, ident = t.add, t.ident
    assert draw(add.s(4, 4) | group(add.s(1), add.si(2, 2)) | ident.s()) == [
        "add[4,4]",
        "add[1] <value value- 0",
        "add[2,2] <order None- 0",
        "ident[] <value list- 1 2",
    ]
    two = group(add.s(1, 1), add.s(2, 2))
    made_once = ["add[1,1]", "add[2,2]", "pgqueue.gather[] <value list- 0 1"]
    assert draw(two | group(ident.s(), ident.s())) == [
        *made_once,
        "ident[] <value value- 2",
        "ident[] <value value- 2",
    ]
    assert draw(chain(two, group(ident.s(), ident.s()))) == draw(two | group(ident.s(), ident.s()))


def test_what_is_unrolled(t: Tasks) -> None:
    add, ident = t.add, t.ident
    assert draw(chain(add.s(2, 2), group(add.s(1)), add.s(1))) == draw(chain(add.s(2, 2), add.s(1), add.s(1)))
    assert draw(chain(group(add.s(1, 1)), add.s(2))) == ["add[1,1]", "add[2] <value value- 0"]
    assert draw(group(add.s(1, 1)) | ident.s()) == ["add[1,1]", "ident[] <value list- 0"]
    assert draw(group(group(ident.s(1), group(ident.s(2))), ident.s(3))) == ["ident[1]", "ident[2]", "ident[3]"]
    assert draw(chain(group(), add.s(10)), 5) == ["add[5,10]"]
    assert draw(chain(group(ident.s(1), ident.s(2)), group(), t.tsum.s()))[-1] == "tsum[] <value list- 0 1"


def test_chords(t: Tasks) -> None:
    add, tsum, ident = t.add, t.tsum, t.ident
    header = [add.s(i, i) for i in range(3)]
    wanted = ["add[0,0]", "add[1,1]", "add[2,2]", "tsum[] <value list- 0 1 2"]
    assert draw(chord(header, tsum.s())) == wanted
    assert draw(group(header) | tsum.s()) == wanted
    assert draw(chord((one for one in header), tsum.s())) == wanted
    assert draw(chord([add.s(1, 1)], tsum.s())) == ["add[1,1]", "tsum[] <value list- 0"]
    assert draw(chord([], tsum.s())) == ["tsum[[]]"]
    assert draw(ident.s(1) | chord([], tsum.s())) == ["ident[1]", "tsum[[]] <order None- 0"]
    assert draw(chord(header, tsum.s()) | ident.s()) == [*wanted, "ident[] <value value- 3"]
    # A body that takes no results is still a join, whose error is a ChordError.
    assert draw(chord(header, ident.si(7)))[-1] == "ident[7] <order list- 0 1 2"
    assert options(chord(header, ident.si(7)))[-1] == {"immutable": True}


def test_nested_canvases(t: Tasks) -> None:
    add, tsum = t.add, t.tsum
    inner = chord([add.s(1, 1), add.s(2, 2)], tsum.s())
    assert draw(chord([inner, add.s(3) | add.s(4)], tsum.s()), 9) == [
        "add[9,1,1]",
        "add[9,2,2]",
        "tsum[] <value list- 0 1",
        "add[9,3]",
        "add[4] <value value- 3",
        "tsum[] <value list- 2 4",
    ]


def test_members_that_end_in_a_group(t: Tasks) -> None:
    ident = t.ident
    assert draw(chord(group(chain(ident.s(42), group(ident.s(), ident.s()))), ident.s())) == [
        "ident[42]",
        "ident[] <value value- 0",
        "ident[] <value value- 0",
        "pgqueue.gather[] <value list- 1 2",
        "ident[] <value list- 3",
    ]


def test_bodies_of_every_kind(t: Tasks) -> None:
    add, tsum, ident = t.add, t.tsum, t.ident
    header = [ident.s(1), ident.s(2)]
    gathered = ["ident[1]", "ident[2]", "pgqueue.gather[] <value list- 0 1"]
    assert draw(chord(header, tsum.s() | add.s(1)))[2:] == ["tsum[] <value list- 0 1", "add[1] <value value- 2"]
    assert draw(chord(header, group(tsum.s(), tsum.s()))) == [*gathered, *["tsum[] <value value- 2"] * 2]
    assert draw(chord(header, chord([tsum.s(), tsum.s()], ident.s()))) == [
        *gathered,
        *["tsum[] <value value- 2"] * 2,
        "ident[] <value list- 3 4",
    ]


def test_callbacks(t: Tasks) -> None:
    add, mul, ident = t.add, t.mul, t.ident
    linked = add.s(2, 2)
    assert linked.link(mul.s(4)) == mul.s(4)
    linked.link(ident.si(0))
    linked.link(ident.si(0))
    assert draw(linked) == ["add[2,2]", "mul[4] <value value- 0", "ident[0] <order None- 0"]
    assert draw(chain(add.s(1, 1), add.s(2)).set(link=[ident.s()]))[-1] == "ident[] <value value- 1"
    assert draw(chord([add.s(1, 1)], t.tsum.s()).set(link=ident.s()))[-1] == "ident[] <value value- 1"
    deep = add.s(1, 1)
    deep.link(add.s(2)).link(add.s(3))
    assert draw(deep) == ["add[1,1]", "add[2] <value value- 0", "add[3] <value value- 1"]
    assert [one.args for one in deep.flatten_links()] == [(1, 1), (2,), (3,)]


def test_error_callbacks_are_one_step_each(t: Tasks) -> None:
    add, note, tsum = t.add, t.note, t.tsum
    errback = note.s("a")
    whole = chain(add.s(1, 1), add.s(2)).on_error(errback) | add.s(3)
    assert draw(whole)[-1] == 'note["a"] <error error- 0 1'
    assert options(whole)[-1] == {"errback": True}
    assert draw(chord([add.s(1, 1), add.s(2, 2)], tsum.s()).on_error(errback))[-1] == 'note["a"] <error error- 2'
    # Of a group, each member has its own, also if they share the signature.
    failing = t.fail.s().on_error(errback)
    assert draw(group(failing, failing))[2:] == ['note["a"] <error error- 0', 'note["a"] <error error- 1']
    assert draw(chain(failing, failing))[2:] == ['note["a"] <error error- 0 1']
    several = group(add.s(1, 1), add.s(2, 2))
    several.link_error(errback)
    assert draw(several)[2:] == ['note["a"] <error error- 0', 'note["a"] <error error- 1']
    # A group as a body fails when its header does.
    body = group(tsum.s(), tsum.s())
    body.tasks[0].link_error(note.si("b"))
    assert draw(chord([add.s(1, 1), add.s(2, 2)], body))[-1] == 'note["b"] <error error- 3 2'
    assert options(chord([add.s(1, 1), add.s(2, 2)], body))[-1] == {"errback": True, "immutable": True}


def test_error_callbacks_on_headers(canvas: PgQueue, t: Tasks) -> None:
    canvas.conf.task_allow_error_cb_on_chord_header = True
    whole = chord([t.add.s(1, 1), t.add.s(2, 2)], t.tsum.s()).on_error(t.note.s())
    assert draw(whole)[3:] == ["note[] <error error- 0", "note[] <error error- 1", "note[] <error error- 2"]


def test_where_options_go(t: Tasks) -> None:
    add, tsum = t.add, t.tsum

    def queues(canvas: Any, **given: Any) -> list[tuple[str, float | None]]:
        return [(step.job.queue, step.job.delay) for step in build(canvas, (), {}, given).workflow.steps]

    assert queues(chain(add.s(1, 1), add.s(2)), queue="a", countdown=5) == [("a", 5), ("default", None)]
    assert queues(group(add.s(1, 1), add.s(2, 2).set(queue="b")), queue="a") == [("a", None), ("a", None)]
    assert queues(chord([add.s(1, 1)], tsum.s()), queue="a", countdown=5) == [("a", 5), ("a", None)]
    assert queues(chord([add.s(1, 1)], tsum.s(), countdown=3)) == [("default", 3), ("default", None)]
    assert queues(group(add.s(i, i) for i in range(4)).skew(start=1, stop=3)) == [
        ("default", 1),
        ("default", 2),
        ("default", 3),
        ("default", 3),
    ]


def test_priorities_are_inherited_where_the_setting_says_so(canvas: PgQueue, t: Tasks) -> None:
    canvas.conf.task_inherit_parent_priority = True
    whole = chain(t.add.s(1, 1).set(priority=7), group(t.add.s(1), t.add.s(2)), t.tsum.s())
    assert {step.job.priority for step in build(whole, (), {}, {}).workflow.steps} == {7}


def test_ids_groups_and_ancestors(t: Tasks) -> None:
    add, tsum = t.add, t.tsum
    whole = add.s(1, 1) | group(add.s(1), add.s(2) | add.s(3)).set(task_id="herd") | tsum.s()
    order = build(whole, (), {}, {})
    jobs = [step.job for step in order.workflow.steps]
    first, one, two, three, last = jobs
    assert [json.loads(job.options or "{}") for job in jobs] == [{}, {"group_id": "herd"}, {}, {"group_id": "herd"}, {}]
    assert [job.root_id for job in jobs] == [None, *[first.id] * 4]
    assert [job.parent_id for job in jobs] == [None, first.id, first.id, two.id, three.id]
    assert sorted(job.id for job in jobs) == [job.id for job in jobs]
    result = order.result
    assert (result.id, result.parent.id, result.parent.parent.id) == (last.id, "herd", first.id)
    assert [member.id for member in result.parent] == [one.id, three.id]


def test_freezing(t: Tasks) -> None:
    add, tsum = t.add, t.tsum
    whole = chain(add.s(1, 1), group(add.s(1), add.s(2)), tsum.s())
    frozen = whole.freeze()
    assert whole.id == frozen.id
    order = build(whole, (), {}, {})
    assert order.result == frozen
    assert order.result.parent == frozen.parent
    assert order.result.parent.parent == frozen.parent.parent
    assert [step.job.own_id for step in order.workflow.steps] == [True] * 4
    one = add.s(1, 1)
    assert one.freeze() == one.freeze()
    with pytest.raises(GraphError, match="used twice"):
        build(group(one, one), (), {}, {})
    assert len(draw(group([add.s(1, 1)] * 3))) == 3


def test_results_that_are_needed_are_kept(canvas: PgQueue, t: Tasks) -> None:
    @canvas.task(name="t.mute", ignore_result=True)
    def mute(x: int) -> int:
        return x

    assert options(mute.s(1) | mute.s()) == [{"ignore_result": False}, {}]
    assert options(mute.s(1) | mute.si(2)) == [{}, {}]
    assert options(chord([t.add.s(1, 1).set(ignore_result=True)], t.tsum.s()))[0]["ignore_result"] is False


def test_maps(t: Tasks) -> None:
    add, tsum = t.add, t.tsum
    assert draw(tsum.map([[1], [1, 2]]) | tsum.s()) == ["tsum[[[1],[1,2]]]", "tsum[] <value value- 0"]
    assert options(group(add.starmap([(1, 1)])))[0]["over"] == "starmap"
    assert draw(add.chunks(zip(range(5), range(5), strict=True), 2)) == [
        "add[[[0,0],[1,1]]]",
        "add[[[2,2],[3,3]]]",
        "add[[[4,4]]]",
    ]
    assert len(add.chunks([(1, 1)] * 10, 3).group()) == 4
    with pytest.raises(ValidationError, match="at least 1"):
        add.chunks([], 0)


def test_bad_input_is_refused_before_anything_is_sent(t: Tasks) -> None:
    add, tsum = t.add, t.tsum
    for bad, message in (
        (chord([add.s(1, 1)]), "no body"),
        (group(add.s(1, 1).set(connection=object())), "connection"),
        (chord([add.s(1, 1), add.s()], tsum.s()), "t.add"),
        (chain(add.s(1, 1), t.mul.s(1, 2)), "t.mul"),
        (group(add.s(1, 1)).set(link=tsum.s()), "callback"),
    ):
        with pytest.raises((ValidationError, TypeError), match=message):
            build(bad, (), {}, {})
    with pytest.raises(GraphError, match="no tasks"):
        chain().apply_async()
    nobody: list[int] = []
    assert group(add.s(i, i) for i in nobody).apply_async().get() == []
    with pytest.raises(ValidationError, match="expected a signature"):
        chain(1, 2)
    with pytest.raises(GraphError, match="expected signatures"):
        group(5)  # type: ignore[arg-type] # what is tested
    with pytest.raises(ValidationError, match="on_duplicate"):
        build(group(add.s(1, 1)), (), {}, {"on_duplicate": "return"})


@pytest.mark.parametrize("feed", [False, True])
def test_options_of_all_members_reach_each_of_them(canvas: PgQueue, t: Tasks, feed: bool) -> None:
    """Members made together are those that are made one by one (an option of its own makes the second kind)."""
    options: Any = {"queue": "q", "priority": 4, "headers": {"h": 1}, "countdown": 5, "expires": 60}
    members = [t.add.s(1, 1), t.add.si(1, 2), t.ident.s(1)] if not feed else [t.add.s(1), t.add.si(1, 2), t.ident.s()]
    alone = [member.clone() for member in members]
    alone[0].set(time_limit=99)

    def columns(members: list[Any], **given: Any) -> list[tuple[Any, ...]]:
        whole = group(members).set(**given)
        return [
            (job.task, job.queue, job.priority, job.args, job.headers, job.delay, job.expires_in, step.inputs)
            for step in build(chain(t.ident.si(1), whole) if feed else whole, (), {}, {}).workflow.steps
            for job in [step.job]
        ]

    assert columns(members, **options) == columns(alone, **options)
    assert columns(members, **options)[-1][1:3] == ("q", 4)
    with pytest.raises(ValidationError, match="priority"):
        columns(members, priority=11)
