"""Code that declares schedules, in the versions of a deployment: SCHEDULED is a JSON of beat_schedule."""

import json
import os
from typing import Any

from pgqueue import PgQueue

app = PgQueue("scheduled", worker_poll_interval=0.05)
app.conf.beat_schedule = json.loads(os.environ.get("SCHEDULED", "{}"))


@app.task(bind=True, name="scheduled.note", max_retries=1, default_retry_delay=0)
def note(self: Any) -> str:
    """Fail once, then tell what was planned."""
    if self.request.retries == 0:
        raise self.retry()
    return str(self.request.scheduled_for)
