"""Workflow: what steps are given, what is refused before anything is written, conditions, adding steps."""

import asyncio
import itertools
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest

from pgqueue import (
    ArgumentsError,
    ConfigurationError,
    GraphError,
    LimitExceeded,
    PgQueue,
    ValidationError,
    Workflow,
    chain,
    chord,
    group,
)

Start = Callable[[], None]


def test_results_come_in_the_order_of_after(app: PgQueue, start: Start, say: Any, log: list[Any]) -> None:
    order = Workflow("order-17")
    pay = order.step("pay", say.s("paid"))
    order.step("pick", say.s("picked"))
    order.step("ship", say.s("own"), after=["pick", pay])
    start()
    result = order.apply_async()
    assert result.get(timeout=20) == {"pay": "paid", "pick": "picked", "ship": "own"}
    assert log[-1] == ("picked", "paid", "own")
    assert result.state == "succeeded"


def test_results_come_by_keyword_where_the_task_has_the_names(app: PgQueue, start: Start, say: Any) -> None:
    @app.task(name="named")
    def named(order: int, *, pay: str, pick: str) -> dict[str, Any]:
        return {"order": order, "pay": pay, "pick": pick}

    @app.task(name="taken")
    def taken(pay: str, order: int) -> list[Any]:
        return [pay, order]

    order = Workflow()
    order.step("pay", say.s("paid"))
    order.step("pick", say.s("picked"))
    order.step("ship", named.s(17), after=["pick", "pay"])
    # Its own argument takes the place of the name: so the result comes first, as an argument.
    order.step("bill", taken.s(17), after="pay")
    start()
    values = order.apply_async().get(timeout=20)
    assert values["ship"] == {"order": 17, "pay": "paid", "pick": "picked"}
    assert values["bill"] == ["paid", 17]


def test_an_immutable_step_is_given_nothing(app: PgQueue, start: Start, say: Any, log: list[Any]) -> None:
    order = Workflow()
    order.step("a", say.s("a"))
    order.step("b", say.si("b"), after="a")
    start()
    order.delay().get(timeout=20)
    assert log == [("a",), ("b",)]


def test_steps_may_be_given_in_any_order(app: PgQueue, start: Start, say: Any, log: list[Any]) -> None:
    order = Workflow()
    order.step("last", say.s("last"), after=["first"])
    order.step("first", say.s("first"))
    start()
    order.delay().get(timeout=20)
    assert log == [("first",), ("first", "last")]


def test_a_signature_used_twice_is_two_steps(app: PgQueue, start: Start, say: Any, log: list[Any]) -> None:
    same = say.s("same")
    flow = Workflow()
    flow.step("a", same)
    flow.step("b", same)
    start()
    result = flow.delay()
    result.get(timeout=20)
    assert log == [("same",), ("same",)]
    assert result["a"].id != result["b"].id
    assert app.workflows.of(result["a"].id) == result.id
    assert app.workflows.of(same.delay().id) is None


def test_a_workflow_may_be_sent_twice(app: PgQueue, start: Start, say: Any) -> None:
    flow = Workflow("again")
    flow.step("a", say.s("a"))
    start()
    first, second = flow.delay(), flow.delay()
    assert first != second
    assert first.get(timeout=20) == second.get(timeout=20) == {"a": "a"}


def test_a_step_may_be_a_chain_a_group_or_a_chord(app: PgQueue, start: Start, say: Any, log: list[Any]) -> None:
    @app.task(name="double")
    def double(number: int) -> int:
        return 2 * number

    @app.task(name="total")
    def total(*numbers: Any) -> Any:
        return sum(numbers[0]) if isinstance(numbers[0], list) else sum(numbers)

    flow = Workflow()
    flow.step("start", say.s(1))
    flow.step("eight", chain(double.s(), double.s(), double.s()), after="start")
    flow.step("each", group(double.s(), double.s()), after="eight")
    flow.step("sum", chord([double.si(2), double.si(3)], total.s()), after="start")
    flow.step("none", group([]), after="start")
    flow.step("all", say.s(), after=["each", "eight", "sum", "none"])
    start()
    result = flow.apply_async()
    values = result.get(timeout=20)
    assert values["eight"] == 8
    assert values["each"] == [16, 16]
    assert values["sum"] == 10
    assert log[-1] == ([16, 16], 8, 10, [])


def test_two_parents_of_a_group_are_given_to_each_member(app: PgQueue, start: Start, say: Any, log: list[Any]) -> None:
    flow = Workflow()
    flow.step("a", say.s("a"))
    flow.step("b", say.s("b"))
    flow.step("both", group(say.s(1), say.s(2)), after=["a", "b"])
    start()
    assert flow.delay().get(timeout=20)["both"] == [1, 2]
    assert sorted(log[2:]) == [("a", "b", 1), ("a", "b", 2)]


# conditions


@pytest.mark.parametrize(("answer", "state"), [("yes", "succeeded"), ("", "skipped")])
def test_a_condition_decides(app: PgQueue, start: Start, say: Any, log: list[Any], answer: str, state: str) -> None:
    flow = Workflow()
    flow.step("a", say.s("a"))
    flow.step("b", say.s("b"), after="a", when=say.s(answer))
    flow.step("after", say.s("after"), after="b")
    flow.step("both", say.s("both"), after=["a", "b"])
    start()
    result = flow.apply_async()
    values = result.get(timeout=20)
    states = {step.name: step.state for step in result.steps}
    assert (states["b"], states["after"], states["both"]) == (state, state, "succeeded")
    assert ("a", "b" if answer else None, "both") in log
    assert values["b"] == ("b" if answer else None)


def test_a_condition_of_a_group_skips_all_of_it(app: PgQueue, start: Start, say: Any, log: list[Any]) -> None:
    flow = Workflow()
    flow.step("many", group(chain(say.s(1), say.s(2)), say.s(3)), when=say.s(0))
    flow.step("last", say.si("last"), after="many")
    start()
    assert flow.delay().get(timeout=20) == {"many.when": 0, "many": None, "last": None}
    assert log == [(0,)]


# refused before anything is written


def _rows(dsn: str) -> Any:
    with psycopg.connect(dsn) as connection:
        return connection.execute(
            "select (select count(*) from pgqueue.workflows), (select count(*) from pgqueue.live_jobs)"
        ).fetchone()


def _cycle(flow: Workflow, say: Any) -> None:
    flow.step("a", say.s(), after=["b"])
    flow.step("b", say.s(), after=["a"])


def _itself(flow: Workflow, say: Any) -> None:
    flow.step("a", say.s(), after=["a"])


def _missing(flow: Workflow, say: Any) -> None:
    flow.step("charge", say.s())
    flow.step("ship", say.s(), after=["chorge"])


def _twice(flow: Workflow, say: Any) -> None:
    flow.step("ship", say.s())
    flow.wait_for("ship")


def _named_like_a_compensation(flow: Workflow, say: Any) -> None:
    flow.step("pay.undo", say.s())
    flow.step("pay", say.s(), compensate=say.s())


def _same_parent(flow: Workflow, say: Any) -> None:
    flow.step("a", say.s())
    flow.step("ship", say.s(), after=["a", "a"])


def _foreign(flow: Workflow, say: Any) -> None:
    flow.step("ship", say.s(), after=[Workflow().step("pay", say.s())])


def _policy_of_a_stranger(flow: Workflow, say: Any) -> None:
    flow.step("a", say.s())
    flow.step("ship", say.s(), after=["a"], on_failure={"b": "ignore"})


def _empty(flow: Workflow, say: Any) -> None:
    pass


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (_cycle, "wait for each other: '(a' -> 'b' -> 'a|b' -> 'a' -> 'b)'"),
        (_itself, "'a' -> 'a'"),
        (_missing, "step 'ship': it waits for 'chorge', which is no step; did you mean 'charge'"),
        (_twice, "step 'ship': the name is used twice"),
        (_named_like_a_compensation, "step 'pay.undo': so is the compensation of 'pay' named"),
        (_same_parent, "step 'ship': it waits for 'a' twice"),
        (_foreign, "step 'ship': it waits for <Step 'pay' of .*, of another workflow"),
        (_policy_of_a_stranger, "step 'ship': on_failure: it does not wait for 'b'"),
        (_empty, "has no step"),
    ],
)
def test_a_graph_that_does_not_fit_together(
    app: PgQueue, dsn: str, say: Any, build: Callable[[Workflow, Any], None], message: str
) -> None:
    def send() -> None:
        flow = Workflow("bad", app=app)
        build(flow, say)
        flow.apply_async()

    with pytest.raises(GraphError, match=message):
        send()
    assert _rows(dsn) == (0, 0)


def test_without_steps_it_needs_no_application_to_say_so() -> None:
    with pytest.raises(GraphError, match="<Workflow alone: > has no step"):
        Workflow("alone").apply_async()


def test_too_many_members(app: PgQueue, dsn: str, say: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgqueue.graph.MAX_STEPS", 1000)
    with pytest.raises(LimitExceeded, match="at most 1,000 steps"):
        group(itertools.repeat(say.s(), 1001)).apply_async()
    with pytest.raises(LimitExceeded, match="at most 1,000 steps"):
        chord(itertools.repeat(say.s(), 1000), say.s()).apply_async()
    monkeypatch.setattr("pgqueue.graph.MAX_BYTES", 1000)
    flow = Workflow()
    for name in ("a", "b"):
        flow.step(name, say.s("x" * 500))
    with pytest.raises(LimitExceeded, match="MiB together"):
        flow.apply_async()
    assert _rows(dsn) == (0, 0)


def test_arguments_are_checked_with_those_of_the_parents(app: PgQueue, dsn: str, say: Any) -> None:
    @app.task(name="one")
    def one(value: Any) -> None:
        pass

    flow = Workflow()
    flow.step("a", say.s())
    flow.step("b", say.s())
    flow.step("join", one.s(), after=["a", "b"])
    with pytest.raises(ArgumentsError, match="step 'join': one"):
        flow.apply_async()
    flow = Workflow()
    flow.step("odd", say.s(object()))
    with pytest.raises(ValidationError, match="step 'odd': args"):
        flow.apply_async()
    assert _rows(dsn) == (0, 0)


@pytest.mark.parametrize(
    "wrong",
    [
        lambda say: Workflow(""),
        lambda say: Workflow("a\nb"),
        lambda say: Workflow(on_failure="retry"),  # type: ignore[arg-type] # refused
        lambda say: Workflow().step("a", say),
        lambda say: Workflow().step(17, say.s()),  # type: ignore[arg-type] # refused
        lambda say: Workflow().step("a", say.s(), when=lambda: True),  # type: ignore[arg-type] # refused
        lambda say: Workflow().step("a", say.s(), compensate=group(say.s())),
        lambda say: Workflow().step("a", say.s(), after=[3]),  # type: ignore[list-item] # refused
        lambda say: Workflow().wait_for("a", timeout="soon"),  # type: ignore[arg-type] # refused
        lambda say: Workflow().sleep(-1),
    ],
)
def test_what_is_no_step(say: Any, wrong: Callable[[Any], Any]) -> None:
    with pytest.raises(ValidationError):
        wrong(say)


def test_a_workflow_needs_an_application_and_a_worker(dsn: str) -> None:
    flow = Workflow()
    flow.wait_for("ok")
    with pytest.raises(ConfigurationError, match="belongs to no application"):
        flow.apply_async()
    with PgQueue("eager", dsn=dsn, task_always_eager=True) as app:
        flow = Workflow(app=app)
        flow.wait_for("ok")
        with pytest.raises(ConfigurationError, match=r"app\.worker\(\)"):
            flow.apply_async()


# adding steps


def test_steps_are_added_from_inside_a_step(app: PgQueue, start: Start, say: Any, log: list[Any]) -> None:
    @app.task(name="plan", bind=True)
    def plan(self: Any) -> list[str]:
        assert self.request.workflow_id is not None
        more = app.workflow(self.request.workflow_id)
        for name in ("x", "y"):
            more.step(name, say.s(name), after="plan")
        more.step("sum", say.s("sum"), after=["x", "y", "first"])
        more.apply_async()
        return ["x", "y"]

    flow = Workflow("grows")
    flow.step("first", say.s("first"))
    flow.step("plan", plan.si(), after="first")
    start()
    result = flow.apply_async()
    values = result.get(timeout=20)
    assert values["sum"] == "sum"
    assert log[-1] == ("x", "y", "first", "sum")
    assert (["x", "y"], "x") in log


def test_a_step_that_is_replaced_keeps_its_name_and_its_place(
    app: PgQueue, start: Start, say: Any, log: list[Any]
) -> None:
    @app.task(name="plan", bind=True)
    def plan(self: Any) -> Any:
        return self.replace(group(say.s("x"), say.s("y")))

    @app.task(name="undo")
    def undo(plan: Any) -> None:
        log.append(("undo", plan))

    @app.task(name="fails")
    def fails(plan: Any) -> None:
        raise ValueError("boom")

    flow = Workflow()
    flow.step("plan", plan.s(), compensate=undo.s())
    flow.step("after", say.s("after"), after="plan")
    flow.step("fails", fails.s(), after=["plan"])
    start()
    result = flow.apply_async()
    assert result.get(timeout=20, propagate=False)["plan"] == ["x", "y"]
    assert (["x", "y"], "after") in log
    assert log[-1] == ("undo", ["x", "y"])


def test_what_cannot_be_added(app: PgQueue, say: Any) -> None:
    flow = Workflow()
    flow.step("plan", say.s())
    result = flow.apply_async()
    more = app.workflow(result.id)
    more.step("plan", say.s())
    with pytest.raises(GraphError, match="step 'plan': the name is used twice"):
        more.apply_async()
    more = app.workflow(result.id)
    more.step("b", say.s(), after="plam")
    with pytest.raises(GraphError, match="it waits for 'plam', which is no step; did you mean 'plan'"):
        more.apply_async()
    stranger = app.workflow("00000000-0000-7000-8000-000000000000")
    stranger.step("b", say.s())
    with pytest.raises(GraphError, match="there is none of this id"):
        stranger.apply_async()


def test_everything_has_an_async_twin(app: PgQueue, start: Start, say: Any) -> None:
    async def story() -> None:
        flow = Workflow("twins", deadline=timedelta(hours=1))
        flow.step("a", say.s("a"))
        flow.wait_for("ok", timeout=datetime.now(UTC) + timedelta(hours=1), after="a")
        flow.step("b", say.s("b"), after="ok")
        result = await flow.aapply_async()
        await app.aresolve(result.id, "ok", 5)
        assert await result.aget(timeout=20) == {"a": "a", "ok": 5, "b": "b"}
        assert await result.asuccessful()
        assert await result.aready()
        assert await (await result.astep("b")).aget() == "b"
        row = await app.workflows.aget(result.id)
        assert row is not None
        assert (row.name, row.state, row.steps, row.succeeded) == ("twins", "succeeded", 3, 3)
        assert [each.id for each in await app.workflows.alist(states=["succeeded"], name="tw*")] == [result.id]
        assert [step.name for step in await app.workflows.asteps(result.id)] == ["a", "ok", "b"]
        assert len(await app.workflows.aedges(result.id)) == 2
        assert await app.workflows.acancel(result.id) == 0
        assert await app.workflows.aretry(result.id) == 0
        more = app.workflow(result.id)
        more.step("c", say.s("c"), after="b")
        await more.aapply_async()
        assert (await result.aget(timeout=20))["c"] == "c"

    start()
    asyncio.run(story())
