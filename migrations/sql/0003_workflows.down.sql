drop view pgqueue.all_workflows, pgqueue.workflow_steps;
drop function pgqueue.is_outdated, pgqueue.step_ids;
drop table pgqueue.workflows, pgqueue.workflow_additions, pgqueue.workflow_names, pgqueue.workflow_groups,
    pgqueue.workflow_edges, pgqueue.workflow_joins, pgqueue.workflow_results;
drop function pgqueue.enqueue_workflow, pgqueue.add_settle, pgqueue.add_compensations, pgqueue.begin_replacement,
    pgqueue.begin_membership, pgqueue.release_at_once, pgqueue.step_values, pgqueue.step_args, pgqueue.step_kwargs,
    pgqueue.advance_workflows, pgqueue.advance_from, pgqueue.lock_below, pgqueue.lock_steps, pgqueue.lock_workflow_of,
    pgqueue.stop_steps, pgqueue.is_refusal, pgqueue.stopped_by, pgqueue.end_steps, pgqueue.release_steps,
    pgqueue.settle, pgqueue.has_failed, pgqueue.is_tolerated, pgqueue.end_timers, pgqueue.end_all_timers,
    pgqueue.resolve, pgqueue.cancel_workflow, pgqueue.retry_workflow, pgqueue.retry_steps, pgqueue.order_again,
    pgqueue.mend_workflows, pgqueue.prune_workflows;
drop type pgqueue.stopped_step;
-- Steps that wait could never run without these tables.
delete from pgqueue.live_jobs where state = 'waiting';
