drop view pgqueue.all_jobs;
-- Partitions that were detached but not dropped yet.
do $$
declare
    v_name text;
begin
    for v_name in select c.relname from pg_class c
        where c.relnamespace = 'pgqueue'::regnamespace and c.relkind = 'r' and not c.relispartition
          and c.relname ~ '^(finished_jobs|attempts)_[0-9]{8}$'
    loop
        execute format('drop table pgqueue.%I', v_name);
    end loop;
end $$;
drop table pgqueue.live_jobs, pgqueue.finished_jobs, pgqueue.attempts, pgqueue.workers;
drop function pgqueue.wake_queues, pgqueue.fall_asleep, pgqueue.wake_up, pgqueue.is_finished, pgqueue.enqueue_job,
    pgqueue.enqueue_jobs, pgqueue.enqueue, pgqueue.new_job_id, pgqueue.stage_jobs, pgqueue.claim_jobs,
    pgqueue.first_places,
    pgqueue.finish_jobs, pgqueue.retry_jobs, pgqueue.release_jobs, pgqueue.front_place, pgqueue.lose_jobs,
    pgqueue.record_jobs, pgqueue.lease_ends, pgqueue.rescue_jobs, pgqueue.renew_lease, pgqueue.stop_worker,
    pgqueue.cancel_jobs, pgqueue.revive_jobs, pgqueue.ensure_partitions, pgqueue.queue_key;
drop sequence pgqueue.job_seq;
