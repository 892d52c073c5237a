-- name: insert_workflow
-- A whole workflow, or more steps for one that runs, in one statement. Texts are joined by the unit separator, which
-- neither names nor JSON hold; a column that is null for all is null as a whole.
select pgqueue.enqueue_workflow(
    %(workflow_id)s::uuid, %(name)s::text, make_interval(secs => %(keep)s::double precision),
    %(deadline_in)s::double precision, %(existing)s::boolean,
    %(ids)s::uuid[], string_to_array(%(tasks)s::text, E'\x1f'), string_to_array(%(queues)s::text, E'\x1f'),
    %(priorities)s::smallint[], string_to_array(%(args)s::text, E'\x1f', ''),
    string_to_array(%(kwargs)s::text, E'\x1f', ''), string_to_array(%(headers)s::text, E'\x1f', ''),
    string_to_array(%(options)s::text, E'\x1f', ''), %(delays)s::double precision[], %(etas)s::timestamptz[],
    %(expires_in)s::double precision[], %(expires_at)s::timestamptz[], %(root_ids)s::uuid[], %(parent_ids)s::uuid[],
    %(own_ids)s::uuid[], string_to_array(%(steps)s::text, E'\x1f', ''), string_to_array(%(inputs)s::text, E'\x1f', ''),
    string_to_array(%(runs)s::text, E'\x1f', ''), %(compensates)s::uuid[], %(waits)s::integer[],
    %(children)s::uuid[], %(parents)s::uuid[], %(positions)s::integer[],
    string_to_array(%(kinds)s::text, E'\x1f'), string_to_array(%(policies)s::text, E'\x1f'),
    %(group_ids)s::uuid[], %(group_members)s::uuid[])

-- name: replace_job
-- Fenced: a running job lets other steps give its result. One row if it was still the caller's, else none.
select pgqueue.enqueue_workflow(
    r.id, %(name)s::text, make_interval(secs => %(keep)s::double precision), %(deadline_in)s::double precision,
    %(existing)s::boolean,
    %(ids)s::uuid[], string_to_array(%(tasks)s::text, E'\x1f'), string_to_array(%(queues)s::text, E'\x1f'),
    %(priorities)s::smallint[], string_to_array(%(args)s::text, E'\x1f', ''),
    string_to_array(%(kwargs)s::text, E'\x1f', ''), string_to_array(%(headers)s::text, E'\x1f', ''),
    string_to_array(%(options)s::text, E'\x1f', ''), %(delays)s::double precision[], %(etas)s::timestamptz[],
    %(expires_in)s::double precision[], %(expires_at)s::timestamptz[], %(root_ids)s::uuid[], %(parent_ids)s::uuid[],
    %(own_ids)s::uuid[], string_to_array(%(steps)s::text, E'\x1f', ''), string_to_array(%(inputs)s::text, E'\x1f', ''),
    string_to_array(%(runs)s::text, E'\x1f', ''), %(compensates)s::uuid[], %(waits)s::integer[],
    %(children)s::uuid[], %(parents)s::uuid[], %(positions)s::integer[],
    string_to_array(%(kinds)s::text, E'\x1f'), string_to_array(%(policies)s::text, E'\x1f'),
    %(group_ids)s::uuid[], %(group_members)s::uuid[])
from pgqueue.begin_replacement(
    case when set_config('lock_timeout', '2s', true) is not null then %(id)s::uuid end, %(token)s::bigint,
    %(last_id)s::uuid, %(workflow_id)s::uuid, make_interval(secs => %(keep)s::double precision)) r (id)
where r.id is not null

-- name: replace_task
-- replace_job inside the task's own transaction: the transaction's id, and whether the lease was lost.
select pg_current_xact_id()::text, (select count(*) = 0 from (select pgqueue.enqueue_workflow(
    r.id, %(name)s::text, make_interval(secs => %(keep)s::double precision), %(deadline_in)s::double precision,
    %(existing)s::boolean,
    %(ids)s::uuid[], string_to_array(%(tasks)s::text, E'\x1f'), string_to_array(%(queues)s::text, E'\x1f'),
    %(priorities)s::smallint[], string_to_array(%(args)s::text, E'\x1f', ''),
    string_to_array(%(kwargs)s::text, E'\x1f', ''), string_to_array(%(headers)s::text, E'\x1f', ''),
    string_to_array(%(options)s::text, E'\x1f', ''), %(delays)s::double precision[], %(etas)s::timestamptz[],
    %(expires_in)s::double precision[], %(expires_at)s::timestamptz[], %(root_ids)s::uuid[], %(parent_ids)s::uuid[],
    %(own_ids)s::uuid[], string_to_array(%(steps)s::text, E'\x1f', ''), string_to_array(%(inputs)s::text, E'\x1f', ''),
    string_to_array(%(runs)s::text, E'\x1f', ''), %(compensates)s::uuid[], %(waits)s::integer[],
    %(children)s::uuid[], %(parents)s::uuid[], %(positions)s::integer[],
    string_to_array(%(kinds)s::text, E'\x1f'), string_to_array(%(policies)s::text, E'\x1f'),
    %(group_ids)s::uuid[], %(group_members)s::uuid[])
from pgqueue.begin_replacement(%(id)s::uuid, %(token)s::bigint, %(last_id)s::uuid, %(workflow_id)s::uuid,
                               make_interval(secs => %(keep)s::double precision)) r (id)
where r.id is not null) replaced)

-- name: add_member
-- One more member for the chord of a running member.
select pgqueue.enqueue_workflow(
    m.id, %(name)s::text, make_interval(secs => %(keep)s::double precision), %(deadline_in)s::double precision,
    %(existing)s::boolean,
    %(ids)s::uuid[], string_to_array(%(tasks)s::text, E'\x1f'), string_to_array(%(queues)s::text, E'\x1f'),
    %(priorities)s::smallint[], string_to_array(%(args)s::text, E'\x1f', ''),
    string_to_array(%(kwargs)s::text, E'\x1f', ''), string_to_array(%(headers)s::text, E'\x1f', ''),
    string_to_array(%(options)s::text, E'\x1f', ''), %(delays)s::double precision[], %(etas)s::timestamptz[],
    %(expires_in)s::double precision[], %(expires_at)s::timestamptz[], %(root_ids)s::uuid[], %(parent_ids)s::uuid[],
    %(own_ids)s::uuid[], string_to_array(%(steps)s::text, E'\x1f', ''), string_to_array(%(inputs)s::text, E'\x1f', ''),
    string_to_array(%(runs)s::text, E'\x1f', ''), %(compensates)s::uuid[], %(waits)s::integer[],
    %(children)s::uuid[], %(parents)s::uuid[], %(positions)s::integer[],
    string_to_array(%(kinds)s::text, E'\x1f'), string_to_array(%(policies)s::text, E'\x1f'),
    %(group_ids)s::uuid[], %(group_members)s::uuid[])
from pgqueue.begin_membership(%(member_id)s::uuid, %(last_id)s::uuid) m (id)

-- name: resolve_event
-- The event that a step of this name waits for has come.
select pgqueue.resolve(%(workflow_id)s::uuid, %(event)s::text, %(value)s::json)

-- name: cancel_workflow
-- Returns how many steps were cancelled or asked to stop.
select pgqueue.cancel_workflow(%(workflow_id)s::uuid)

-- name: retry_workflow
-- Returns how many steps run again by themselves; those that were stopped because of them follow.
select pgqueue.retry_workflow(%(workflow_id)s::uuid)

-- name: workflow_of_job
-- The workflow that a job is a step of, if it is one.
select workflow_id::text from (
    select j.workflow_id from pgqueue.live_jobs j where j.id = %(id)s
    union all select r.workflow_id from pgqueue.workflow_results r where r.job_id = %(id)s
) found limit 1

-- name: workflow_job_ids
-- Ids of all its steps, in the order in which they were given.
select unnest(pgqueue.step_ids(w))::text from pgqueue.workflows w where w.id = %(workflow_id)s

-- name: get_workflow
-- One workflow with its state and its progress.
select w.id::text, w.name, w.state, w.steps, w.live, w.succeeded, w.failed, w.cancelled, w.skipped,
       w.created_at, w.deadline_at, w.cancelled_at, w.finished_at
from pgqueue.all_workflows w where w.id = %(workflow_id)s

-- name: list_workflows
-- Newest first. A filter that is null does not count.
select w.id::text, w.name, w.state, w.steps, w.live, w.succeeded, w.failed, w.cancelled, w.skipped,
       w.created_at, w.deadline_at, w.cancelled_at, w.finished_at
from pgqueue.all_workflows w
where (%(states)s::text[] is null or w.state = any (%(states)s::text[]))
  and (%(name)s::text is null or w.name like %(name)s::text)
order by w.created_at desc
limit %(limit)s

-- name: list_steps
-- The steps of one workflow in the order in which they were given.
select s.job_id::text, s.step, s.state, s.task, s.run, s.waits_for, s.remaining, s.compensates::text,
       s.error ->> 'type', s.error ->> 'message', s.propagated, s.finished_at
from pgqueue.workflow_steps s where s.workflow_id = %(workflow_id)s
order by s.place

-- name: named_steps
-- Ids of those steps of one workflow that have one of these names.
select n.name, n.job_id::text from pgqueue.workflow_names n
where n.workflow_id = %(workflow_id)s and n.name = any (%(names)s::text[])

-- name: step_outcomes
-- How those steps ended that did, the first first.
select r.job_id::text, r.step, r.state, r.result::text, r.error::text, r.propagated
from pgqueue.workflows w
cross join lateral unnest(pgqueue.step_ids(w)) i (id)
join pgqueue.workflow_results r on r.job_id = i.id
where w.id = %(workflow_id)s
order by r.finished_at, r.job_id

-- name: list_edges
-- The edges of one workflow between its steps; those to its deadline are left out.
select e.parent_id::text, e.child_id::text, e.position, e.kind, e.policy
from pgqueue.workflow_edges e join pgqueue.workflows w on w.id = e.workflow_id
where e.workflow_id = %(workflow_id)s and e.child_id is distinct from w.deadline_id
order by e.child_id, e.position

-- name: mend_workflows
-- Steps whose jobs were deleted by hand count as cancelled.
select pgqueue.mend_workflows()

-- name: prune_workflows
-- Removes workflows that need not be kept any longer; returns how many.
select pgqueue.prune_workflows(%(limit)s)
