"""A workflow under construction, and run by hand: what the tests of workflows in the store share."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from pgqueue.graph import EdgeKind, EdgePolicy, NewEdge, NewStep, NewWorkflow, StepInputs, StepRun
from pgqueue.job import NewJob, new_job_id
from pgqueue.store import claims, workflows
from tests.store.store import Attempt, Store

BOOM = '{"type": "E", "message": "boom"}'


class Graph:
    """A workflow under construction, and its steps by name once it runs."""

    def __init__(self, store: Store, workflow_id: str | None = None) -> None:
        self.store = store
        self.id = workflow_id or new_job_id()
        self.existing = workflow_id is not None
        self.ids: dict[str, str] = {}
        self._steps: list[NewStep] = []
        self._edges: list[NewEdge] = []
        self.worker = store.worker()

    def step(
        self,
        name: str,
        after: Sequence[str] = (),
        *,
        inputs: StepInputs | None = None,
        run: StepRun | None = None,
        kind: EdgeKind = "value",
        policy: EdgePolicy = "stop",
        compensates: str | None = None,
        also: Sequence[tuple[str, EdgeKind]] = (),
        **fields: Any,
    ) -> "Graph":
        job = NewJob(id=new_job_id(), task=f"pgqueue.{run}" if run else name, queue="default", **fields)
        if run == "wait":
            job = job._replace(task="pgqueue.wait_for")
        self.ids[name] = job.id
        undone = None if compensates is None else self.ids[compensates]
        self._steps.append(NewStep(job, name, inputs, run, undone))
        self._edges += [NewEdge(self.ids[one], job.id, place, kind, policy) for place, one in enumerate(after)]
        self._edges += [NewEdge(self.ids[one], job.id, len(after) + n, other) for n, (one, other) in enumerate(also)]
        return self

    def name_none(self, name: str) -> "Graph":
        """Let a step be one of a part of several, which has no name of its own."""
        self._steps = [one._replace(name=None) if one.name == name else one for one in self._steps]
        return self

    def behind(self, name: str, after: Sequence[str]) -> "Graph":
        """Let a step wait for ones that were given later, whose ids are higher."""
        self._edges += [NewEdge(self.ids[one], self.ids[name], place) for place, one in enumerate(after)]
        return self

    def enqueue(self, deadline_in: float | None = None) -> "Graph":
        workflow = NewWorkflow(self.id, self._steps, self._edges, "graph", deadline_in, self.ids.values())
        workflow.check()
        self.store.run(workflows.insert_workflow(self.store.queries, workflow, 60, self.existing))
        self._steps, self._edges, self.existing = [], [], True
        return self

    # running it by hand

    def claim(self) -> dict[str, Attempt]:
        """Claim what is available, by the names of the steps."""
        names = {job_id: name for name, job_id in self.ids.items()}
        return {names[one.job.id]: one for one in self.store.claim(self.worker)}

    def finish(self, attempt: Attempt, result: Any = None, session: Store | None = None) -> None:
        store = session or self.store
        lost = store.run(
            claims.finish_jobs(store.queries, [attempt.fence], "succeeded", [json.dumps(result)], None, None, 60)
        )
        assert not lost

    def fail(self, attempt: Attempt) -> None:
        self.store.finish([attempt], "failed", error=BOOM)

    def run(self, results: dict[str, Any] | None = None, failing: Iterable[str] = ()) -> list[str]:
        """Run until nothing is available; the names of the steps in the order in which they ran."""
        ran: list[str] = []
        while found := self.claim():
            for name, attempt in found.items():
                ran.append(name)
                if name in failing:
                    self.fail(attempt)
                else:
                    self.finish(attempt, (results or {}).get(name, name))
        return ran

    @property
    def states(self) -> dict[str, str]:
        rows = self.store.rows(
            "select job_id::text, state from pgqueue.workflow_steps where workflow_id = %s", [self.id]
        )
        by_id = dict(rows)
        return {name: by_id[job_id] for name, job_id in self.ids.items()}

    @property
    def state(self) -> str:
        return str(self.store.value("select state from pgqueue.all_workflows where id = %s", [self.id]))

    def outcome(self, name: str) -> tuple[Any, Any]:
        return self.store.rows(
            "select result, error from pgqueue.workflow_results where job_id = %s", [self.ids[name]]
        )[0]

    def resolve(self, event: str, value: str = '"yes"') -> None:
        self.store.run(workflows.resolve_event(self.store.queries, self.id, event, value))

    def make_due(self, name: str) -> None:
        """Let the time of a step that sleeps, waits or is delayed be now."""
        self.store.rows("update pgqueue.live_jobs set run_at = clock_timestamp() where id = %s", [self.ids[name]])
