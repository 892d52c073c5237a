-- name: queue_depths
-- Counts end at %(cap)s: what is read stays small, however long the queues are. Queues with jobs or live workers.
with recursive filled (queue) as (
    (select j.queue from pgqueue.live_jobs j where j.state = 'available' order by j.queue limit 1)
    union all
    select (select j.queue from pgqueue.live_jobs j where j.state = 'available' and j.queue > f.queue
            order by j.queue limit 1)
    from filled f where f.queue is not null
), scheduled as (
    select s.queue, count(*) as n, min(s.run_at) as next_at
    from (select j.queue, j.run_at from pgqueue.live_jobs j
          where j.state = 'scheduled' order by j.run_at limit %(cap)s) s
    group by s.queue
), running as (
    select r.queue, count(*) as n
    from (select j.queue from pgqueue.live_jobs j where j.state = 'running' order by j.worker_id limit %(cap)s) r
    group by r.queue
), served as (
    select q.queue, count(*) as n
    from pgqueue.workers w cross join unnest(w.queues) q (queue)
    where w.stopped_at is null and w.lost_at is null and w.lease_expires_at > now()
    group by q.queue
), queues as (
    select f.queue from filled f where f.queue is not null
    union select queue from scheduled union select queue from running union select queue from served
)
select q.queue,
       (select count(*) from (select from pgqueue.live_jobs j
                              where j.state = 'available' and j.queue = q.queue limit %(cap)s) counted),
       coalesce(s.n, 0), coalesce(r.n, 0), coalesce(v.n, 0),
       (select extract(epoch from now() -
                        min(coalesce(greatest(first.run_at, first.enqueued_at), first.enqueued_at)))::double precision
        from generate_series(0, 9) p (priority)
        cross join lateral (select j.run_at, j.enqueued_at from pgqueue.live_jobs j
                            where j.state = 'available' and j.queue = q.queue and j.priority = p.priority::smallint
                            order by j.seq limit 1) first),
       extract(epoch from s.next_at - now())::double precision
from queues q
left join scheduled s using (queue)
left join running r using (queue)
left join served v using (queue)
order by q.queue

-- name: worker_rates
-- Jobs finished per worker, and over how many seconds.
select w.id, w.finished, extract(epoch from w.heartbeat_at - w.started_at)::double precision
from pgqueue.workers w
where w.stopped_at is null and w.lost_at is null and w.lease_expires_at > now()

-- name: list_jobs
-- Newest first. Ids that tell their time stand between %(oldest)s and %(newest)s, and the index on ids gives the last
-- of them; ids that people chose stand elsewhere, and all of those are read. Filters that are null do not count. What
-- was enqueued since then is not to be deleted before then: older partitions are left out.
with newest as (
    (select a.id, a.state, a.task, a.queue, a.priority, a.attempt, a.enqueued_at, a.run_at, a.started_at, a.finished_at,
            a.worker_id, a.error_type, a.error
     from pgqueue.all_jobs a
     where a.id between %(oldest)s::uuid and %(newest)s::uuid
       and (%(states)s::text[] is null or a.state = any (%(states)s::text[]))
       and (%(queues)s::text[] is null or a.queue = any (%(queues)s::text[]))
       and (%(task)s::text is null or a.task like %(task)s::text)
       and (%(worker_id)s::bigint is null or a.worker_id = %(worker_id)s::bigint)
       and (%(since)s::double precision is null
            or a.enqueued_at >= now() - make_interval(secs => %(since)s::double precision))
     order by a.id desc
     limit %(limit)s)
    union all
    (select a.id, a.state, a.task, a.queue, a.priority, a.attempt, a.enqueued_at, a.run_at, a.started_at, a.finished_at,
            a.worker_id, a.error_type, a.error
     from pgqueue.all_jobs a
     where (a.id < %(oldest)s::uuid or a.id > %(newest)s::uuid)
       and (%(states)s::text[] is null or a.state = any (%(states)s::text[]))
       and (%(queues)s::text[] is null or a.queue = any (%(queues)s::text[]))
       and (%(task)s::text is null or a.task like %(task)s::text)
       and (%(worker_id)s::bigint is null or a.worker_id = %(worker_id)s::bigint)
       and (%(since)s::double precision is null
            or a.enqueued_at >= now() - make_interval(secs => %(since)s::double precision)
               and (a.delete_after is null
                    or a.delete_after >= now() - make_interval(secs => %(since)s::double precision)))
     order by a.enqueued_at desc
     limit %(limit)s)
)
select n.id, n.state, n.task, n.queue, n.priority, n.attempt, n.enqueued_at, n.run_at, n.started_at, n.finished_at,
       n.worker_id, n.error_type, n.error, now()
from newest n
order by n.enqueued_at desc, n.id desc
limit %(limit)s

-- name: show_job
select a.id, a.state, a.task, a.queue, a.priority, a.args::text, a.kwargs::text, a.result::text, a.error_type, a.error,
       a.traceback,
       a.attempt, a.lost, a.enqueued_at, a.run_at, a.started_at, a.finished_at, a.expires_at, a.delete_after,
       a.worker_id, w.name, a.headers::text, a.options::text, a.progress::text, a.root_id, a.parent_id, now()
from pgqueue.all_jobs a
left join pgqueue.workers w on w.id = a.worker_id
where a.id = %(id)s
limit 1

-- name: job_attempts
select t.attempt, t.outcome, w.name, t.started_at, t.ended_at, t.error ->> 'type', t.error ->> 'message', t.traceback
from pgqueue.attempts t
left join pgqueue.workers w on w.id = t.worker_id
where t.job_id = %(id)s
order by t.ended_at

-- name: job_prospects
-- What stands between a live job and its run. Those ahead of it are counted up to %(cap)s.
select j.state, j.cancel_asked, j.attempt, j.expires_at <= now(),
       extract(epoch from j.run_at - now())::double precision,
       extract(epoch from now() - j.started_at)::double precision,
       (select count(*) from pgqueue.workers w
        where w.stopped_at is null and w.lost_at is null and w.lease_expires_at > now() and j.queue = any (w.queues)),
       (select count(*) from pgqueue.workers w
        where w.stopped_at is null and w.lost_at is null and w.lease_expires_at > now() and j.queue = any (w.queues)
          and j.task = any (w.tasks)),
       case when j.state = 'available' then
           (select count(*) from (
               (select from pgqueue.live_jobs a where a.state = 'available' and a.queue = j.queue
                  and a.priority > j.priority
                limit %(cap)s)
               union all
               (select from pgqueue.live_jobs a where a.state = 'available' and a.queue = j.queue
                  and a.priority = j.priority
                  and a.seq < j.seq limit %(cap)s)) ahead)
       end,
       w.name, w.lost_at is not null or w.stopped_at is not null, w.lease_expires_at < now(),
       j.workflow_id::text, s.remaining, s.total, s.run
from pgqueue.live_jobs j
left join pgqueue.workers w on w.id = j.worker_id
left join pgqueue.workflow_joins s on s.job_id = j.id
where j.id = %(id)s

-- name: job_states
-- Of ids given by people: the states of those that exist.
select a.id, a.state from pgqueue.all_jobs a where a.id = any (%(ids)s::uuid[])

-- name: waiting_ids
-- A batch of what purge may take away.
(select j.id from pgqueue.live_jobs j where j.state = 'available' and j.queue = any (%(queues)s::text[])
 order by j.queue, j.priority, j.seq limit %(limit)s)
union all
(select j.id from pgqueue.live_jobs j where j.state = 'scheduled' and j.queue = any (%(queues)s::text[])
 order by j.run_at limit %(limit)s)
limit %(limit)s

-- name: job_ids_between
-- One job by its whole id, and those whose ids begin alike: two are enough to know that it is not told which.
(select a.id from pgqueue.all_jobs a where a.id = %(whole)s::uuid limit 1)
union
(select a.id from pgqueue.all_jobs a where a.id between %(low)s::uuid and %(high)s::uuid order by a.id limit 2)

-- name: workflow_ids_between
-- The same of workflows.
(select w.id from pgqueue.workflows w where w.id = %(whole)s::uuid)
union
(select w.id from pgqueue.workflows w where w.id between %(low)s::uuid and %(high)s::uuid order by w.id limit 2)
