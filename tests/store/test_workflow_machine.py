"""Random graphs against a model: whatever happens to their steps in whatever order, tables and model agree after each.

The model knows the rules by which steps follow from their parents, and nothing of counters.
"""

from typing import Any, ClassVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)

from pgqueue.graph import EdgeKind, EdgePolicy, NewEdge, NewStep, NewWorkflow, StepInputs, StepRun
from pgqueue.job import NewJob, new_job_id
from pgqueue.store import workflows
from tests.store.store import Attempt, Store

LIVE = {"waiting", "available", "running"}
UNWELL = {"failed", "cancelled", "expired"}
INPUTS: st.SearchStrategy[StepInputs | None] = st.sampled_from(["list", "list", "args", None, "error"])
RUNS: st.SearchStrategy[StepRun | None] = st.sampled_from([None, None, None, "gather"])
POLICIES: st.SearchStrategy[EdgePolicy] = st.sampled_from(["stop", "stop", "ignore", "value"])


class Step:
    """What the model knows of a step."""

    def __init__(self, inputs: StepInputs | None, run: str | None, parents: list[tuple[str, str, str]]) -> None:
        self.inputs = inputs
        self.run = run
        self.parents = parents  # (id, kind, policy)
        self.state = "waiting" if parents else "available"
        self.told = False  # of an error that did not merely pass through it
        self.heard: set[str] = set()  # parents that were over when it got a new life: an error callback knows of them
        self.ran = not parents
        self.deleted = False
        self.undoes: str | None = None


class Graphs(RuleBasedStateMachine):
    """One workflow, and everything that can happen to its steps."""

    store: ClassVar[Store]

    def __init__(self) -> None:
        super().__init__()
        self.store.rows(
            "truncate pgqueue.live_jobs, pgqueue.finished_jobs, pgqueue.attempts, pgqueue.workflows,"
            " pgqueue.workflow_edges, pgqueue.workflow_joins, pgqueue.workflow_results"
        )
        self.id = new_job_id()
        self.worker = self.store.worker()
        self.steps: dict[str, Step] = {}
        self.settle: str | None = None
        self.running: dict[str, Attempt] = {}

    # --- the model: what follows

    def follow(self) -> None:
        """Let everything happen that follows by itself."""
        moved = True
        while moved:
            waiting = [step for step in self.steps.values() if step.state == "waiting"]
            moved = sum(map(self._follow, waiting)) > 0

    def _follow(self, step: Step) -> bool:
        parents = [(self.steps[parent], kind, policy) for parent, kind, policy in step.parents]
        over = all(parent.state not in LIVE for parent, _, _ in parents)
        if step.undoes is not None:
            if over:
                called = self.steps[step.undoes].state == "succeeded" and self.has_failed()
                step.state, step.ran = ("available", True) if called else ("skipped", False)
        elif step.inputs == "error":
            unheard = (self.steps[one] for one, _, _ in step.parents if one not in step.heard)
            if any(parent.state == "failed" and parent.told for parent in unheard):
                step.state, step.ran = "available", True
            elif over:
                step.state = "skipped"
        elif any(policy == "stop" and parent.state in UNWELL for parent, _, policy in parents):
            step.state, step.told = "failed", step.inputs == "list"
        elif over and step.run == "settle":
            step.state, step.ran = "succeeded", False
        elif over and all(parent.state == "skipped" for parent, _, _ in parents):
            step.state = "skipped"
        elif over:
            step.state, step.ran = ("succeeded", False) if step.run else ("available", True)
        return step.state != "waiting"

    def has_failed(self) -> bool:
        """Whether a step failed that stops one behind it, or has none behind it."""
        unwell = [one for one in self.usual() if self.steps[one].state in UNWELL]
        return any(not (edges := self.followers(one)) or "stop" in edges for one in unwell)

    def followers(self, job_id: str) -> list[str]:
        """The policies of the edges to what goes on from a step."""
        return [
            policy
            for child_id, step in self.steps.items()
            if step.undoes is None and child_id != self.settle
            for parent, kind, policy in step.parents
            if parent == job_id and kind != "error"
        ]

    def usual(self) -> list[str]:
        """The steps that end nothing and undo nothing."""
        return sorted(i for i, step in self.steps.items() if step.undoes is None and i != self.settle)

    # --- what is done

    @initialize(data=st.data(), size=st.integers(1, 9), saga=st.booleans())
    def begin(self, data: st.DataObject, size: int, saga: bool) -> None:
        self.add(data, size, saga=saga)

    def add(self, data: st.DataObject, size: int, existing: bool = False, saga: bool = False) -> None:
        steps: list[NewStep] = []
        edges: list[NewEdge] = []
        for _ in range(size):
            job = NewJob(new_job_id(), "t", "default")
            earlier = [one for one in self.usual() if not self.steps[one].deleted]
            above = data.draw(st.lists(st.sampled_from(earlier), unique=True, max_size=3)) if earlier else []
            inputs: StepInputs | None = data.draw(INPUTS) if above else None
            run: StepRun | None = data.draw(RUNS) if above and inputs != "error" else None
            policies = [data.draw(POLICIES) for _ in above]
            if inputs == "error":
                policies = ["stop"] * len(above)
            kind: EdgeKind = "error" if inputs == "error" else "value"
            edges += [NewEdge(one, job.id, n, kind, p) for n, (one, p) in enumerate(zip(above, policies, strict=True))]
            # Named: of a part without names all would be undone together.
            steps.append(NewStep(job, f"s{len(self.steps)}", inputs, run))
            self.steps[job.id] = Step(inputs, run, [(one, kind, p) for one, p in zip(above, policies, strict=True)])
        if existing and self.settle is not None:
            self.steps[self.settle].parents += [(step.job.id, "order", "ignore") for step in steps]
        if saga:
            self.add_compensations(data, steps, edges)
        self.store.run(
            workflows.insert_workflow(self.store.queries, NewWorkflow(self.id, steps, edges), 3600, existing)
        )
        self.follow()

    def add_compensations(self, data: st.DataObject, steps: list[NewStep], edges: list[NewEdge]) -> None:
        before = self.usual()
        self.settle = settle = new_job_id()
        steps.append(NewStep(NewJob(settle, "pgqueue.settle", "default"), None, None, "settle"))
        edges += [NewEdge(one, settle, place, "order", "ignore") for place, one in enumerate(before)]
        self.steps[settle] = Step(None, "settle", [(one, "order", "ignore") for one in before])
        for target in data.draw(st.lists(st.sampled_from(before), unique=True, max_size=3)):
            job = NewJob(new_job_id(), "t", "default")
            steps.append(NewStep(job, f"undo {len(steps)}", compensates=target))
            edges.append(NewEdge(settle, job.id, 0, "order", "ignore"))
            self.steps[job.id] = Step(None, None, [(settle, "order", "ignore")])
            self.steps[job.id].undoes = target

    def goes_on(self) -> bool:
        if self.settle is not None:
            return self.steps[self.settle].state == "waiting"
        return any(step.state in LIVE for step in self.steps.values())

    @precondition(lambda self: self.goes_on())
    @rule(data=st.data(), size=st.integers(1, 3))
    def add_steps(self, data: st.DataObject, size: int) -> None:
        self.add(data, size, existing=True)

    @rule(limit=st.integers(1, 4))
    def claim(self, limit: int) -> None:
        for attempt in self.store.claim(self.worker, limit):
            step = self.steps[attempt.job.id]
            assert step.state == "available"
            step.state = "running"
            self.running[attempt.job.id] = attempt

    def some(self, data: st.DataObject) -> list[Attempt]:
        ids = data.draw(st.lists(st.sampled_from(sorted(self.running)), unique=True, min_size=1))
        return [self.running.pop(job_id) for job_id in ids]

    @precondition(lambda self: self.running)
    @rule(
        data=st.data(), state=st.sampled_from(["succeeded", "succeeded", "failed", "skipped", "expired", "cancelled"])
    )
    def end(self, data: st.DataObject, state: str) -> None:
        attempts = self.some(data)
        assert (
            self.store.finish(attempts, state, error='{"type": "E", "message": "m"}' if state == "failed" else None)
            == []
        )
        for attempt in attempts:
            step = self.steps[attempt.job.id]
            step.state, step.told = state, True
        self.follow()

    @precondition(lambda self: self.running)
    @rule(data=st.data(), limit=st.sampled_from([1, 3]))
    def lose(self, data: st.DataObject, limit: int) -> None:
        for attempt in self.some(data):
            outcome = self.store.lose([attempt], limit)[attempt.job.id]
            step = self.steps[attempt.job.id]
            step.state, step.told = outcome, True
            self.follow()

    @precondition(lambda self: self.running)
    @rule(data=st.data())
    def retry(self, data: st.DataObject) -> None:
        for attempt in self.some(data):
            self.store.retry([attempt])
            self.steps[attempt.job.id].state = "available"

    @rule(data=st.data())
    def cancel(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(one for one in self.steps if one != self.settle)))
        step = self.steps[job_id]
        self.store.cancel([job_id])
        if step.state in ("waiting", "available"):
            step.state, step.ran = "cancelled", False
            self.follow()

    @precondition(lambda self: any(self.steps[one].state in ("waiting", "available") for one in self.usual()))
    @rule(data=st.data())
    def delete_by_hand(self, data: st.DataObject) -> None:
        awaited = {one for step in self.steps.values() if step.state == "waiting" for one, _, _ in step.parents}
        job_id = data.draw(
            st.sampled_from([one for one in self.usual() if self.steps[one].state in ("waiting", "available")])
        )
        self.store.rows("delete from pgqueue.live_jobs where id = %s", [job_id])
        step = self.steps[job_id]
        noticed = job_id in awaited or step.state == "waiting"
        assert self.store.run(workflows.mend_workflows(self.store.queries)) == noticed
        step.state, step.deleted = "cancelled", True
        self.follow()

    @precondition(lambda self: not any(step.deleted for step in self.steps.values()))
    @rule()
    def run_on(self) -> None:
        again = {job_id for job_id, step in self.steps.items() if step.state in UNWELL}
        self.store.run(workflows.retry_workflow(self.store.queries, self.id))
        self.live_again(again)

    @precondition(lambda self: not any(step.deleted for step in self.steps.values()))
    @precondition(lambda self: any(step.state in UNWELL for step in self.steps.values()))
    @rule(data=st.data())
    def revive_one(self, data: st.DataObject) -> None:
        job_id = data.draw(st.sampled_from(sorted(i for i, step in self.steps.items() if step.state in UNWELL)))
        revived = self.store.revive([job_id])
        self.live_again({job_id})
        assert revived == ([job_id] if self.steps[job_id].state in LIVE else [])

    def live_again(self, again: set[str]) -> None:
        """A new life for these steps, for what did not run because of them, and for what was undone."""
        size = 0
        while size < len(again):
            size = len(again)
            undone = {self.steps[one].undoes for one in again if self.steps[one].state == "succeeded"}
            again |= {one for one in undone if one is not None}
            again |= {
                job_id
                for job_id, step in self.steps.items()
                if step.state not in LIVE
                and any(parent in again for parent, _, _ in step.parents)
                and (not step.ran or step.inputs == "error" or step.undoes is not None)
            }
        for job_id in again:
            step = self.steps[job_id]
            step.state, step.told, step.ran = ("waiting", False, False) if step.parents else ("available", False, True)
        for step in self.steps.values():
            if step.state == "waiting":
                step.heard = {one for one, _, _ in step.parents if self.steps[one].state not in LIVE}
        self.follow()

    # --- what must hold

    @invariant()
    def tables_and_model_agree(self) -> None:
        rows = self.store.rows(
            "select job_id::text, state from pgqueue.workflow_steps where workflow_id = %s", [self.id]
        )
        found = {job_id: state for job_id, state in rows if not self.steps[job_id].deleted}
        wanted = {job_id: step.state for job_id, step in self.steps.items() if not step.deleted}
        # One that several parents stop at once takes its state from any of them.
        for job_id, state in found.items():
            step = self.steps[job_id]
            if not step.ran and step.state == "failed" and state == "cancelled":
                wanted[job_id] = step.state = state
        assert found == wanted

    @invariant()
    def a_workflow_that_nobody_can_move_is_over(self) -> None:
        if self.steps and not any(step.state in ("available", "running") for step in self.steps.values()):
            assert not any(step.state == "waiting" for step in self.steps.values())

    def teardown(self) -> None:
        self.running.clear()


def test_random_graphs(store: Store) -> None:
    store.rows("set synchronous_commit = off")
    machine: Any = type("Machine", (Graphs,), {"store": store})
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=25,
            stateful_step_count=20,
            deadline=None,
            suppress_health_check=list(HealthCheck),
            database=None,
        ),
    )
