-- name: insert_job
-- One job; false when the caller's own id is taken. Positional: the fields of NewJob. Every type is named, because one
-- driver sends all values as text.
select pgqueue.enqueue_job(
    %s::uuid, %s::text, %s::text, %s::integer, %s::json, %s::json, %s::json, %s::json, %s::double precision,
    %s::timestamptz, %s::double precision, %s::timestamptz, %s::uuid, %s::uuid, %s::boolean)

-- name: insert_jobs
-- Many jobs with ids made by the client, in one statement. Texts are joined by the unit separator, which neither names
-- nor JSON hold; a column that is null for all jobs is null as a whole.
select pgqueue.enqueue_jobs(
    %(ids)s::uuid[], string_to_array(%(tasks)s::text, E'\x1f'), string_to_array(%(queues)s::text, E'\x1f'),
    %(priorities)s::smallint[], string_to_array(%(args)s::text, E'\x1f', ''),
    string_to_array(%(kwargs)s::text, E'\x1f', ''), string_to_array(%(headers)s::text, E'\x1f', ''),
    string_to_array(%(options)s::text, E'\x1f', ''), %(delays)s::double precision[], %(etas)s::timestamptz[],
    %(expires_in)s::double precision[], %(expires_at)s::timestamptz[], %(root_id)s::uuid, %(parent_id)s::uuid)

-- name: get_job
-- One job, live or finished; JSON stays text. kept_after bounds the partitions looked into; '-infinity' looks into all.
select state, task, queue, priority, args::text, kwargs::text, result::text, error::text, traceback, attempt, lost,
       enqueued_at, run_at, started_at, finished_at, expires_at, worker, headers::text, options::text, progress::text,
       root_id, parent_id
from (
    select j.state, j.task, j.queue, j.priority, j.args, j.kwargs, null::json as result, null::json as error,
           null::text as traceback, j.attempt, j.lost, j.enqueued_at, j.run_at, j.started_at,
           null::timestamptz as finished_at, j.expires_at, j.worker_id, j.headers, j.options, j.progress, j.root_id,
           j.parent_id
    from pgqueue.live_jobs j where j.id = %(id)s
    union all
    select f.state, f.task, f.queue, f.priority, f.args, f.kwargs, f.result, f.error, f.traceback, f.attempt, f.lost,
           f.enqueued_at, f.run_at, f.started_at, f.finished_at, f.expires_at, f.worker_id, f.headers, f.options, null,
           f.root_id, f.parent_id
    from pgqueue.finished_jobs f where f.id = %(id)s and f.delete_after >= %(kept_after)s
) found
left join lateral (select w.name as worker from pgqueue.workers w where w.id = found.worker_id) w on true
limit 1

-- name: get_outcome
-- State and outcome only: what a waiter reads. JSON stays text.
select j.state, null::text as result, null::text as error, null::text as traceback, j.progress::text,
       j.attempt - j.lost as runs
from pgqueue.live_jobs j where j.id = %(id)s
union all
select f.state, f.result::text, f.error::text, f.traceback, null, f.attempt - f.lost
from pgqueue.finished_jobs f where f.id = %(id)s and f.delete_after >= %(kept_after)s
limit 1

-- name: mark_waited_for
-- Asks the finish of a live job to notify. A claim skips the row until this commits: hence the wake-up.
with marked as (
    update pgqueue.live_jobs set waited_for = true where id = %(id)s and not waited_for returning state, queue
)
select pgqueue.wake_queues(array[queue]) from marked where state = 'available'

-- name: forget_job
-- Drops a finished job with its result.
delete from pgqueue.finished_jobs where id = %(id)s

-- name: update_progress
-- What update_state() reports of a running attempt. While somebody has its row locked nobody is told.
update pgqueue.live_jobs set progress = %(progress)s
where id = (select j.id from pgqueue.live_jobs j
            where j.id = %(id)s and j.claim_token = %(token)s and j.state || '' = 'running' for update skip locked)

-- name: cancel_jobs
-- Per id: cancelled, asked (running, will be stopped) or running (left alone); unknown and finished ids are absent.
select id, outcome from pgqueue.cancel_jobs(%(ids)s::uuid[], %(terminate)s, %(keep)s::interval)

-- name: revive_jobs
-- Failed, cancelled and expired jobs get a new life under their ids; returns the ids that did.
select unnest(pgqueue.revive_jobs(%(ids)s::uuid[]))

-- name: live_worker_exists
-- Whether any live worker serves the queue of a live job; no row when the job is not live.
select exists (select from pgqueue.workers w
               where w.stopped_at is null and w.lost_at is null and w.lease_expires_at > now()
                 and j.queue = any (w.queues))
from pgqueue.live_jobs j where j.id = %(id)s

-- name: taken_ids
-- Which of these ids belong to a kept job, live or finished.
select j.id from pgqueue.live_jobs j where j.id = any (%(ids)s::uuid[])
union all
select f.id from pgqueue.finished_jobs f where f.id = any (%(ids)s::uuid[])

-- name: take_back_jobs
-- Undoes an insert in the caller's own transaction, whose ids turned out to be taken by finished jobs.
delete from pgqueue.live_jobs where id = any (%(ids)s::uuid[])

-- name: find_schema
-- Whether this database has the function that enqueues; never an error, so that a caller's transaction survives it.
select to_regprocedure(
    'pgqueue.enqueue_job(uuid, text, text, integer, json, json, json, json, double precision, timestamptz, '
    'double precision, timestamptz, uuid, uuid, boolean)') is not null

-- name: backend_pid
-- Differs from what the connection was told at its start when a pooler stands between.
select pg_backend_pid()

-- name: last_error
-- Why a job is to run again: what its last attempt ended with.
select a.error::text, a.traceback from pgqueue.attempts a where a.job_id = %(id)s order by a.ended_at desc limit 1
