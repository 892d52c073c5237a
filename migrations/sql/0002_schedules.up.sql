-- Schedules: what is to be enqueued when. Cron, intervals and daylight saving are computed by the schedulers; the rows
-- say when each is to be looked at next. Every edit, also a plain UPDATE, passes through the trigger check_schedule.

create table pgqueue.schedules (
    id                bigint generated always as identity,
    name              text        not null,
    task              text        not null,
    args              json        not null default '[]',
    kwargs            json        not null default '{}',
    options           jsonb       not null default '{}',   -- of apply_async, but for those that name a single job
    cron              text,                                -- exactly one of these four
    every             interval,
    once_at           timestamptz,
    solar             text,                                -- event latitude longitude
    match_both_days   boolean     not null default false,  -- day of month and weekday: both, instead of either
    timezone          text        not null default 'UTC',
    start_at          timestamptz,                         -- no tick before
    end_at            timestamptz,                         -- no tick after
    anchor_at         timestamptz,                         -- ticks of an interval count from here; start_at, created_at
    jitter            interval    not null default '0',    -- each job waits up to so long, at random
    catch_up          text        not null default 'one',  -- skip, one, all
    catch_up_limit    integer     not null default 100,    -- of "all"
    starting_deadline interval,                            -- a tick that is later than this is dropped
    overlap           text        not null default 'allow', -- allow, skip, queue
    enabled           boolean     not null default true,
    pause_reason      text,
    problem           text,                                -- why no scheduler can plan it
    owner             text,                                -- the application whose code declares it
    declaration       text,                                -- fingerprint of what the code declared
    created_at        timestamptz not null default clock_timestamp(),
    updated_at        timestamptz not null default clock_timestamp(),
    plan_from         timestamptz not null default clock_timestamp(),  -- ticks up to here are not its business
    next_run_at       timestamptz,                         -- the next tick; null: to be planned, paused, or over
    last_run_at       timestamptz,                         -- the last tick that was dealt with
    last_job_id       uuid,
    queued_at         timestamptz,                         -- a tick that waits for the end of the last job
    wake_at           timestamptz default clock_timestamp(),  -- when a scheduler is to look at the row; null: never
    constraint schedules_pkey primary key (id),
    constraint schedules_name unique (name)
) with (
    fillfactor = 70,
    autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000, autovacuum_vacuum_cost_delay = 0
);

create index schedules_wake on pgqueue.schedules (wake_at) where wake_at is not null;
create index schedules_owner on pgqueue.schedules (owner);

-- One row per tick that was dealt with: whoever inserts it enqueues the job.
create table pgqueue.schedule_ticks (
    schedule_id  bigint      not null,
    tick         timestamptz not null,
    job_id       uuid,                                     -- null: skipped, because the last job had not ended
    fired_at     timestamptz not null,
    constraint schedule_ticks_pkey primary key (schedule_id, tick),
    constraint schedule_ticks_schedule foreign key (schedule_id) references pgqueue.schedules on delete cascade
) with (autovacuum_vacuum_insert_scale_factor = 0.2, autovacuum_vacuum_cost_delay = 0);

create index schedule_ticks_fired on pgqueue.schedule_ticks using brin (fired_at);

-- The sets of schedules that an application's code declared, the newest of which counts.
create table pgqueue.schedule_declarations (
    owner        text        not null,
    fingerprint  text        not null,
    declared_at  timestamptz not null,
    constraint schedule_declarations_pkey primary key (owner, fingerprint)
);

alter table pgqueue.workers add column schedules text;     -- owner and fingerprint of what its code declares


-- What may be in a row -----------------------------------------------------------------------------------------------

-- Raises what is wrong with a cron expression; the same grammar as pgqueue.timing.cron has. p_both: as match_both_days.
create function pgqueue.check_cron(p_cron text, p_both boolean default false) returns void
language plpgsql immutable set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

-- Whether these are steps that follow a job of a schedule:
-- {"steps": […], "edges": [[parent, child, position, kind, policy]…], "keep": seconds}.
-- Steps are numbered from 1; 0 is the job itself, and each step comes after those it waits for.
create function pgqueue.is_linked(p_linked jsonb) returns boolean
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

create function pgqueue.check_schedule_options(p_options jsonb) returns void
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

-- Whether arguments can be kept and read: no NUL, at most 100 levels.
create function pgqueue.is_readable(p_value json) returns boolean
language plpgsql immutable set search_path = pg_catalog, pgqueue, pg_temp as $$
begin
    return not p_value::jsonb @? 'strict $.**{101 to last} ? (@.type() == "array" || @.type() == "object")';
exception when data_exception or program_limit_exceeded then
    return false;
end $$;

create function pgqueue.task_is_known(p_task text) returns boolean
language sql stable set search_path = pg_catalog, pgqueue, pg_temp as $$
    select exists (select from pgqueue.workers w where p_task = any (w.tasks))
$$;

create function pgqueue.refuse_unknown(p_task text) returns void
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
begin
    if not pgqueue.task_is_known(p_task) then
        raise exception 'task: % is registered neither here nor by any worker of this database',
            coalesce(quote_literal(left(p_task, 255)), 'NULL') using errcode = 'invalid_parameter_value',
            hint = 'Start its worker first, or call upsert_schedule(…, check_task => false).';
    end if;
end $$;

create function pgqueue.check_schedule() returns trigger
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

create trigger check_schedule before insert or update of
    name, task, args, kwargs, options, cron, every, once_at, solar, match_both_days, timezone, start_at, end_at,
    anchor_at, jitter, catch_up, catch_up_limit, starting_deadline, overlap, enabled
on pgqueue.schedules for each row execute function pgqueue.check_schedule();

-- Schedulers sleep until the next tick that they know of.
create function pgqueue.wake_schedulers() returns trigger
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
begin
    perform pg_notify('pgqueue/schedules', '');
    return null;
end $$;

create trigger wake_schedulers after insert or update of
    cron, every, once_at, solar, match_both_days, timezone, start_at, end_at, anchor_at, enabled
on pgqueue.schedules for each row when (new.wake_at is not null and new.next_run_at is null)
execute function pgqueue.wake_schedulers();


-- Edits --------------------------------------------------------------------------------------------------------------

-- Creates a schedule, or replaces what it says; a pause stays, unless `enabled` is given.
create function pgqueue.upsert_schedule(
    name text, task text, cron text default null, every interval default null, once_at timestamptz default null,
    args json default '[]', kwargs json default '{}', options jsonb default '{}', timezone text default 'UTC',
    start_at timestamptz default null, end_at timestamptz default null, jitter interval default '0',
    catch_up text default 'one', catch_up_limit integer default 100, starting_deadline interval default null,
    overlap text default 'allow', enabled boolean default null, check_task boolean default true,
    solar text default null, match_both_days boolean default false, anchor_at timestamptz default null
) returns bigint
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

create function pgqueue.pause_schedule(name text) returns boolean
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
begin
    update pgqueue.schedules s set enabled = false, pause_reason = null where s.name = pause_schedule.name;
    return found;
end $$;

-- Ticks of the time of the pause are not made up for.
create function pgqueue.resume_schedule(name text) returns boolean
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
begin
    update pgqueue.schedules s set enabled = true where s.name = resume_schedule.name;
    return found;
end $$;

create function pgqueue.remove_schedule(name text) returns boolean
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
begin
    delete from pgqueue.schedules s where s.name = remove_schedule.name;
    return found;
end $$;

-- Enqueues its job now, beside its ticks; null: there is no such schedule.
create function pgqueue.run_schedule(name text) returns uuid
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;


-- Ticks --------------------------------------------------------------------------------------------------------------

-- The jobs of ticks, in their order; a null tick is a run by hand.
create function pgqueue.enqueue_ticks(p_schedules bigint[], p_ticks timestamptz[], p_jobs uuid[]) returns void
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

-- A job with the steps that follow it, as one workflow. Texts of JSON are strings, which stay as they are.
create function pgqueue.enqueue_linked(p_job uuid, p_linked jsonb, p_first jsonb) returns void
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

-- Locks schedules that are to be looked at, past those that another scheduler has locked. Whoever locks and falls
-- silent is ended by the server, so that nobody is held up for long. Under a held snapshot the entries of all that was
-- ever due stay: look no further back than p_window seconds.
create function pgqueue.due_schedules(p_limit integer, p_now timestamptz, p_window double precision)
returns table (
    id bigint, name text, cron text, every double precision, once_at timestamptz, solar text, match_both_days boolean,
    timezone text, start_at timestamptz, end_at timestamptz, anchor_at timestamptz, catch_up text,
    catch_up_limit integer, starting_deadline double precision, overlap text, plan_from timestamptz,
    next_run_at timestamptz, last_run_at timestamptz, queued_at timestamptz, busy boolean, now timestamptz
)
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp
set enable_seqscan = off set enable_bitmapscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
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
end $$;

-- Notes ticks, enqueues the jobs of those that nobody noted before, and moves the schedules on; all or nothing. A tick
-- with `run` false is noted as skipped. Returns how many jobs were enqueued.
create function pgqueue.fire_schedules(
    p_ids bigint[], p_next timestamptz[], p_last timestamptz[], p_queued timestamptz[], p_wake timestamptz[],
    p_problems text[], p_tick_ids bigint[], p_ticks timestamptz[], p_run boolean[]
) returns integer
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp set enable_seqscan = off set jit = off
set plan_cache_mode = force_generic_plan as $$
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
end $$;


-- What the code declares ---------------------------------------------------------------------------------------------
-- The newest set of an application counts. A set that was replaced does not come back while workers of its successor
-- live, or lived minutes ago: an old worker that starts again in the middle of a deployment changes nothing.
-- The same holds for code that declares nothing: it may be another part of the application.

create function pgqueue.declare_schedules(
    p_owner text, p_fingerprint text, p_worker_id bigint, p_tasks text[], p_entries json
) returns table (schedule text, outcome text)
language plpgsql set search_path = pg_catalog, pgqueue, pg_temp as $$
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
end $$;

comment on table pgqueue.schedules is
    'What is to be enqueued when: cron, intervals, instants. Edits take effect at once.';
comment on table pgqueue.schedule_ticks is 'Ticks of schedules that were dealt with, with their jobs.';
comment on table pgqueue.schedule_declarations is 'Sets of schedules that the code of applications declared.';
