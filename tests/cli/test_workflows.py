"""`pgqueue workflows`: list, show, cancel, retry, resolve."""

import json
import re
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from pgqueue import PgQueue, Workflow, chain, chord, signature
from tests.cli.rows import Invoke


@pytest.fixture
def app(dsn: str) -> Iterator[PgQueue]:
    with PgQueue("cli", dsn=dsn) as found:
        yield found


@pytest.fixture
def order(app: PgQueue) -> str:
    flow = Workflow("order-17", app=app)
    pay = flow.step("pay", signature("shop.charge"), compensate=signature("shop.refund"))
    pick = flow.step("pick", signature("shop.reserve"), when=signature("shop.in_stock"))
    ok = flow.wait_for("approval", timeout=3600, after=[pay, pick])
    flow.step("ship", signature("shop.ship"), after=[pay, pick, ok])
    return flow.apply_async().id


def test_list(invoke: Invoke, app: PgQueue, order: str) -> None:
    (app.signature("a") | app.signature("b")).apply_async()
    listed = invoke("workflows", "list").out
    assert re.search(rf"{order} +running +order-17 +0/7", listed)
    assert len(listed.splitlines()) == 3
    assert invoke("workflows", "list", "--name", "order*", "--ids").out.split() == [order]
    assert invoke("workflows", "list", "--state", "failed", "--ids").out == ""
    assert json.loads(invoke("workflows", "list", "--json", "--name", "order-17").out)[0]["live"] == 7
    refused = invoke("workflows", "list", "--state", "done")
    assert (refused.code, "'done' is no state of a workflow" in refused.err) == (2, True)


def test_show_draws_the_graph(invoke: Invoke, order: str) -> None:
    lines = invoke("workflows", "show", order).out.splitlines()
    assert lines[0].startswith(f"{order}  order-17  running: 0 of 7 steps ended")
    assert lines[1:] == [
        "├─ ○ pay  available  shop.charge",
        "│  ○ ↶ pay.undo  waiting  shop.refund  waits for 2 of 2",
        "└─ ○ pick.when  available  shop.in_stock",
        "   ○ pick  waiting  shop.reserve  waits for 1 of 1",
        "   ○ approval  waiting  after pay, pick  waits for 2 of 2",
        "   ○ ship  waiting  shop.ship  after pay, pick, approval  waits for 3 of 3",
    ]


def test_the_beginning_of_an_id_will_do(invoke: Invoke, order: str) -> None:
    short = order[:-4]
    assert invoke("workflows", "show", short).out.startswith(f"{order}  order-17")
    step = invoke("jobs", "list", "--ids", "--state", "waiting").out.split()[0]
    assert invoke("workflows", "show", step).out.startswith(f"{order}  order-17")
    assert "no workflow 99999999:" in invoke("workflows", "show", "99999999").err
    assert invoke("workflows", "cancel", "my own").out == "my own  no such workflow\n"
    assert invoke("workflows", "cancel", short).out.startswith(f"{short}  ")


def test_show_draws_members_that_look_alike_once(invoke: Invoke, app: PgQueue) -> None:
    members = [chain(app.signature("split"), app.signature("count")) for _ in range(3)]
    sent = chord(members, app.signature("total")).apply_async()
    shown = invoke("workflows", "show", sent.id).out.splitlines()
    assert shown[1:] == [
        "└─ ○ 3 × split  3 available",
        "   ○ 3 × count  3 waiting",
        "   ○ total  waiting  waits for 3 of 3",
    ]
    flow = invoke("workflows", "show", sent.id, "--mermaid").out.splitlines()
    assert flow[:6] == [
        "flowchart TD",
        '    s0["3 × split<br/>3 available"]',
        '    s1["3 × count<br/>3 waiting"]',
        '    s2["total<br/>waiting"]',
        "    s0 --> s1",
        "    s1 --> s2",
    ]
    assert len(json.loads(invoke("workflows", "show", sent.id, "--json").out)["edges"]) == 6


def test_prune_removes_what_is_over(invoke: Invoke, order: str, conn: psycopg.Connection[Any]) -> None:
    invoke("workflows", "cancel", order)
    assert "workflow" not in invoke("prune").out
    conn.execute("update pgqueue.workflows set created_at = created_at - interval '30 days'")
    conn.execute("update pgqueue.workflow_results set finished_at = finished_at - interval '30 days'")
    conn.commit()
    assert invoke("prune").out.endswith("made, 1 workflow removed\n")
    assert invoke("workflows", "list", "--ids").out == ""


def test_a_step_says_what_it_waits_for(invoke: Invoke, app: PgQueue) -> None:
    flow = Workflow(app=app)
    ok = flow.wait_for("ok", timeout=100)
    flow.sleep(1000, "nap")
    flow.wait_for("ever")
    flow.step("ship", app.signature("shop.ship"), after=["nap", ok])
    sent = flow.apply_async()
    shown = f"pgqueue workflows show {sent.id}"

    def why(name: str) -> str:
        found: list[str] = json.loads(invoke("jobs", "show", sent[name].id, "--json").out)["why"]
        return "; ".join(found)

    assert why("ship") == f"it waits for 2 of 2 steps before it: {shown}"
    assert re.fullmatch(rf"it waits for its event, for at most \d+ s more: {shown}", why("ok"))
    assert re.fullmatch(rf"it sleeps, for at most \d+ s more: {shown}", why("nap"))
    assert why("ever") == f"it waits for its event: {shown}"


def test_texts_cannot_command_the_terminal_or_the_page(invoke: Invoke, app: PgQueue) -> None:
    flow = Workflow(app=app)
    flow.step('"] <b>', signature("x"))
    sent = flow.apply_async()
    assert 's0["&quot;] &lt;b&gt;<br/>x<br/>available"]' in invoke("workflows", "show", sent.id, "--mermaid").out


def test_cancel_resolve_and_retry(invoke: Invoke, order: str) -> None:
    assert "waits for no event 'other'" in invoke("workflows", "resolve", order, "other").err
    assert "a text needs quotes" in invoke("workflows", "resolve", order, "approval", "yes").err
    resolved = invoke("workflows", "resolve", order, "approval", '{"by": "ann"}')
    assert (resolved.code, resolved.err) == (0, "pgqueue: approval is resolved\n")
    assert invoke("workflows", "resolve", order, "approval").code == 2
    done = invoke("workflows", "cancel", order)
    assert (done.code, done.out) == (0, f"{order}  5 steps cancelled\n")
    again = invoke("workflows", "cancel", order, "--json")
    assert (again.code, json.loads(again.out)[0]["outcome"]) == (1, "nothing to do: it is cancelled")
    shown = invoke("workflows", "show", order).out
    assert "✗ ship  cancelled" in shown
    assert "– ↶ pay.undo  skipped" in shown
    assert invoke("workflows", "retry", order).out == f"{order}  5 steps to run again\n"
    assert "running: " in invoke("workflows", "show", order).out
    missing = invoke("workflows", "cancel", "nothing")
    assert (missing.code, "no such workflow" in missing.out) == (1, True)
    assert "no workflow" in invoke("workflows", "show", "nothing").err
