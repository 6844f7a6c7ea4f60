"""Task name, queue names and the Celery options that producer and worker must share.

The settings and the reason for each were measured on celery 5.7.0 and kombu 5.7.0; older versions lose jobs
or run at a tenth of the speed with late acknowledgement on Redis.
"""

from typing import Any, Final

TASK_NAME: Final = "captionmill.answer_jobs"
"""Its positional arguments are jobs: one, or several that one thread of a worker answers in turn."""
JOB_QUEUE: Final = "captionmill.jobs"
"""Bulk work."""
INTERACTIVE_QUEUE: Final = "captionmill.interactive"
"""Questions somebody waits for: a worker takes them beside its bulk jobs and the engine serves them first."""
SUSPECT_QUEUE: Final = "captionmill.suspect"
"""Jobs that were under way when a worker died. Each is answered with nothing else under way in its worker."""
MESSAGE_MAX_BYTES: Final = 64 * 2**20
"""A larger message is no message of jobs."""
VISIBILITY_TIMEOUT_S: Final = 900
"""Longer than three times the longest stay of a job in a worker, and the same everywhere."""

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
    # Nothing here uses it, and whoever can write to the broker could shut workers down by it.
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
