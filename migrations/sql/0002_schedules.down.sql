drop table pgqueue.schedules, pgqueue.schedule_ticks, pgqueue.schedule_declarations;
alter table pgqueue.workers drop column schedules;
drop function pgqueue.check_schedule, pgqueue.check_cron, pgqueue.check_schedule_options, pgqueue.wake_schedulers,
    pgqueue.upsert_schedule, pgqueue.pause_schedule, pgqueue.resume_schedule, pgqueue.remove_schedule,
    pgqueue.run_schedule, pgqueue.due_schedules, pgqueue.fire_schedules, pgqueue.enqueue_ticks,
    pgqueue.declare_schedules, pgqueue.task_is_known, pgqueue.refuse_unknown, pgqueue.is_linked, pgqueue.is_readable,
    pgqueue.enqueue_linked;
