-- name: try_migration_turn
-- Until its transaction ends, nobody else migrates this schema.
select pg_try_advisory_xact_lock(hashtext('pgqueue/migrate'), 0)

-- name: await_migration_turn
select pg_advisory_xact_lock(hashtext('pgqueue/migrate'), 0)

-- name: set_lock_timeout
select set_config('lock_timeout', %(milliseconds)s, true)

-- name: schema_exists
select exists (select from pg_namespace where nspname = 'pgqueue')

-- name: create_schema
-- Never "if not exists": that asks for the right to create schemas even when there is nothing to create.
create schema pgqueue

-- name: drop_version_table
drop table pgqueue.alembic_version

-- name: schema_is_ours_and_empty
select pg_has_role(n.nspowner, 'usage')
       and not exists (select from pg_class c where c.relnamespace = n.oid)
       and not exists (select from pg_proc p where p.pronamespace = n.oid)
       and not exists (select from pg_type t where t.typnamespace = n.oid)
from pg_namespace n where n.nspname = 'pgqueue'

-- name: drop_schema
drop schema pgqueue
