-- name: insert_job
-- One job; false when the caller's own id is taken. Positional: the fields of NewJob.
select pgqueue.enqueue_job(%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s, %s)

-- name: insert_jobs
-- Many jobs with ids made by the client, in one statement.
select pgqueue.enqueue_jobs(
    %(ids)s::uuid[], %(tasks)s::text[], %(queues)s::text[], %(priorities)s::smallint[], %(args)s::text[],
    %(kwargs)s::text[], %(headers)s::text[], %(options)s::text[], %(delays)s::float8[], %(etas)s::timestamptz[],
    %(expires_in)s::float8[], %(expires_at)s::timestamptz[], %(root_id)s::uuid, %(parent_id)s::uuid)

-- name: get_job
-- One job, live or finished. kept_after bounds the partitions looked into; '-infinity' looks into all.
select state, task, queue, priority, args, kwargs, result, error, traceback, attempt, lost, enqueued_at, run_at,
       started_at, finished_at, expires_at, worker, headers, options, progress, root_id, parent_id
from (
    select j.state, j.task, j.queue, j.priority, j.args, j.kwargs, null::json as result, null::json as error,
           null::text as traceback, j.attempt, j.lost, j.enqueued_at, j.run_at, j.started_at,
           null::timestamptz as finished_at, j.expires_at, j.worker_id, j.headers, j.options, j.progress, j.root_id, j.parent_id
    from pgqueue.live_jobs j where j.id = %(id)s
    union all
    select f.state, f.task, f.queue, f.priority, f.args, f.kwargs, f.result, f.error, f.traceback, f.attempt, f.lost,
           f.enqueued_at, f.run_at, f.started_at, f.finished_at, f.expires_at, f.worker_id, f.headers, f.options, null, f.root_id, f.parent_id
    from pgqueue.finished_jobs f where f.id = %(id)s and f.delete_after >= %(kept_after)s
) found
left join lateral (select w.name as worker from pgqueue.workers w where w.id = found.worker_id) w on true
limit 1

-- name: get_outcome
-- State and outcome only: what a waiter reads.
select j.state, null::json as result, null::json as error, null::text as traceback, j.progress, j.attempt
from pgqueue.live_jobs j where j.id = %(id)s
union all
select f.state, f.result, f.error, f.traceback, null, f.attempt
from pgqueue.finished_jobs f where f.id = %(id)s and f.delete_after >= %(kept_after)s
limit 1

-- name: mark_waited_for
-- Asks the finish of a live job to notify; no row when it is not live.
update pgqueue.live_jobs set waited_for = true where id = %(id)s returning state

-- name: forget_job
-- Drops a finished job with its result.
delete from pgqueue.finished_jobs where id = %(id)s

-- name: update_progress
-- What update_state() reports of a running attempt.
update pgqueue.live_jobs set progress = %(progress)s
where id = %(id)s and claim_token = %(token)s and state || '' = 'running'

-- name: cancel_jobs
-- Per id: cancelled, asked (running, will be stopped) or running (left alone); unknown and finished ids are absent.
select id, outcome from pgqueue.cancel_jobs(%(ids)s::uuid[], %(terminate)s, %(keep)s)

-- name: revive_jobs
-- Failed, cancelled and expired jobs get a new life under their ids; returns the ids that did.
select unnest(pgqueue.revive_jobs(%(ids)s::uuid[]))

-- name: live_worker_exists
-- Whether any live worker serves the queue of a live job; no row when the job is not live.
select exists (select from pgqueue.workers w
               where w.stopped_at is null and w.lost_at is null and w.lease_expires_at > now() and j.queue = any (w.queues))
from pgqueue.live_jobs j where j.id = %(id)s
