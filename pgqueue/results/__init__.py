"""What became of jobs, by their ids: AsyncResult, sets and groups of them, and how one waits for an end."""
