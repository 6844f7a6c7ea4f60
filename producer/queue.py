"""Puts jobs into the workers' queues; the only file of the producer that knows Celery."""

import json
from collections.abc import Sequence
from typing import Final

import celery
import kombu
import redis
from kombu.exceptions import BatchPublishError, OperationalError
from redis.retry import Retry

from contract.broker import CELERY_OPTIONS, INTERACTIVE_QUEUE, JOB_QUEUE, SUSPECT_QUEUE, TASK_NAME
from producer.connection import MINUTES, Pauses
from producer.errors import ProducerError

QUEUES: Final = {"bulk": JOB_QUEUE, "interactive": INTERACTIVE_QUEUE, "suspect": SUSPECT_QUEUE}
"""Display name → the queue's key."""
UNACKED_KEY: Final = "unacked"
"""Kombu's hash of messages that a worker has taken and not acknowledged."""
BATCH: Final = 256
AWAY: Final = (OperationalError, BatchPublishError, redis.RedisError, OSError)
"""Errors of a broker that may come back."""


class BrokerAwayError(ProducerError):
    """The broker took no job within all retries."""


class Queue:
    """One connection to the broker; not shared between threads."""

    def __init__(self, redis_url: str, connection: redis.Redis) -> None:
        """`connection` reads the lengths of the broker's keys on the same server."""
        self.url = redis_url
        self._app = celery.Celery("captionmill-producer", set_as_current=False)
        queues = tuple(
            kombu.Queue(name, kombu.Exchange(name, type="direct"), routing_key=name)
            for name in (JOB_QUEUE, INTERACTIVE_QUEUE)
        )
        self._app.conf.update(**CELERY_OPTIONS, broker_url=redis_url, task_queues=queues)
        self._redis = connection

    def submit(self, jobs: Sequence[tuple[str, str]], queue: str = JOB_QUEUE, *, together: int = 1) -> None:
        """Send (task id, job as JSON) in order. When it returns, each is in the queue or at a worker.

        One thread of a worker answers the `together` jobs of a message in turn. A failed try is repeated for
        all messages, so some may be queued twice; the store keeps one record. Raises BrokerAwayError.
        """
        messages = [
            (jobs[begin][0], ",".join(job for _, job in jobs[begin : begin + together]))
            for begin in range(0, len(jobs), together)
        ]
        for begin in range(0, len(messages), BATCH):
            self._submit(messages[begin : begin + BATCH], queue)

    def _submit(self, messages: Sequence[tuple[str, str]], queue: str) -> None:
        def publish() -> None:
            with self._app.producer_or_acquire() as producer, producer.batch(BATCH):
                for task_id, arguments in messages:
                    self._publish(producer, task_id, arguments, queue)

        try:
            Retry(Pauses(MINUTES), MINUTES.retries, AWAY).call_with_retry(publish, lambda _: None)
        except AWAY as error:
            raise BrokerAwayError(str(error)) from error

    def _publish(self, producer: kombu.Producer, task_id: str, arguments: str, queue: str) -> None:
        # argsrepr keeps the job out of the headers, which workers log.
        message = self._app.amqp.create_task_message(
            task_id, TASK_NAME, argsrepr="-", kwargsrepr="-", ignore_result=True
        )
        _, _, embedded = message.body
        producer.publish(
            f"[[{arguments}], {{}}, {json.dumps(embedded)}]",
            # The default exchange is, on Redis, the list of this name, and needs no declaration.
            exchange="",
            routing_key=queue,
            headers=message.headers,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=2,
            **message.properties,
        )

    def queued(self) -> int:
        """Number of bulk and suspect messages that wait for a worker, of all runs."""
        pipeline = self._redis.pipeline(transaction=False)
        pipeline.llen(JOB_QUEUE)
        pipeline.llen(SUSPECT_QUEUE)
        return sum(pipeline.execute())

    def backlog(self) -> int:
        """The same number, plus the messages that are taken and not acknowledged."""
        taken: int = self._redis.hlen(UNACKED_KEY)
        return self.queued() + taken

    def close(self) -> None:
        self._app.close()
