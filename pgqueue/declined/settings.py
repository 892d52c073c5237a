"""Settings of Celery that pgqueue does not honour, each with the way out; a name that ends in * is a whole family.

What is "not in this release" is planned; the text names what does the work until then.
"""

__all__ = ["DECLINED", "OLD_NAMES", "decline"]

_LATER = "not in this release; "
_BEAT = "schedules are rows, served by every worker and by `pgqueue beat`; delete this line"
_BROKER = "there is no broker, jobs are rows: "
_EXCHANGE = _BROKER + "name queues with task_routes and task_default_queue"
_RETRY_PUBLISH = (
    "a lost connection raises DatabaseUnavailable; call again under the same task_id, which never doubles a job"
)
_RECONNECT = "workers reconnect for as long as they run; the time of one attempt is connect_timeout"
_RESULTS = "results are rows beside the jobs; delete this line"
_RESULT_RETRY = "a result is committed with the end of its job, and workers reconnect by themselves; delete this line"
_POOL_OPTIONS = "the pool is psycopg_pool's; set pool_max_size and connect_timeout"
_PREFETCH = "workers claim worker_buffer seconds of work ahead, in batches of worker_claim_batch"
_EVENTS = _LATER + "SQL over pgqueue.all_jobs and `pgqueue status --watch` show what happens"
_EVENT_QUEUE = "events have no queues; SQL over pgqueue.all_jobs and `pgqueue status --watch` show what happens"
_CONTROL_QUEUE = "control commands have no queues; `pgqueue jobs cancel` and app.control.revoke write rows"
_SIGNING = "messages are not signed: who may write rows is for PostgreSQL's roles; connect with sslmode=verify-full"
_BACKEND = "no such result backend: " + _RESULTS
_ACKS = "a task that failed is over; autoretry_for=(…) and max_retries run it again"
_CHORDS = "nothing polls: the end of its last member releases the body of a chord; delete this line"
_SCHEMA = "tables live in one schema: set `schema`, run `pgqueue migrate`"
_CORE = "the worker is not built of replaceable parts; delete this line"

DECLINED: dict[str, str] = {
    "beat_scheduler": _BEAT,
    "beat_schedule_filename": _BEAT,
    "beat_sync_every": _BEAT,
    "broker_read_url": _BROKER + "set dsn",
    "broker_write_url": _BROKER + "set dsn",
    "broker_transport_options": _BROKER + "connection parameters belong into the DSN; a lease is worker_lease",
    "broker_connection_retry": _RECONNECT,
    "broker_connection_retry_on_startup": _RECONNECT,
    "broker_connection_max_retries": _RECONNECT,
    "broker_channel_error_retry": _RECONNECT,
    "broker_heartbeat": "set keepalives_idle and tcp_user_timeout in the DSN; a worker's own beat is worker_heartbeat",
    "broker_heartbeat_checkrate": "a worker's own beat is worker_heartbeat, its lease worker_lease",
    "broker_pool_acquire_timeout": "set connect_timeout",
    "broker_use_ssl": "set sslmode, sslrootcert, sslcert and sslkey in the DSN",
    "broker_failover_strategy": "name several hosts in the DSN, with target_session_attrs=read-write",
    "broker_login_method": "set `credentials`, or what libpq knows (passfile, service, certificates)",
    "broker_native_delayed_delivery_queue_type": "eta and countdown are columns of the job; delete this line",
    "result_backend": _RESULTS,
    "result_compression": "PostgreSQL compresses large values; delete this line",
    "result_persistent": "results are committed rows; delete this line",
    "result_cache_max": "results are read from their rows; keep what you need yourself",
    "result_chord_retry_interval": _CHORDS,
    "result_chord_join_timeout": _CHORDS,
    "result_backend_always_retry": _RESULT_RETRY,
    "result_backend_max_retries": _RESULT_RETRY,
    "result_backend_base_sleep_between_retries_ms": _RESULT_RETRY,
    "result_backend_max_sleep_between_retries_ms": _RESULT_RETRY,
    "result_backend_transport_options": _RESULTS,
    "result_exchange": _RESULTS,
    "result_exchange_type": _RESULTS,
    "database_engine_options": _POOL_OPTIONS,
    "database_engine_callback": "set `credentials` for passwords that change; else " + _POOL_OPTIONS,
    "database_short_lived_sessions": _POOL_OPTIONS,
    "database_table_schemas": _SCHEMA,
    "database_table_names": _SCHEMA,
    "database_create_tables_at_setup": "run `pgqueue migrate`, which an application's own Alembic can call too",
    "task_acks_on_failure_or_timeout": _ACKS,
    "task_acks_on_failure": _ACKS,
    "task_acks_on_timeout": _ACKS,
    "task_store_eager_result": "an eager task writes no row; keep its EagerResult",
    "task_compression": "PostgreSQL compresses large values; delete this line",
    "task_create_missing_queue_type": _EXCHANGE,
    "task_create_missing_queue_exchange_type": _EXCHANGE,
    "task_default_queue_type": _EXCHANGE,
    "task_default_exchange": _EXCHANGE,
    "task_default_exchange_type": _EXCHANGE,
    "task_default_routing_key": _EXCHANGE,
    "task_default_delivery_mode": "every job is committed to disk; delete this line",
    "task_default_rate_limit": _LATER + "until then give the tasks a queue of their own and its worker a small -c",
    "task_queue_max_priority": "priorities are 0 to 9 on every queue, 9 first; delete this line",
    "task_protocol": "jobs are rows, no messages; delete this line",
    "task_publish_retry": _RETRY_PUBLISH,
    "task_publish_retry_policy": _RETRY_PUBLISH,
    "task_remote_tracebacks": "AsyncResult.traceback is always kept; delete this line",
    "task_send_sent_event": _EVENTS,
    "worker_prefetch_multiplier": _PREFETCH,
    "worker_disable_prefetch": "set worker_buffer=0",
    "worker_eta_task_limit": "jobs wait for their eta in the database, not in the worker; delete this line",
    "worker_enable_prefetch_count_reduction": _PREFETCH,
    "worker_autoscaler": "use `pgqueue worker --autoscale=MAX,MIN`",
    "worker_lost_wait": "a lost child process is noticed at once, a lost worker after worker_lease",
    "worker_pool_putlocks": _PREFETCH,
    "worker_pool_restarts": "send the worker HUP, or develop with --reload",
    "worker_disable_rate_limits": "there are no rate limits in this release; delete this line",
    "worker_deduplicate_successful_tasks": "a finished job is never claimed again; delete this line",
    "worker_enable_remote_control": _LATER + "app.control.revoke works always, signals stop and reload a worker",
    "worker_send_task_events": _EVENTS,
    "worker_state_db": "cancelled jobs are rows; delete this line",
    "worker_timer": _CORE,
    "worker_timer_precision": "due jobs are claimed on time, without notifications within worker_poll_interval",
    "worker_consumer": _CORE,
    "worker_agent": _CORE,
    "worker_direct": "give each worker a queue of its own with -Q and route to it",
    "worker_cancel_long_running_tasks_on_connection_loss": "a worker without its lease finishes nothing; delete this",
    "worker_soft_shutdown_timeout": "set worker_shutdown_timeout: what still runs then is put back in line",
    "worker_enable_soft_shutdown_on_idle": "an idle worker holds no jobs; delete this line",
    "worker_detect_quorum_queues": _EXCHANGE,
    "event_queue_expires": _EVENT_QUEUE,
    "event_queue_ttl": _EVENT_QUEUE,
    "event_queue_prefix": _EVENT_QUEUE,
    "event_queue_exclusive": _EVENT_QUEUE,
    "event_queue_durable": _EVENT_QUEUE,
    "event_exchange": _EVENT_QUEUE,
    "control_queue_ttl": _CONTROL_QUEUE,
    "control_queue_expires": _CONTROL_QUEUE,
    "control_queue_exclusive": _CONTROL_QUEUE,
    "control_queue_durable": _CONTROL_QUEUE,
    "control_exchange": _CONTROL_QUEUE,
    "security_key": _SIGNING,
    "security_key_password": _SIGNING,
    "security_certificate": _SIGNING,
    "security_cert_store": _SIGNING,
    "security_digest": _SIGNING,
    "cache_*": _BACKEND,
    "redis_*": _BACKEND,
    "mongodb_*": _BACKEND,
    "cassandra_*": _BACKEND,
    "s3_*": _BACKEND,
    "azureblockblob_*": _BACKEND,
    "gcs_*": _BACKEND,
    "couchbase_*": _BACKEND,
    "arangodb_*": _BACKEND,
    "cosmosdbsql_*": _BACKEND,
    "elasticsearch_*": _BACKEND,
}

# Celery 3's upper-case names, where today's is not the same in lower case
OLD_NAMES: dict[str, str] = {
    "BROKER_URL": "broker_url",
    "BROKER_POOL_LIMIT": "broker_pool_limit",
    "CELERYBEAT_SCHEDULE": "beat_schedule",
    "CELERYD_CONCURRENCY": "worker_concurrency",
    "CELERYD_POOL": "worker_pool",
    "CELERYD_PREFETCH_MULTIPLIER": "worker_prefetch_multiplier",
    "CELERYD_HIJACK_ROOT_LOGGER": "worker_hijack_root_logger",
    "CELERYD_MAX_TASKS_PER_CHILD": "worker_max_tasks_per_child",
    "CELERYD_TASK_TIME_LIMIT": "task_time_limit",
    "CELERYD_TASK_SOFT_TIME_LIMIT": "task_soft_time_limit",
    "CELERY_ACCEPT_CONTENT": "accept_content",
    "CELERY_ACKS_LATE": "task_acks_late",
    "CELERY_ALWAYS_EAGER": "task_always_eager",
    "CELERY_ANNOTATIONS": "task_annotations",
    "CELERY_CREATE_MISSING_QUEUES": "task_create_missing_queues",
    "CELERY_DEFAULT_QUEUE": "task_default_queue",
    "CELERY_EAGER_PROPAGATES_EXCEPTIONS": "task_eager_propagates",
    "CELERY_ENABLE_UTC": "enable_utc",
    "CELERY_IGNORE_RESULT": "task_ignore_result",
    "CELERY_IMPORTS": "imports",
    "CELERY_INCLUDE": "include",
    "CELERY_QUEUES": "task_queues",
    "CELERY_RESULT_BACKEND": "result_backend",
    "CELERY_RESULT_SERIALIZER": "result_serializer",
    "CELERY_ROUTES": "task_routes",
    "CELERY_STORE_ERRORS_EVEN_IF_IGNORED": "task_store_errors_even_if_ignored",
    "CELERY_TASK_RESULT_EXPIRES": "result_expires",
    "CELERY_TASK_SERIALIZER": "task_serializer",
    "CELERY_TIMEZONE": "timezone",
}


def decline(name: str) -> str | None:
    """The way out of a declined setting; None when it is not declined."""
    found = DECLINED.get(name)
    if found is None and "_" in name:
        found = DECLINED.get(f"{name.partition('_')[0]}_*")
    return found
