"""The run side: one worker claims, runs and finishes. Web applications never import it."""

from pgqueue.worker.plan import WorkerPlan, make_plan
from pgqueue.worker.worker import Worker

__all__ = ["Worker", "WorkerPlan", "make_plan"]
