"""Statements about several jobs that belong together: outcomes of many, what followed from one, members of a group."""

from collections.abc import Sequence

from pgqueue.store.columns import array, nothing, texts
from pgqueue.store.jobs import OutcomeRow
from pgqueue.store.statement import Queries, Statement

__all__ = ["children_of", "forget_jobs", "get_outcomes", "jobs_by_stamps", "members_of_group"]


def get_outcomes(queries: Queries, job_ids: Sequence[str], kept_after: str) -> Statement[dict[str, OutcomeRow]]:
    """Return state and outcome of those jobs that are kept, by their ids."""
    return Statement(
        queries["get_outcomes"],
        {"ids": array(job_ids), "kept_after": kept_after},
        lambda rows: {row[0]: OutcomeRow(*row[1:]) for row in rows},
    )


def children_of(queries: Queries, job_id: str, kept_after: str) -> Statement[list[str]]:
    """Return the ids of the jobs that followed from one: steps behind it, called error callbacks, what it enqueued."""
    return Statement(queries["children_of_job"], {"id": job_id, "kept_after": kept_after}, texts)


def members_of_group(queries: Queries, workflow_id: str, group_id: str) -> Statement[Sequence[str]]:
    """Return the ids of the members of the group after which a workflow is named."""
    return Statement(queries["members_of_group"], {"id": workflow_id, "group_id": group_id}, texts)


def jobs_by_stamps(queries: Queries, stamps: str) -> Statement[list[str]]:
    """Return the ids of the live jobs that have one of these stamps: JSON of lists of values by their names."""
    return Statement(queries["jobs_by_stamps"], {"stamps": stamps}, texts)


def forget_jobs(queries: Queries, job_ids: Sequence[str]) -> Statement[None]:
    """Delete those of the jobs that are finished."""
    return Statement(queries["forget_jobs"], {"ids": array(job_ids)}, nothing)
