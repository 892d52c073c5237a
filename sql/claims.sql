-- name: claim_jobs
-- The first row describes the look; the others are the jobs claimed. Arrays travel as text: ids and places need no
-- quoting.
select * from pgqueue.claim_jobs(
    %(worker_id)s, %(token)s, %(queues)s::text[], %(priorities)s::smallint[], %(after)s::bigint[], %(before)s::bigint[],
    %(limit)s, %(excluded)s::text[], %(due_window)s)

-- name: first_places
-- Up to where the low-water marks may move.
select pgqueue.first_places(%(queues)s::text[], %(priorities)s::smallint[], %(after)s::bigint[], %(excluded)s::text[])

-- name: finish_jobs
-- Fenced; returns the ids whose lease was lost. Texts of the batch are joined by the unit separator, which JSON
-- escapes. This and what follows of its kind waits for no locked row for long: the others of the batch are to be
-- written.
select unnest(pgqueue.finish_jobs(
    %(ids)s::uuid[], %(tokens)s::bigint[], %(state)s, string_to_array(%(results)s, E'\x1f', ''),
    %(errors)s::text[], %(tracebacks)s::text[], %(keep)s, %(micros)s::bigint[]))
where set_config('lock_timeout', '2s', true) is not null

-- name: retry_jobs
-- Fenced; running jobs that asked for another attempt.
select unnest(pgqueue.retry_jobs(
    %(ids)s::uuid[], %(tokens)s::bigint[], %(delays)s::float8[], %(errors)s::text[], %(tracebacks)s::text[],
    %(changes)s::text[], %(keep)s, %(micros)s::bigint[]))
where set_config('lock_timeout', '2s', true) is not null

-- name: release_jobs
-- Fenced; given back as if never claimed.
select unnest(pgqueue.release_jobs(%(ids)s::uuid[], %(tokens)s::bigint[], %(keep)s))
where set_config('lock_timeout', '2s', true) is not null

-- name: release_claims
-- Claims whose answer was lost: if they happened, this worker does not know what it holds.
select unnest(pgqueue.release_jobs(array_agg(j.id), array_agg(j.claim_token), %(keep)s))
from pgqueue.live_jobs j
where j.state = 'running' and j.worker_id = %(worker_id)s and j.claim_token = any (%(tokens)s::bigint[])

-- name: lose_jobs
-- Fenced; attempts that ended with the process that ran them. The time limit is set in an argument: in a condition it
-- would be after the function has run.
select id, outcome from pgqueue.lose_jobs(
    case when set_config('lock_timeout', '2s', true) is not null then %(ids)s::uuid[] end,
    %(tokens)s::bigint[], %(lost_limit)s, %(at_most_once)s::text[], %(reason)s, %(keep)s)

-- name: record_jobs
-- Fenced; attempts that begin, or have run for a while: they count as lost if this worker dies.
select unnest(pgqueue.record_jobs(%(ids)s::uuid[], %(tokens)s::bigint[], true))
where set_config('lock_timeout', '2s', true) is not null

-- name: rescue_jobs
-- Jobs of workers whose lease ran out.
select worker, id, outcome from pgqueue.rescue_jobs(%(lost_limit)s, %(limit)s, %(keep)s)

-- name: locked_jobs
-- Those of these jobs whose rows others have locked, or those of the steps that wait for them.
with free as materialized (
    select j.id from pgqueue.live_jobs j where j.id = any (%(ids)s::uuid[]) for update skip locked
), behind as materialized (
    select e.parent_id, e.child_id from pgqueue.workflow_edges e where e.parent_id = any (%(ids)s::uuid[])
), open as materialized (
    select w.job_id from pgqueue.workflow_joins w where w.job_id = any (array (select b.child_id from behind b))
    for update skip locked
)
select j.id from pgqueue.live_jobs j
where j.id = any (%(ids)s::uuid[])
  and (j.id not in (select f.id from free f)
       or exists (select from behind b join pgqueue.workflow_joins w on w.job_id = b.child_id
                  where b.parent_id = j.id and b.child_id not in (select o.job_id from open o)))

-- name: available_tasks
-- Which of these tasks have jobs left in these queues.
select t.name from unnest(%(tasks)s::text[]) t (name)
where exists (select from pgqueue.live_jobs j
              where j.state = 'available' and j.queue = any (%(queues)s::text[]) and j.task = t.name)

-- name: held_jobs
-- After a reconnect: which of these attempts are still this worker's.
select j.id from unnest(%(ids)s::uuid[], %(tokens)s::bigint[]) u (id, token)
join pgqueue.live_jobs j on j.id = u.id and j.claim_token = u.token and j.state || '' = 'running'

-- name: finished_attempts
-- After an unknown commit: which of these attempts have ended for good.
select f.id from pgqueue.finished_jobs f where f.id = any (%(ids)s::uuid[])

-- name: fall_asleep
-- On the LISTEN session: become the one whom enqueues wake, for as many of these queues as nobody else is.
select keys, others, asleep from pgqueue.fall_asleep(%(queues)s::text[])

-- name: wake_up
-- On the LISTEN session: enqueues need not notify any more.
select pgqueue.wake_up(%(queues)s::text[], %(hand_over)s)

-- name: tell_others
-- On the LISTEN session: other idle workers look once, while this one goes on answering for these queues.
select count(pg_notify('pgqueue', 'h' || s.k))
from (select distinct pgqueue.queue_key(q) as k from unnest(%(queues)s::text[]) q) s

-- name: begin_task
-- Begins a transactional task: the id by which its end knows that the transaction is still the same, and what tells the
-- session that has it open, should its process die.
select pg_current_xact_id()::text, pg_backend_pid(), pg_current_xact_id()::xid::text,
       extract(epoch from pg_postmaster_start_time())::text

-- name: end_transactions
-- Of processes that died in the middle of a statement: the server would notice at its end only, and keep its locks. A
-- session that has another transaction open by now is another's.
select pg_terminate_backend(a.pid)
from unnest(%(pids)s::integer[], %(xids)s::text[]) u (pid, xid)
join pg_stat_activity a on a.pid = u.pid and a.backend_xid::text = u.xid and a.datname = current_database()

-- name: finish_task
-- Ends a transactional task inside its own transaction: the transaction's id, and the ids whose lease was lost. Each
-- value has its type, for drivers that ask for one (asyncpg).
select pg_current_xact_id()::text, pgqueue.finish_jobs(
    %(ids)s::uuid[], %(tokens)s::bigint[], %(state)s::text, string_to_array(%(results)s::text, E'\x1f', ''),
    %(errors)s::text[], %(tracebacks)s::text[], %(keep)s::interval, %(micros)s::bigint[])

-- name: reset_session
-- DISCARD ALL, but for prepared statements and plans, which the next task uses again.
close all; set session authorization default; reset all; unlisten *; select pg_advisory_unlock_all();
discard sequences; discard temp

-- name: listen
listen pgqueue

-- name: session_facts
-- The server's process, which a pooler in between changes, and what tells one life of the server from the next.
select pg_backend_pid(), extract(epoch from pg_postmaster_start_time())::text

-- name: listen_pid
-- Differs from the connection's own idea of it when a pooler is in between.
select pg_backend_pid()

-- name: notify_self
select pg_notify('pgqueue', %(payload)s)
