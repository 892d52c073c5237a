-- name: due_schedules
-- Begins a batch: rows to look at, locked until the transaction ends.
select id, name, cron, every, once_at, solar, match_both_days, timezone, start_at, end_at, anchor_at, catch_up,
       catch_up_limit,
       starting_deadline, overlap, plan_from, next_run_at, last_run_at, queued_at, busy, now
from pgqueue.due_schedules(%(limit)s::integer, %(now)s::timestamptz, %(window)s::double precision)

-- name: fire_schedules
-- Ends a batch, or enqueues ticks that are given by hand; returns how many jobs were enqueued.
select pgqueue.fire_schedules(
    %(ids)s::bigint[], %(next)s::timestamptz[], %(last)s::timestamptz[], %(queued)s::timestamptz[],
    %(wake)s::timestamptz[],
    %(problems)s::text[], %(tick_ids)s::bigint[], %(ticks)s::timestamptz[], %(run)s::boolean[])

-- name: next_wake
-- Seconds until a schedule is to be looked at, at most an hour; negative: it should have been. Looks back `window`
-- seconds.
select extract(epoch from greatest(clock_timestamp() - interval '1 hour', least(clock_timestamp() + interval '1 hour',
    (select s.wake_at from pgqueue.schedules s
     where s.wake_at > coalesce(clock_timestamp() - make_interval(secs => %(window)s::double precision), '-infinity')
     order by s.wake_at limit 1))) - clock_timestamp())::double precision

-- name: take_duty
-- Session lock: of several schedulers one is punctual, the others look after it.
select pg_try_advisory_lock(hashtext('pgqueue/scheduler'), 0)

-- name: listen_schedules
listen "pgqueue/schedules"

-- name: declare_schedules
-- Tells the database what the code declares; one row per schedule that changed.
select schedule, outcome from pgqueue.declare_schedules(
    %(owner)s::text, %(fingerprint)s::text, %(worker_id)s::bigint, %(tasks)s::text[], %(entries)s::json)

-- name: upsert_schedule
select pgqueue.upsert_schedule(
    %(name)s::text, %(task)s::text, %(cron)s::text, make_interval(secs => %(every)s::double precision),
    %(once_at)s::timestamptz,
    %(args)s::json, %(kwargs)s::json, %(options)s::jsonb, %(timezone)s::text, %(start_at)s::timestamptz,
    %(end_at)s::timestamptz,
    make_interval(secs => %(jitter)s::double precision), %(catch_up)s::text, %(catch_up_limit)s::integer,
    make_interval(secs => %(starting_deadline)s::double precision), %(overlap)s::text, %(enabled)s::boolean,
    %(check_task)s::boolean, %(solar)s::text, %(match_both_days)s::boolean, %(anchor_at)s::timestamptz)

-- name: pause_schedule
select pgqueue.pause_schedule(%(name)s::text)

-- name: resume_schedule
select pgqueue.resume_schedule(%(name)s::text)

-- name: remove_schedule
select pgqueue.remove_schedule(%(name)s::text)

-- name: run_schedule
select pgqueue.run_schedule(%(name)s::text)::text

-- name: list_schedules
-- One schedule, those of one owner, or all; JSON stays text.
select s.id, s.name, s.task, s.args::text, s.kwargs::text, s.options::text, s.cron,
       extract(epoch from s.every)::double precision,
       s.once_at, s.solar, s.match_both_days, s.timezone, s.start_at, s.end_at,
       coalesce(s.anchor_at, s.start_at, s.created_at), extract(epoch from s.jitter)::double precision, s.catch_up,
       s.catch_up_limit,
       extract(epoch from s.starting_deadline)::double precision, s.overlap, s.enabled, s.pause_reason, s.problem,
       s.owner,
       s.created_at, s.updated_at, s.plan_from, s.next_run_at, s.last_run_at, s.last_job_id::text, s.queued_at,
       clock_timestamp()
from pgqueue.schedules s
where (%(name)s::text is null or s.name = %(name)s::text) and (%(owner)s::text is null or s.owner = %(owner)s::text)
order by s.name

-- name: schedule_history
-- The last ticks of a schedule; the state of a job that is no longer kept is null.
select k.tick, k.fired_at, k.job_id::text,
       case when k.job_id is null then 'skipped'
            else coalesce((select j.state from pgqueue.live_jobs j where j.id = k.job_id),
                          (select f.state from pgqueue.finished_jobs f where f.id = k.job_id limit 1)) end
from pgqueue.schedule_ticks k where k.schedule_id = %(id)s::bigint order by k.tick desc limit %(limit)s::integer

-- name: noted_ticks
-- Which of these ticks were dealt with.
select k.tick from pgqueue.schedule_ticks k
where k.schedule_id = %(id)s::bigint
  and k.tick = any (%(ticks)s::timestamptz[])

-- name: prune_ticks
delete from pgqueue.schedule_ticks k where k.fired_at < now() - make_interval(secs => %(age)s::double precision)
