"""Task name, queue names and Celery options that producer and worker share; opens no connection.

The options were measured on celery 5.7.0 and kombu 5.7.0. With late acknowledgement on Redis, older versions
lose jobs or run at a tenth of the speed.
"""

from typing import Any, Final

TASK_NAME: Final = "captionmill.answer_jobs"
"""The Celery task. Its positional arguments are the jobs of a message, which one thread answers in turn."""
JOB_QUEUE: Final = "captionmill.jobs"
"""Queue of bulk jobs."""
INTERACTIVE_QUEUE: Final = "captionmill.interactive"
"""Queue of questions that somebody waits for; a worker takes them beside bulk jobs and answers them first."""
SUSPECT_QUEUE: Final = "captionmill.suspect"
"""Queue of jobs that were in a worker when it died. A worker answers each of them alone."""
MESSAGE_MAX_BYTES: Final = 64 * 2**20
"""Size of the largest message of jobs."""
VISIBILITY_TIMEOUT_S: Final = 900
"""Seconds until an unacknowledged message comes again; over three times the longest stay in a worker."""

TRANSPORT_OPTIONS: Final[dict[str, Any]] = {
    "visibility_timeout": VISIBILITY_TIMEOUT_S,
    "unacked_restore_interval": 10,
    "unacked_restore_throttle": 1,
    "socket_timeout": 30,
    "socket_connect_timeout": 5,
    "socket_keepalive": True,
    "health_check_interval": 10,
}

CELERY_OPTIONS: Final[dict[str, Any]] = {
    "task_acks_late": True,
    "task_acks_on_failure_or_timeout": True,
    "task_reject_on_worker_lost": False,
    "task_ignore_result": True,
    "task_create_missing_queues": False,
    "task_default_queue": JOB_QUEUE,
    "worker_prefetch_multiplier": 0,
    "worker_disable_prefetch": True,
    "worker_enable_prefetch_count_reduction": False,
    "worker_cancel_long_running_tasks_on_connection_loss": False,
    "worker_soft_shutdown_timeout": 0,
    "worker_send_task_events": False,
    # Unused, and anyone who can write to the broker could shut workers down with it.
    "worker_enable_remote_control": False,
    "worker_hijack_root_logger": False,
    "broker_connection_retry_on_startup": True,
    "broker_connection_max_retries": None,
    "broker_channel_error_retry": True,
    "broker_connection_timeout": 5,
    "accept_content": ["json"],
    "task_serializer": "json",
    "broker_transport_options": TRANSPORT_OPTIONS,
}
