-- The schema as the migrations leave it: for readers, and for a test. Written by scripts/dump_schema.py.
-- The partitions of single days are left out.

create sequence job_seq;

create table alembic_version (
    version_num character varying(32) not null,
    constraint alembic_version_pkc PRIMARY KEY (version_num)
);

create table attempts (
    job_id uuid not null,
    attempt integer not null,
    outcome text not null,
    worker_id bigint,
    started_at timestamp with time zone,
    ended_at timestamp with time zone not null,
    delete_after timestamp with time zone not null,
    error json,
    traceback text
) partition by range (delete_after);
CREATE INDEX attempts_job_id ON ONLY pgqueue.attempts USING btree (job_id);
comment on table attempts is 'Attempts that did not succeed, with their errors.';

create table attempts_forever partition of pgqueue.attempts for values from ('infinity') to (maxvalue);

create table finished_jobs (
    id uuid not null,
    seq bigint not null,
    enqueued_at timestamp with time zone not null,
    run_at timestamp with time zone,
    expires_at timestamp with time zone,
    started_at timestamp with time zone,
    finished_at timestamp with time zone not null,
    delete_after timestamp with time zone not null,
    worker_id bigint,
    attempt integer not null,
    priority smallint not null,
    lost smallint not null,
    state text not null,
    queue text not null,
    task text not null,
    args json,
    kwargs json,
    headers json,
    options json,
    result json,
    error json,
    traceback text,
    root_id uuid,
    parent_id uuid,
    workflow_id uuid,
    step text,
    constraint finished_jobs_state CHECK ((state = ANY (ARRAY['succeeded'::text, 'failed'::text, 'cancelled'::text, 'expired'::text, 'skipped'::text])))
) partition by range (delete_after);
CREATE INDEX finished_jobs_id ON ONLY pgqueue.finished_jobs USING btree (id);
CREATE INDEX finished_jobs_parent ON ONLY pgqueue.finished_jobs USING btree (parent_id) WHERE (parent_id IS NOT NULL);
comment on table finished_jobs is 'Jobs that are finished, with result or error, until delete_after.';

create table finished_jobs_forever partition of pgqueue.finished_jobs for values from ('infinity') to (maxvalue);

create table live_jobs (
    id uuid not null,
    seq bigint not null,
    enqueued_at timestamp with time zone not null,
    run_at timestamp with time zone,
    expires_at timestamp with time zone,
    started_at timestamp with time zone,
    worker_id bigint,
    claim_token bigint,
    attempt integer default 0 not null,
    priority smallint default 0 not null,
    lost smallint default 0 not null,
    waited_for boolean default false not null,
    cancel_asked boolean default false not null,
    begun boolean,
    state text not null,
    queue text not null,
    task text not null,
    args json,
    kwargs json,
    headers json,
    options json,
    progress json,
    root_id uuid,
    parent_id uuid,
    workflow_id uuid,
    step text,
    inputs text,
    constraint live_jobs_pkey PRIMARY KEY (id),
    constraint live_jobs_priority CHECK (((priority >= 0) AND (priority <= 9))),
    constraint live_jobs_state CHECK ((state = ANY (ARRAY['waiting'::text, 'scheduled'::text, 'available'::text, 'running'::text])))
) with (fillfactor=70, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=2000, autovacuum_vacuum_cost_delay=0, autovacuum_vacuum_insert_scale_factor=0.2, autovacuum_analyze_scale_factor=0.2, vacuum_truncate=off);
CREATE INDEX live_jobs_asked ON pgqueue.live_jobs USING btree (worker_id) WHERE cancel_asked;
CREATE INDEX live_jobs_available ON pgqueue.live_jobs USING btree (queue, priority, seq) WHERE (state = 'available'::text);
CREATE INDEX live_jobs_due ON pgqueue.live_jobs USING btree (run_at) WHERE (state = 'scheduled'::text);
CREATE INDEX live_jobs_parent ON pgqueue.live_jobs USING btree (parent_id) WHERE (parent_id IS NOT NULL);
CREATE INDEX live_jobs_running ON pgqueue.live_jobs USING btree (worker_id) WHERE (state = 'running'::text);
comment on table live_jobs is 'Jobs that are not finished: waiting, scheduled, available, running.';

create table schedule_declarations (
    owner text not null,
    fingerprint text not null,
    declared_at timestamp with time zone not null,
    constraint schedule_declarations_pkey PRIMARY KEY (owner, fingerprint)
);
comment on table schedule_declarations is 'Sets of schedules that the code of applications declared.';

create table schedule_ticks (
    schedule_id bigint not null,
    tick timestamp with time zone not null,
    job_id uuid,
    fired_at timestamp with time zone not null,
    constraint schedule_ticks_pkey PRIMARY KEY (schedule_id, tick),
    constraint schedule_ticks_schedule FOREIGN KEY (schedule_id) REFERENCES pgqueue.schedules(id) ON DELETE CASCADE
) with (autovacuum_vacuum_insert_scale_factor=0.2, autovacuum_vacuum_cost_delay=0);
CREATE INDEX schedule_ticks_fired ON pgqueue.schedule_ticks USING brin (fired_at);
comment on table schedule_ticks is 'Ticks of schedules that were dealt with, with their jobs.';

create table schedules (
    id bigint generated always as identity not null,
    name text not null,
    task text not null,
    args json default '[]'::json not null,
    kwargs json default '{}'::json not null,
    options jsonb default '{}'::jsonb not null,
    cron text,
    every interval,
    once_at timestamp with time zone,
    solar text,
    match_both_days boolean default false not null,
    timezone text default 'UTC'::text not null,
    start_at timestamp with time zone,
    end_at timestamp with time zone,
    anchor_at timestamp with time zone,
    jitter interval default '00:00:00'::interval not null,
    catch_up text default 'one'::text not null,
    catch_up_limit integer default 100 not null,
    starting_deadline interval,
    overlap text default 'allow'::text not null,
    enabled boolean default true not null,
    pause_reason text,
    problem text,
    owner text,
    declaration text,
    created_at timestamp with time zone default clock_timestamp() not null,
    updated_at timestamp with time zone default clock_timestamp() not null,
    plan_from timestamp with time zone default clock_timestamp() not null,
    next_run_at timestamp with time zone,
    last_run_at timestamp with time zone,
    last_job_id uuid,
    queued_at timestamp with time zone,
    wake_at timestamp with time zone default clock_timestamp(),
    constraint schedules_name UNIQUE (name),
    constraint schedules_pkey PRIMARY KEY (id)
) with (fillfactor=70, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=2000, autovacuum_vacuum_cost_delay=0);
CREATE INDEX schedules_owner ON pgqueue.schedules USING btree (owner);
CREATE INDEX schedules_wake ON pgqueue.schedules USING btree (wake_at) WHERE (wake_at IS NOT NULL);
CREATE TRIGGER check_schedule BEFORE INSERT OR UPDATE OF name, task, args, kwargs, options, cron, every, once_at, solar, match_both_days, timezone, start_at, end_at, anchor_at, jitter, catch_up, catch_up_limit, starting_deadline, overlap, enabled ON pgqueue.schedules FOR EACH ROW EXECUTE FUNCTION pgqueue.check_schedule();
CREATE TRIGGER wake_schedulers AFTER INSERT OR UPDATE OF cron, every, once_at, solar, match_both_days, timezone, start_at, end_at, anchor_at, enabled ON pgqueue.schedules FOR EACH ROW WHEN (((new.wake_at IS NOT NULL) AND (new.next_run_at IS NULL))) EXECUTE FUNCTION pgqueue.wake_schedulers();
comment on table schedules is 'What is to be enqueued when: cron, intervals, instants. Edits take effect at once.';

create table workers (
    id bigint generated always as identity not null,
    name text not null,
    hostname text not null,
    pid integer not null,
    instance text not null,
    app text not null,
    version text not null,
    queues text[] not null,
    tasks text[] not null,
    at_most_once text[] not null,
    pools jsonb not null,
    started_at timestamp with time zone default clock_timestamp() not null,
    heartbeat_at timestamp with time zone default clock_timestamp() not null,
    lease_expires_at timestamp with time zone not null,
    stopped_at timestamp with time zone,
    lost_at timestamp with time zone,
    rescued_at timestamp with time zone,
    running integer default 0 not null,
    finished bigint default 0 not null,
    schedules text,
    constraint workers_pkey PRIMARY KEY (id)
) with (fillfactor=50, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=200);
comment on table workers is 'Worker processes, their leases, what they serve.';

create table workflow_additions (
    workflow_id uuid not null,
    place integer not null,
    job_ids uuid[] not null,
    constraint workflow_additions_pkey PRIMARY KEY (workflow_id, place)
);
comment on table workflow_additions is 'Ids of steps that were added to a workflow later.';

create table workflow_edges (
    workflow_id uuid not null,
    child_id uuid not null,
    position integer not null,
    parent_id uuid not null,
    kind text not null,
    policy text not null,
    constraint workflow_edges_pkey PRIMARY KEY (workflow_id, child_id, "position")
);
CREATE INDEX workflow_edges_parent ON pgqueue.workflow_edges USING btree (parent_id);
comment on table workflow_edges is 'Which step waits for which. Part of the public contract.';

create table workflow_groups (
    id uuid not null,
    workflow_id uuid not null,
    job_ids uuid[] not null,
    constraint workflow_groups_pkey PRIMARY KEY (id)
);
CREATE INDEX workflow_groups_workflow ON pgqueue.workflow_groups USING btree (workflow_id);
comment on table workflow_groups is 'Groups of canvases, with the ids of their members.';

create table workflow_joins (
    job_id uuid not null,
    workflow_id uuid not null,
    state text default 'waiting'::text not null,
    total integer not null,
    remaining integer not null,
    skipped integer default 0 not null,
    cause_id uuid,
    step text,
    inputs text,
    run text,
    delay double precision,
    run_at timestamp with time zone,
    expires_in double precision,
    compensates uuid,
    event json,
    constraint workflow_joins_pkey PRIMARY KEY (job_id)
) with (fillfactor=60, autovacuum_vacuum_scale_factor=0, autovacuum_vacuum_threshold=2000);
CREATE INDEX workflow_joins_waiting ON pgqueue.workflow_joins USING btree (job_id) WHERE (state = 'waiting'::text);
comment on table workflow_joins is 'Steps that wait for others: how many, and how many are left.';

create table workflow_names (
    workflow_id uuid not null,
    name text not null,
    job_id uuid not null,
    constraint workflow_names_pkey PRIMARY KEY (workflow_id, name)
);
comment on table workflow_names is 'Steps of a workflow by their names.';

create table workflow_results (
    job_id uuid not null,
    workflow_id uuid not null,
    step text,
    state text not null,
    result json,
    error json,
    propagated boolean default false not null,
    finished_at timestamp with time zone not null,
    constraint workflow_results_pkey PRIMARY KEY (job_id)
);
comment on table workflow_results is 'Outcomes of steps, as long as their workflow is kept.';

create table workflows (
    id uuid not null,
    name text,
    job_ids uuid[] not null,
    additions integer default 0 not null,
    settle_id uuid,
    deadline_id uuid,
    created_at timestamp with time zone default clock_timestamp() not null,
    keep interval,
    deadline_at timestamp with time zone,
    cancelled_at timestamp with time zone,
    constraint workflows_pkey PRIMARY KEY (id)
);
CREATE INDEX workflows_created_at ON pgqueue.workflows USING btree (created_at);
comment on table workflows is 'Chains, groups, chords and named graphs, with the ids of their steps.';

create view all_jobs as
 SELECT id,
    state,
    task,
    queue,
    priority,
    args,
    kwargs,
    NULL::json AS result,
    NULL::text AS error_type,
    NULL::text AS error,
    NULL::text AS traceback,
    attempt,
    lost,
    enqueued_at,
    run_at,
    started_at,
    NULL::timestamp with time zone AS finished_at,
    expires_at,
    NULL::timestamp with time zone AS delete_after,
    worker_id,
    headers,
    options,
    progress,
    root_id,
    parent_id,
    seq,
    workflow_id,
    step
   FROM pgqueue.live_jobs
UNION ALL
 SELECT id,
    state,
    task,
    queue,
    priority,
    args,
    kwargs,
    result,
    error ->> 'type'::text AS error_type,
    error ->> 'message'::text AS error,
    traceback,
    attempt,
    lost,
    enqueued_at,
    run_at,
    started_at,
    finished_at,
    expires_at,
    delete_after,
    worker_id,
    headers,
    options,
    NULL::json AS progress,
    root_id,
    parent_id,
    seq,
    workflow_id,
    step
   FROM pgqueue.finished_jobs;
comment on view all_jobs is 'Every job, live and finished. Part of the public contract.';

create view all_workflows as
 SELECT w.id,
    w.name,
        CASE
            WHEN s.live > 0 THEN 'running'::text
            WHEN w.cancelled_at IS NOT NULL THEN 'cancelled'::text
            WHEN s.failed > 0 THEN 'failed'::text
            WHEN s.cancelled > 0 THEN 'cancelled'::text
            ELSE 'succeeded'::text
        END AS state,
    s.steps,
    s.live,
    s.succeeded,
    s.failed,
    s.cancelled,
    s.skipped,
    w.created_at,
    w.deadline_at,
    w.cancelled_at,
        CASE
            WHEN s.live = 0 THEN s.finished_at
            ELSE NULL::timestamp with time zone
        END AS finished_at
   FROM pgqueue.workflows w
     CROSS JOIN LATERAL ( SELECT count(*) AS steps,
            count(*) FILTER (WHERE r.job_id IS NULL AND l.id IS NOT NULL) AS live,
            count(*) FILTER (WHERE r.state = 'succeeded'::text) AS succeeded,
            count(*) FILTER (WHERE r.state = 'failed'::text AND NOT pgqueue.is_tolerated(r.job_id)) AS failed,
            count(*) FILTER (WHERE (r.state = ANY (ARRAY['cancelled'::text, 'expired'::text])) AND NOT pgqueue.is_tolerated(r.job_id) OR r.job_id IS NULL AND l.id IS NULL) AS cancelled,
            count(*) FILTER (WHERE r.state = 'skipped'::text) AS skipped,
            max(r.finished_at) AS finished_at
           FROM unnest(pgqueue.step_ids(w.*)) i(id)
             LEFT JOIN pgqueue.live_jobs l ON l.id = i.id
             LEFT JOIN pgqueue.workflow_results r ON r.job_id = i.id) s;
comment on view all_workflows is 'Every workflow with its state and its progress. Part of the public contract.';

create view workflow_steps as
 SELECT w.id AS workflow_id,
    w.name AS workflow,
    i.place,
    i.id AS job_id,
    COALESCE(l.step, r.step, j.step) AS step,
    COALESCE(r.state, l.state, 'deleted'::text) AS state,
    COALESCE(l.task, f.task) AS task,
    r.result,
    r.error,
    r.finished_at,
    j.total AS waits_for,
    j.remaining,
    j.run,
    j.compensates,
    r.propagated
   FROM pgqueue.workflows w
     CROSS JOIN LATERAL unnest(pgqueue.step_ids(w.*)) WITH ORDINALITY i(id, place)
     LEFT JOIN pgqueue.live_jobs l ON l.id = i.id
     LEFT JOIN pgqueue.workflow_results r ON r.job_id = i.id
     LEFT JOIN pgqueue.workflow_joins j ON j.job_id = i.id
     LEFT JOIN LATERAL ( SELECT k.task
           FROM pgqueue.finished_jobs k
          WHERE k.id = i.id AND l.id IS NULL
         LIMIT 1) f ON true;
comment on view workflow_steps is 'Every step of every workflow. Part of the public contract.';

CREATE OR REPLACE FUNCTION pgqueue.add_compensations(p_workflow_id uuid, p_settle_id uuid, p_ids uuid[], p_compensates uuid[], p_waits integer[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.add_settle(p_workflow_id uuid, p_queue text)
 RETURNS uuid
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.advance_from(p_parents uuid[], p_only uuid[], p_kept timestamp with time zone, p_succeeded boolean DEFAULT false)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.advance_workflows(p_ids uuid[], p_kept timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.begin_membership(p_member_id uuid, p_last_id uuid)
 RETURNS uuid
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.begin_replacement(p_id uuid, p_token bigint, p_last_id uuid, p_workflow_id uuid, p_keep interval)
 RETURNS uuid
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.cancel_jobs(p_ids uuid[], p_terminate boolean, p_keep interval)
 RETURNS TABLE(id uuid, outcome text)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_keep timestamptz := coalesce(v_now + p_keep, 'infinity');
    v_ids uuid[];
    v_outcomes text[];
    v_steps uuid[];
begin
    if exists (select from pgqueue.live_jobs j where j.id = any (p_ids) and j.workflow_id is not null) then
        perform pgqueue.lock_steps(p_ids);
    end if;
    with locked as materialized (
        select k.* from (select distinct u from unnest(p_ids) u order by 1) d (id)
        cross join lateral (select j.* from pgqueue.live_jobs j where j.id = d.id offset 0 for update of j) k
    ), gone as (
        delete from pgqueue.live_jobs where id = any (array (select id from locked where state <> 'running'))
    ), kept as (
        insert into pgqueue.finished_jobs (
            id, seq, enqueued_at, run_at, expires_at, started_at, finished_at, delete_after, worker_id, attempt,
            priority, lost, state, queue, task, args, kwargs, headers, options, root_id, parent_id, workflow_id, step)
        select id, seq, enqueued_at, run_at, expires_at, started_at, v_now, v_keep, worker_id, attempt,
               priority, lost, 'cancelled', queue, task, args, kwargs, headers, options, root_id, parent_id,
               workflow_id, step
        from locked where state <> 'running'
    ), asked as (
        update pgqueue.live_jobs j set cancel_asked = true
        where p_terminate and j.id = any (array (select id from locked where state = 'running'))
        returning j.worker_id
    ), told as (
        select count(pg_notify('pgqueue', 'c' || a.worker_id)) as n from (select distinct worker_id from asked) a
    )
    select array_agg(l.id),
           array_agg(case when l.state <> 'running' then 'cancelled' when p_terminate then 'asked' else 'running' end),
           array_agg(l.id) filter (where l.state <> 'running' and l.workflow_id is not null)
    into v_ids, v_outcomes, v_steps
    from locked l
    where (select n from told) >= 0
      and (not l.waited_for or l.state = 'running' or pg_notify('pgqueue/results', l.id::text) is not null);
    if v_steps is not null then
        update pgqueue.workflow_joins j set state = 'ended' where j.job_id = any (v_steps);
        perform pgqueue.advance_workflows(v_steps, v_keep);
    end if;
    return query select * from unnest(v_ids, v_outcomes);
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.cancel_workflow(workflow_id uuid)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.check_cron(p_cron text, p_both boolean DEFAULT false)
 RETURNS void
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_fields text[];
    v_names text[] := array['minute', 'hour', 'day of month', 'month', 'day of week', 'second'];
    v_lows integer[] := array[0, 0, 1, 1, 0, 0];
    v_highs integer[] := array[59, 23, 31, 12, 7, 59];
    v_words text[] := array['jan', 'feb', 'mar', 'apr', 'may', 'jun', 'jul', 'aug', 'sep', 'oct', 'nov', 'dec'];
    v_days text[] := array['sun', 'mon', 'tue', 'wed', 'thu', 'fri', 'sat'];
    v_longest integer[] := array[31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31];
    v_field text;
    v_part text;
    v_found text[];
    v_low bigint;
    v_high bigint;
    v_step integer;
    v_days_of_month integer[] := '{}';
    v_last boolean := false;        -- the last day of the month is asked for
    v_months integer[] := '{}';
    v_any_weekday boolean := false; -- a day of the week is asked for, whichever of the month
    v_places text[] := '{}';        -- such as 5#2, l5
begin
    if length(p_cron) > 1000 then
        raise exception 'cron: at most 1000 characters are possible, got %', length(p_cron)
            using errcode = 'invalid_parameter_value';
    end if;
    if lower(p_cron) in ('@yearly', '@annually', '@monthly', '@weekly', '@daily', '@midnight', '@hourly') then
        return;
    end if;
    if p_cron !~ '^[ \tA-Za-z0-9*?,/#-]*$' then
        raise exception 'cron: five or six fields, or @hourly, @daily, @weekly, @monthly, @yearly are needed, got %',
            quote_literal(regexp_replace(left(p_cron, 60), '[[:cntrl:]]', ' ', 'g'))
            using errcode = 'invalid_parameter_value';
    end if;
    v_fields := regexp_split_to_array(btrim(lower(p_cron), E' \t'), '[ \t]+');
    if cardinality(v_fields) not in (5, 6) or p_cron ~ '^[ \t]*$' then
        raise exception 'cron: five fields (minute hour day month weekday) are needed, or six with seconds last, got %',
            case when p_cron ~ '^[ \t]*$' then 0 else cardinality(v_fields) end
            using errcode = 'invalid_parameter_value';
    end if;
    for i in 1..cardinality(v_fields) loop
        v_field := v_fields[i];
        if v_field = '?' and i in (3, 5) then
            v_field := '*';
        end if;
        foreach v_part in array array (select distinct p from regexp_split_to_table(v_field, ',') p) loop
            if (i = 4 or i = 5) and v_part ~ '[a-z]' then
                for j in 1..cardinality(case i when 4 then v_words else v_days end) loop
                    v_part := regexp_replace(v_part, '\m' || case i when 4 then v_words[j] else v_days[j] end || '\M',
                                             (case i when 4 then j else j - 1 end)::text, 'g');
                end loop;
            end if;
            if (i = 3 and v_part = 'l') or (i = 5 and v_part ~ '^([0-7]#[1-5]|l[0-7])$') then
                v_last := v_last or i = 3;
                v_places := v_places || case when i = 5 then v_part end;
                continue;
            end if;
            v_found := regexp_match(v_part, '^(?:(\*)|(\d{1,4})(?:-(\d{1,4}))?)(?:/(\d{1,4}))?$');
            if v_found is null then
                raise exception 'cron: %: % is no value, range or step', v_names[i], quote_literal(left(v_part, 60))
                    using errcode = 'invalid_parameter_value';
            end if;
            v_low := case when v_found[1] is null then v_found[2]::bigint else v_lows[i] end;
            v_high := coalesce(
                v_found[3]::bigint, case when v_found[1] is null and v_found[4] is null then v_low else v_highs[i] end);
            if v_low < v_lows[i] or v_high > v_highs[i] then
                raise exception 'cron: %: % to % are possible, got %',
                    v_names[i], v_lows[i], v_highs[i], quote_literal(v_part) using errcode = 'invalid_parameter_value';
            elsif v_low > v_high then
                raise exception 'cron: %: the range % ends before it begins', v_names[i], quote_literal(v_part)
                    using errcode = 'invalid_parameter_value';
            elsif v_found[4]::bigint not between 1 and v_highs[i] then
                raise exception 'cron: %: a step of 1 to % is possible, got %',
                    v_names[i], v_highs[i], quote_literal(v_part) using errcode = 'invalid_parameter_value';
            end if;
            v_step := coalesce(v_found[4]::integer, 1);
            if i = 3 then
                v_days_of_month := v_days_of_month || array (select generate_series(v_low, v_high, v_step)::integer);
            elsif i = 4 then
                v_months := v_months || array (select generate_series(v_low, v_high, v_step)::integer);
            end if;
            v_any_weekday := v_any_weekday or i = 5;
        end loop;
    end loop;
    -- Each date falls on each day of the week, in one year or another.
    if (p_both or v_fields[3] ~ '^[*?]' or v_fields[5] ~ '^[*?]') and not exists (
        select from unnest(v_months) m (number),
                    unnest(case m.number when 2 then '{28,29}' else array[v_longest[m.number]] end) n (length),
                    unnest(v_days_of_month || case when v_last then n.length end) d (day)
        where d.day <= n.length
          and (v_any_weekday
               or exists (select from unnest(v_places) w (place)
                          where case when w.place like 'l%' then d.day > n.length - 7
                                     else (d.day - 1) / 7 + 1 = right(w.place, 1)::integer end))) then
        if v_any_weekday then
            raise exception 'cron: day of month: no such month has a day %, so it never fires',
                (select min(d) from unnest(v_days_of_month) d) using errcode = 'invalid_parameter_value';
        end if;
        raise exception 'cron: % never fires', quote_literal(p_cron) using errcode = 'invalid_parameter_value';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.check_schedule()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_problem text;
    v_now timestamptz := clock_timestamp();
begin
    if new.name is null or length(new.name) not between 1 and 255 or new.name ~ '[[:cntrl:]]' then
        v_problem := 'name: 1 to 255 printable characters are needed';
    elsif new.task is null or length(new.task) not between 1 and 255 or new.task !~ '^[^[:cntrl:][:space:]]+$' then
        v_problem := 'task: a name of 1 to 255 characters without spaces is needed';
    elsif coalesce(json_typeof(new.args), 'null') <> 'array' then
        v_problem := 'args: a JSON array is needed';
    elsif coalesce(json_typeof(new.kwargs), 'null') <> 'object' then
        v_problem := 'kwargs: a JSON object is needed';
    elsif octet_length(new.args::text) + octet_length(new.kwargs::text) > 1048576 then
        v_problem := 'args: arguments are larger than 1048576 bytes; store them and pass their key';
    elsif pgqueue.is_readable(new.args) is not true then
        v_problem := 'args: at most 100 levels can be nested, without \u0000; store them and pass their key';
    elsif pgqueue.is_readable(new.kwargs) is not true then
        v_problem := 'kwargs: at most 100 levels can be nested, without \u0000; store them and pass their key';
    elsif num_nonnulls(new.cron, new.every, new.once_at, new.solar) <> 1 then
        v_problem := 'cron: give exactly one of cron, every, once_at and solar';
    elsif new.every is not null and (extract(year from new.every) <> 0 or extract(month from new.every) <> 0
                                     or new.every not between interval '0.1 seconds' and interval '3660 days') then
        v_problem := 'every: 0.1 seconds to 3660 days are possible, months are not; use cron';
    elsif new.once_at not between '1970-01-01 UTC' and '9000-01-01 UTC' then
        v_problem := 'once_at: an instant between the years 1970 and 9000 is needed';
    elsif new.solar is not null and new.solar !~
            '^(dawn_astronomical|dawn_nautical|dawn_civil|sunrise|solar_noon|sunset|'
            'dusk_civil|dusk_nautical|dusk_astronomical) -?\d{1,2}(\.\d+)? -?\d{1,3}(\.\d+)?$' then
        v_problem := 'solar: an event, latitude and longitude are needed, such as sunset 52.52 13.41';
    elsif abs(split_part(new.solar, ' ', 2)::numeric) > 90 or abs(split_part(new.solar, ' ', 3)::numeric) > 180 then
        v_problem := 'solar: a latitude of -90 to 90 and a longitude of -180 to 180 degrees are needed, got '
                     || new.solar;
    elsif new.timezone is null or new.timezone !~ '^[A-Za-z][A-Za-z0-9_+/-]{0,62}$'
          or (new.timezone ~ '^[A-Za-z]{3,4}[+-]?\d'
              and new.timezone not in ('EST5EDT', 'CST6CDT', 'MST7MDT', 'PST8PDT')) then
        v_problem := 'timezone: a name such as Europe/Berlin is needed';
    elsif new.start_at not between '1970-01-01 UTC' and '9000-01-01 UTC' then
        v_problem := 'start_at: an instant between the years 1970 and 9000 is needed';
    elsif new.end_at not between '1970-01-01 UTC' and '9000-01-01 UTC' then
        v_problem := 'end_at: an instant between the years 1970 and 9000 is needed';
    elsif new.anchor_at not between '1970-01-01 UTC' and '9000-01-01 UTC' then
        v_problem := 'anchor_at: an instant between the years 1970 and 9000 is needed';
    elsif new.end_at < new.start_at then
        v_problem := 'end_at: it is before start_at';
    elsif new.jitter is null or new.jitter not between interval '0' and interval '1 day' then
        v_problem := 'jitter: 0 to 1 day is possible';
    elsif new.catch_up is null or new.catch_up not in ('skip', 'one', 'all') then
        v_problem := 'catch_up: skip, one or all is needed';
    elsif new.catch_up_limit is null or new.catch_up_limit not between 1 and 10000 then
        v_problem := 'catch_up_limit: 1 to 10000 is possible';
    elsif new.starting_deadline not between interval '1 second' and interval '3660 days' then
        v_problem := 'starting_deadline: 1 second to 3660 days is possible';
    elsif new.overlap is null or new.overlap not in ('allow', 'skip', 'queue') then
        v_problem := 'overlap: allow, skip or queue is needed';
    end if;
    if v_problem is not null then
        raise exception '%', v_problem using errcode = 'invalid_parameter_value';
    end if;
    begin
        perform v_now at time zone new.timezone;
        if new.timezone !~ '/' and new.timezone not in ('UTC', 'GMT', 'CET', 'MET', 'EET', 'WET', 'EST', 'MST', 'HST')
           and exists (select from pg_timezone_abbrevs a where a.abbrev = upper(new.timezone)) then
            raise invalid_parameter_value;
        end if;
    exception when invalid_parameter_value then
        raise exception 'timezone: % is no name of a time zone such as Europe/Berlin', quote_literal(new.timezone)
            using errcode = 'invalid_parameter_value';
    end;
    if new.cron is not null then
        perform pgqueue.check_cron(new.cron, new.match_both_days);
    end if;
    perform pgqueue.check_schedule_options(new.options);
    -- upsert_schedule asks for itself.
    if (tg_op = 'INSERT' or new.task is distinct from old.task)
       and current_setting('pgqueue.check_task', true) is distinct from 'off' then
        perform pgqueue.refuse_unknown(new.task);
    end if;

    new.updated_at := v_now;
    if new.enabled then
        new.pause_reason := null;
    end if;
    if tg_op = 'INSERT'
       or (new.cron, new.every, new.once_at, new.solar, new.match_both_days, new.timezone,
           new.start_at, new.end_at, new.anchor_at, new.enabled)
          is distinct from
          (old.cron, old.every, old.once_at, old.solar, old.match_both_days, old.timezone,
           old.start_at, old.end_at, old.anchor_at, old.enabled)
       or old.problem is not null then
        new.plan_from := v_now;
        new.next_run_at := null;
        new.queued_at := null;
        new.problem := null;
        new.wake_at := case when new.enabled then v_now end;
    end if;
    return new;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.check_schedule_options(p_options jsonb)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_name text;
    v_value jsonb;
    v_kind text;
    v_wanted text;
begin
    if coalesce(jsonb_typeof(p_options), 'null') <> 'object' then
        raise exception 'options: a JSON object is needed, got %', coalesce(jsonb_typeof(p_options), 'NULL')
            using errcode = 'invalid_parameter_value';
    elsif octet_length(p_options::text) > 1048576 then
        raise exception 'options: at most 1048576 bytes are possible, got %', octet_length(p_options::text)
            using errcode = 'invalid_parameter_value';
    elsif p_options @? 'strict $.**{102 to last} ? (@.type() == "array" || @.type() == "object")' then
        raise exception 'options: at most 100 levels can be nested' using errcode = 'invalid_parameter_value';
    end if;
    for v_name, v_value in select * from jsonb_each(p_options) loop
        v_kind := jsonb_typeof(v_value);
        v_wanted := null;
        if v_name = 'queue' then
            if v_kind <> 'string' or v_value #>> '{}' !~ '^[A-Za-z0-9_.:-]{1,128}$' then
                v_wanted := '1 to 128 of A-Z a-z 0-9 _ . : - are needed';
            end if;
        elsif v_name = 'priority' then
            if v_value::text !~ '^[0-9]$' then
                v_wanted := '0 to 9 (9 runs first) is needed';
            end if;
        elsif v_name = 'headers' then
            if v_kind <> 'object' or v_value ?| array['task_id', 'schedule', 'scheduled_for'] then
                v_wanted := 'a JSON object without task_id, schedule and scheduled_for is needed';
            elsif octet_length(v_value::text) > 65536 then
                v_wanted := 'at most 65536 bytes are possible';
            end if;
        elsif v_name = 'stamps' then
            if v_kind <> 'object' then
                v_wanted := 'a JSON object is needed';
            end if;
        elsif v_name = 'over' then
            if v_value not in ('"map"', '"starmap"') then
                v_wanted := '"map" or "starmap" is needed';
            end if;
        elsif v_name = 'linked' then
            if pgqueue.is_linked(v_value) is not true then
                v_wanted := 'what link and link_error make in upsert() of Python is needed';
            end if;
        elsif v_name = 'ignore_result' then
            if v_kind <> 'boolean' then
                v_wanted := 'true or false is needed';
            end if;
        elsif v_name = 'max_retries' then
            if v_value::text !~ '^[0-9]{1,4}$' or v_value::text::integer > 1000 then
                v_wanted := '0 to 1000 is needed';
            end if;
        elsif v_name = 'expires' and v_kind = 'string' then
            begin
                if (v_value #>> '{}')::timestamptz not between '1970-01-01 UTC' and '9000-01-01 UTC' then
                    v_wanted := 'an instant between the years 1970 and 9000 is needed';
                end if;
            exception when others then
                v_wanted := 'seconds or an instant are needed';
            end;
        elsif v_name in ('countdown', 'expires', 'time_limit', 'soft_time_limit') then
            if v_name <> 'countdown' and v_kind = 'null' then
                continue;
            elsif v_kind <> 'number' or v_value::text::numeric not between
                  (case when v_name like '%limit' then 0.001 else 0 end) and 315576000 then
                v_wanted := case when v_name like '%limit' then 'seconds from 0.001' else 'seconds from 0' end
                            || ' to 10 years are needed';
            end if;
        else
            raise exception 'options: % is none of queue, priority, countdown, expires, headers, time_limit, '
                'soft_time_limit, max_retries, ignore_result',
                quote_literal(left(v_name, 60)) using errcode = 'invalid_parameter_value',
                hint = 'Each tick makes a job of its own, whose eta is the tick; '
                    'link and link_error are given to upsert() of Python.';
        end if;
        if v_wanted is not null then
            raise exception 'options: %: %, got %', v_name, v_wanted, left(v_value::text, 60)
                using errcode = 'invalid_parameter_value';
        end if;
    end loop;
    if (p_options ->> 'soft_time_limit')::numeric > (p_options ->> 'time_limit')::numeric then
        raise exception 'options: soft_time_limit: % s is longer than time_limit (% s)',
            p_options ->> 'soft_time_limit', p_options ->> 'time_limit' using errcode = 'invalid_parameter_value';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.claim_jobs(p_worker_id bigint, p_token bigint, p_queues text[], p_priorities smallint[], p_after bigint[], p_before bigint[], p_limit integer, p_excluded text[], p_due_window double precision)
 RETURNS TABLE(look_xid bigint, snapshot text, last_seq bigint, due_in double precision, id uuid, seq bigint, task text, queue text, priority smallint, attempt integer, lost smallint, args json, kwargs json, headers json, options json, run_at timestamp with time zone, expires_at timestamp with time zone, expired boolean, root_id uuid, parent_id uuid, careful boolean)
 LANGUAGE plpgsql
 ROWS 500
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_sort TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_due timestamptz;
    -- Under a held snapshot the entries of all jobs that were ever due stay: look no further back than needed.
    v_due_after timestamptz := coalesce(v_now - make_interval(secs => p_due_window), '-infinity');
    v_staged integer;
    v_last bigint;
begin
    perform set_config('synchronous_commit', 'off', true);
    -- Before this transaction has an id of its own: whoever drew a place up to here has a lower one.
    select s.last_value - (not s.is_called)::integer into v_last from pgqueue.job_seq s;
    -- Held until commit: the rescuer, which locks this row first, then sees every claim of this worker.
    perform 1 from pgqueue.workers w where w.id = p_worker_id and w.lost_at is null and w.stopped_at is null
    for key share;
    if not found then
        raise exception 'worker % is not registered, has stopped or was declared lost', p_worker_id
            using errcode = 'PGQ01';
    end if;

    select s.run_at into v_due from pgqueue.live_jobs s
    where s.state = 'scheduled' and s.run_at > v_due_after order by s.run_at limit 1;
    if v_due <= v_now then
        v_staged := pgqueue.stage_jobs(v_due_after, 1000);
        select s.run_at into v_due from pgqueue.live_jobs s
        where s.state = 'scheduled' and s.run_at > v_due_after order by s.run_at limit 1;
        if v_due <= v_now and v_staged < 1000 then
            v_due := clock_timestamp() + interval '50 milliseconds';  -- somebody holds its row: no use to look at once
        end if;
    end if;

    return query select pg_current_xact_id()::text::bigint, pg_current_snapshot()::text, v_last,
                        extract(epoch from v_due - clock_timestamp())::double precision,
                        null::uuid, null::bigint, null::text, null::text, null::smallint, null::integer, null::smallint,
                        null::json, null::json, null::json, null::json, null::timestamptz, null::timestamptz,
                        null::boolean, null::uuid, null::uuid, null::boolean;
    if p_limit <= 0 then
        return;
    end if;
    -- An init-plan array: no statistics can make the planner run the inner select once per row.
    return query
    update pgqueue.live_jobs j
    set state = 'running', attempt = j.attempt + 1, worker_id = p_worker_id, claim_token = p_token, started_at = v_now,
        begun = nullif(j.begun, true)
    where j.id = any (array (
        select c.id
        from unnest(p_queues, p_priorities, p_after, p_before) l (queue, priority, after, before)
        cross join lateral (
            select a.id from pgqueue.live_jobs a
            where a.state = 'available' and a.queue = l.queue and a.priority = l.priority
              and a.seq > l.after and a.seq < l.before
              and (p_excluded is null or a.task <> all (p_excluded))
            order by a.seq limit p_limit for update skip locked
        ) c
        limit p_limit))
    returning null::bigint, null::text, null::bigint, null::double precision,
              j.id, j.seq, j.task, j.queue, j.priority, j.attempt, j.lost,
              case when j.inputs is null then j.args else pgqueue.step_args(j.id, j.inputs, j.args) end,
              case when j.inputs is distinct from 'names' then j.kwargs else pgqueue.step_kwargs(j.id, j.kwargs) end,
              j.headers, j.options,
              j.run_at, j.expires_at, case when j.expires_at <= v_now then true end, j.root_id, j.parent_id,
              not j.begun;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.declare_schedules(p_owner text, p_fingerprint text, p_worker_id bigint, p_tasks text[], p_entries json)
 RETURNS TABLE(schedule text, outcome text)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_newest pgqueue.schedule_declarations;
    v_entry record;
    v_found pgqueue.schedules;
    v_id bigint;
begin
    perform pg_advisory_xact_lock(hashtext('pgqueue/declarations'), hashtext(p_owner));
    update pgqueue.workers w set schedules = p_owner || '/' || p_fingerprint where w.id = p_worker_id;
    -- Schedules that waited for somebody who has their task.
    update pgqueue.schedules s set problem = null, wake_at = v_now, plan_from = v_now
    where s.problem = 'unknown task' and s.enabled and s.task = any (p_tasks);
    if found then
        perform pg_notify('pgqueue/schedules', '');
    end if;

    select d.* into v_newest from pgqueue.schedule_declarations d
    where d.owner = p_owner order by d.declared_at desc limit 1;
    if v_newest.fingerprint <> p_fingerprint
       and (json_array_length(p_entries) = 0
            or exists (select from pgqueue.schedule_declarations d
                       where d.owner = p_owner and d.fingerprint = p_fingerprint))
       and exists (select from pgqueue.workers w
                   where w.schedules = p_owner || '/' || v_newest.fingerprint
                     and coalesce(w.stopped_at + interval '1 minute', w.heartbeat_at + interval '10 minutes')
                         > v_now) then
        return query select null::text, 'older';
        return;
    end if;
    if v_newest.fingerprint is distinct from p_fingerprint then
        insert into pgqueue.schedule_declarations as d (owner, fingerprint, declared_at)
        values (p_owner, p_fingerprint, v_now)
        on conflict on constraint schedule_declarations_pkey do update set declared_at = excluded.declared_at;
    end if;

    for v_entry in select e.name, e.declaration, e.task, e.args, e.kwargs, e.options, e.cron, e.every, e.once_at,
                          e.solar, e.match_both_days, e.timezone, e.start_at, e.end_at, e.anchor_at, e.jitter,
                          e.catch_up, e.catch_up_limit, e.starting_deadline, e.overlap
                   from json_to_recordset(p_entries) e (
                       name text, declaration text, task text, args json, kwargs json, options jsonb, cron text,
                       every double precision, once_at timestamptz, solar text, match_both_days boolean, timezone text,
                       start_at timestamptz, end_at timestamptz, anchor_at timestamptz, jitter double precision,
                       catch_up text, catch_up_limit integer, starting_deadline double precision, overlap text)
    loop
        select s.* into v_found from pgqueue.schedules s where s.name = v_entry.name for update;
        if v_found.id is not null and v_found.owner is distinct from p_owner then
            return query select v_entry.name, 'taken by ' || coalesce(v_found.owner, 'nobody''s code');
            continue;
        end if;
        if v_entry.once_at < v_now - interval '1 minute'
           and v_found.declaration is distinct from v_entry.declaration then
            return query select v_entry.name, 'over'::text;
            continue;
        end if;
        if v_found.id is null or v_found.declaration is distinct from v_entry.declaration then
            begin
                v_id := pgqueue.upsert_schedule(
                    v_entry.name, v_entry.task, v_entry.cron, make_interval(secs => v_entry.every), v_entry.once_at,
                    v_entry.args, v_entry.kwargs, v_entry.options, v_entry.timezone, v_entry.start_at, v_entry.end_at,
                    make_interval(secs => v_entry.jitter), v_entry.catch_up, v_entry.catch_up_limit,
                    make_interval(secs => v_entry.starting_deadline), v_entry.overlap, check_task => false,
                    solar => v_entry.solar, match_both_days => v_entry.match_both_days, anchor_at => v_entry.anchor_at);
            exception when invalid_parameter_value then
                -- Such as a time zone that the server does not know: the others are declared.
                return query select v_entry.name, 'refused: ' || sqlerrm;
                continue;
            end;
            update pgqueue.schedules s set owner = p_owner, declaration = v_entry.declaration where s.id = v_id;
            return query select v_entry.name, case when v_found.id is null then 'added' else 'changed' end;
        end if;
        if v_found.pause_reason like 'no longer declared%' then
            update pgqueue.schedules s set enabled = true where s.name = v_entry.name;
            return query select v_entry.name, 'resumed'::text;
        end if;
        if not (v_entry.task = any (p_tasks) or pgqueue.task_is_known(v_entry.task)) then
            update pgqueue.schedules s set problem = 'unknown task', wake_at = null, next_run_at = null
            where s.name = v_entry.name;
            return query select v_entry.name, 'parked'::text;
        end if;
    end loop;

    return query
    update pgqueue.schedules s set enabled = false, pause_reason = 'no longer declared by ' || p_owner
    where s.owner = p_owner and s.enabled
      and s.name not in (select e.name from json_to_recordset(p_entries) e (name text))
    returning s.name, 'paused'::text;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.due_schedules(p_limit integer, p_now timestamp with time zone, p_window double precision)
 RETURNS TABLE(id bigint, name text, cron text, every double precision, once_at timestamp with time zone, solar text, match_both_days boolean, timezone text, start_at timestamp with time zone, end_at timestamp with time zone, anchor_at timestamp with time zone, catch_up text, catch_up_limit integer, starting_deadline double precision, overlap text, plan_from timestamp with time zone, next_run_at timestamp with time zone, last_run_at timestamp with time zone, queued_at timestamp with time zone, busy boolean, now timestamp with time zone)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
declare
    v_now timestamptz := coalesce(p_now, clock_timestamp());
begin
    perform set_config('idle_in_transaction_session_timeout', '5000', true);
    -- One that falls silent in the middle of a message is not idle.
    if current_setting('server_version_num')::integer >= 170000 then
        perform set_config('transaction_timeout', '30000', true);
    end if;
    return query
    select s.id, s.name, s.cron, extract(epoch from s.every)::double precision, s.once_at, s.solar, s.match_both_days,
           s.timezone, s.start_at, s.end_at, coalesce(s.anchor_at, s.start_at, s.created_at), s.catch_up,
           s.catch_up_limit, extract(epoch from s.starting_deadline)::double precision, s.overlap, s.plan_from,
           s.next_run_at, s.last_run_at, s.queued_at,
           s.overlap <> 'allow' and exists (select from pgqueue.live_jobs j where j.id = s.last_job_id), v_now
    from pgqueue.schedules s
    where s.wake_at <= v_now and s.wake_at > coalesce(v_now - make_interval(secs => p_window), '-infinity')
    order by s.wake_at limit p_limit for no key update of s skip locked;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.end_all_timers(p_ids uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.end_steps(p_ids uuid[], p_state text, p_results text[], p_error text, p_propagated boolean, p_kept timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.end_timers(p_ids uuid[])
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET jit TO 'off'
 SET lock_timeout TO '50ms'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.enqueue(task text, args jsonb DEFAULT '[]'::jsonb, kwargs jsonb DEFAULT '{}'::jsonb, queue text DEFAULT 'default'::text, priority integer DEFAULT 0, countdown interval DEFAULT NULL::interval, eta timestamp with time zone DEFAULT NULL::timestamp with time zone, expires timestamp with time zone DEFAULT NULL::timestamp with time zone, task_id uuid DEFAULT NULL::uuid, headers jsonb DEFAULT NULL::jsonb)
 RETURNS uuid
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_id uuid := coalesce(task_id, pgqueue.new_job_id());
begin
    if task is null or length(task) not between 1 and 255 or task !~ '^[^[:cntrl:][:space:]]+$' then
        raise exception 'task: a name of 1 to 255 characters without spaces is needed, got %',
            coalesce(quote_literal(regexp_replace(left(task, 60), '[[:cntrl:]]', ' ', 'g')), 'NULL')
            using errcode = 'invalid_parameter_value';
    elsif queue is null or queue !~ '^[A-Za-z0-9_.:-]{1,128}$' then
        raise exception 'queue: 1 to 128 of A-Z a-z 0-9 _ . : - are needed, got %',
            coalesce(quote_literal(regexp_replace(left(queue, 60), '[[:cntrl:]]', ' ', 'g')), 'NULL')
            using errcode = 'invalid_parameter_value';
    elsif priority is null or priority not between 0 and 9 then
        raise exception 'priority: 0 to 9 (9 runs first) is needed, got %', coalesce(priority::text, 'NULL')
            using errcode = 'invalid_parameter_value';
    elsif coalesce(jsonb_typeof(args), 'null') <> 'array' then
        raise exception 'args: a JSON array is needed, got %', coalesce(jsonb_typeof(args), 'NULL')
            using errcode = 'invalid_parameter_value';
    elsif coalesce(jsonb_typeof(kwargs), 'null') <> 'object' then
        raise exception 'kwargs: a JSON object is needed, got %', coalesce(jsonb_typeof(kwargs), 'NULL')
            using errcode = 'invalid_parameter_value';
    elsif headers is not null and jsonb_typeof(headers) <> 'object' then
        raise exception 'headers: a JSON object is needed, got %', jsonb_typeof(headers)
            using errcode = 'invalid_parameter_value';
    elsif octet_length(args::text) + octet_length(kwargs::text)
          + coalesce(octet_length(headers::text), 0) > 1048576 then
        raise exception 'args: arguments are larger than 1048576 bytes; store them and pass their key'
            using errcode = 'program_limit_exceeded';
    elsif countdown is not null and eta is not null then
        raise exception 'countdown: give countdown or eta, not both' using errcode = 'invalid_parameter_value';
    elsif countdown < interval '0' or countdown > interval '10 years' or not isfinite(eta) or not isfinite(expires)
          or eta > clock_timestamp() + interval '10 years' then
        raise exception 'countdown, eta, expires: 0 to 10 years from now are needed'
            using errcode = 'invalid_parameter_value';
    end if;
    if not pgqueue.enqueue_job(
        v_id, task, queue, priority, nullif(args, '[]')::json, nullif(kwargs, '{}')::json, headers::json, null,
        extract(epoch from countdown)::double precision, eta, null, expires, null, null, task_id is not null
    ) then
        raise exception 'task_id: a job with id % is still kept', v_id using errcode = 'unique_violation';
    end if;
    return v_id;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.enqueue_job(p_id uuid, p_task text, p_queue text, p_priority integer, p_args json, p_kwargs json, p_headers json, p_options json, p_delay double precision, p_eta timestamp with time zone, p_expires_in double precision, p_expires_at timestamp with time zone, p_root_id uuid, p_parent_id uuid, p_own_id boolean)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_now timestamptz := clock_timestamp();
    v_run_at timestamptz := coalesce(p_eta, v_now + make_interval(secs => p_delay));
    v_expires_at timestamptz := coalesce(p_expires_at, v_now + make_interval(secs => p_expires_in));
    v_state text := case when v_run_at > v_now then 'scheduled' else 'available' end;
begin
    perform pg_current_xact_id();
    if p_own_id then
        insert into pgqueue.live_jobs (id, seq, enqueued_at, run_at, expires_at, priority, state, queue, task,
                                       args, kwargs, headers, options, root_id, parent_id)
        values (p_id, nextval('pgqueue.job_seq'), v_now, v_run_at, v_expires_at, p_priority, v_state, p_queue, p_task,
                p_args, p_kwargs, p_headers, p_options, p_root_id, p_parent_id)
        on conflict (id) do nothing;
        if not found then
            return false;
        end if;
        -- After the insert, in a statement of its own: it then also sees a job that finished meanwhile.
        if pgqueue.is_finished(p_id) then
            delete from pgqueue.live_jobs j where j.id = p_id;
            return false;
        end if;
    else
        insert into pgqueue.live_jobs (id, seq, enqueued_at, run_at, expires_at, priority, state, queue, task,
                                       args, kwargs, headers, options, root_id, parent_id)
        values (p_id, nextval('pgqueue.job_seq'), v_now, v_run_at, v_expires_at, p_priority, v_state, p_queue, p_task,
                p_args, p_kwargs, p_headers, p_options, p_root_id, p_parent_id);
    end if;
    -- A job due before an idle worker's next look wakes it too, so that it learns the due time.
    if v_state = 'available' or v_run_at < v_now + interval '10 seconds' then
        if not pg_try_advisory_xact_lock_shared(hashtext('pgqueue'), hashtext(p_queue) & 63) then
            perform pg_notify('pgqueue', 'w' || (hashtext(p_queue) & 63));
        end if;
    end if;
    return true;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.enqueue_jobs(p_ids uuid[], p_tasks text[], p_queues text[], p_priorities smallint[], p_args text[], p_kwargs text[], p_headers text[], p_options text[], p_delays double precision[], p_etas timestamp with time zone[], p_expires_in double precision[], p_expires_at timestamp with time zone[], p_root_id uuid, p_parent_id uuid)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_now timestamptz := clock_timestamp();
    v_queues text[];
    v_count bigint;
begin
    perform pg_current_xact_id();
    insert into pgqueue.live_jobs (id, seq, enqueued_at, run_at, expires_at, priority, state, queue, task,
                                   args, kwargs, headers, options, root_id, parent_id)
    select u.id, nextval('pgqueue.job_seq'), v_now, u.run_at, u.expires_at, u.priority,
           case when u.run_at > v_now then 'scheduled' else 'available' end, u.queue, u.task,
           u.args::json, u.kwargs::json, u.headers::json, u.options::json, p_root_id, p_parent_id
    from (
        select n.id, n.task, n.queue, n.priority, n.args, n.kwargs, n.headers, n.options,
               coalesce(n.eta, v_now + make_interval(secs => n.delay)) as run_at,
               coalesce(n.expires_at, v_now + make_interval(secs => n.expires_in)) as expires_at
        from unnest(p_ids, p_tasks, p_queues, p_priorities, p_args, p_kwargs, p_headers, p_options, p_delays, p_etas,
                    p_expires_in, p_expires_at)
             n (id, task, queue, priority, args, kwargs, headers, options, delay, eta, expires_in, expires_at)
    ) u;
    get diagnostics v_count = row_count;
    select array_agg(g.q) into v_queues from (select u.q from unnest(p_queues) u (q) group by u.q) g;
    perform pgqueue.wake_queues(v_queues);
    return v_count;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.enqueue_linked(p_job uuid, p_linked jsonb, p_first jsonb)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_ids uuid[] := p_job || array (select pgqueue.new_job_id() from jsonb_array_elements(p_linked -> 'steps'));
    v record;
    e record;
begin
    select array_agg(x.parent + 1 order by x.child, x.position) as parents,
           array_agg(x.child + 1 order by x.child, x.position) as children,
           array_agg(x.position order by x.child, x.position) as positions,
           array_agg(x.kind order by x.child, x.position) as kinds,
           array_agg(x.policy order by x.child, x.position) as policies
    into e
    from (select (y ->> 0)::integer as parent, (y ->> 1)::integer as child, (y ->> 2)::integer as position,
                 y ->> 3 as kind, y ->> 4 as policy
          from jsonb_array_elements(p_linked -> 'edges') y) x;
    select array_agg(t.s ->> 'task' order by t.n) as tasks, array_agg(t.s ->> 'queue' order by t.n) as queues,
           array_agg((t.s ->> 'priority')::smallint order by t.n) as priorities,
           array_agg(t.s ->> 'args' order by t.n) as args,
           array_agg(t.s ->> 'kwargs' order by t.n) as kwargs, array_agg(t.s ->> 'headers' order by t.n) as headers,
           array_agg(t.s ->> 'options' order by t.n) as options,
           array_agg((t.s ->> 'delay')::double precision order by t.n) as delays,
           array_agg((t.s ->> 'eta')::timestamptz order by t.n) as etas,
           array_agg((t.s ->> 'expires_in')::double precision order by t.n) as expires_in,
           array_agg((t.s ->> 'expires_at')::timestamptz order by t.n) as expires_at,
           array_agg(case when t.n > 1 then p_job end order by t.n) as root_ids,
           array_agg((select v_ids[u.parent] from unnest(e.parents, e.children, e.positions) u (parent, child, position)
                      where u.child = t.n order by u.position desc limit 1) order by t.n) as parent_ids,
           array_agg(t.s ->> 'inputs' order by t.n) as inputs, array_agg(t.s ->> 'run' order by t.n) as runs,
           array_agg((select count(*)::integer from unnest(e.children) u (child)
                      where u.child = t.n) order by t.n) as waits
    into v
    from jsonb_array_elements(p_first || (p_linked -> 'steps')) with ordinality t (s, n);
    perform pgqueue.enqueue_workflow(
        p_workflow_id => pgqueue.new_job_id(), p_name => null,
        p_keep => make_interval(secs => (p_linked ->> 'keep')::double precision),
        p_deadline_in => null, p_existing => false, p_ids => v_ids, p_tasks => v.tasks, p_queues => v.queues,
        p_priorities => v.priorities, p_args => v.args, p_kwargs => v.kwargs, p_headers => v.headers,
        p_options => v.options, p_delays => v.delays, p_etas => v.etas, p_expires_in => v.expires_in,
        p_expires_at => v.expires_at, p_root_ids => v.root_ids, p_parent_ids => v.parent_ids, p_own_ids => null,
        p_steps => null, p_inputs => v.inputs, p_runs => v.runs, p_compensates => null, p_waits => v.waits,
        p_children => array (select v_ids[u] from unnest(e.children) with ordinality o (u, n) order by o.n),
        p_parents => array (select v_ids[u] from unnest(e.parents) with ordinality o (u, n) order by o.n),
        p_positions => e.positions, p_kinds => e.kinds, p_policies => e.policies,
        p_group_ids => null, p_group_members => null);
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.enqueue_ticks(p_schedules bigint[], p_ticks timestamp with time zone[], p_jobs uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v record;
begin
    select array_agg(t.job) as ids, array_agg(s.task) as tasks,
           array_agg(coalesce(s.options ->> 'queue', 'default')) as queues,
           array_agg(coalesce((s.options ->> 'priority')::smallint, 0::smallint)) as priorities,
           array_agg(nullif(s.args::text, '[]')) as args, array_agg(nullif(s.kwargs::text, '{}')) as kwargs,
           array_agg((coalesce(s.options -> 'headers', '{}') || jsonb_build_object('schedule', s.name)
                      || case when t.tick is null then '{}'
                         else jsonb_build_object(
                             'scheduled_for', to_char(t.tick at time zone 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"+00:00"'))
                         end)::text) as headers,
           array_agg(nullif((s.options - '{queue,priority,countdown,expires,headers,linked}'::text[])::text,
                            '{}')) as options,
           -- The same tick waits equally long, whoever fires it.
           array_agg(case when s.jitter > interval '0' or s.options ? 'countdown' then
                         coalesce(t.tick, clock_timestamp())
                         + make_interval(secs => coalesce((s.options ->> 'countdown')::double precision, 0))
                         + s.jitter * coalesce(
                             (hashtextextended(s.id || '/' || extract(epoch from t.tick), 0) & 2147483647)
                             / 2147483648.0, 0)
                     end) as etas,
           array_agg(case jsonb_typeof(s.options -> 'expires')
                          when 'number' then (s.options ->> 'expires')::double precision end) as expires_in,
           array_agg(case jsonb_typeof(s.options -> 'expires')
                          when 'string' then (s.options ->> 'expires')::timestamptz end) as expires_at,
           array_agg(s.options -> 'linked') as linked, bool_or(s.options ? 'linked') as any_linked,
           bool_or(not s.options ? 'linked') as any_plain
    into v
    from (select * from unnest(p_schedules, p_ticks, p_jobs) u (schedule, tick, job) order by u.tick, u.schedule) t
    join pgqueue.schedules s on s.id = t.schedule;
    if v.any_linked and v.any_plain then
        perform pgqueue.enqueue_ticks(x.schedules, x.ticks, x.jobs)
        from (select array_agg(u.schedule) as schedules, array_agg(u.tick) as ticks, array_agg(u.job) as jobs
              from unnest(p_schedules, p_ticks, p_jobs) u (schedule, tick, job)
              join pgqueue.schedules s on s.id = u.schedule
              group by s.options ? 'linked') x;
    elsif v.any_linked then
        for i in 1..cardinality(v.ids) loop
            perform pgqueue.enqueue_linked(
                v.ids[i], v.linked[i],
                jsonb_build_object(
                    'task', v.tasks[i], 'queue', v.queues[i], 'priority', v.priorities[i], 'args', v.args[i],
                    'kwargs', v.kwargs[i], 'headers', v.headers[i], 'options', v.options[i], 'eta', v.etas[i],
                    'expires_in', v.expires_in[i], 'expires_at', v.expires_at[i]));
        end loop;
    elsif v.ids is not null then
        perform pgqueue.enqueue_jobs(v.ids, v.tasks, v.queues, v.priorities, v.args, v.kwargs, v.headers, v.options,
                                     null, v.etas, v.expires_in, v.expires_at, null, null);
    end if;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.enqueue_workflow(p_workflow_id uuid, p_name text, p_keep interval, p_deadline_in double precision, p_existing boolean, p_ids uuid[], p_tasks text[], p_queues text[], p_priorities smallint[], p_args text[], p_kwargs text[], p_headers text[], p_options text[], p_delays double precision[], p_etas timestamp with time zone[], p_expires_in double precision[], p_expires_at timestamp with time zone[], p_root_ids uuid[], p_parent_ids uuid[], p_own_ids uuid[], p_steps text[], p_inputs text[], p_runs text[], p_compensates uuid[], p_waits integer[], p_children uuid[], p_parents uuid[], p_positions integer[], p_kinds text[], p_policies text[], p_group_ids uuid[], p_group_members uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.ensure_partitions(p_days integer)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_day date;
    v_table text;
    v_name text;
    v_made integer := 0;
begin
    if not pg_try_advisory_xact_lock(hashtext('pgqueue/partitions'), 0) then
        return 0;
    end if;
    for v_day in
        select d::date
        from generate_series((now() at time zone 'UTC')::date, (now() at time zone 'UTC')::date + p_days, '1 day') d
    loop
        foreach v_table in array array['finished_jobs', 'attempts'] loop
            v_name := v_table || to_char(v_day, '_YYYYMMDD');
            continue when to_regclass(format('pgqueue.%I', v_name)) is not null;
            execute format('create table pgqueue.%I (like pgqueue.%I including defaults including constraints)',
                           v_name, v_table);
            execute format('alter table pgqueue.%I attach partition pgqueue.%I for values from (%L) to (%L)',
                           v_table, v_name, v_day::timestamp at time zone 'UTC',
                           (v_day + 1)::timestamp at time zone 'UTC');
            v_made := v_made + 1;
        end loop;
    end loop;
    return v_made;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.fall_asleep(p_queues text[], OUT keys integer[], OUT others integer[], OUT asleep boolean)
 RETURNS record
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_key integer;
begin
    keys := '{}';
    others := '{}';
    asleep := true;
    perform pg_advisory_unlock_all();
    for v_key in select distinct pgqueue.queue_key(q) from unnest(p_queues) q order by 1 loop
        if pg_try_advisory_lock(hashtext('pgqueue/sentinel'), v_key) then
            keys := keys || v_key;
            asleep := pg_try_advisory_lock(hashtext('pgqueue'), v_key) and asleep;
        else
            others := others || v_key;
        end if;
    end loop;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.finish_jobs(p_ids uuid[], p_tokens bigint[], p_state text, p_results text[], p_errors text[], p_tracebacks text[], p_keep interval, p_micros bigint[] DEFAULT NULL::bigint[])
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
    v_now timestamptz := clock_timestamp();
    v_keep timestamptz := coalesce(v_now + p_keep, 'infinity');
    v_count bigint;
    v_woken bigint;
    v_gone bigint;
    v_done uuid[];
    v_steps uuid[];
begin
    with locked as materialized (
        select k.*, d.result, d.error, d.traceback,
               greatest(k.started_at, v_now - d.micros * interval '1 microsecond') as begun_at
        from (select distinct on (u.id, u.token) *
              from unnest(p_ids, p_tokens, p_results, p_errors, p_tracebacks, p_micros)
              u (id, token, result, error, traceback, micros)
              order by u.id, u.token) d
        cross join lateral (
            select j.* from pgqueue.live_jobs j
            where j.id = d.id and j.claim_token = d.token and j.state || '' = 'running'
            offset 0 for update of j) k
    ), gone as (
        delete from pgqueue.live_jobs where id = any (array (select id from locked)) returning 1
    ), kept as (
        insert into pgqueue.finished_jobs (
            id, seq, enqueued_at, run_at, expires_at, started_at, finished_at, delete_after, worker_id, attempt,
            priority, lost, state, queue, task, args, kwargs, headers, options, result, error, traceback, root_id,
            parent_id, workflow_id, step)
        select id, seq, enqueued_at, run_at, expires_at, begun_at, v_now, v_keep, worker_id, attempt,
               priority, lost, p_state, queue, task, args, kwargs, headers, options, result::json, error::json,
               traceback,
               root_id, parent_id, workflow_id, step
        from locked
    ), story as (
        insert into pgqueue.attempts (job_id, attempt, outcome, worker_id, started_at, ended_at, delete_after, error,
            traceback)
        select id, attempt, 'failed', worker_id, begun_at, v_now, v_keep, error::json, traceback
        from locked where p_state = 'failed'
    )
    select count(*), count(pg_notify('pgqueue/results', id::text)) filter (where waited_for),
           (select count(*) from gone),
           case when count(*) < cardinality(p_ids) or (select count(*) from gone) < count(*) then array_agg(id) end,
           array_agg(id) filter (where workflow_id is not null)
    into v_count, v_woken, v_gone, v_done, v_steps
    from locked;
    -- A row that another session updated between the statement's snapshot and its lock (to wait for it, say) can escape
    -- its `gone`.
    if v_gone < v_count then
        delete from pgqueue.live_jobs where id = any (v_done);
    end if;
    if v_steps is not null then
        perform pgqueue.advance_workflows(v_steps, v_keep);
    end if;
    if v_count = cardinality(p_ids) then
        return '{}';
    end if;
    return array (select u from unnest(p_ids) u where u <> all (coalesce(v_done, '{}')));
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.fire_schedules(p_ids bigint[], p_next timestamp with time zone[], p_last timestamp with time zone[], p_queued timestamp with time zone[], p_wake timestamp with time zone[], p_problems text[], p_tick_ids bigint[], p_ticks timestamp with time zone[], p_run boolean[])
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
    v_now timestamptz := clock_timestamp();
    v_schedules bigint[];
    v_ticks timestamptz[];
    v_jobs uuid[];
    v_count integer;
begin
    with noted as (
        insert into pgqueue.schedule_ticks as k (schedule_id, tick, job_id, fired_at)
        select t.id, t.tick, case when t.run then pgqueue.new_job_id() end, v_now
        from (select * from unnest(p_tick_ids, p_ticks, p_run) u (id, tick, run) order by u.id, u.tick) t
        on conflict do nothing
        returning k.schedule_id, k.tick, k.job_id
    )
    select array_agg(n.schedule_id), array_agg(n.tick), array_agg(n.job_id), count(*)
    into v_schedules, v_ticks, v_jobs, v_count
    from noted n where n.job_id is not null;
    if v_count > 0 then
        perform pgqueue.enqueue_ticks(v_schedules, v_ticks, v_jobs);
    end if;
    update pgqueue.schedules s set
        next_run_at = m.next, last_run_at = greatest(s.last_run_at, m.last), queued_at = m.queued, wake_at = m.wake,
        problem = m.problem, last_job_id = coalesce(j.job, s.last_job_id)
    from unnest(p_ids, p_next, p_last, p_queued, p_wake, p_problems) m (id, next, last, queued, wake, problem)
    left join (select distinct on (f.schedule) f.schedule, f.job
               from unnest(v_schedules, v_ticks, v_jobs) f (schedule, tick, job)
               order by f.schedule, f.tick desc) j on j.schedule = m.id
    where s.id = m.id;
    return v_count;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.first_places(p_queues text[], p_priorities smallint[], p_after bigint[], p_excluded text[])
 RETURNS bigint[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_sort TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
begin
    return array (
        select (select a.seq from pgqueue.live_jobs a
                where a.state = 'available' and a.queue = l.queue and a.priority = l.priority and a.seq > l.after
                  and (p_excluded is null or a.task <> all (p_excluded))
                order by a.seq limit 1)
        from unnest(p_queues, p_priorities, p_after) l (queue, priority, after));
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.front_place(p_seq bigint)
 RETURNS bigint
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN (p_seq < 0) THEN p_seq ELSE (p_seq - '4611686018427387904'::bigint) END;

CREATE OR REPLACE FUNCTION pgqueue.has_failed(p_workflow_id uuid, p_settle_id uuid)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
    select exists (
        select from pgqueue.workflow_edges e
        join pgqueue.workflow_results r on r.job_id = e.parent_id and r.state in ('failed', 'cancelled', 'expired')
        where e.workflow_id = p_workflow_id and e.child_id = p_settle_id
          and not pgqueue.is_tolerated(r.job_id))
$function$;

CREATE OR REPLACE FUNCTION pgqueue.is_finished(p_id uuid)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
begin
    return exists (select from pgqueue.finished_jobs f where f.id = p_id)
        or exists (select from pgqueue.workflow_results r where r.job_id = p_id);
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.is_linked(p_linked jsonb)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_count integer;
begin
    v_count := jsonb_array_length(p_linked -> 'steps');
    return v_count between 1 and 1000 and jsonb_array_length(p_linked -> 'edges') between 1 and 10000
       and coalesce(jsonb_typeof(p_linked -> 'keep'), 'null') in ('null', 'number')
       and not exists (
           select from jsonb_to_recordset(p_linked -> 'steps') t (
               task text, queue text, priority smallint, args text, kwargs text, headers text, options text,
               delay double precision, eta timestamptz, expires_in double precision, expires_at timestamptz,
               inputs text, run text)
           where (t.task ~ '^[^[:cntrl:][:space:]]{1,255}$' and t.queue ~ '^[A-Za-z0-9_.:-]{1,128}$'
                  and t.priority between 0 and 9
                  and coalesce(json_typeof(t.args::json), 'array') = 'array'
                  and coalesce(json_typeof(t.kwargs::json), 'object') = 'object'
                  and coalesce(json_typeof(t.headers::json), 'object') = 'object'
                  and coalesce(json_typeof(t.options::json), 'object') = 'object'
                  and coalesce(t.delay, 0) between 0 and 315576000 and coalesce(t.expires_in, 0) between 0 and 315576000
                  and coalesce(t.inputs, 'value') in ('value', 'list', 'error')
                  and coalesce(t.run, 'gather') = 'gather') is not true)
       and not exists (
           select from jsonb_array_elements(p_linked -> 'edges') e
           where ((e ->> 0)::integer between 0 and (e ->> 1)::integer - 1 and (e ->> 1)::integer <= v_count
                  and (e ->> 2)::integer >= 0
                  and e ->> 3 in ('value', 'order', 'error') and e ->> 4 in ('stop', 'value', 'ignore')) is not true)
       and (select count(distinct (e ->> 1, e ->> 2)) = count(*) and count(distinct e ->> 1) = v_count
            from jsonb_array_elements(p_linked -> 'edges') e);
exception when data_exception then
    return false;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.is_outdated(p_workflow pgqueue.workflows)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
    v_ids uuid[] := pgqueue.step_ids(p_workflow);
begin
    return not exists (select from pgqueue.live_jobs j where j.id = any (v_ids))
       and not exists (select from pgqueue.workflow_results r
                       where r.job_id = any (v_ids) and r.finished_at > clock_timestamp() - p_workflow.keep);
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.is_readable(p_value json)
 RETURNS boolean
 LANGUAGE plpgsql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
begin
    return not p_value::jsonb @? 'strict $.**{101 to last} ? (@.type() == "array" || @.type() == "object")';
exception when data_exception or program_limit_exceeded then
    return false;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.is_refusal(p_state text, p_result json)
 RETURNS boolean
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select p_state = 'succeeded' and (
        coalesce(p_result::text, 'null') in ('null', 'false', '0', '0.0', '-0.0', '""', '[]', '{}')
        or coalesce(case p_result ->> '__type__'
            when 'decimal' then p_result ->> '__value__' ~ '^-?0+([.]0+)?(E[-+][0-9]+)?$'
            when 'timedelta' then p_result ->> '__value__' = 'P0DT0S'
            when 'bytes' then p_result ->> '__value__' = ''
            when 'set' then (p_result -> '__value__')::text = '[]'
            when 'frozenset' then (p_result -> '__value__')::text = '[]' end, false))
$function$;

CREATE OR REPLACE FUNCTION pgqueue.is_tolerated(p_id uuid)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
    select coalesce(bool_and(e.policy <> 'stop'), false)
    from pgqueue.workflow_edges e
    left join pgqueue.workflow_joins s on s.job_id = e.child_id
    where e.parent_id = p_id and e.kind <> 'error' and s.compensates is null
      and s.run is distinct from 'settle' and s.run is distinct from 'deadline'
$function$;

CREATE OR REPLACE FUNCTION pgqueue.lease_ends(p_heartbeat_at timestamp with time zone, p_lease_expires_at timestamp with time zone)
 RETURNS timestamp with time zone
 LANGUAGE sql
 STABLE PARALLEL SAFE
RETURN CASE WHEN isfinite(p_lease_expires_at) THEN GREATEST(p_lease_expires_at, (pg_postmaster_start_time() + (p_lease_expires_at - p_heartbeat_at))) ELSE p_lease_expires_at END;

CREATE OR REPLACE FUNCTION pgqueue.lock_below(p_ids uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.lock_steps(p_ids uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.lock_workflow_of(p_job_id uuid)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
    perform 1 from pgqueue.workflows w
    where w.id = (select j.workflow_id from pgqueue.live_jobs j where j.id = p_job_id) for no key update;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.lose_jobs(p_ids uuid[], p_tokens bigint[], p_lost_limit integer, p_at_most_once text[], p_reason text, p_keep interval)
 RETURNS TABLE(id uuid, outcome text)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
#variable_conflict use_column
declare
    v_now timestamptz := clock_timestamp();
    v_keep timestamptz := coalesce(v_now + p_keep, 'infinity');
    v_ids uuid[];
    v_outcomes text[];
    v_steps uuid[];
begin
    with locked as materialized (
        select k.*, (k.lost + 1 >= p_lost_limit or k.task = any (p_at_most_once)) as ends,
               case when k.cancel_asked then 'cancelled' else 'failed' end as final,
               json_build_object('type', 'pgqueue.errors.WorkerLostError', 'message',
                   p_reason || case when k.task = any (p_at_most_once)
                                    then '; the task runs at most once (acks_late=False)'
                                    when k.lost = 0 then '; lost once'
                                    else format('; lost %s times', k.lost + 1) end) as error
        from (select distinct u.id, u.token from unnest(p_ids, p_tokens) u (id, token) order by u.id) d
        cross join lateral (
            select j.* from pgqueue.live_jobs j
            where j.id = d.id and j.claim_token = d.token and j.state || '' = 'running'
            offset 0 for update of j) k
    ), story as (
        insert into pgqueue.attempts (job_id, attempt, outcome, worker_id, started_at, ended_at, delete_after, error)
        select id, attempt, 'lost', worker_id, started_at, v_now, v_keep, error from locked
    ), gone as (
        delete from pgqueue.live_jobs where id = any (array (select id from locked where ends or cancel_asked))
    ), kept as (
        insert into pgqueue.finished_jobs (
            id, seq, enqueued_at, run_at, expires_at, started_at, finished_at, delete_after, worker_id, attempt,
            priority, lost, state, queue, task, args, kwargs, headers, options, error, root_id, parent_id, workflow_id,
            step)
        select id, seq, enqueued_at, run_at, expires_at, started_at, v_now, v_keep, worker_id, attempt,
               priority, lost + 1, final, queue, task, args, kwargs, headers, options, error, root_id, parent_id,
               workflow_id, step
        from locked where ends or cancel_asked
    ), back as (
        update pgqueue.live_jobs j set
            state = 'available', lost = j.lost + 1, worker_id = null, claim_token = null, started_at = null,
            begun = false,
            progress = null, seq = pgqueue.front_place(j.seq)
        where j.id = any (array (select id from locked where not ends and not cancel_asked))
        returning j.queue
    ), told as (
        select pgqueue.wake_queues(array_agg(queue)) from back
    )
    select array_agg(l.id), array_agg(case when ends or cancel_asked then final else 'available' end),
           array_agg(l.id) filter (where (ends or cancel_asked) and l.workflow_id is not null)
    into v_ids, v_outcomes, v_steps
    from locked l
    where (select count(*) from told) > 0
      and (not l.waited_for or not (ends or cancel_asked) or pg_notify('pgqueue/results', l.id::text) is not null);
    if v_steps is not null then
        perform pgqueue.advance_workflows(v_steps, v_keep);
    end if;
    return query select * from unnest(v_ids, v_outcomes);
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.mend_workflows()
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.new_job_id()
 RETURNS uuid
 LANGUAGE sql
 PARALLEL SAFE
RETURN ((OVERLAY(lpad(to_hex(((EXTRACT(epoch FROM clock_timestamp()) * (4096000)::numeric))::bigint), 15, '0'::text) PLACING '7'::text FROM 13 FOR 0) || substr((gen_random_uuid())::text, 20)))::uuid;

CREATE OR REPLACE FUNCTION pgqueue.order_again(p_workflow_id uuid, p_again uuid[], p_undone uuid[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.pause_schedule(name text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
begin
    update pgqueue.schedules s set enabled = false, pause_reason = null where s.name = pause_schedule.name;
    return found;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.prune_workflows(p_limit integer)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.queue_key(p_queue text)
 RETURNS integer
 LANGUAGE sql
 IMMUTABLE PARALLEL SAFE
RETURN (hashtext(p_queue) & 63);

CREATE OR REPLACE FUNCTION pgqueue.record_jobs(p_ids uuid[], p_tokens bigint[], p_begun boolean)
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
    v_ids uuid[];
begin
    select array_agg(k.id) into v_ids
    from (select * from unnest(p_ids, p_tokens) u (id, token) order by u.id) d
    cross join lateral (
        select j.id from pgqueue.live_jobs j
        where j.id = d.id and j.claim_token = d.token and j.state || '' = 'running'
        offset 0 for update of j) k;
    update pgqueue.live_jobs j set begun = p_begun where j.id = any (v_ids);
    return v_ids;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.refuse_unknown(p_task text)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
begin
    if not pgqueue.task_is_known(p_task) then
        raise exception 'task: % is registered neither here nor by any worker of this database',
            coalesce(quote_literal(left(p_task, 255)), 'NULL') using errcode = 'invalid_parameter_value',
            hint = 'Start its worker first, or call upsert_schedule(…, check_task => false).';
    end if;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.release_at_once(p_workflow_id uuid, p_ids uuid[], p_waits integer[], p_runs text[], p_kept timestamp with time zone)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET jit TO 'off'
AS $function$
declare
    v_ids uuid[];
begin
    if p_runs is not null then
        v_ids := array (select n.id from unnest(p_ids, p_waits, p_runs) n (id, waits, run)
                        where n.run is not null and n.waits = 0);
        perform pgqueue.advance_from(
            pgqueue.release_steps(v_ids, coalesce(p_kept, 'infinity')), null, coalesce(p_kept, 'infinity'));
    end if;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.release_jobs(p_ids uuid[], p_tokens bigint[], p_keep interval)
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
    v_done uuid[];
    v_asked uuid[];
    v_queues text[];
begin
    with locked as materialized (
        select k.id
        from (select * from unnest(p_ids, p_tokens) u (id, token) order by u.id) d
        cross join lateral (
            select j.id from pgqueue.live_jobs j
            where j.id = d.id and j.claim_token = d.token and j.state || '' = 'running'
            offset 0 for update of j) k
    ), back as (
        update pgqueue.live_jobs j set
            state = 'available', attempt = j.attempt - 1, worker_id = null, claim_token = null, started_at = null,
            seq = pgqueue.front_place(j.seq)
        where j.id = any (array (select id from locked))
        returning j.id, j.queue, j.cancel_asked
    )
    select array_agg(id), array_agg(distinct queue), array_agg(id) filter (where cancel_asked)
    into v_done, v_queues, v_asked from back;
    perform pgqueue.cancel_jobs(v_asked, false, p_keep) where v_asked is not null;
    perform pgqueue.wake_queues(v_queues);
    return array (select u from unnest(p_ids) u where u <> all (coalesce(v_done, '{}')));
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.release_steps(p_ids uuid[], p_kept timestamp with time zone)
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.remove_schedule(name text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
begin
    delete from pgqueue.schedules s where s.name = remove_schedule.name;
    return found;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.renew_lease(p_worker_id bigint, p_lease interval, p_running integer, p_finished bigint)
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
begin
    update pgqueue.workers w
    set lease_expires_at = clock_timestamp() + p_lease, heartbeat_at = clock_timestamp(),
        running = p_running, finished = p_finished
    where w.id = p_worker_id and w.lost_at is null;
    if not found then
        return null;
    end if;
    -- `state || ''`: under a held snapshot the index of running jobs keeps an entry of each job that ever ran.
    return array (select j.id from pgqueue.live_jobs j
                  where j.state || '' = 'running' and j.worker_id = p_worker_id and j.cancel_asked);
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.rescue_jobs(p_lost_limit integer, p_limit integer, p_keep interval)
 RETURNS TABLE(worker text, id uuid, outcome text)
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
 SET lock_timeout TO '2s'
AS $function$
#variable_conflict use_column
declare
    v_worker pgqueue.workers;
    v_ids uuid[];
    v_tokens bigint[];
    v_idle uuid[];
    v_idle_tokens bigint[];
    v_gone uuid[];
begin
    for v_worker in
        select w.* from pgqueue.workers w
        where w.stopped_at is null and w.rescued_at is null and (w.lost_at is not null
              or pgqueue.lease_ends(w.heartbeat_at, w.lease_expires_at) < clock_timestamp())
        order by w.id for update skip locked
    loop
        if v_worker.lost_at is null then
            update pgqueue.workers w set lost_at = clock_timestamp() where w.id = v_worker.id;
            -- Waits until they have gone, and with them their locks.
            perform pg_terminate_backend(a.pid, 500) from pg_stat_activity a
            where a.application_name = 'pgqueue/' || v_worker.id and a.datname = current_database()
              and a.usename = current_user;
        end if;
        select array_agg(r.id) filter (where r.begun), array_agg(r.claim_token) filter (where r.begun),
               array_agg(r.id) filter (where not r.begun), array_agg(r.claim_token) filter (where not r.begun)
        into v_ids, v_tokens, v_idle, v_idle_tokens from (
            select j.id, j.claim_token, coalesce(j.begun, false) as begun from pgqueue.live_jobs j
            where j.state = 'running' and j.worker_id = v_worker.id
            order by j.id limit p_limit for update of j skip locked) r;
        if v_ids is null and v_idle is null and not exists (
            select from pgqueue.live_jobs j where j.state = 'running' and j.worker_id = v_worker.id
        ) then
            update pgqueue.workers w set rescued_at = clock_timestamp() where w.id = v_worker.id;
        end if;
        if v_ids is not null then
            return query select v_worker.name, l.id, l.outcome
            from pgqueue.lose_jobs(v_ids, v_tokens, p_lost_limit, v_worker.at_most_once,
                                   format('worker %s died', v_worker.name), p_keep) l;
        end if;
        if v_idle is not null then
            perform pgqueue.record_jobs(v_idle, v_idle_tokens, false);
            v_gone := pgqueue.release_jobs(v_idle, v_idle_tokens, p_keep);
            return query select v_worker.name, u,
                                coalesce((select j.state from pgqueue.live_jobs j where j.id = u), 'cancelled')
            from unnest(v_idle) u where u <> all (v_gone);
        end if;
    end loop;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.resolve(workflow_id uuid, event text, value json DEFAULT 'null'::json)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.resume_schedule(name text)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
begin
    update pgqueue.schedules s set enabled = true where s.name = resume_schedule.name;
    return found;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.retry_jobs(p_ids uuid[], p_tokens bigint[], p_delays double precision[], p_errors text[], p_tracebacks text[], p_changes text[], p_keep interval, p_micros bigint[] DEFAULT NULL::bigint[])
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
    v_now timestamptz := clock_timestamp();
    v_done uuid[];
    v_asked uuid[];
    v_queues text[];
begin
    perform pg_current_xact_id();
    with locked as materialized (
        select k.id, k.attempt, k.worker_id,
               greatest(k.started_at, v_now - d.micros * interval '1 microsecond') as begun_at,
               d.delay, d.error, d.traceback, d.changes::json as changes
        from (select distinct on (u.id, u.token) *
              from unnest(p_ids, p_tokens, p_delays, p_errors, p_tracebacks, p_changes, p_micros)
              u (id, token, delay, error, traceback, changes, micros) order by u.id, u.token) d
        cross join lateral (
            select j.id, j.attempt, j.worker_id, j.started_at from pgqueue.live_jobs j
            where j.id = d.id and j.claim_token = d.token and j.state || '' = 'running'
            offset 0 for update of j) k
    ), story as (
        insert into pgqueue.attempts (job_id, attempt, outcome, worker_id, started_at, ended_at, delete_after, error,
            traceback)
        select id, attempt, 'retried', worker_id, begun_at, v_now, coalesce(v_now + p_keep, 'infinity'), error::json,
               traceback
        from locked where changes -> 'snoozed' is null
    ), again as (
        update pgqueue.live_jobs j set
            state = case when l.delay > 0 then 'scheduled' else 'available' end,
            run_at = v_now + make_interval(secs => l.delay),
            seq = nextval('pgqueue.job_seq'),
            attempt = case when l.changes -> 'snoozed' is null then j.attempt else j.attempt - 1 end,
            worker_id = null, claim_token = null, started_at = null, progress = null,
            args = case when l.changes -> 'args' is null then j.args else nullif(l.changes ->> 'args', '[]')::json end,
            inputs = case when l.changes -> 'args' is null and l.changes -> 'kwargs' is null then j.inputs end,
            kwargs = case when l.changes -> 'kwargs' is null then j.kwargs
                          else nullif(l.changes ->> 'kwargs', '{}')::json end,
            queue = coalesce(l.changes ->> 'queue', j.queue),
            priority = coalesce((l.changes ->> 'priority')::smallint, j.priority),
            options = case
                when l.changes -> 'since' is null then coalesce(l.changes -> 'options', j.options)
                when j.attempt - j.lost > 1 then
                    (jsonb_build_object('since', l.begun_at)
                     || coalesce(l.changes -> 'options', j.options, '{}')::jsonb)::json
                else (coalesce(l.changes -> 'options', j.options, '{}')::jsonb
                      || jsonb_build_object('since', l.begun_at))::json end,
            expires_at = coalesce(v_now + make_interval(secs => (l.changes ->> 'expires_in')::double precision),
                                  j.expires_at)
        from locked l where j.id = l.id
        returning j.id, j.queue, j.cancel_asked
    )
    select array_agg(id), array_agg(distinct queue), array_agg(id) filter (where cancel_asked)
    into v_done, v_queues, v_asked from again;
    perform pgqueue.cancel_jobs(v_asked, false, p_keep) where v_asked is not null;
    perform pgqueue.wake_queues(v_queues);
    return array (select u from unnest(p_ids) u where u <> all (coalesce(v_done, '{}')));
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.retry_steps(p_ids uuid[])
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.retry_workflow(workflow_id uuid)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.revive_jobs(p_ids uuid[])
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET jit TO 'off'
AS $function$
declare
    v_done uuid[];
    v_queues text[];
    v_steps uuid[];
begin
    perform pg_current_xact_id();
    v_steps := array (select f.id from pgqueue.finished_jobs f
                      where f.id = any (p_ids) and f.state in ('failed', 'cancelled', 'expired')
                        and f.workflow_id is not null);
    if v_steps <> '{}' then
        v_steps := pgqueue.retry_steps(v_steps);
    end if;
    with gone as (
        delete from pgqueue.finished_jobs f where f.id = any (p_ids) and f.state in ('failed', 'cancelled', 'expired')
          -- Not what another step stopped again.
          and not exists (select from pgqueue.workflow_results r where r.job_id = f.id)
        returning f.*
    ), again as (
        insert into pgqueue.live_jobs (id, seq, enqueued_at, priority, state, queue, task, args, kwargs, headers,
                                       options,
                                       attempt, root_id, parent_id)
        select distinct on (id) id, nextval('pgqueue.job_seq'), clock_timestamp(), priority, 'available', queue, task,
               args, kwargs, headers, options, 0, root_id, parent_id
        from gone
        on conflict (id) do nothing
        returning id, queue
    )
    select array_agg(id), array_agg(distinct queue) into v_done, v_queues from again;
    perform pgqueue.wake_queues(v_queues);
    return coalesce(v_done, '{}') || v_steps;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.run_schedule(name text)
 RETURNS uuid
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_id bigint;
    v_job uuid := pgqueue.new_job_id();
begin
    -- One that still runs keeps its place: ticks that may not overlap wait for it.
    update pgqueue.schedules s set last_job_id = case
            when s.overlap <> 'allow' and exists (select from pgqueue.live_jobs j where j.id = s.last_job_id)
                then s.last_job_id
            else v_job end
    where s.name = run_schedule.name returning s.id into v_id;
    if v_id is null then
        return null;
    end if;
    perform pgqueue.enqueue_ticks(array[v_id], array[null::timestamptz], array[v_job]);
    return v_job;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.settle(p_ids uuid[], p_kept timestamp with time zone)
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.stage_jobs(p_due_after timestamp with time zone, p_limit integer)
 RETURNS integer
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
declare
    v_now timestamptz := clock_timestamp();
    v_queues text[];
    v_timers uuid[];
    v_ended integer := 0;
begin
    perform pg_current_xact_id();
    with due as materialized (
        select d.id, d.timer, nextval('pgqueue.job_seq') as place from (
            select s.id, s.workflow_id is not null
                         and s.task = any ('{pgqueue.sleep,pgqueue.wait_for,pgqueue.deadline}') as timer
            from pgqueue.live_jobs s
            where s.state = 'scheduled' and s.run_at > p_due_after and s.run_at <= v_now
            order by s.run_at limit p_limit for update skip locked) d
    ), staged as (
        update pgqueue.live_jobs j set state = 'available', seq = due.place
        from due where j.id = due.id and not due.timer
        returning j.queue
    )
    select (select array_agg(queue) from staged), (select array_agg(id) from due where timer) into v_queues, v_timers;
    perform pgqueue.wake_queues(v_queues);
    if v_timers is not null then
        v_ended := pgqueue.end_timers(v_timers);
    end if;
    return coalesce(cardinality(v_queues), 0) + v_ended;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.step_args(p_id uuid, p_inputs text, p_args json)
 RETURNS json
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET jit TO 'off'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.step_ids(p_workflow pgqueue.workflows)
 RETURNS uuid[]
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
    select case when p_workflow.additions = 0 then p_workflow.job_ids else p_workflow.job_ids || array (
        select n.id from pgqueue.workflow_additions a cross join lateral unnest(a.job_ids) with ordinality n (id, place)
        where a.workflow_id = p_workflow.id order by a.place, n.place) end
$function$;

CREATE OR REPLACE FUNCTION pgqueue.step_kwargs(p_id uuid, p_kwargs json)
 RETURNS json
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET jit TO 'off'
AS $function$
declare
    v_head text;
begin
    select string_agg(to_json(v.name)::text || ': ' || v.value, ', ' order by v.place) into v_head
    from pgqueue.step_values(p_id) v where v.name is not null;
    return case when v_head is null then p_kwargs
                when p_kwargs is null then ('{' || v_head || '}')::json
                else ('{' || v_head || ', ' || substr(ltrim(p_kwargs::text), 2))::json end;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.step_values(p_id uuid)
 RETURNS TABLE(place integer, name text, value text)
 LANGUAGE plpgsql
 STABLE
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.stop_steps(p_ids uuid[], p_kept timestamp with time zone)
 RETURNS uuid[]
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET enable_bitmapscan TO 'off'
 SET enable_hashjoin TO 'off'
 SET enable_mergejoin TO 'off'
 SET jit TO 'off'
 SET plan_cache_mode TO 'force_generic_plan'
AS $function$
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
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.stop_worker(p_worker_id bigint, p_finished bigint)
 RETURNS boolean
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
 SET enable_seqscan TO 'off'
 SET jit TO 'off'
AS $function$
declare
    v_holds boolean;
begin
    -- As the rescuer: every claim of this worker is then to be seen, and none follows.
    perform 1 from pgqueue.workers w where w.id = p_worker_id for update;
    v_holds := exists (select from pgqueue.live_jobs j where j.state = 'running' and j.worker_id = p_worker_id);
    update pgqueue.workers w
    set stopped_at = case when not v_holds then clock_timestamp() end,
        lease_expires_at = case when v_holds then '-infinity' else w.lease_expires_at end,
        running = 0, finished = p_finished
    where w.id = p_worker_id;
    return not v_holds;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.stopped_by(p_inputs text, p_run text, p_parent_id uuid, p_parent_state text, p_parent_error text, OUT state text, OUT error text, OUT propagated boolean)
 RETURNS record
 LANGUAGE sql
 IMMUTABLE
 SET search_path TO 'pg_catalog', 'pg_temp'
AS $function$
    select case when p_inputs = 'list' or p_parent_state = 'failed' then 'failed' else 'cancelled' end,
           case when p_inputs = 'list' then json_build_object('type', 'pgqueue.errors.ChordError', 'message',
                    format('Dependency %s %s', p_parent_id, case p_parent_state
                        when 'failed' then format('raised %s: %s',
                                                  p_parent_error::json ->> 'type', p_parent_error::json ->> 'message')
                        else 'was ' || p_parent_state end))::text
                else p_parent_error end,
           p_inputs is distinct from 'list' and p_run is distinct from 'pass'
$function$;

CREATE OR REPLACE FUNCTION pgqueue.task_is_known(p_task text)
 RETURNS boolean
 LANGUAGE sql
 STABLE
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
    select exists (select from pgqueue.workers w where p_task = any (w.tasks))
$function$;

CREATE OR REPLACE FUNCTION pgqueue.upsert_schedule(name text, task text, cron text DEFAULT NULL::text, every interval DEFAULT NULL::interval, once_at timestamp with time zone DEFAULT NULL::timestamp with time zone, args json DEFAULT '[]'::json, kwargs json DEFAULT '{}'::json, options jsonb DEFAULT '{}'::jsonb, timezone text DEFAULT 'UTC'::text, start_at timestamp with time zone DEFAULT NULL::timestamp with time zone, end_at timestamp with time zone DEFAULT NULL::timestamp with time zone, jitter interval DEFAULT '00:00:00'::interval, catch_up text DEFAULT 'one'::text, catch_up_limit integer DEFAULT 100, starting_deadline interval DEFAULT NULL::interval, overlap text DEFAULT 'allow'::text, enabled boolean DEFAULT NULL::boolean, check_task boolean DEFAULT true, solar text DEFAULT NULL::text, match_both_days boolean DEFAULT false, anchor_at timestamp with time zone DEFAULT NULL::timestamp with time zone)
 RETURNS bigint
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
#variable_conflict use_column
declare
    v_id bigint;
    v_check text := current_setting('pgqueue.check_task', true);
begin
    if upsert_schedule.once_at < clock_timestamp() - interval '1 minute' then
        raise exception 'once_at: an instant in the future is needed, got %', upsert_schedule.once_at
            using errcode = 'invalid_parameter_value';
    end if;
    if check_task then
        perform pgqueue.refuse_unknown(upsert_schedule.task);
    end if;
    perform set_config('pgqueue.check_task', 'off', true);
    insert into pgqueue.schedules as s (
        name, task, args, kwargs, options, cron, every, once_at, solar, match_both_days, timezone, start_at, end_at,
        anchor_at, jitter, catch_up, catch_up_limit, starting_deadline, overlap, enabled)
    values (
        upsert_schedule.name, upsert_schedule.task, upsert_schedule.args, upsert_schedule.kwargs,
        upsert_schedule.options, upsert_schedule.cron, upsert_schedule.every, upsert_schedule.once_at,
        upsert_schedule.solar, upsert_schedule.match_both_days, upsert_schedule.timezone, upsert_schedule.start_at,
        upsert_schedule.end_at, upsert_schedule.anchor_at, upsert_schedule.jitter, upsert_schedule.catch_up,
        upsert_schedule.catch_up_limit, upsert_schedule.starting_deadline, upsert_schedule.overlap,
        coalesce(upsert_schedule.enabled, true))
    on conflict on constraint schedules_name do update set
        task = excluded.task, args = excluded.args, kwargs = excluded.kwargs, options = excluded.options,
        cron = excluded.cron, every = excluded.every, once_at = excluded.once_at, solar = excluded.solar,
        match_both_days = excluded.match_both_days, timezone = excluded.timezone, start_at = excluded.start_at,
        end_at = excluded.end_at, anchor_at = excluded.anchor_at, jitter = excluded.jitter,
        catch_up = excluded.catch_up, catch_up_limit = excluded.catch_up_limit,
        starting_deadline = excluded.starting_deadline, overlap = excluded.overlap,
        enabled = coalesce(upsert_schedule.enabled, s.enabled)
    returning s.id into v_id;
    perform set_config('pgqueue.check_task', coalesce(v_check, ''), true);
    return v_id;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.wake_queues(p_queues text[])
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
declare
    v_key integer;
begin
    for v_key in select distinct pgqueue.queue_key(q) from unnest(p_queues) q loop
        if not pg_try_advisory_xact_lock_shared(hashtext('pgqueue'), v_key) then
            perform pg_notify('pgqueue', 'w' || v_key);
        end if;
    end loop;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.wake_schedulers()
 RETURNS trigger
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
begin
    perform pg_notify('pgqueue/schedules', '');
    return null;
end $function$;

CREATE OR REPLACE FUNCTION pgqueue.wake_up(p_queues text[], p_hand_over boolean)
 RETURNS void
 LANGUAGE plpgsql
 SET search_path TO 'pg_catalog', 'pgqueue', 'pg_temp'
AS $function$
begin
    perform pg_advisory_unlock_all();
    if p_hand_over then
        perform pg_notify('pgqueue', 'h' || k) from (select distinct pgqueue.queue_key(q) k from unnest(p_queues) q) s;
    end if;
end $function$;
