"""Puts jobs into the queue and tells how many are there; the only file of the producer that knows Celery."""

from collections.abc import Iterable
from typing import Any, Final

import celery
import kombu
import redis

from contract.broker import CELERY_OPTIONS, JOB_QUEUE, TASK_NAME
from contract.job import Job

UNACKED_KEY: Final = "unacked"
"""Kombu's hash of messages that a worker has taken and not acknowledged."""
SEND_RETRIES: Final = {"max_retries": 10, "interval_start": 0.2, "interval_step": 0.5, "interval_max": 5.0}


class BrokerAwayError(Exception):
    """The broker did not take a job within the retries."""


class Client:
    """One connection to the broker; not shared between threads."""

    def __init__(self, redis_url: str, connection: redis.Redis) -> None:
        """`connection` reads the lengths of the broker's keys on the same server."""
        self._app = celery.Celery("captionmill-producer", set_as_current=False)
        exchange = kombu.Exchange(JOB_QUEUE, type="direct")
        self._app.conf.update(
            **CELERY_OPTIONS,
            broker_url=redis_url,
            task_queues=(kombu.Queue(JOB_QUEUE, exchange, routing_key=JOB_QUEUE),),
        )
        self._redis = connection

    def submit(self, jobs: Iterable[Job]) -> None:
        """Send the jobs in order; each is in the queue, or at a worker, when this returns.

        Raises BrokerAwayError when the broker stays away.
        """
        try:
            with self._app.producer_or_acquire() as producer:
                for job in jobs:
                    self._send(producer, job)
        except kombu.exceptions.OperationalError as error:
            raise BrokerAwayError(str(error)) from error

    def _send(self, producer: Any, job: Job) -> None:
        self._app.send_task(
            TASK_NAME,
            args=(job.to_message(),),
            task_id=f"{job.run}-{job.index}",
            queue=JOB_QUEUE,
            producer=producer,
            # Else they travel in headers and end in workers' logs, with whatever the job holds.
            argsrepr="-",
            kwargsrepr="-",
            retry=True,
            retry_policy=SEND_RETRIES,
        )

    def backlog(self) -> int:
        """Messages in the queue or taken and unacknowledged, of this run or another."""
        queued: Any = self._redis.llen(JOB_QUEUE)
        taken: Any = self._redis.hlen(UNACKED_KEY)
        return int(queued) + int(taken)

    def close(self) -> None:
        self._app.close()
