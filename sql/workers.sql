-- name: register_worker
insert into pgqueue.workers (name, hostname, pid, instance, app, version, queues, tasks, at_most_once, pools,
                             lease_expires_at)
values (%(name)s, %(hostname)s, %(pid)s, %(instance)s, %(app)s, %(version)s, %(queues)s::text[], %(tasks)s::text[],
        %(at_most_once)s::text[], %(pools)s::jsonb, clock_timestamp() + make_interval(secs => %(lease)s))
returning id

-- name: renew_lease
-- One row: null when the worker was declared lost, else the ids of its jobs that were asked to stop; and whether the
-- jobs of some dead worker wait to be rescued, which spares a living fleet the question.
select pgqueue.renew_lease(%(worker_id)s, make_interval(secs => %(lease)s), %(running)s, %(finished)s),
       exists (select from pgqueue.workers w
               where w.stopped_at is null and w.rescued_at is null
                 and (w.lost_at is not null or
                      pgqueue.lease_ends(w.heartbeat_at, w.lease_expires_at) < clock_timestamp()))

-- name: stop_worker
-- The worker ended in order. False: it still held jobs, which the next rescuer gives back.
select pgqueue.stop_worker(%(worker_id)s, %(finished)s)

-- name: live_predecessors
-- Workers of this host and process namespace whose pids can be looked at from here.
select id, pid from pgqueue.workers
where hostname = %(hostname)s and instance = %(instance)s and stopped_at is null and lost_at is null
  and id <> %(worker_id)s

-- name: expire_leases
-- Workers known to be dead need not wait for their lease to run out.
update pgqueue.workers set lease_expires_at = '-infinity' where id = any (%(ids)s) and stopped_at is null

-- name: list_workers
select id, name, hostname, pid, app, version, queues, tasks, pools, started_at, heartbeat_at, lease_expires_at, running,
       finished,
       case when stopped_at is not null then 'stopped' when lost_at is not null then 'lost'
            when lease_expires_at < now() then 'silent' else 'live' end as status
from pgqueue.workers
where (stopped_at is null and lost_at is null) or %(all)s
order by id

-- name: prune_workers
-- Rows of workers whose jobs have all been pruned.
delete from pgqueue.workers
where coalesce(stopped_at, rescued_at) < now() - make_interval(secs => %(age)s)

-- name: isolation_level
show transaction_isolation

-- name: read_committed
set default_transaction_isolation = 'read committed'
