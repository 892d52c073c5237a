"""Options of tasks and of single calls: which exist, and what their values may be."""
