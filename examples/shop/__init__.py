"""A shop whose orders and jobs commit or roll back together."""
