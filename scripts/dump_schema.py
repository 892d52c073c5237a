"""Write sql/schema.sql: the schema as the migrations leave it, read from the catalogues.

The text is the same from every supported version of PostgreSQL; a test compares it with what the migrations make.

    python scripts/dump_schema.py           # writes sql/schema.sql, with the embedded server
    python scripts/dump_schema.py DSN       # prints the schema of a migrated database
"""

import re
import shutil
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, LiteralString

import psycopg

from pgqueue.embedded import EmbeddedServer
from pgqueue.store.schema import migrate

TARGET = Path(__file__).parents[1] / "sql" / "schema.sql"
HEAD = """\
-- The schema as the migrations leave it: for readers, and for a test. Written by scripts/dump_schema.py.
-- The partitions of single days are left out.
"""

# Every query takes the schema's oid.
_RELATIONS: LiteralString = r"""
select c.oid, c.relname, c.relkind::text, coalesce(pg_get_partkeydef(c.oid), ''),
       coalesce(pg_get_expr(c.relpartbound, c.oid), ''),
       coalesce((select i.inhparent::regclass::text from pg_inherits i where i.inhrelid = c.oid), ''),
       coalesce(array_to_string(c.reloptions, ', '), ''), coalesce(obj_description(c.oid, 'pg_class'), '')
from pg_class c
where c.relnamespace = %s and c.relkind in ('r', 'p', 'v', 'S') and c.relname !~ '^(finished_jobs|attempts)_[0-9]{8}$'
      and not (c.relkind = 'S' and exists (
            select from pg_depend d where d.objid = c.oid and d.classid = 'pg_class'::regclass and d.deptype = 'i'))
order by case c.relkind when 'S' then 0 when 'v' then 2 else 1 end, c.relname"""
_COLUMNS: LiteralString = """
select a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull, coalesce(pg_get_expr(d.adbin, d.adrelid), ''),
       a.attidentity::text
from pg_attribute a left join pg_attrdef d on d.adrelid = a.attrelid and d.adnum = a.attnum
where a.attrelid = %s and a.attnum > 0 and not a.attisdropped order by a.attnum"""
_CONSTRAINTS: LiteralString = """
select conname, pg_get_constraintdef(oid) from pg_constraint
where conrelid = %s and contype <> 'n' order by contype desc, conname"""
_INDEXES: LiteralString = """
select pg_get_indexdef(i.indexrelid) from pg_index i
where i.indrelid = %s and not exists (select from pg_constraint c where c.conindid = i.indexrelid)
order by 1"""
_TRIGGERS: LiteralString = """
select pg_get_triggerdef(oid) from pg_trigger where tgrelid = %s and not tgisinternal order by tgname"""
_FUNCTIONS: LiteralString = """
select pg_get_functiondef(p.oid) from pg_proc p where p.pronamespace = %s
order by p.proname, pg_get_function_identity_arguments(p.oid)"""


def dump(connection: psycopg.Connection[Any], schema: str = "pgqueue") -> str:
    """Return the schema of a migrated database as text; the schema's name reads `pgqueue`, whatever it is."""
    # Names outside of the path are written with their schema.
    connection.execute("select set_config('search_path', 'pg_catalog', false)")
    row = connection.execute("select oid from pg_namespace where nspname = %s", [schema]).fetchone()
    if row is None:
        raise SystemExit(f"there is no schema {schema}")
    parts = [HEAD]
    for oid, name, kind, key, bound, parent, options, comment in connection.execute(_RELATIONS, [row[0]]).fetchall():
        parts.append("\n".join(_relation(connection, oid, name, kind, key, bound, parent, options, comment)))
    parts += [found.rstrip() + ";" for (found,) in connection.execute(_FUNCTIONS, [row[0]]).fetchall()]
    text = "\n\n".join(part.strip() for part in parts) + "\n"
    return re.sub(rf'"?\b{schema}\b"?(?!\.errors)', "pgqueue", text) if schema != "pgqueue" else text


def _relation(
    connection: psycopg.Connection[Any],
    oid: int,
    name: str,
    kind: str,
    key: str,
    bound: str,
    parent: str,
    options: str,
    comment: str,
) -> Iterator[str]:
    if kind == "S":
        yield f"create sequence {name};"
    elif kind == "v":
        (text,) = connection.execute("select pg_get_viewdef(%s::oid, true)", [oid]).fetchone() or ("",)
        # Before 16 columns are written with their table, from 16 on only where it is needed.
        text = re.sub(r"(?<!\.)\b(live_jobs|finished_jobs)\.", "", text)
        yield f"create view {name} as\n{text}"
    elif parent:
        yield f"create table {name} partition of {parent} {bound.lower()};"
    else:
        lines = [
            f"    {column} {type_}"
            + (" generated always as identity" if identity == "a" else "")
            + (f" default {default}" if default else "")
            + (" not null" if required else "")
            for column, type_, required, default, identity in connection.execute(_COLUMNS, [oid])
        ]
        lines += [f"    constraint {each} {text}" for each, text in connection.execute(_CONSTRAINTS, [oid])]
        partitioned = f" partition by {key.lower()}" if key else ""
        stored = f" with ({options})" if options else ""
        yield f"create table {name} (\n" + ",\n".join(lines) + f"\n){partitioned}{stored};"
        for query in (_INDEXES, _TRIGGERS):
            for (text,) in connection.execute(query, [oid]):
                yield f"{text};"
    if comment:
        yield f"comment on {'view' if kind == 'v' else 'table'} {name} is '{comment}';"


def _of_embedded() -> str:
    place = Path(tempfile.mkdtemp(prefix="pgq-dump-"))
    place.chmod(0o755)
    server = EmbeddedServer(place)
    try:
        dsn = server.start()
        migrate(dsn)
        with psycopg.connect(dsn) as connection:
            return dump(connection)
    finally:
        server.stop()
        shutil.rmtree(place)


def main(arguments: list[str]) -> None:
    """Print the schema of the database named, or write the file."""
    if arguments:
        with psycopg.connect(arguments[0]) as connection:
            print(dump(connection), end="")
    else:
        TARGET.write_text(_of_embedded(), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
