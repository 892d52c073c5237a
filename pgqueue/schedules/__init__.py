"""Schedules as rows: what one is to be, and looking at them and editing them. The names below are for users."""

from pgqueue.schedules.schedules import Schedules
from pgqueue.schedules.views import Backfill, Schedule
from pgqueue.timing.recurrence import crontab, schedule, solar, timing_of

__all__ = ["Backfill", "Schedule", "Schedules", "crontab", "schedule", "solar", "timing_of"]
