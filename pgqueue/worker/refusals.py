"""Whose fault it is that the server refuses to write a batch: one of its rows', or none's."""

import psycopg

__all__ = ["is_of_a_row", "misses_a_partition"]

# Classes of errors that no row is to blame for: connection, features, transaction state, prepared statements,
# authorization, catalog, schema, rollback, rights or syntax, resources, object state, intervention, system,
# configuration, internal.
NOT_OF_A_ROW = frozenset({"08", "0A", "25", "26", "28", "3D", "3F", "40", "42", "53", "55", "57", "58", "F0", "XX"})


def is_of_a_row(error: Exception) -> bool:
    """Whether a row may be to blame: then the others can be written without it."""
    if not isinstance(error, psycopg.Error) or error.sqlstate is None:
        return isinstance(error, ValueError | psycopg.DataError)  # what cannot even be sent
    return error.sqlstate[:2] not in NOT_OF_A_ROW and not misses_a_partition(error)


def misses_a_partition(error: psycopg.Error) -> bool:
    """It has the code of a violated constraint, but names none."""
    return isinstance(error, psycopg.errors.CheckViolation) and error.diag.constraint_name is None
