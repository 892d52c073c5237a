-- name: server_facts
-- One row, whatever the server, and whether or not our schema is there.
select current_setting('server_version_num')::integer, current_setting('server_version'), pg_is_in_recovery(),
       current_setting('transaction_read_only') = 'on', current_setting('server_encoding'),
       current_setting('fsync') = 'on',
       current_setting('synchronous_commit'), current_user::text, current_database()::text,
       (select has_schema_privilege(n.oid, 'usage') from pg_namespace n where n.nspname = 'pgqueue'),
       (select pg_get_userbyid(n.nspowner)::text from pg_namespace n where n.nspname = 'pgqueue'),
       exists (select from pg_class c join pg_namespace n on n.oid = c.relnamespace
               where n.nspname = 'pgqueue' and c.relname = 'alembic_version')

-- name: schema_version
select version_num from pgqueue.alembic_version

-- name: missing_rights
-- Per relation, what a worker needs and this role has not.
select needed.name, string_agg(needed.privilege, ', ' order by needed.privilege)
from (
    select t.name, p.privilege
    from unnest(array['live_jobs', 'finished_jobs', 'attempts', 'workers', 'schedules', 'schedule_ticks',
                      'schedule_declarations']) t (name),
         unnest(array['SELECT', 'INSERT', 'UPDATE', 'DELETE']) p (privilege)
    union all
    select 'job_seq', p.privilege from unnest(array['SELECT', 'USAGE']) p (privilege)
) needed
join pg_class c on c.relname = needed.name
join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'pgqueue'
where not case when c.relkind = 'S' then has_sequence_privilege(c.oid, needed.privilege)
               else has_table_privilege(c.oid, needed.privilege) end
group by needed.name order by needed.name

-- name: owns_tables
select coalesce(bool_and(pg_has_role(c.relowner, 'usage')), false)
from pg_class c join pg_namespace n on n.oid = c.relnamespace
where n.nspname = 'pgqueue' and c.relname in ('finished_jobs', 'attempts')

-- name: next_partition_exists
select to_regclass('pgqueue.finished_jobs_'
                   || to_char(now() at time zone 'UTC' + interval '1 day', 'YYYYMMDD')) is not null

-- name: test_write
-- Passes through the log to the disk like any write, and leaves nothing to clean up.
select pg_logical_emit_message(true, 'pgqueue', 'health')

-- name: lock_holders
-- Sessions that hold locks on our relations, the oldest transaction first.
select a.pid, coalesce(nullif(a.application_name, ''), a.backend_type), coalesce(a.state, '?'),
       extract(epoch from clock_timestamp() - a.xact_start)::double precision,
       string_agg(distinct c.relname, ', ')
from pg_locks l
join pg_class c on c.oid = l.relation
join pg_namespace n on n.oid = c.relnamespace and n.nspname = 'pgqueue' and c.relkind in ('r', 'p', 'v', 'S')
join pg_stat_activity a on a.pid = l.pid
where l.granted and l.pid <> pg_backend_pid()
  and l.database = (select oid from pg_database where datname = current_database())
group by a.pid, a.application_name, a.backend_type, a.state, a.xact_start
order by a.xact_start limit 3

-- name: set_session_statement_timeout
select set_config('statement_timeout', %(milliseconds)s, false)

-- name: set_statement_timeout
select set_config('statement_timeout', %(milliseconds)s, true)
