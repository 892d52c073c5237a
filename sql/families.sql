-- name: get_outcomes
-- State and outcome of many jobs at once. JSON stays text. kept_after bounds the partitions looked into.
select j.id::text, j.state, null::text as result, null::text as error, null::text as traceback, j.progress::text,
       j.attempt - j.lost as runs
from pgqueue.live_jobs j where j.id = any (%(ids)s::uuid[])
union all
select f.id::text, f.state, f.result::text, f.error::text, f.traceback, null, f.attempt - f.lost
from pgqueue.finished_jobs f where f.id = any (%(ids)s::uuid[]) and f.delete_after >= %(kept_after)s

-- name: children_of_job
-- What followed from a job: the steps of its workflow behind it, error callbacks that were called about it, and what it
-- enqueued while it ran. kept_after bounds the partitions looked into.
select e.child_id::text as id
from pgqueue.workflow_edges e left join pgqueue.workflow_joins j on j.job_id = e.child_id
where e.parent_id = %(id)s and e.kind <> 'error' and j.run is distinct from 'deadline'
union
select e.child_id::text
from pgqueue.workflow_edges e join pgqueue.workflow_joins j on j.job_id = e.child_id and j.cause_id = e.parent_id
where e.parent_id = %(id)s and e.kind = 'error'
union
select j.id::text
from pgqueue.live_jobs j
where j.parent_id = %(id)s
  and not exists (select from pgqueue.workflow_edges e where e.workflow_id = j.workflow_id and e.child_id = j.id)
union
select f.id::text
from pgqueue.finished_jobs f
where f.parent_id = %(id)s and f.delete_after >= %(kept_after)s
  and not exists (select from pgqueue.workflow_edges e where e.workflow_id = f.workflow_id and e.child_id = f.id)
order by id

-- name: members_of_group
-- The jobs that the members of a group end with, in the order of the header; none if there is no such group. Those of
-- the group that gave a workflow its id are known by their options.
select m.id::text
from pgqueue.workflow_groups g cross join lateral unnest(g.job_ids) with ordinality m (id, place)
where g.id = %(id)s
union all (
select n.id::text
from pgqueue.workflows w
cross join lateral unnest(pgqueue.step_ids(w)) n (id)
join lateral (
    select j.options from pgqueue.live_jobs j where j.id = n.id
    union all select f.options from pgqueue.finished_jobs f where f.id = n.id
    limit 1
) k on k.options ->> 'group_id' = %(group_id)s
where w.id = %(id)s
order by n.id)

-- name: jobs_by_stamps
-- Live jobs of which a stamp has one of the values given for it, or is a collection that has one. Looks at every job.
select j.id::text
from pgqueue.live_jobs j
where j.options -> 'stamps' is not null and exists (
    select from jsonb_each(%(stamps)s::jsonb) w (name, wanted)
    cross join lateral (select (j.options -> 'stamps' -> w.name)::jsonb as own) s
    cross join lateral jsonb_array_elements(
        case when jsonb_typeof(s.own) = 'array' then s.own
             when s.own ->> '__type__' in ('set', 'frozenset') then s.own -> '__value__'
             else jsonb_build_array(s.own) end) o (value)
    join lateral jsonb_array_elements(w.wanted) v (value) on v.value = o.value
    where s.own is not null)
order by j.id

-- name: forget_jobs
-- Drops finished jobs with their results.
delete from pgqueue.finished_jobs where id = any (%(ids)s::uuid[])
