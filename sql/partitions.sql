-- name: ensure_partitions
-- How many were made; 0 too when another session is making them.
select pgqueue.ensure_partitions(%(days)s)

-- name: list_partitions
-- Those of one UTC day each, and those that were detached but not dropped yet. `expired`: no row in it is kept any
-- more.
select p.parent, c.relname, p.day, p.day + 1 <= now() at time zone 'UTC' as expired,
       i.inhrelid is not null as attached, coalesce(i.inhdetachpending, false) as pending,
       greatest(c.reltuples, 0)::bigint as rows, pg_total_relation_size(c.oid) as bytes
from pg_class c
join pg_namespace n on n.oid = c.relnamespace
left join pg_inherits i on i.inhrelid = c.oid
cross join lateral (
    select left(c.relname, -9) as parent, to_date(right(c.relname, 8), 'YYYYMMDD') as day
) p
where n.nspname = 'pgqueue' and c.relkind = 'r' and c.relname ~ '^(finished_jobs|attempts)_[0-9]{8}$'
order by p.day, p.parent desc

-- name: detach_partition
-- Outside of a transaction. Neither this nor the wait inside it stands in the way of finishes.
alter table pgqueue.{parent} detach partition pgqueue.{partition} concurrently

-- name: finalize_detach
-- Ends a detach that was interrupted.
alter table pgqueue.{parent} detach partition pgqueue.{partition} finalize

-- name: drop_partition
drop table pgqueue.{partition}

-- name: delete_old_jobs
-- Ahead of their time, in one partition.
delete from pgqueue.{partition} where finished_at < now() - make_interval(secs => %(age)s)

-- name: delete_old_attempts
delete from pgqueue.{partition} where ended_at < now() - make_interval(secs => %(age)s)

-- name: set_session_lock_timeout
select set_config('lock_timeout', %(milliseconds)s, false)

-- name: reset_lock_timeout
reset lock_timeout
