"""Options of Celery's tasks, calls and results that pgqueue does not honour, each with the way out."""

__all__ = [
    "DECLINED_APP_OPTIONS",
    "DECLINED_CALL_OPTIONS",
    "DECLINED_GET_OPTIONS",
    "DECLINED_RESULT_OPTIONS",
    "DECLINED_REVOKE_OPTIONS",
    "DECLINED_TASK_OPTIONS",
]

_EXCHANGE = "there are no exchanges; name a queue"
_GROUP = "group(…) and chord(…) take care of it; leave it out"
_COMPRESSION = "PostgreSQL compresses large values; leave it out"
_TRACING = "ids of the parent and the root are kept by themselves; leave it out"
DECLINED_APP_OPTIONS: dict[str, str] = {
    "broker": "there is no broker, jobs are rows: set dsn",
    "backend": "results are rows beside the jobs; leave it out",
    "loader": "set include=, or call app.autodiscover_tasks()",
    "amqp": "there is no broker; leave it out",
    "task_cls": "there are no task base classes in this release",
    "set_as_current": "there is no current app; import yours",
    "autofinalize": "call app.finalize() when you want it earlier; leave it out",
    "namespace": "pass it to app.config_from_object()",
    "config_source": "call app.config_from_object()",
    "fixups": "Django is found by itself; leave it out",
    "strict_typing": "pass typing=False to the task",
}
DECLINED_TASK_OPTIONS: dict[str, str] = {
    "base": "there are no task base classes in this release; write a decorator around the function",
    "shared": "every task belongs to its app; leave it out",
    "lazy": "tasks are registered when they are declared; leave it out",
    "filter": "wrap the function itself",
    "rate_limit": "not in this release; give the task a queue of its own and its worker a small -c",
    "trail": "jobs keep the ids of their parent and root; leave it out",
    "send_events": "SQL over pgqueue.all_jobs shows what happens; leave it out",
    "store_eager_result": "an eager task writes no row; keep its EagerResult",
    "backend": "results are rows beside the jobs; leave it out",
    "acks_on_failure_or_timeout": "a task that failed is over; autoretry_for=(…) and max_retries run it again",
    "acks_on_failure": "a task that failed is over; autoretry_for=(…) and max_retries run it again",
    "acks_on_timeout": "a task that timed out is over; autoretry_for=(SoftTimeLimitExceeded,) runs it again",
    "routing_key": _EXCHANGE,
    "exchange": _EXCHANGE,
    "delivery_mode": "every job is committed to disk; leave it out",
    "compression": _COMPRESSION,
    "resultrepr_maxsize": "results are shown whole; leave it out",
    "Request": "not replaceable; write a decorator around the function",
    "Strategy": "not replaceable; write a decorator around the function",
    "pydantic_strict": "models are validated as their own configuration says; set model_config",
    "pydantic_context": "validate in the task, where you can pass a context",
    "pydantic_dump_kwargs": "return value.model_dump(…) from the task",
    **dict.fromkeys(
        ("before_start", "on_success", "on_failure", "on_retry", "after_return"),
        "hooks are not in this release; wrap the function, or use try/except/finally in it",
    ),
}
DECLINED_CALL_OPTIONS: dict[str, str] = {
    "retry": "a lost connection raises DatabaseUnavailable; call again under the same task_id",
    "retry_policy": "a lost connection raises DatabaseUnavailable; call again under the same task_id",
    "compression": _COMPRESSION,
    "chain": "write chain(…), or use |",
    "chord": "write chord(…), or use |",
    "group_id": _GROUP,
    "group_index": _GROUP,
    "shadow": "the task's name is what is shown; leave it out",
    "add_to_parent": _TRACING,
    "root_id": _TRACING,
    "parent_id": _TRACING,
    "replaced_task_nesting": _GROUP,
    "stamped_headers": "stamps={…} names and values them; or signature.stamp(…)",
    "reply_to": "results are rows; AsyncResult(id) finds them from anywhere",
    "route_name": "set queue",
    "task_type": "pass the task itself, or its name to app.send_task",
    "exchange": _EXCHANGE,
    "routing_key": _EXCHANGE,
    "declare": _EXCHANGE,
    "mandatory": _EXCHANGE,
    "immediate": _EXCHANGE,
    "delivery_mode": "every job is committed to disk; leave it out",
    "expiration": "set expires",
    "producer": "pass the connection of your transaction as connection=…",
    "publisher": "pass the connection of your transaction as connection=…",
}
DECLINED_GET_OPTIONS: dict[str, str] = {
    "on_message": "poll astate(), or SQL over pgqueue.all_jobs",
    "on_interval": "call get(timeout=…) in a loop of your own",
    "callback": "call it with what get() returns",
    "no_ack": "results are rows; leave it out",
    "follow_parents": "what follows a failed job ends with its error; leave it out",
    "EXCEPTION_STATES": "leave it out",
    "PROPAGATE_STATES": "pass propagate=False and look at state",
}
DECLINED_REVOKE_OPTIONS: dict[str, str] = {
    "connection": "the cancellation is a transaction of its own; leave it out",
    "signal": "the worker stops the task as its pool can; leave it out",
    "destination": "the row says which worker runs it; leave it out",
    "reply": "the return value tells; leave it out",
    "wait": "look at state; leave it out",
    "timeout": "look at state; leave it out",
}
DECLINED_RESULT_OPTIONS: dict[str, str] = {
    "backend": "results are rows beside the jobs; leave it out",
    "task_name": "the row names the task: AsyncResult.name; leave it out",
}
