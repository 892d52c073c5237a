"""Functions that can be enqueued: what they can do while they run, and where their jobs go."""
