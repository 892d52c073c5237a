-- The first schema. The bare word for the schema is replaced by the configured name, quoted.
-- Tables first, then the functions through which every state change passes, then the views people query.

create sequence pgqueue.job_seq cache 1;

create table pgqueue.live_jobs (
    id            uuid        not null,
    seq           bigint      not null,                -- place in line; negative: given back, at the front
    enqueued_at   timestamptz not null,
    run_at        timestamptz,                         -- not before (eta, countdown, retry)
    expires_at    timestamptz,                         -- not after
    started_at    timestamptz,                         -- of the current attempt
    worker_id     bigint,                              -- who runs it
    claim_token   bigint,                              -- fence: random per claim
    attempt       integer     not null default 0,      -- starts so far
    priority      smallint    not null default 0,      -- 0 to 9, 9 first
    lost          smallint    not null default 0,      -- attempts that ended with their worker
    waited_for    boolean     not null default false,  -- somebody waits for the result
    cancel_asked  boolean     not null default false,
    begun         boolean,                             -- true: recorded that it began; false: to be recorded first
    state         text        not null,                -- waiting, scheduled, available, running
    queue         text        not null,
    task          text        not null,
    args          json,
    kwargs        json,
    headers       json,
    options       json,                                -- what this job overrides of its task
    progress      json,                                -- {"state": ..., "meta": ...} of update_state()
    root_id       uuid,
    parent_id     uuid,
    workflow_id   uuid,                                -- of which it is a step
    step          text,                                -- its name there
    inputs        text,                                -- how results of other steps become arguments at the claim
    constraint live_jobs_pkey primary key (id),
    constraint live_jobs_state check (state in ('waiting', 'scheduled', 'available', 'running')),
    constraint live_jobs_priority check (priority between 0 and 9)
) with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0,
    autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_analyze_scale_factor = 0.2, vacuum_truncate = off
);

create index live_jobs_available on pgqueue.live_jobs (queue, priority, seq) where state = 'available';
create index live_jobs_due on pgqueue.live_jobs (run_at) where state = 'scheduled';
create index live_jobs_running on pgqueue.live_jobs (worker_id) where state = 'running';
create index live_jobs_asked on pgqueue.live_jobs (worker_id) where cancel_asked;  -- each heartbeat looks here
create index live_jobs_parent on pgqueue.live_jobs (parent_id) where parent_id is not null;  -- plain jobs have none

-- Retention drops whole partitions, whatever each outcome's age: the key is the instant until which a row is kept.
create table pgqueue.finished_jobs (
    id            uuid        not null,
    seq           bigint      not null,
    enqueued_at   timestamptz not null,
    run_at        timestamptz,
    expires_at    timestamptz,
    started_at    timestamptz,
    finished_at   timestamptz not null,
    delete_after  timestamptz not null,
    worker_id     bigint,
    attempt       integer     not null,
    priority      smallint    not null,
    lost          smallint    not null,
    state         text        not null,                -- succeeded, failed, cancelled, expired, skipped
    queue         text        not null,
    task          text        not null,
    args          json,
    kwargs        json,
    headers       json,
    options       json,
    result        json,
    error         json,                                -- {"type": ..., "message": ..., "args": [...]}
    traceback     text,
    root_id       uuid,
    parent_id     uuid,
    workflow_id   uuid,
    step          text,
    constraint finished_jobs_state check (state in ('succeeded', 'failed', 'cancelled', 'expired', 'skipped'))
) partition by range (delete_after);

create index finished_jobs_id on pgqueue.finished_jobs (id);
create index finished_jobs_parent on pgqueue.finished_jobs (parent_id) where parent_id is not null;
create table pgqueue.finished_jobs_forever partition of pgqueue.finished_jobs
    for values from ('infinity') to (maxvalue);

-- One row per attempt that did not succeed.
create table pgqueue.attempts (
    job_id        uuid        not null,
    attempt       integer     not null,
    outcome       text        not null,                -- retried, failed, lost
    worker_id     bigint,
    started_at    timestamptz,
    ended_at      timestamptz not null,
    delete_after  timestamptz not null,
    error         json,
    traceback     text
) partition by range (delete_after);

create index attempts_job_id on pgqueue.attempts (job_id);
create table pgqueue.attempts_forever partition of pgqueue.attempts for values from ('infinity') to (maxvalue);

create table pgqueue.workers (
    id               bigint generated always as identity primary key,
    name             text        not null,
    hostname         text        not null,
    pid              integer     not null,
    instance         text        not null,             -- tells a dead predecessor on the same host from a stranger
    app              text        not null,
    version          text        not null,
    queues           text[]      not null,
    tasks            text[]      not null,
    at_most_once     text[]      not null,             -- tasks that must not run again when this worker is lost
    pools            jsonb       not null,
    started_at       timestamptz not null default clock_timestamp(),
    heartbeat_at     timestamptz not null default clock_timestamp(),
    lease_expires_at timestamptz not null,
    stopped_at       timestamptz,                      -- ended in order
    lost_at          timestamptz,                      -- declared dead; its jobs are being rescued
    rescued_at       timestamptz,
    running          integer     not null default 0,
    finished         bigint      not null default 0
) with (fillfactor = 50, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);


-- Wake-ups ---------------------------------------------------------------------------------------------------------
-- An idle worker holds the wake lock of its queues exclusively on its LISTEN session; whoever makes a job available
-- notifies only if a shared try fails, that is: only if somebody sleeps. Locks outlive the visibility of the commit,
-- so no wake-up is lost. Queues share 64 keys.

create function pgqueue.queue_key(p_queue text) returns integer
language sql immutable parallel safe
return hashtext(p_queue) & 63;

create function pgqueue.wake_queues(p_queues text[]) returns void
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
declare
    v_key integer;
begin
    for v_key in select distinct pgqueue.queue_key(q) from unnest(p_queues) q loop
        if not pg_try_advisory_xact_lock_shared(hashtext('pgqueue'), v_key) then
            perform pg_notify('pgqueue', 'w' || v_key);
        end if;
    end loop;
end $$;

-- Called on the LISTEN session. Of several idle workers one answers for each key. `keys`: those this session answers
-- for, of which it now holds the wake locks, too, if it is `asleep`: then it may sleep after one more look. `others`:
-- keys of these queues for which another session answers.
create function pgqueue.fall_asleep(p_queues text[], out keys integer[], out others integer[], out asleep boolean)
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

-- Gives the locks back; `p_hand_over` asks another idle worker to answer for these queues.
create function pgqueue.wake_up(p_queues text[], p_hand_over boolean) returns void
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
begin
    perform pg_advisory_unlock_all();
    if p_hand_over then
        perform pg_notify('pgqueue', 'h' || k) from (select distinct pgqueue.queue_key(q) k from unnest(p_queues) q) s;
    end if;
end $$;


-- nothing -> available, scheduled ------------------------------------------------------------------------------------
-- The transaction has its id before it draws a place in line: workers rely on it to know below which place nothing
-- can still appear.

create function pgqueue.is_finished(p_id uuid) returns boolean
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
begin
    return exists (select from pgqueue.finished_jobs f where f.id = p_id)
        or exists (select from pgqueue.workflow_results r where r.job_id = p_id);
end $$;

create function pgqueue.enqueue_job(
    p_id uuid, p_task text, p_queue text, p_priority integer, p_args json, p_kwargs json, p_headers json,
    p_options json,
    p_delay double precision, p_eta timestamptz, p_expires_in double precision, p_expires_at timestamptz,
    p_root_id uuid, p_parent_id uuid, p_own_id boolean
) returns boolean
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

create function pgqueue.enqueue_jobs(
    p_ids uuid[], p_tasks text[], p_queues text[], p_priorities smallint[], p_args text[], p_kwargs text[],
    p_headers text[], p_options text[], p_delays double precision[], p_etas timestamptz[],
    p_expires_in double precision[], p_expires_at timestamptz[], p_root_id uuid, p_parent_id uuid
) returns bigint
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

-- The public way in for SQL, triggers and other languages.
create function pgqueue.enqueue(
    task text, args jsonb default '[]', kwargs jsonb default '{}', queue text default 'default',
    priority integer default 0, countdown interval default null, eta timestamptz default null,
    expires timestamptz default null, task_id uuid default null, headers jsonb default null
) returns uuid
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

-- A UUIDv7 with 48 bits of milliseconds, 12 of their fraction (RFC 9562, method 3), the rest random: a step of the
-- fraction is a quarter of a microsecond, so that the ids that one session makes ascend.
create function pgqueue.new_job_id() returns uuid
language sql volatile parallel safe
return (overlay(lpad(to_hex((extract(epoch from clock_timestamp()) * 4096000)::bigint), 15, '0')
                placing '7' from 13 for 0)
        || substr(gen_random_uuid()::text, 20))::uuid;


-- scheduled -> available, with a new place in line -------------------------------------------------------------------

create function pgqueue.stage_jobs(p_due_after timestamptz, p_limit integer) returns integer
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set enable_bitmapscan = off
set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
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
end $$;


-- available -> running, attempt + 1, claim token ----------------------------------------------------------------------
-- A lane is (queue, priority) with a range of places. The first row returned is the look itself: its transaction id,
-- its snapshot, and the last place drawn, from which the claimer derives its low-water mark, and the seconds to the
-- next due job. The snapshot's xmax would not do: transactions that are still open may have higher ids. To be called in
-- a transaction of its own. Claims commit asynchronously: losing one re-runs the job, and the random token fences the
-- lost claim off.

create function pgqueue.claim_jobs(
    p_worker_id bigint, p_token bigint, p_queues text[], p_priorities smallint[], p_after bigint[], p_before bigint[],
    p_limit integer, p_excluded text[], p_due_window double precision
) returns table (
    look_xid bigint, snapshot text, last_seq bigint, due_in double precision,
    id uuid, seq bigint, task text, queue text, priority smallint, attempt integer, lost smallint,
    args json, kwargs json, headers json, options json, run_at timestamptz, expires_at timestamptz, expired boolean,
    root_id uuid, parent_id uuid, careful boolean
)
language plpgsql rows 500
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set enable_hashjoin = off
set enable_mergejoin = off set jit = off set plan_cache_mode = force_generic_plan as $$
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
end $$;

-- Per lane the first place above `after` that is still available, whoever may be claiming it; null when there is none.
create function pgqueue.first_places(p_queues text[], p_priorities smallint[], p_after bigint[], p_excluded text[])
returns bigint[]
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_sort = off set jit = off
set plan_cache_mode = force_generic_plan as $$
begin
    return array (
        select (select a.seq from pgqueue.live_jobs a
                where a.state = 'available' and a.queue = l.queue and a.priority = l.priority and a.seq > l.after
                  and (p_excluded is null or a.task <> all (p_excluded))
                order by a.seq limit 1)
        from unnest(p_queues, p_priorities, p_after) l (queue, priority, after));
end $$;


-- running -> succeeded, failed, cancelled, expired -------------------------------------------------------------------
-- The claim's instant becomes the one at which the attempt began, by the time it ran as its process measured it.
-- Fenced by id and token, locked in id order. No index may match the fence, or the planner prefers it: hence
-- `state || ''`. Found again by id, never by ctid: a row that changed between snapshot and lock would be kept twice.
-- Returns the ids that did not match: leases lost meanwhile.

create function pgqueue.finish_jobs(
    p_ids uuid[], p_tokens bigint[], p_state text, p_results text[], p_errors text[], p_tracebacks text[],
    p_keep interval,
    p_micros bigint[] default null
) returns uuid[]
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
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
end $$;

-- running -> scheduled or available: the job's own retry --------------------------------------------------------------
-- One that was asked to stop meanwhile is cancelled instead.
-- p_changes: null or {"args", "kwargs", "queue", "priority", "options", "expires_in"} that replace the job's.
-- "snoozed": the attempt does not count. "since": note in the options when the job began for the first time.

create function pgqueue.retry_jobs(
    p_ids uuid[], p_tokens bigint[], p_delays double precision[], p_errors text[], p_tracebacks text[],
    p_changes text[],
    p_keep interval, p_micros bigint[] default null
) returns uuid[]
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
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
end $$;

-- running -> available, at the front of its lane, as if it had not been claimed ---------------------------------------
-- One that was asked to stop meanwhile is cancelled.

create function pgqueue.release_jobs(p_ids uuid[], p_tokens bigint[], p_keep interval) returns uuid[]
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
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
end $$;

-- Negative places come before all others and keep the order among themselves; every claim looks there first.
create function pgqueue.front_place(p_seq bigint) returns bigint
language sql immutable parallel safe
return case when p_seq < 0 then p_seq else p_seq - 4611686018427387904 end;


-- running without a live worker -> available, or failed --------------------------------------------------------------

create function pgqueue.lose_jobs(p_ids uuid[], p_tokens bigint[], p_lost_limit integer, p_at_most_once text[],
    p_reason text, p_keep interval)
returns table (id uuid, outcome text)
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
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
end $$;

-- Which attempts have begun is known for certain where that was recorded: before they began where `claim_jobs` said
-- `careful` and for tasks that must not run again, after a moment for others. So one that was not recorded has not
-- begun, or ran for a moment only: it goes back as if it had not been claimed, and is recorded before it begins from
-- then on. Returns the ids that matched the fence.
create function pgqueue.record_jobs(p_ids uuid[], p_tokens bigint[], p_begun boolean) returns uuid[]
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set enable_hashjoin = off set enable_mergejoin = off set jit = off
set plan_cache_mode = force_generic_plan as $$
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
end $$;

-- When a worker counts as dead that has not been heard of since: an outage of the server is not held against anyone.
-- Its lease begins anew with the server.
create function pgqueue.lease_ends(p_heartbeat_at timestamptz, p_lease_expires_at timestamptz) returns timestamptz
language sql stable parallel safe
return case when isfinite(p_lease_expires_at)
            then greatest(p_lease_expires_at, pg_postmaster_start_time() + (p_lease_expires_at - p_heartbeat_at))
            else p_lease_expires_at end;

-- Declares workers whose lease ran out dead, ends their database sessions, and gives their jobs back, a bounded number
-- at a time. Any worker may call it; each dead worker is handled by one caller at a time. A job whose row is locked
-- waits for another call. It runs where leases are renewed, and so waits for no lock longer than two seconds.
create function pgqueue.rescue_jobs(p_lost_limit integer, p_limit integer, p_keep interval)
returns table (worker text, id uuid, outcome text)
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set jit = off set lock_timeout = '2s' as $$
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
end $$;


-- Workers -------------------------------------------------------------------------------------------------------------

-- Renews the lease; null when the worker was declared lost. Otherwise the ids of its jobs that were asked to stop.
create function pgqueue.renew_lease(p_worker_id bigint, p_lease interval, p_running integer, p_finished bigint)
    returns uuid[]
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
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
end $$;

-- Signs a worker off; false when it still holds jobs, whose outcomes it could not write or whose claim it never heard
-- of. Then it is as good as dead: its lease is over, and the next rescuer gives them back.
create function pgqueue.stop_worker(p_worker_id bigint, p_finished bigint) returns boolean
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
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
end $$;


-- scheduled, available -> cancelled; running -> asked to stop ---------------------------------------------------------

create function pgqueue.cancel_jobs(p_ids uuid[], p_terminate boolean, p_keep interval)
returns table (id uuid, outcome text)
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off as $$
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
end $$;

-- finished -> available: a new life under the same id -----------------------------------------------------------------

create function pgqueue.revive_jobs(p_ids uuid[]) returns uuid[]
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp set jit = off as $$
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
end $$;


-- Partitions ----------------------------------------------------------------------------------------------------------
-- CREATE, then ATTACH: unlike CREATE ... PARTITION OF it does not queue for a lock that stops finishes.

create function pgqueue.ensure_partitions(p_days integer) returns integer
language plpgsql
set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;


-- What people query --------------------------------------------------------------------------------------------------

create view pgqueue.all_jobs as
select id, state, task, queue, priority, args, kwargs, null::json as result,
       null::text as error_type, null::text as error, null::text as traceback,
       attempt, lost, enqueued_at, run_at, started_at, null::timestamptz as finished_at, expires_at,
       null::timestamptz as delete_after, worker_id, headers, options, progress, root_id, parent_id, seq, workflow_id,
       step
from pgqueue.live_jobs
union all
select id, state, task, queue, priority, args, kwargs, result,
       error ->> 'type', error ->> 'message', traceback,
       attempt, lost, enqueued_at, run_at, started_at, finished_at, expires_at,
       delete_after, worker_id, headers, options, null::json, root_id, parent_id, seq, workflow_id, step
from pgqueue.finished_jobs;

comment on view pgqueue.all_jobs is 'Every job, live and finished. Part of the public contract.';
comment on table pgqueue.live_jobs is 'Jobs that are not finished: waiting, scheduled, available, running.';
comment on table pgqueue.finished_jobs is 'Jobs that are finished, with result or error, until delete_after.';
comment on table pgqueue.attempts is 'Attempts that did not succeed, with their errors.';
comment on table pgqueue.workers is 'Worker processes, their leases, what they serve.';

select pgqueue.ensure_partitions(40);
