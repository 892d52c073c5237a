"""A call becomes a row: prepared, then delivered in a transaction of its own, or enrolled in the caller's."""
