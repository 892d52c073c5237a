"""`pgqueue purge` and `pgqueue prune`: waiting jobs away, finished jobs away."""

import sys

import click

from pgqueue.cli.confirm import confirm
from pgqueue.cli.options import DURATION, QUEUES
from pgqueue.cli.session import Session, pass_session

__all__ = ["prune", "purge"]

BATCH = 1_000


@click.command(short_help="Cancel all waiting jobs of a queue.")
@click.option("-Q", "--queues", type=QUEUES, help="Queues, separated by commas.  [default: task_default_queue]")
@click.option("-X", "--exclude-queues", type=QUEUES, help="All queues but these.")
@click.option("-f", "--force", is_flag=True, help="Do not ask.")
@pass_session
def purge(session: Session, queues: list[str] | None, exclude_queues: list[str] | None, force: bool) -> None:
    """Cancel all jobs of a queue that have not started, scheduled ones included.

    They end as cancelled, so that whoever waits for one learns it. Running jobs are left alone.
    """
    from pgqueue.store.jobs import cancel_jobs  # noqa: PLC0415 - not needed by --help
    from pgqueue.store.statement import run  # noqa: PLC0415 - as above
    from pgqueue.store.stats import DEPTH_CAP, queue_depths, waiting_ids  # noqa: PLC0415 - as above

    if queues and exclude_queues:
        raise click.UsageError("give --queues or --exclude-queues, not both")
    conf = session.app.conf
    with session.checked() as connection:
        depths = {depth.queue: depth for depth in run(connection, queue_depths(session.queries))}
        if exclude_queues:
            wanted = [queue for queue in depths if queue not in exclude_queues]
        else:
            wanted = queues or [conf.task_default_queue]
        there = {queue: depths[queue].available + depths[queue].scheduled for queue in wanted if queue in depths}
        total = sum(there.values())
        names = ", ".join(queue for queue, count in there.items() if count)
        if not total:
            session.note(f"nothing is waiting in {', '.join(wanted) or 'any queue'}")
            return
        more = "+" if any(count >= DEPTH_CAP for count in there.values()) else ""
        confirm(f"Cancel {total:,}{more} waiting jobs of {names}?", force=force)
        done = 0
        with click.progressbar(length=total, label="purge", file=sys.stderr) as bar:
            while ids := run(connection, waiting_ids(session.queries, wanted, BATCH)):
                found = run(connection, cancel_jobs(session.queries, ids, False, conf.result_expires))
                cancelled = sum(outcome == "cancelled" for outcome in found.values())
                done += cancelled
                bar.update(cancelled)
    click.echo(f"{done} jobs cancelled")


@click.command(short_help="Drop finished jobs whose time is over.")
@click.option("--older-than", type=DURATION, help="Delete all that ended longer ago, before their time: 12h, 7d.")
@click.option("-f", "--force", is_flag=True, help="With --older-than: do not ask.")
@pass_session
def prune(session: Session, older_than: float | None, force: bool) -> int:
    """Drop finished jobs whose time is over, whole days at once, and make the partitions of the days to come.

    Workflows whose time is over are removed. Workers do the same by themselves once an hour. Exit code 1 when something
    is in use and was left for the next time.
    """
    from pgqueue.store.partitions import (  # noqa: PLC0415 - not needed by --help
        days_ahead,
        delete_older,
        drop_expired,
        ensure_partitions,
        list_partitions,
    )
    from pgqueue.store.statement import run  # noqa: PLC0415 - as above
    from pgqueue.store.workers import prune_workers  # noqa: PLC0415 - as above
    from pgqueue.store.workflows import prune_workflows  # noqa: PLC0415 - as above

    conf = session.app.conf
    session.app.finalize()
    kept = [task.result_expires for task in session.app.tasks.values()]
    days = days_ahead(conf.result_expires, conf.failed_result_expires, *kept)
    with session.checked() as connection:
        if older_than is not None:
            confirm("Delete finished jobs and their results before their time?", force=force)
        made = run(connection, ensure_partitions(session.queries, days))
        done = drop_expired(connection, session.queries)
        run(connection, prune_workers(session.queries, days * 86_400.0))
        workflows = 0
        while removed := run(connection, prune_workflows(session.queries, BATCH)):
            workflows += removed
        deleted = 0
        if older_than is not None:
            parts = [part for part in run(connection, list_partitions(session.queries)) if part.attached]
            with click.progressbar(parts, label="prune", file=sys.stderr) as bar:
                for part in bar:
                    deleted += delete_older(connection, session.queries, part, older_than)
    said = f"{len(done.dropped)} partitions dropped, {made} made"
    if workflows:
        said += f", {workflows} workflow{'s' if workflows > 1 else ''} removed"
    click.echo(said if older_than is None else f"{said}, {deleted} rows deleted")
    for name, reason in done.left.items():
        session.note(f"{name} is in use and was left for the next time: {reason}")
    return 1 if done.left else 0
