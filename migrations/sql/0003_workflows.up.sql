-- Workflows: steps are jobs, edges are rows, joins are counters that the transaction that finishes a step decrements.
-- Locks are taken in one order everywhere: workflows, live rows that can end, joins, live rows that wait, each by id.

create table pgqueue.workflows (
    id            uuid        primary key,
    name          text,
    job_ids       uuid[]      not null,                -- its first steps, in the order in which they were given
    additions     integer     not null default 0,      -- how often steps were added
    settle_id     uuid,                                -- the step that waits for all others
    deadline_id   uuid,                                -- the timer that all steps take away when they have ended
    created_at    timestamptz not null default clock_timestamp(),
    keep          interval,                            -- how long after its end; null: for ever
    deadline_at   timestamptz,
    cancelled_at  timestamptz
);
create index workflows_created_at on pgqueue.workflows (created_at);

-- Steps added later: rows of their own, or each addition would write all ids again.
create table pgqueue.workflow_additions (
    workflow_id   uuid        not null,
    place         integer     not null,
    job_ids       uuid[]      not null,
    constraint workflow_additions_pkey primary key (workflow_id, place)
);

-- Steps by name, of which a workflow has each once.
create table pgqueue.workflow_names (
    workflow_id   uuid        not null,
    name          text        not null,
    job_id        uuid        not null,
    constraint workflow_names_pkey primary key (workflow_id, name)
);

create table pgqueue.workflow_edges (
    workflow_id   uuid        not null,
    child_id      uuid        not null,
    position      integer     not null,                -- of the parent among the parents of the child
    parent_id     uuid        not null,
    kind          text        not null,                -- value, order, when, error
    policy        text        not null,                -- stop, value, ignore: when the parent did not succeed
    constraint workflow_edges_pkey primary key (workflow_id, child_id, position)
);
create index workflow_edges_parent on pgqueue.workflow_edges (parent_id);

-- Groups of a workflow, for GroupResult.restore(); the one that gave the workflow its id needs no row.
create table pgqueue.workflow_groups (
    id            uuid        primary key,
    workflow_id   uuid        not null,
    job_ids       uuid[]      not null                 -- what its members end with, in their order
);
create index workflow_groups_workflow on pgqueue.workflow_groups (workflow_id);

-- One row per step that waits for others, or that the database itself runs.
create table pgqueue.workflow_joins (
    job_id        uuid        primary key,
    workflow_id   uuid        not null,
    state         text        not null default 'waiting',   -- waiting, released, ended
    total         integer     not null,                -- parents
    remaining     integer     not null,                -- parents that have not ended
    skipped       integer     not null default 0,      -- parents that were skipped
    cause_id      uuid,                                -- the parent that stops it, or that its callback is about
    step          text,
    inputs        text,                                -- value, list, args, names, error
    run           text,                                -- gather, pass, sleep, wait, settle, deadline; null: a worker
    delay         double precision,                    -- seconds from the release
    run_at        timestamptz,
    expires_in    double precision,                    -- seconds from the release
    compensates   uuid,                                -- the step that it undoes
    event         json                                 -- resolved before the step was reached
) with (fillfactor = 60, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);
create index workflow_joins_waiting on pgqueue.workflow_joins (job_id) where state = 'waiting';  -- for mend_workflows

-- The outcome of each step that ended, for its successors and for people, as long as the workflow is kept: whatever
-- happens meanwhile to the finished job itself.
create table pgqueue.workflow_results (
    job_id        uuid        primary key,
    workflow_id   uuid        not null,
    step          text,
    state         text        not null,                -- succeeded, failed, cancelled, expired, skipped
    result        json,
    error         json,
    propagated    boolean     not null default false,  -- it did not run: a parent's error passed through
    finished_at   timestamptz not null
);


-- The ids of all steps of a workflow, in the order in which they were given.
create function pgqueue.step_ids(p_workflow pgqueue.workflows) returns uuid[]
language sql stable
set search_path = pg_catalog, pgqueue, pg_temp as $$
    select case when p_workflow.additions = 0 then p_workflow.job_ids else p_workflow.job_ids || array (
        select n.id from pgqueue.workflow_additions a cross join lateral unnest(a.job_ids) with ordinality n (id, place)
        where a.workflow_id = p_workflow.id order by a.place, n.place) end
$$;


-- nothing -> waiting, scheduled, available: a whole workflow, or more steps for one that runs -------------------------
-- Edges may start at steps that exist. Their rows are updated, not only locked, so that a transaction that finishes one
-- of them at REPEATABLE READ fails instead of missing the edge.

create function pgqueue.enqueue_workflow(
    p_workflow_id uuid, p_name text, p_keep interval, p_deadline_in double precision, p_existing boolean,
    p_ids uuid[], p_tasks text[], p_queues text[], p_priorities smallint[], p_args text[], p_kwargs text[],
    p_headers text[], p_options text[], p_delays double precision[], p_etas timestamptz[],
    p_expires_in double precision[], p_expires_at timestamptz[], p_root_ids uuid[], p_parent_ids uuid[],
    p_own_ids uuid[], p_steps text[], p_inputs text[], p_runs text[], p_compensates uuid[], p_waits integer[],
    p_children uuid[], p_parents uuid[], p_positions integer[], p_kinds text[], p_policies text[],
    p_group_ids uuid[], p_group_members uuid[]
) returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
declare
    v_now timestamptz := clock_timestamp();
    v_outside uuid[];
    v_settle uuid;
    v_deadline uuid;
    v_last uuid;
    v_added uuid[] := p_ids;
    v_awaited uuid[];
    v_place integer;
    v_taken text;
begin
    perform pg_current_xact_id();
    if p_existing then
        update pgqueue.workflows w set additions = w.additions + 1
        where w.id = p_workflow_id
          and (w.cancelled_at is null
               or exists (select from pgqueue.workflow_edges e
                          join pgqueue.live_jobs j on j.id = e.child_id and j.cancel_asked
                          where e.parent_id = any (p_ids)))  -- what replaces a job that was asked to stop
                                                             -- is cancelled below
        returning w.additions, w.settle_id, w.deadline_id into v_place, v_settle, v_deadline;
        if not found then
            raise exception 'workflow %: there is none of this id, or it was cancelled', p_workflow_id
                using errcode = 'invalid_parameter_value';
        end if;
        select s.name into v_taken from unnest(p_steps) s (name)
        where exists (select from pgqueue.workflow_names n
                      where n.workflow_id = p_workflow_id and n.name = s.name offset 0)
        limit 1;
        if v_taken is not null then
            raise exception 'step %: the name is used twice, workflow % has a step of this name',
                quote_literal(v_taken), p_workflow_id using errcode = 'invalid_parameter_value';
        end if;
        if v_settle is null and p_compensates is not null then
            v_settle := pgqueue.add_settle(p_workflow_id, p_queues[1]);
            v_added := v_added || v_settle;
        end if;
        insert into pgqueue.workflow_additions (workflow_id, place, job_ids) values (p_workflow_id, v_place, v_added);
        v_outside := array (select p.id from unnest(p_parents) p (id) except select n.id from unnest(p_ids) n (id));
        perform pgqueue.lock_steps(v_outside) where v_outside <> '{}';
        update pgqueue.live_jobs j set waited_for = j.waited_for where j.id = any (v_outside);
        if exists (select from unnest(v_outside) o (id)
                   where not exists (select from pgqueue.live_jobs j
                                      where j.id = o.id and j.workflow_id = p_workflow_id)
                     and not exists (select from pgqueue.workflow_results r
                                     where r.job_id = o.id and r.workflow_id = p_workflow_id)) then
            raise exception 'workflow %: a new step waits for one that it does not have', p_workflow_id
                using errcode = 'invalid_parameter_value';
        end if;
    else
        if p_deadline_in is not null then
            v_deadline := pgqueue.new_job_id();
        end if;
        insert into pgqueue.workflows (id, name, job_ids, settle_id, deadline_id, created_at, keep, deadline_at)
        values (p_workflow_id, p_name, p_ids, p_ids[array_position(p_runs, 'settle')], v_deadline, v_now, p_keep,
                v_now + make_interval(secs => p_deadline_in));
    end if;

    insert into pgqueue.live_jobs (id, seq, enqueued_at, run_at, expires_at, priority, state, queue, task, args, kwargs,
                                   headers, options, root_id, parent_id, workflow_id, step, inputs)
    select u.id, nextval('pgqueue.job_seq'), v_now, u.run_at, u.expires_at, u.priority,
           case when u.waits > 0 or u.run is not null or u.compensates is not null then 'waiting'
                when u.run_at > v_now then 'scheduled' else 'available' end,
           u.queue, u.task, u.args::json, u.kwargs::json, u.headers::json, u.options::json, u.root_id, u.parent_id,
           p_workflow_id, u.step, u.inputs
    from (
        select n.*, case when n.waits = 0 then coalesce(n.eta, v_now + make_interval(secs => n.delay)) end as run_at,
               coalesce(n.expires_on,
                        case when n.waits = 0 then v_now + make_interval(secs => n.expires_in) end) as expires_at
        from unnest(p_ids, p_tasks, p_queues, p_priorities, p_args, p_kwargs, p_headers, p_options, p_delays, p_etas,
                    p_expires_in, p_expires_at, p_root_ids, p_parent_ids, p_steps, p_inputs, p_runs, p_compensates,
                    p_waits)
             n (id, task, queue, priority, args, kwargs, headers, options, delay, eta, expires_in, expires_on, root_id,
                parent_id, step, inputs, run, compensates, waits)
    ) u;
    if exists (select from unnest(p_own_ids) o (id) where pgqueue.is_finished(o.id)) then
        raise exception 'task_id: a job with one of these ids is still kept' using errcode = 'unique_violation';
    end if;

    insert into pgqueue.workflow_joins (job_id, workflow_id, total, remaining, step, inputs, run, delay, run_at,
                                        expires_in, compensates)
    select n.id, p_workflow_id, w.waits, w.waits, n.step, n.inputs, n.run, n.delay, n.eta, n.expires_in, n.compensates
    from unnest(p_ids, p_steps, p_inputs, p_runs, p_delays, p_etas, p_expires_in, p_compensates, p_waits)
         n (id, step, inputs, run, delay, eta, expires_in, compensates, waits)
    cross join lateral (select n.waits + (p_existing and n.compensates is not null)::integer) w (waits)  -- for settle
    where n.waits > 0 or n.run is not null or n.compensates is not null;

    insert into pgqueue.workflow_edges (workflow_id, child_id, position, parent_id, kind, policy)
    select p_workflow_id, e.child, e.position, e.parent, coalesce(e.kind, 'value'), coalesce(e.policy, 'stop')
    from unnest(p_children, p_parents, p_positions, p_kinds, p_policies) e (child, parent, position, kind, policy);

    if p_steps is not null then
        insert into pgqueue.workflow_names (workflow_id, name, job_id)
        select p_workflow_id, n.step, n.id from unnest(p_steps, p_ids) n (step, id) where n.step is not null;
    end if;
    if p_group_ids is not null then
        insert into pgqueue.workflow_groups (id, workflow_id, job_ids)
        select g.id, p_workflow_id, array_agg(g.job_id order by g.place)
        from unnest(p_group_ids, p_group_members) with ordinality g (id, job_id, place) group by g.id
        on conflict (id) do update set workflow_id = excluded.workflow_id, job_ids = excluded.job_ids;  -- sent again
    end if;

    if p_deadline_in is not null then
        insert into pgqueue.live_jobs (id, seq, enqueued_at, run_at, state, queue, task, workflow_id)
        values (v_deadline, nextval('pgqueue.job_seq'), v_now, v_now + make_interval(secs => p_deadline_in),
                'scheduled', p_queues[1], 'pgqueue.deadline', p_workflow_id);
        insert into pgqueue.workflow_joins (job_id, workflow_id, total, remaining, run)
        values (v_deadline, p_workflow_id, cardinality(p_ids), cardinality(p_ids), 'deadline');
        insert into pgqueue.workflow_edges (workflow_id, child_id, position, parent_id, kind, policy)
        select p_workflow_id, v_deadline, n.place, n.id, 'order', 'ignore'
        from unnest(p_ids) with ordinality n (id, place);
    end if;
    perform pgqueue.wake_queues(array (select distinct q from unnest(p_queues) q));

    if p_existing then
        if p_compensates is not null then
            perform pgqueue.add_compensations(p_workflow_id, v_settle, p_ids, p_compensates, p_waits);
        end if;
        -- What waits for the end of everything also waits for the new steps.
        for v_last in
            select j.job_id from pgqueue.workflow_joins j
            where j.job_id in (v_settle, v_deadline) order by j.job_id for update
        loop
            -- The deadline for compensations, too, and what is behind them; these wait for the settling themselves.
            v_awaited := case when v_last = v_deadline then v_added else array (
                with recursive behind as (
                    select c.id from (
                        select n.id from unnest(p_ids, p_compensates) n (id, compensates)
                        where n.compensates is not null
                        union all
                        select j.job_id from pgqueue.workflow_joins j
                        where j.job_id = any (v_outside) and j.compensates is not null) c
                    union
                    select e.child from behind b
                    join unnest(p_children, p_parents) e (child, parent) on e.parent = b.id)
                select n.id from unnest(p_ids) n (id) where n.id not in (select b.id from behind b)) end;
            insert into pgqueue.workflow_edges (workflow_id, child_id, position, parent_id, kind, policy)
            select p_workflow_id, v_last, j.total + n.place::integer, n.id, 'order', 'ignore'
            from pgqueue.workflow_joins j, unnest(v_awaited) with ordinality n (id, place)
            where j.job_id = v_last and j.state = 'waiting';
            update pgqueue.workflow_joins j set
                total = j.total + cardinality(v_awaited), remaining = j.remaining + cardinality(v_awaited)
            where j.job_id = v_last and j.state = 'waiting';
            if not found and v_last = v_settle then
                raise exception 'workflow %: it is over', p_workflow_id using errcode = 'invalid_parameter_value';
            end if;
        end loop;
        v_outside := array (select r.job_id from pgqueue.workflow_results r where r.job_id = any (v_outside));
        perform pgqueue.advance_from(v_outside, p_ids, v_now + p_keep);
    end if;
    perform pgqueue.release_at_once(p_workflow_id, p_ids, p_waits, p_runs, v_now + p_keep);
    if p_existing then
        -- A job that was asked to stop when it let these steps take its place.
        v_outside := array (
            select j.id from pgqueue.workflow_edges e join pgqueue.live_jobs j on j.id = e.child_id
            where e.parent_id = any (p_ids) and j.cancel_asked and j.state || '' = 'waiting');
        perform pgqueue.cancel_jobs(v_outside || p_ids, true, p_keep) where v_outside <> '{}';
    end if;
end $$;

-- The step that waits for all others, for a workflow that comes to its first compensation while it runs.
create function pgqueue.add_settle(p_workflow_id uuid, p_queue text) returns uuid
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
declare
    v_id uuid := pgqueue.new_job_id();
    v_ids uuid[];
begin
    v_ids := (select pgqueue.step_ids(w) from pgqueue.workflows w where w.id = p_workflow_id);
    perform pgqueue.lock_steps(v_ids);
    -- Without those that were deleted by hand.
    v_ids := array (
        select i.id from unnest(v_ids) with ordinality i (id, place)
        where exists (select from pgqueue.live_jobs j where j.id = i.id)
           or exists (select from pgqueue.workflow_results r where r.job_id = i.id)
        order by i.place);
    update pgqueue.live_jobs j set waited_for = j.waited_for where j.id = any (v_ids);
    -- Claims pass over what is locked here.
    perform pgqueue.wake_queues(array (select distinct j.queue from pgqueue.live_jobs j
                                       where j.id = any (v_ids) and j.state || '' = 'available'));
    insert into pgqueue.live_jobs (id, seq, enqueued_at, state, queue, task, workflow_id)
    values (v_id, nextval('pgqueue.job_seq'), clock_timestamp(), 'waiting', p_queue, 'pgqueue.settle', p_workflow_id);
    insert into pgqueue.workflow_joins (job_id, workflow_id, total, remaining, run)
    select v_id, p_workflow_id, count(*), count(*) filter (where r.job_id is null), 'settle'
    from unnest(v_ids) i (id) left join pgqueue.workflow_results r on r.job_id = i.id;
    insert into pgqueue.workflow_edges (workflow_id, child_id, position, parent_id, kind, policy)
    select p_workflow_id, v_id, i.place - 1, i.id, 'order', 'ignore' from unnest(v_ids) with ordinality i (id, place);
    update pgqueue.workflows w set settle_id = v_id where w.id = p_workflow_id;
    return v_id;
end $$;

-- Compensations of steps that were added wait for the settling, and those of the steps before them wait for these.
create function pgqueue.add_compensations(
    p_workflow_id uuid, p_settle_id uuid, p_ids uuid[], p_compensates uuid[], p_waits integer[]
) returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
begin
    insert into pgqueue.workflow_edges (workflow_id, child_id, position, parent_id, kind, policy)
    select p_workflow_id, n.id, n.waits, p_settle_id, 'order', 'ignore'
    from unnest(p_ids, p_compensates, p_waits) n (id, compensates, waits) where n.compensates is not null;
    with recursive above as (
        select n.id, n.compensates as step_id from unnest(p_ids, p_compensates) n (id, compensates)
        where n.compensates is not null
        union
        select a.id, e.parent_id
        from above a
        join pgqueue.workflow_edges e on e.workflow_id = p_workflow_id and e.child_id = a.step_id and e.kind <> 'error'
    ), before as (
        select distinct c.job_id, c.total, a.id
        from above a
        join pgqueue.workflow_edges e on e.parent_id = a.step_id
        join pgqueue.workflow_joins c on c.job_id = e.child_id and c.compensates = a.step_id
        where c.job_id <> all (p_ids)
    ), wait as (
        insert into pgqueue.workflow_edges (workflow_id, child_id, position, parent_id, kind, policy)
        select p_workflow_id, b.job_id,
               b.total - 1 + row_number() over (partition by b.job_id order by b.id), b.id, 'order', 'ignore'
        from before b
    )
    update pgqueue.workflow_joins j set total = j.total + b.added, remaining = j.remaining + b.added
    from (select b.job_id, count(*) as added from before b group by b.job_id) b where j.job_id = b.job_id;
end $$;

create function pgqueue.lock_workflow_of(p_job_id uuid) returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
begin
    perform 1 from pgqueue.workflows w
    where w.id = (select j.workflow_id from pgqueue.live_jobs j where j.id = p_job_id) for no key update;
end $$;

-- running -> waiting: a job that lets another step give its result. Returns its workflow, one of its own if it had
-- none, to which the new steps are then added; null when the attempt is no longer the caller's.
create function pgqueue.begin_replacement(
    p_id uuid, p_token bigint, p_last_id uuid, p_workflow_id uuid, p_keep interval
) returns uuid
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
declare
    v_job pgqueue.live_jobs;
    v_place integer;
    v_parents integer;
begin
    perform pgqueue.lock_workflow_of(p_id);
    select j.* into v_job from pgqueue.live_jobs j
    where j.id = p_id and j.claim_token = p_token and j.state || '' = 'running' for update;
    if not found then
        return null;
    end if;
    if v_job.cancel_asked then  -- it will be cancelled with what takes its place
        perform pgqueue.lock_below(array[p_id]);
    end if;
    if v_job.workflow_id is null then
        v_job.workflow_id := p_workflow_id;
        insert into pgqueue.workflows (id, job_ids, keep) values (p_workflow_id, array[p_id], p_keep);
    end if;
    if v_job.inputs = 'error' then  -- it was called: it is not called again for the rest of its steps
        delete from pgqueue.workflow_edges e
        where e.workflow_id = v_job.workflow_id and e.child_id = p_id
          and not exists (select from pgqueue.workflow_results r where r.job_id = e.parent_id);
    end if;
    select coalesce(max(e.position) + 1, 0), count(*) into v_place, v_parents
    from pgqueue.workflow_edges e where e.workflow_id = v_job.workflow_id and e.child_id = p_id;
    insert into pgqueue.workflow_edges (workflow_id, child_id, position, parent_id, kind, policy)
    values (v_job.workflow_id, p_id, v_place, p_last_id, 'value', 'stop');
    insert into pgqueue.workflow_joins (job_id, workflow_id, total, remaining, step, run)
    values (p_id, v_job.workflow_id, v_parents + 1, 1, v_job.step, 'pass')
    on conflict (job_id) do update set
        state = 'waiting', total = excluded.total, remaining = 1, skipped = 0, cause_id = null, inputs = null,
        run = 'pass';
    update pgqueue.live_jobs j set
        state = 'waiting', workflow_id = v_job.workflow_id, worker_id = null, claim_token = null, inputs = null,
        progress = null
    where j.id = p_id;
    return v_job.workflow_id;
end $$;

-- One more parent for the join that a running member belongs to. Returns its workflow, to which the new steps are then
-- added.
create function pgqueue.begin_membership(p_member_id uuid, p_last_id uuid) returns uuid
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
declare
    v_edge pgqueue.workflow_edges;
    v_place integer;
begin
    perform pgqueue.lock_workflow_of(p_member_id);
    -- While the member's row is held its join cannot be released.
    perform 1 from pgqueue.live_jobs j where j.id = p_member_id and j.state || '' = 'running' for update;
    if found then
        with recursive stands_for as (  -- the members that it gives the result of, as it took their place
            select p_member_id as id
            union
            select e.child_id from stands_for s
            cross join lateral (select d.child_id from pgqueue.workflow_edges d
                                where d.parent_id = s.id and d.kind = 'value' offset 0) e
            where exists (select from pgqueue.workflow_joins j
                          where j.job_id = e.child_id and j.run = 'pass' and j.state = 'waiting' offset 0)
        )
        select e.* into v_edge
        from stands_for s
        cross join lateral (select d.* from pgqueue.workflow_edges d
                            where d.parent_id = s.id and d.kind <> 'error' offset 0) e
        where exists (select from pgqueue.workflow_joins j
                      where j.job_id = e.child_id and j.inputs = 'list' and j.state = 'waiting' offset 0)
        order by e.child_id limit 1;
    end if;
    if v_edge.child_id is not null then
        perform pgqueue.lock_below(array[v_edge.child_id]);
        if (select j.state from pgqueue.workflow_joins j where j.job_id = v_edge.child_id) <> 'waiting' then
            v_edge.child_id := null;  -- stopped meanwhile
        end if;
    end if;
    if v_edge.child_id is null then
        raise exception 'job % is no member of a chord that waits for it', p_member_id
            using errcode = 'invalid_parameter_value';
    end if;
    update pgqueue.live_jobs j set waited_for = j.waited_for where j.id = p_member_id;
    select e.position + 1 into v_place from pgqueue.workflow_edges e
    where e.workflow_id = v_edge.workflow_id and e.child_id = v_edge.child_id order by e.position desc limit 1;
    insert into pgqueue.workflow_edges (workflow_id, child_id, position, parent_id, kind, policy)
    values (v_edge.workflow_id, v_edge.child_id, v_place, p_last_id, v_edge.kind, v_edge.policy);
    update pgqueue.workflow_joins j set total = j.total + 1, remaining = j.remaining + 1
    where j.job_id = v_edge.child_id;
    return v_edge.workflow_id;
end $$;

-- Steps without parents that the database itself runs.
create function pgqueue.release_at_once(
    p_workflow_id uuid, p_ids uuid[], p_waits integer[], p_runs text[], p_kept timestamptz
) returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set jit = off as $$
declare
    v_ids uuid[];
begin
    if p_runs is not null then
        v_ids := array (select n.id from unnest(p_ids, p_waits, p_runs) n (id, waits, run)
                        where n.run is not null and n.waits = 0);
        perform pgqueue.advance_from(
            pgqueue.release_steps(v_ids, coalesce(p_kept, 'infinity')), null, coalesce(p_kept, 'infinity'));
    end if;
end $$;


-- What a step is given ------------------------------------------------------------------------------------------------
-- `offset 0` keeps an order of joins in which what the planner believes of young tables cannot make it read old ones
-- whole. In plpgsql, although one query: up to PostgreSQL 17 a function in SQL is planned anew at each call, once per
-- claimed step.

create function pgqueue.step_values(p_id uuid) returns table (place integer, name text, value text)
language plpgsql stable
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off set plan_cache_mode = force_generic_plan as $$
begin
    return query
    select e.position, r.step,
           case when r.state = 'succeeded' then coalesce(r.result::text, 'null')
                when e.policy = 'value' and r.state in ('failed', 'cancelled', 'expired') then coalesce(r.error::text,
                    json_build_object('type', 'pgqueue.errors.TaskRevokedError', 'message', r.state)::text)
                else 'null' end
    from pgqueue.workflow_joins j
    cross join lateral (
        select d.position, d.parent_id, d.policy from pgqueue.workflow_edges d
        where d.workflow_id = j.workflow_id and d.child_id = j.job_id and d.kind = 'value'
        order by d.workflow_id, d.child_id, d.position offset 0) e
    left join lateral (
        select o.step, o.state, o.result, o.error from pgqueue.workflow_results o
        where o.job_id = e.parent_id offset 0) r on true
    where j.job_id = p_id;
end $$;

create function pgqueue.step_args(p_id uuid, p_inputs text, p_args json) returns json
language plpgsql stable
set search_path = pg_catalog, pgqueue, pg_temp set jit = off as $$
declare
    v_head text;
begin
    if p_inputs = 'value' or p_inputs = 'args' then
        select string_agg(v.value, ', ' order by v.place) into v_head from pgqueue.step_values(p_id) v;
    elsif p_inputs = 'list' then
        select '[' || coalesce(string_agg(v.value, ', ' order by v.place), '') || ']' into v_head
        from pgqueue.step_values(p_id) v;
    elsif p_inputs = 'error' then
        select json_build_object('task_id', r.job_id, 'task', f.task, 'args', f.args, 'kwargs', f.kwargs, 'error',
                                 r.error, 'traceback', f.traceback)::text
        into v_head
        from pgqueue.workflow_joins j
        join pgqueue.workflow_results r on r.job_id = j.cause_id
        left join lateral (select k.task, k.args, k.kwargs, k.traceback from pgqueue.finished_jobs k
                           where k.id = r.job_id limit 1) f on true
        where j.job_id = p_id;
    end if;
    return case when v_head is null then p_args
                when p_args is null then ('[' || v_head || ']')::json
                else ('[' || v_head || ', ' || substr(ltrim(p_args::text), 2))::json end;
end $$;

create function pgqueue.step_kwargs(p_id uuid, p_kwargs json) returns json
language plpgsql stable
set search_path = pg_catalog, pgqueue, pg_temp set jit = off as $$
declare
    v_head text;
begin
    select string_agg(to_json(v.name)::text || ': ' || v.value, ', ' order by v.place) into v_head
    from pgqueue.step_values(p_id) v where v.name is not null;
    return case when v_head is null then p_kwargs
                when p_kwargs is null then ('{' || v_head || '}')::json
                else ('{' || v_head || ', ' || substr(ltrim(p_kwargs::text), 2))::json end;
end $$;


-- waiting -> available, scheduled; waiting -> succeeded, failed, cancelled, skipped ----------------------------------
create type pgqueue.stopped_step as (job_id uuid, state text, error text, propagated boolean);

-- Called after steps moved to finished_jobs, in the same transaction and in a statement of its own: what was committed
-- while they waited for a lock is then seen.

create function pgqueue.advance_workflows(p_ids uuid[], p_kept timestamptz) returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_succeeded boolean;
begin
    with kept as (
        insert into pgqueue.workflow_results (job_id, workflow_id, step, state, result, error, finished_at)
        select f.id, f.workflow_id, f.step, f.state, f.result, f.error, f.finished_at
        from pgqueue.finished_jobs f
        where f.delete_after = p_kept and f.id = any (p_ids)
        returning state
    )
    select bool_and(k.state = 'succeeded') and count(*) = cardinality(p_ids) into v_succeeded from kept k;
    perform pgqueue.advance_from(p_ids, null, p_kept, v_succeeded);
end $$;

-- Locks steps that wait, and all that wait behind them, at once and so in one order: what goes on from step to step
-- would lock them as it gets there, and two of those that go on from several steps could wait for each other.
create function pgqueue.lock_below(p_ids uuid[]) returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_ids uuid[];
begin
    with recursive below as (
        select unnest(p_ids) as id
        union
        select e.child_id from below b
        cross join lateral (select d.child_id from pgqueue.workflow_edges d where d.parent_id = b.id offset 0) e
    )
    select array_agg(b.id) into v_ids from below b;
    perform 1 from pgqueue.workflow_joins j
    where j.job_id = any (v_ids) and j.state <> 'ended' order by j.job_id for update;
end $$;

-- Locks steps that somebody wants to end or to add to, and all that wait behind them. One that waited and is released
-- before its join is locked can end by then, so that it comes too late in the order: all is let go and taken again.
create function pgqueue.lock_steps(p_ids uuid[]) returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_held integer;
begin
    loop
        begin
            v_held := cardinality(array (select j.id from pgqueue.live_jobs j
                                         where j.id = any (p_ids) and j.state || '' <> 'waiting'
                                         order by j.id for update));
            perform pgqueue.lock_below(p_ids);
            if v_held = (select count(*) from pgqueue.live_jobs j
                         where j.id = any (p_ids) and j.state || '' <> 'waiting') then
                perform 1 from pgqueue.live_jobs j where j.id = any (p_ids) order by j.id for update;
                return;
            end if;
            raise exception 'a step was released meanwhile' using errcode = 'PGQ02';
        exception when sqlstate 'PGQ02' then
        end;
    end loop;
end $$;

-- p_only: count down these children alone; those of the steps that end here are all counted. p_succeeded: it is known
-- that all parents did, so that their outcomes need not be read.
create function pgqueue.advance_from(
    p_parents uuid[], p_only uuid[], p_kept timestamptz, p_succeeded boolean default false
) returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_parents uuid[] := p_parents;
    v_only uuid[] := p_only;
    v_children uuid[];
    v_ready uuid[];
    v_stopped uuid[];
    v_skipped uuid[];
    v_locked boolean := false;
    v_succeeded boolean := p_succeeded;
    v_falls boolean;
    v_all integer;  -- children, of which some may not wait
begin
    loop
        select array_agg(distinct e.child_id), bool_or(e.kind = 'when') into v_children, v_falls
        from pgqueue.workflow_edges e where e.parent_id = any (v_parents);
        v_all := cardinality(v_children);
        if v_only is not null then
            v_children := array (select c from unnest(v_children) c where c = any (v_only));
            v_only := null;
        end if;
        exit when v_children is null or v_children = '{}';
        if not v_locked then
            v_locked := true;
            v_falls := v_falls or not v_succeeded
                and exists (select from pgqueue.workflow_results r
                            where r.job_id = any (v_parents) and r.state <> 'succeeded');
            if v_falls or exists (select from pgqueue.workflow_joins j
                                  where j.job_id = any (v_children) and j.run <> 'deadline') then
                perform pgqueue.lock_below(v_children);
            end if;
        end if;
        v_children := array (select j.job_id from pgqueue.workflow_joins j
                             where j.job_id = any (v_children) and j.state = 'waiting' order by j.job_id for update);
        exit when v_children = '{}';
        if v_succeeded and not v_falls then
            update pgqueue.workflow_joins j set remaining = j.remaining - a.ended
            from (select e.child_id, count(*) as ended
                  from unnest(v_parents) p (id)
                  cross join lateral (select d.child_id from pgqueue.workflow_edges d
                                      where d.parent_id = p.id offset 0) e
                  where cardinality(v_children) = v_all or e.child_id = any (v_children)
                  group by e.child_id) a
            where j.job_id = a.child_id;
        else
            update pgqueue.workflow_joins j set
                remaining = j.remaining - a.ended,
                skipped = j.skipped + case when a.refused then j.total else a.skipped end,
                cause_id = coalesce(j.cause_id, a.cause_id)
            from (
                select e.child_id, count(*) as ended, count(*) filter (where r.state = 'skipped') as skipped,
                       bool_or(e.kind = 'when' and pgqueue.is_refusal(r.state, r.result)) as refused,
                       (array_agg(r.job_id) filter (where case e.kind
                            when 'error' then r.state = 'failed' and not r.propagated
                            else e.policy = 'stop' and r.state in ('failed', 'cancelled', 'expired')
                            end))[1] as cause_id
                from pgqueue.workflow_edges e join pgqueue.workflow_results r on r.job_id = e.parent_id
                where e.parent_id = any (v_parents)
                  and (cardinality(v_children) = v_all or e.child_id = any (v_children))
                group by e.child_id) a
            where j.job_id = a.child_id;
        end if;
        v_succeeded := false;

        select array_agg(j.job_id order by j.job_id) filter (where case j.inputs = 'error'
                    when true then j.cause_id is not null
                    else j.cause_id is null and j.remaining = 0 and (j.skipped < j.total or j.total = 0) end),
               array_agg(j.job_id) filter (where j.inputs is distinct from 'error' and j.cause_id is not null),
               array_agg(j.job_id order by j.job_id) filter (where j.cause_id is null and j.remaining = 0
                    and (j.inputs = 'error' or j.skipped >= j.total and j.total > 0))
        into v_ready, v_stopped, v_skipped
        from pgqueue.workflow_joins j where j.job_id = any (v_children);

        v_parents := '{}';
        if v_stopped is not null then
            v_parents := v_parents || pgqueue.stop_steps(v_stopped, p_kept);
        end if;
        if v_skipped is not null then
            perform pgqueue.end_steps(v_skipped, 'skipped', null, null, false, p_kept);
            v_parents := v_parents || v_skipped;
        end if;
        if v_ready is not null then
            v_parents := v_parents || pgqueue.release_steps(v_ready, p_kept);
        end if;
    end loop;
end $$;

-- Whether a condition did not hold: what Python counts as false.
create function pgqueue.is_refusal(p_state text, p_result json) returns boolean
language sql immutable
set search_path = pg_catalog, pg_temp as $$
    select p_state = 'succeeded' and (
        coalesce(p_result::text, 'null') in ('null', 'false', '0', '0.0', '-0.0', '""', '[]', '{}')
        or coalesce(case p_result ->> '__type__'
            when 'decimal' then p_result ->> '__value__' ~ '^-?0+([.]0+)?(E[-+][0-9]+)?$'
            when 'timedelta' then p_result ->> '__value__' = 'P0DT0S'
            when 'bytes' then p_result ->> '__value__' = ''
            when 'set' then (p_result -> '__value__')::text = '[]'
            when 'frozenset' then (p_result -> '__value__')::text = '[]' end, false))
$$;

-- Ends steps whose parent did not succeed, and all that follow from them by edges of the policy `stop`, however many
-- links away, up to those with several parents: of paths to these there may be more than could be gone. Returns them. A
-- list of results that misses one is a ChordError; else the parent's error passes through.
create function pgqueue.stop_steps(p_ids uuid[], p_kept timestamptz) returns uuid[]
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_stopped pgqueue.stopped_step[];
    v_ids uuid[];
begin
    with recursive chain as (
        select j.job_id, s.state, s.error, s.propagated
        from pgqueue.workflow_joins j join pgqueue.workflow_results r on r.job_id = j.cause_id
        cross join lateral pgqueue.stopped_by(j.inputs, j.run, r.job_id, r.state, r.error::text) s
        where j.job_id = any (p_ids)
        union
        select e.child_id, s.state, s.error, s.propagated
        from chain c
        cross join lateral (select d.child_id from pgqueue.workflow_edges d
                            where d.parent_id = c.job_id and d.kind <> 'error' and d.policy = 'stop' offset 0) e
        cross join lateral (select w.job_id, w.inputs, w.run from pgqueue.workflow_joins w
                            where w.job_id = e.child_id and w.state = 'waiting' and w.total = 1 offset 0) j
        cross join lateral pgqueue.stopped_by(j.inputs, j.run, c.job_id, c.state, c.error) s
    )
    select array_agg(row (c.job_id, c.state, c.error, c.propagated)::pgqueue.stopped_step) into v_stopped
    from (select distinct on (job_id) * from chain order by job_id) c;
    v_ids := array (select j.job_id from pgqueue.workflow_joins j
                    where j.job_id = any (array (select s.job_id from unnest(v_stopped) s)) and j.state = 'waiting'
                    order by j.job_id for update);
    perform pgqueue.end_steps(array_agg(s.job_id), s.state, null, s.error, s.propagated, p_kept)
    from unnest(v_stopped) s
    where cardinality(v_ids) = cardinality(v_stopped) or s.job_id = any (v_ids)  -- the first is cheap for many
    group by s.state, s.error, s.propagated;
    return v_ids;
end $$;

create function pgqueue.stopped_by(
    p_inputs text, p_run text, p_parent_id uuid, p_parent_state text, p_parent_error text,
    out state text, out error text, out propagated boolean
)
language sql immutable
set search_path = pg_catalog, pg_temp as $$
    select case when p_inputs = 'list' or p_parent_state = 'failed' then 'failed' else 'cancelled' end,
           case when p_inputs = 'list' then json_build_object('type', 'pgqueue.errors.ChordError', 'message',
                    format('Dependency %s %s', p_parent_id, case p_parent_state
                        when 'failed' then format('raised %s: %s',
                                                  p_parent_error::json ->> 'type', p_parent_error::json ->> 'message')
                        else 'was ' || p_parent_state end))::text
                else p_parent_error end,
           p_inputs is distinct from 'list' and p_run is distinct from 'pass'
$$;

-- Ends steps that no worker runs.
create function pgqueue.end_steps(
    p_ids uuid[], p_state text, p_results text[], p_error text, p_propagated boolean, p_kept timestamptz
) returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_now timestamptz := clock_timestamp();
    v_told bigint;
begin
    update pgqueue.workflow_joins j set state = 'ended' where j.job_id = any (p_ids);
    insert into pgqueue.workflow_results (job_id, workflow_id, step, state, result, error, propagated, finished_at)
    select j.job_id, j.workflow_id, j.step, p_state, d.result::json, p_error::json, p_propagated, v_now
    from unnest(p_ids, p_results) d (id, result) join pgqueue.workflow_joins j on j.job_id = d.id;
    with gone as (
        delete from pgqueue.live_jobs j where j.id = any (p_ids) and j.state || '' <> 'running' returning j.*
    ), kept as (
        insert into pgqueue.finished_jobs (
            id, seq, enqueued_at, run_at, expires_at, finished_at, delete_after, attempt, priority, lost, state, queue,
            task, args, kwargs, headers, options, result, error, root_id, parent_id, workflow_id, step)
        select g.id, g.seq, g.enqueued_at, g.run_at, g.expires_at, v_now, p_kept, g.attempt, g.priority, g.lost,
               p_state, g.queue, g.task, g.args, g.kwargs, g.headers, g.options, d.result, p_error::json, g.root_id,
               g.parent_id, g.workflow_id, g.step
        from gone g left join lateral (
            select r.result from pgqueue.workflow_results r where r.job_id = g.id offset 0) d on true
    )
    select count(pg_notify('pgqueue/results', g.id::text)) into v_told from gone g where g.waited_for;
end $$;

-- Releases steps whose parents are done. Returns those that ended at once.
create function pgqueue.release_steps(p_ids uuid[], p_kept timestamptz) returns uuid[]
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_now timestamptz := clock_timestamp();
    v_queues text[];
    v_own integer;
    v_ids uuid[];
    v_results text[];
    v_settled uuid[];
    v_deadlines uuid[];
begin
    update pgqueue.workflow_joins j set state = 'released' where j.job_id = any (p_ids);
    with released as (
        update pgqueue.live_jobs j set
            state = case when d.due > v_now or d.run is not null then 'scheduled' else 'available' end,
            seq = nextval('pgqueue.job_seq'), run_at = d.due,
            expires_at = coalesce(j.expires_at, v_now + make_interval(secs => d.expires_in))
        from (select n.job_id, n.run, n.expires_in, coalesce(n.run_at, v_now + make_interval(secs => n.delay)) as due
              from pgqueue.workflow_joins n
              where n.job_id = any (p_ids)
                and (n.run is null or n.run = 'sleep'
                     or n.run = 'wait' and n.event is null and (n.run_at is not null or n.delay is not null))) d
        where j.id = d.job_id and j.state || '' = 'waiting'
        returning j.queue, j.run_at
    )
    select array_agg(distinct r.queue) filter (where r.run_at is null or r.run_at < v_now + interval '10 seconds')
    into v_queues from released r;
    perform pgqueue.wake_queues(v_queues);

    select count(*) filter (where j.run is not null),
           array_agg(j.job_id order by j.job_id)
               filter (where j.run = 'gather' or j.run = 'pass' or j.run = 'wait' and j.event is not null),
           array_agg(case j.run when 'wait' then j.event::text
                                when 'gather' then (pgqueue.step_args(j.job_id, 'list', null) -> 0)::text
                                else (pgqueue.step_args(j.job_id, 'value', null) -> -1)::text end order by j.job_id)
               filter (where j.run = 'gather' or j.run = 'pass' or j.run = 'wait' and j.event is not null),
           array_agg(j.job_id) filter (where j.run = 'settle'), array_agg(j.job_id) filter (where j.run = 'deadline')
    into v_own, v_ids, v_results, v_settled, v_deadlines
    from pgqueue.workflow_joins j where j.job_id = any (p_ids);
    if v_own = 0 then
        return '{}';
    end if;
    if v_ids is not null then
        perform pgqueue.end_steps(v_ids, 'succeeded', v_results, null, false, p_kept);
    end if;
    if v_deadlines is not null then
        update pgqueue.workflow_joins j set state = 'ended' where j.job_id = any (v_deadlines);
        -- One that somebody holds is over just now: it finds nothing to cancel.
        delete from pgqueue.live_jobs l where l.id = any (array (
            select j.id from pgqueue.live_jobs j where j.id = any (v_deadlines) for update skip locked));
    end if;
    if v_settled is not null then
        v_ids := coalesce(v_ids, '{}') || pgqueue.settle(v_settled, p_kept);
    end if;
    return coalesce(v_ids, '{}');
end $$;

-- All steps of these workflows have ended: leaves of their compensations those to be run that undo a step that
-- succeeded where another one did not. Returns the steps that ended here.
create function pgqueue.settle(p_ids uuid[], p_kept timestamptz) returns uuid[]
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off as $$
declare
    v_idle uuid[];
begin
    perform pgqueue.end_steps(p_ids, 'succeeded', null, null, false, p_kept);
    v_idle := array (
        select c.job_id
        from pgqueue.workflow_joins s
        join pgqueue.workflow_edges e on e.parent_id = s.job_id
        join pgqueue.workflow_joins c on c.job_id = e.child_id and c.state = 'waiting'
        join pgqueue.workflow_results r on r.job_id = c.compensates
        where s.job_id = any (p_ids)
          and (r.state <> 'succeeded' or not pgqueue.has_failed(s.workflow_id, s.job_id))
        order by c.job_id for update of c);
    perform pgqueue.end_steps(v_idle, 'skipped', null, null, false, p_kept) where v_idle <> '{}';
    return p_ids || v_idle;
end $$;

-- Whether all that follows from a step goes on when it fails.
create function pgqueue.is_tolerated(p_id uuid) returns boolean
language sql stable
set search_path = pg_catalog, pgqueue, pg_temp as $$
    select coalesce(bool_and(e.policy <> 'stop'), false)
    from pgqueue.workflow_edges e
    left join pgqueue.workflow_joins s on s.job_id = e.child_id
    where e.parent_id = p_id and e.kind <> 'error' and s.compensates is null
      and s.run is distinct from 'settle' and s.run is distinct from 'deadline'
$$;

-- Whether a step failed that no edge lets pass.
create function pgqueue.has_failed(p_workflow_id uuid, p_settle_id uuid) returns boolean
language sql stable
set search_path = pg_catalog, pgqueue, pg_temp as $$
    select exists (
        select from pgqueue.workflow_edges e
        join pgqueue.workflow_results r on r.job_id = e.parent_id and r.state in ('failed', 'cancelled', 'expired')
        where e.workflow_id = p_workflow_id and e.child_id = p_settle_id
          and not pgqueue.is_tolerated(r.job_id))
$$;


-- Timers and events --------------------------------------------------------------------------------------------------

-- Called by stage_jobs, which holds the rows, on behalf of everybody's jobs: so it waits for no lock that somebody's
-- open transaction may hold for long, and fails for no timer. One that is short of a lock is due again half a second
-- later, one that cannot end a minute later. Returns how many ended.
create function pgqueue.end_timers(p_ids uuid[]) returns integer
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set jit = off set lock_timeout = '50ms' as $$
declare
    v_id uuid;
    v_ended integer := 0;
begin
    begin
        perform pgqueue.end_all_timers(p_ids);
        return cardinality(p_ids);
    exception
        when lock_not_available then
            perform set_config('lock_timeout', '1ms', true);  -- one wait is enough
        when others then
            null;  -- told below, of the one that it is about
    end;
    foreach v_id in array p_ids loop
        begin
            perform pgqueue.end_all_timers(array[v_id]);
            v_ended := v_ended + 1;
        exception
            when lock_not_available then
                update pgqueue.live_jobs j set run_at = clock_timestamp() + interval '500 milliseconds'
                where j.id = v_id;
            when others then
                raise warning 'timer % cannot end now: %', v_id, sqlerrm;
                update pgqueue.live_jobs j set run_at = clock_timestamp() + interval '1 minute' where j.id = v_id;
        end;
    end loop;
    return v_ended;
end $$;

create function pgqueue.end_all_timers(p_ids uuid[]) returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set jit = off as $$
declare
    v_timer record;
    v_kept timestamptz;
    v_locked boolean := false;
begin
    for v_timer in
        select j.id, j.task, j.step, j.workflow_id, w.keep from pgqueue.live_jobs j
        left join pgqueue.workflows w on w.id = j.workflow_id
        where j.id = any (p_ids) order by j.task <> 'pgqueue.deadline', j.id
    loop
        -- A deadline may have ended this one with its workflow.
        continue when not exists (select from pgqueue.live_jobs j where j.id = v_timer.id);
        v_kept := coalesce(clock_timestamp() + v_timer.keep, 'infinity');
        if v_timer.task = 'pgqueue.deadline' then
            delete from pgqueue.live_jobs j where j.id = v_timer.id;
            perform pgqueue.cancel_workflow(v_timer.workflow_id);
            update pgqueue.workflow_joins j set state = 'ended' where j.job_id = v_timer.id;
        else
            if not v_locked then
                perform pgqueue.lock_below(p_ids);
                v_locked := true;
            end if;
            if v_timer.task = 'pgqueue.sleep' then
                perform pgqueue.end_steps(array[v_timer.id], 'succeeded', null, null, false, v_kept);
            else
                perform pgqueue.end_steps(array[v_timer.id], 'failed', null, json_build_object(
                    'type', 'pgqueue.errors.EventTimeout',
                    'message', format('%s: nobody resolved it in time', coalesce(v_timer.step, 'event')))::text,
                    false, v_kept);
            end if;
            perform pgqueue.advance_from(array[v_timer.id], null, v_kept);
        end if;
    end loop;
end $$;

-- The event that a step of this name waits for has come, be it before the step is reached.
create function pgqueue.resolve(workflow_id uuid, event text, value json default 'null') returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set jit = off as $$
#variable_conflict use_column
declare
    v_id uuid;
    v_join pgqueue.workflow_joins;
    v_kept timestamptz;
begin
    select n.job_id into v_id from pgqueue.workflow_names n
    where n.workflow_id = resolve.workflow_id and n.name = resolve.event;
    perform pgqueue.lock_steps(array[v_id]);
    select j.* into v_join from pgqueue.workflow_joins j where j.job_id = v_id and j.run = 'wait';
    if not found then
        raise exception 'event: workflow % waits for no event %',
            resolve.workflow_id, coalesce(quote_literal(left(resolve.event, 60)), 'NULL')
            using errcode = 'invalid_parameter_value';
    elsif v_join.state = 'ended' or v_join.event is not null then
        raise exception 'event: % of workflow % was resolved before, or its time is over',
            quote_literal(resolve.event), resolve.workflow_id using errcode = 'invalid_parameter_value';
    elsif v_join.state = 'waiting' then
        update pgqueue.workflow_joins j set event = coalesce(resolve.value, 'null') where j.job_id = v_join.job_id;
        return;
    end if;
    select coalesce(clock_timestamp() + w.keep, 'infinity') into v_kept
    from pgqueue.workflows w where w.id = resolve.workflow_id;
    perform pgqueue.end_steps(
        array[v_join.job_id], 'succeeded', array[coalesce(resolve.value, 'null')::text], null, false, v_kept);
    perform pgqueue.advance_from(array[v_join.job_id], null, v_kept);
end $$;


-- Operate ------------------------------------------------------------------------------------------------------------

-- Cancels what has not ended; running steps are asked to stop. Compensations of what succeeded then run. Returns how
-- many.
create function pgqueue.cancel_workflow(workflow_id uuid) returns integer
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set jit = off as $$
declare
    v_ids uuid[];
    v_keep interval;
    v_count integer;
begin
    -- Locked first: steps that somebody adds meanwhile are then seen.
    perform 1 from pgqueue.workflows w where w.id = cancel_workflow.workflow_id for update;
    update pgqueue.workflows w set cancelled_at = clock_timestamp()
    where w.id = cancel_workflow.workflow_id and w.cancelled_at is null
      and exists (select from unnest(pgqueue.step_ids(w)) i (id) join pgqueue.live_jobs j on j.id = i.id)
    returning pgqueue.step_ids(w), w.keep into v_ids, v_keep;
    if not found then
        return 0;
    end if;
    v_ids := array (select i from unnest(v_ids) i where not exists (
        select from pgqueue.workflow_joins j where j.job_id = i and (j.run = 'settle' or j.compensates is not null)));
    select count(*) into v_count from pgqueue.cancel_jobs(v_ids, true, v_keep);
    return v_count;
end $$;

-- Runs a failed workflow on from the steps that did not succeed, keeping what did. Returns how many steps are to run
-- again.
create function pgqueue.retry_workflow(workflow_id uuid) returns integer
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set jit = off as $$
declare
    v_ids uuid[];
begin
    v_ids := array (
        select r.job_id from pgqueue.workflows w cross join lateral unnest(pgqueue.step_ids(w)) i (id)
        join pgqueue.workflow_results r on r.job_id = i.id and r.state in ('failed', 'cancelled', 'expired')
        where w.id = retry_workflow.workflow_id);
    if v_ids = '{}' then
        return 0;
    end if;
    return cardinality(pgqueue.retry_steps(v_ids));
end $$;

-- Steps that did not succeed get a new life under the same id, together with the steps that were stopped because of
-- them, with their callbacks, and with those that a compensation has undone. Returns those of the first ones that live.
create function pgqueue.retry_steps(p_ids uuid[]) returns uuid[]
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set jit = off as $$
declare
    v_workflow pgqueue.workflows;
    v_ids uuid[];
    v_again uuid[];
    v_undone uuid[];
    v_ended uuid[];
    v_ready uuid[];
    v_queues text[];
    v_kept timestamptz;
    v_count integer;
begin
    perform pg_current_xact_id();
    for v_workflow in
        select w.* from pgqueue.workflows w
        where w.id in (select r.workflow_id from pgqueue.workflow_results r where r.job_id = any (p_ids))
        order by w.id for update
    loop
        v_kept := coalesce(clock_timestamp() + v_workflow.keep, 'infinity');
        v_ids := pgqueue.step_ids(v_workflow);
        update pgqueue.workflows w set cancelled_at = null where w.id = v_workflow.id;
        perform pgqueue.lock_steps(v_ids);
        perform 1 from pgqueue.workflow_joins j where j.job_id = any (v_ids) order by j.job_id for update;
        with recursive again as (
            select r.job_id, false as undone from pgqueue.workflow_results r
            where r.job_id = any (p_ids) and r.workflow_id = v_workflow.id
            union
            select n.job_id, n.undone
            from again a cross join lateral (
                select r.job_id, false as undone
                from pgqueue.workflow_edges e
                join pgqueue.workflow_results r on r.job_id = e.child_id
                join pgqueue.workflow_joins j on j.job_id = r.job_id
                where e.parent_id = a.job_id
                  and (j.state = 'ended' and (j.run is null or j.run not in ('wait', 'sleep') or r.state <> 'succeeded')
                       or j.inputs = 'error' or j.compensates is not null)
                union all
                select r.job_id, true
                from pgqueue.workflow_joins c
                join pgqueue.workflow_results u on u.job_id = c.job_id and u.state = 'succeeded'
                join pgqueue.workflow_results r on r.job_id = c.compensates
                where c.job_id = a.job_id
                union all  -- a part of several steps is undone whole: those without a name behind its last one
                select r.job_id, true
                from pgqueue.workflow_edges e
                join pgqueue.workflow_results r on r.job_id = e.parent_id and r.step is null
                where a.undone and e.workflow_id = v_workflow.id and e.child_id = a.job_id and e.kind <> 'error') n
        )
        select array_agg(distinct job_id order by job_id), array_agg(distinct job_id) filter (where undone)
        into v_again, v_undone from again;
        if v_undone is not null then
            perform pgqueue.order_again(v_workflow.id, v_again, v_undone);
        end if;
        delete from pgqueue.workflow_results r where r.job_id = any (v_again);
        update pgqueue.workflow_joins j set
            state = 'waiting', remaining = j.total - coalesce(e.ended, 0),
            skipped = case when e.refused then j.total else coalesce(e.skipped, 0) end, cause_id = e.cause_id
        from (
            select unnest(v_again)
            union  -- those that still wait, and had counted these steps
            select e.child_id from pgqueue.workflow_edges e join pgqueue.workflow_joins c on c.job_id = e.child_id
            where e.parent_id = any (v_again) and c.state = 'waiting') n (id)
        left join lateral (
            select count(*) as ended, count(*) filter (where r.state = 'skipped') as skipped,
                   bool_or(e.kind = 'when' and pgqueue.is_refusal(r.state, r.result)) as refused,
                   -- A parent that stays as it is still stops it, and is told of again if it is the callback that is to
                   -- run again.
                   (array_agg(r.job_id order by e.position) filter (where case e.kind
                        when 'error' then n.id = any (p_ids) and r.state = 'failed' and not r.propagated
                        else e.policy = 'stop' and r.state in ('failed', 'cancelled', 'expired') end))[1] as cause_id
            from pgqueue.workflow_edges e join pgqueue.workflow_results r on r.job_id = e.parent_id
            where e.workflow_id = v_workflow.id and e.child_id = n.id) e on true
        where j.job_id = n.id;
        with gone as (
            delete from pgqueue.finished_jobs f where f.id = any (v_again) returning f.*
        ), lives as (
            insert into pgqueue.live_jobs (id, seq, enqueued_at, priority, state, queue, task, args, kwargs, headers,
                                           options, attempt, root_id, parent_id, workflow_id, step, inputs)
            select g.id, nextval('pgqueue.job_seq'), clock_timestamp(), g.priority,
                   case when j.job_id is null then 'available' else 'waiting' end, g.queue, g.task, g.args, g.kwargs,
                   g.headers, g.options, 0, g.root_id, g.parent_id, g.workflow_id, g.step, j.inputs
            from gone g left join pgqueue.workflow_joins j on j.job_id = g.id
            returning id, state, queue
        )
        select count(*), array_agg(distinct queue) filter (where state = 'available') into v_count, v_queues from lives;
        if v_count < cardinality(v_again) then
            raise exception 'workflow %: % of the steps to run again are kept no longer',
                v_workflow.id, cardinality(v_again) - v_count using errcode = 'invalid_parameter_value';
        end if;
        perform pgqueue.wake_queues(v_queues);
        -- Those that a parent still stops, and compensations and callbacks that nothing calls for any more.
        v_ended := array (select j.job_id from pgqueue.workflow_joins j
                          where j.job_id = any (v_again) and j.cause_id is not null
                            and j.inputs is distinct from 'error');
        if v_ended <> '{}' then
            perform pgqueue.advance_from(pgqueue.stop_steps(v_ended, v_kept), null, v_kept);
        end if;
        v_ended := array (select j.job_id from pgqueue.workflow_joins j
                          join pgqueue.workflow_results u on u.job_id = j.compensates
                          where j.job_id = any (v_again) and j.remaining = 0 and j.state = 'waiting'
                            and (u.state <> 'succeeded' or not pgqueue.has_failed(v_workflow.id, v_workflow.settle_id))
                          union all
                          select j.job_id from pgqueue.workflow_joins j
                          where j.job_id = any (v_again) and j.inputs = 'error' and j.remaining = 0
                            and j.state = 'waiting' and j.cause_id is null);
        if v_ended <> '{}' then
            perform pgqueue.end_steps(v_ended, 'skipped', null, null, false, v_kept);
            perform pgqueue.advance_from(v_ended, null, v_kept);
        end if;
        v_ready := array (select j.job_id from pgqueue.workflow_joins j
                          where j.job_id = any (v_again) and j.state = 'waiting'
                            and case j.inputs when 'error' then j.cause_id is not null else j.remaining = 0 end);
        perform pgqueue.advance_from(pgqueue.release_steps(v_ready, v_kept), null, v_kept);
    end loop;
    return array (select j.id from pgqueue.live_jobs j where j.id = any (p_ids));
end $$;

-- Steps that run again wait for what was undone before them, also where only steps that are kept lie between.
create function pgqueue.order_again(p_workflow_id uuid, p_again uuid[], p_undone uuid[]) returns void
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
begin
    with recursive above as (
        select e.child_id as id, e.parent_id, e.policy = 'stop' as stops
        from pgqueue.workflow_edges e join pgqueue.workflow_joins j on j.job_id = e.child_id
        where e.workflow_id = p_workflow_id and e.child_id = any (p_again) and e.parent_id <> all (p_again)
          and e.kind <> 'error'
          and j.compensates is null and j.run is distinct from 'settle' and j.run is distinct from 'deadline'
        union
        select a.id, e.parent_id, a.stops and e.policy = 'stop'
        from above a join pgqueue.workflow_edges e on e.workflow_id = p_workflow_id and e.child_id = a.parent_id
        where a.parent_id <> all (p_again) and e.kind <> 'error'
    ), missing as (
        select a.id, a.parent_id, bool_or(a.stops) as stops,
               row_number() over (partition by a.id order by a.parent_id) as place
        from above a
        where a.parent_id = any (p_undone)
          and not exists (select from pgqueue.workflow_edges e
                          where e.workflow_id = p_workflow_id and e.child_id = a.id and e.parent_id = a.parent_id)
        group by a.id, a.parent_id
    ), added as (
        insert into pgqueue.workflow_edges (workflow_id, child_id, position, parent_id, kind, policy)
        select p_workflow_id, m.id, l.position + m.place, m.parent_id, 'order',
               case when m.stops then 'stop' else 'ignore' end
        from missing m cross join lateral (
            select max(e.position) as position from pgqueue.workflow_edges e
            where e.workflow_id = p_workflow_id and e.child_id = m.id) l
    )
    update pgqueue.workflow_joins j set total = j.total + m.added
    from (select n.id, count(*) as added from missing n group by n.id) m where j.job_id = m.id;
end $$;


-- Upkeep -------------------------------------------------------------------------------------------------------------

-- A step whose job was deleted by hand counts as cancelled, so that what waits for it ends. Returns how many.
create function pgqueue.mend_workflows() returns integer
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
declare
    v_error constant json := json_build_object(
        'type', 'pgqueue.errors.TaskRevokedError', 'message', 'the job was deleted');
    v_missing uuid[];
    v_kept timestamptz;
begin
    if not pg_try_advisory_xact_lock(hashtext('pgqueue/workflows'), 0) then
        return 0;
    end if;
    with candidates as (
        select j.job_id, j.workflow_id from pgqueue.workflow_joins j
        where j.state = 'waiting' and j.run is distinct from 'deadline'
        union
        select e.parent_id, e.workflow_id
        from pgqueue.workflow_joins j
        join pgqueue.workflow_edges e on e.workflow_id = j.workflow_id and e.child_id = j.job_id
        where j.state = 'waiting'
    ), missing as (
        insert into pgqueue.workflow_results (job_id, workflow_id, step, state, error, finished_at)
        select c.job_id, c.workflow_id, p.step, 'cancelled', v_error, clock_timestamp()
        from candidates c left join pgqueue.workflow_joins p on p.job_id = c.job_id
        where not exists (select from pgqueue.live_jobs l where l.id = c.job_id)
          and not exists (select from pgqueue.workflow_results r where r.job_id = c.job_id)
        on conflict do nothing
        returning job_id, workflow_id
    )
    select array_agg(m.job_id), max(coalesce(clock_timestamp() + w.keep, 'infinity')) into v_missing, v_kept
    from missing m join pgqueue.workflows w on w.id = m.workflow_id;
    if v_missing is not null then
        perform 1 from pgqueue.workflow_joins j where j.job_id = any (v_missing) order by j.job_id for update;
        update pgqueue.workflow_joins j set state = 'ended' where j.job_id = any (v_missing);
        perform pgqueue.advance_from(v_missing, null, v_kept);
    end if;
    return coalesce(cardinality(v_missing), 0);
end $$;

-- Removes workflows that ended longer ago than they are to be kept. Returns how many.
create function pgqueue.prune_workflows(p_limit integer) returns integer
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
declare
    v_found uuid[];
    v_old uuid[];
    v_ids uuid[];
begin
    v_found := array (
        select w.id from pgqueue.workflows w
        where w.created_at < clock_timestamp() - w.keep and pgqueue.is_outdated(w)
        order by w.created_at limit p_limit for update skip locked);
    -- Once more, in a statement of its own: one may have been run on, or have got more steps, before it was locked.
    select array_agg(distinct w.id), array_agg(i) into v_old, v_ids
    from pgqueue.workflows w cross join lateral unnest(pgqueue.step_ids(w)) i
    where w.id = any (v_found) and pgqueue.is_outdated(w);
    if v_old is null then
        return 0;
    end if;
    delete from pgqueue.workflow_edges e where e.workflow_id = any (v_old);
    delete from pgqueue.workflow_joins j
    where j.job_id = any (v_ids || array (select w.deadline_id from pgqueue.workflows w where w.id = any (v_old)));
    delete from pgqueue.workflow_results r where r.job_id = any (v_ids);
    delete from pgqueue.workflow_additions a where a.workflow_id = any (v_old);
    delete from pgqueue.workflow_names n where n.workflow_id = any (v_old);
    delete from pgqueue.workflow_groups g where g.workflow_id = any (v_old);
    delete from pgqueue.workflows w where w.id = any (v_old);
    return cardinality(v_old);
end $$;

-- Whether a workflow is over, and was so when its time began to run.
create function pgqueue.is_outdated(p_workflow pgqueue.workflows) returns boolean
language plpgsql volatile
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
declare
    v_ids uuid[] := pgqueue.step_ids(p_workflow);
begin
    return not exists (select from pgqueue.live_jobs j where j.id = any (v_ids))
       and not exists (select from pgqueue.workflow_results r
                       where r.job_id = any (v_ids) and r.finished_at > clock_timestamp() - p_workflow.keep);
end $$;


-- What people query --------------------------------------------------------------------------------------------------

create view pgqueue.workflow_steps as
select w.id as workflow_id, w.name as workflow, i.place, i.id as job_id, coalesce(l.step, r.step, j.step) as step,
       coalesce(r.state, l.state, 'deleted') as state, coalesce(l.task, f.task) as task, r.result, r.error,
       r.finished_at, j.total as waits_for, j.remaining, j.run, j.compensates, r.propagated
from pgqueue.workflows w
cross join lateral unnest(pgqueue.step_ids(w)) with ordinality i (id, place)
left join pgqueue.live_jobs l on l.id = i.id
left join pgqueue.workflow_results r on r.job_id = i.id
left join pgqueue.workflow_joins j on j.job_id = i.id
left join lateral (select k.task from pgqueue.finished_jobs k where k.id = i.id and l.id is null limit 1) f on true;

create view pgqueue.all_workflows as
select w.id, w.name, case when s.live > 0 then 'running'
                          when w.cancelled_at is not null then 'cancelled'
                          when s.failed > 0 then 'failed'
                          when s.cancelled > 0 then 'cancelled' else 'succeeded' end as state,
       s.steps, s.live, s.succeeded, s.failed, s.cancelled, s.skipped, w.created_at, w.deadline_at, w.cancelled_at,
       case when s.live = 0 then s.finished_at end as finished_at
from pgqueue.workflows w
cross join lateral (
    select count(*) as steps, count(*) filter (where r.job_id is null and l.id is not null) as live,
           count(*) filter (where r.state = 'succeeded') as succeeded,
           count(*) filter (where r.state = 'failed' and not pgqueue.is_tolerated(r.job_id)) as failed,
           count(*) filter (where r.state in ('cancelled', 'expired') and not pgqueue.is_tolerated(r.job_id)
                                  or r.job_id is null and l.id is null) as cancelled,
           count(*) filter (where r.state = 'skipped') as skipped, max(r.finished_at) as finished_at
    from unnest(pgqueue.step_ids(w)) i (id)
    left join pgqueue.live_jobs l on l.id = i.id
    left join pgqueue.workflow_results r on r.job_id = i.id) s;

comment on table pgqueue.workflows is 'Chains, groups, chords and named graphs, with the ids of their steps.';
comment on table pgqueue.workflow_groups is 'Groups of canvases, with the ids of their members.';
comment on table pgqueue.workflow_additions is 'Ids of steps that were added to a workflow later.';
comment on table pgqueue.workflow_names is 'Steps of a workflow by their names.';
comment on table pgqueue.workflow_edges is 'Which step waits for which. Part of the public contract.';
comment on table pgqueue.workflow_joins is 'Steps that wait for others: how many, and how many are left.';
comment on table pgqueue.workflow_results is 'Outcomes of steps, as long as their workflow is kept.';
comment on view pgqueue.all_workflows is 'Every workflow with its state and its progress. Part of the public contract.';
comment on view pgqueue.workflow_steps is 'Every step of every workflow. Part of the public contract.';
