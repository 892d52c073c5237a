"""The only rooms that know SQL: one function per named query."""
