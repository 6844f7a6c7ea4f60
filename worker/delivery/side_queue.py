"""Takes the jobs of one side queue, while Celery takes the bulk jobs; knows no model.

It has its own queue, consumer and threads, so bulk jobs that fill all of Celery's threads do not delay it.
Messages are Celery's, as producers send them. The one thread that has the broker's connection acknowledges
them late.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import kombu
from kombu.mixins import ConsumerMixin

from contract.broker import CELERY_OPTIONS, INTERACTIVE_QUEUE, SUSPECT_QUEUE, TASK_NAME, TRANSPORT_OPTIONS
from worker.delivery.attempts import MessageOutcome
from worker.delivery.transport import install_transport
from worker.lane import Lane

log = logging.getLogger(__name__)

ACKNOWLEDGE_EVERY_S: Final = 0.05
"""Most seconds that a finished message waits for its acknowledgement while no other message comes."""
IDLE_S: Final = 1.0
"""Most seconds until an idle queue notices a drain; each look costs the broker several commands."""
RESTART_PAUSE_S: Final = 1.0
SIDE_OPTIONS: Final = {
    **TRANSPORT_OPTIONS,
    # Number of waits between two searches for messages taken too long ago, which Celery's consumer restores
    # anyway. With a search each second, 1,000 idle workers are a whole core's work for the server.
    "unacked_restore_throttle": 60,
}


Take = Callable[[Sequence[object], Lane], MessageOutcome]
"""Answers the jobs of a message: take() of worker.delivery.attempts."""


class SuspectQueue:
    """The queue of jobs that may have ended a worker. Shared by threads."""

    def __init__(self, redis_url: str) -> None:
        self._connection = _connection(redis_url)
        self._one_at_a_time = threading.Lock()

    def put(self, job: object) -> None:
        """Append a job. Raises what kombu raises when the broker is away."""
        with self._one_at_a_time, self._connection.Producer() as producer:
            producer.publish(
                [[job], {}, {}],
                exchange="",
                routing_key=SUSPECT_QUEUE,
                serializer="json",
                headers={"task": TASK_NAME},
                delivery_mode=2,
                retry=True,
                retry_policy={"max_retries": 3, "interval_start": 0.2, "interval_step": 0.5},
            )

    def close(self) -> None:
        self._connection.release()


class SideQueue:
    """Takes up to `slots` messages of `queue` at once; none if `slots` is 0."""

    def __init__(self, redis_url: str, queue: str, lane: Lane, take: Take, slots: int) -> None:
        name = f"captionmill-{lane}"
        self._consumer = _Consumer(redis_url, queue, lane, take, slots, name) if slots else None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    def start(self) -> None:
        if self._consumer is not None:
            self._thread.start()

    def drain(self) -> None:
        """Take no more. It only sets a flag, so a signal handler may call it."""
        if self._consumer is not None:
            self._consumer.draining = True

    def close(self) -> None:
        """Take no more, and return when every message taken is acknowledged or back in the queue."""
        self.drain()
        if self._consumer is not None and self._thread.is_alive():
            self._thread.join()

    def _run(self) -> None:
        assert self._consumer is not None, "else it is not started"
        while not self._consumer.should_stop:
            try:
                self._consumer.run()
            except _DrainedError:
                break
            except BaseException:  # a bug here must not end this queue for the rest of the process
                log.exception("%s starts again after a bug", self._thread.name)
                time.sleep(RESTART_PAUSE_S)
        self._consumer.shutdown()


def side_queues(redis_url: str, take: Take, interactive_slots: int) -> tuple[SideQueue, ...]:
    """The queues of interactive jobs and of suspects; `take` is that of worker.delivery.attempts."""
    return (
        SideQueue(redis_url, INTERACTIVE_QUEUE, Lane.INTERACTIVE, take, interactive_slots),
        SideQueue(redis_url, SUSPECT_QUEUE, Lane.SUSPECT, take, 1),
    )


class _DrainedError(Exception):
    """The broker is away while the worker drains, and nothing is worth waiting for it."""


class _Consumer(ConsumerMixin):  # type: ignore[misc]  # kombu has no types
    """Receives, acknowledges and puts back messages in its own thread; a pool of threads answers them."""

    def __init__(
        self, redis_url: str, queue_name: str, lane: Lane, take: Take, slots: int, thread_name: str
    ) -> None:
        self.connection = _connection(redis_url)
        self.draining = False
        self._queue_name = queue_name
        self._lane = lane
        self._take = take
        self._slots = slots
        self._threads = ThreadPoolExecutor(slots, thread_name_prefix=thread_name)
        self._under_way = 0
        self._ends: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._consumers: list[Any] = []

    def shutdown(self) -> None:
        self._threads.shutdown()
        self.connection.release()

    # What kombu calls

    def get_consumers(self, Consumer: Any, channel: Any) -> list[Any]:  # noqa: ARG002, N803 - kombu's
        exchange = kombu.Exchange(self._queue_name, type="direct")
        taken = kombu.Queue(self._queue_name, exchange, routing_key=self._queue_name)
        self._consumers = [
            Consumer(
                [taken],
                on_message=self._on_message,
                accept=CELERY_OPTIONS["accept_content"],
                prefetch_count=self._slots,
            )
        ]
        return self._consumers

    def consume(self, *_: Any, **__: Any) -> Iterator[None]:
        """As kombu's, but looks for finished messages as often as one can finish."""
        with self.consumer_context() as (connection, _channel, _consumers):
            while not self.should_stop:
                self.on_iteration()
                try:
                    connection.drain_events(timeout=ACKNOWLEDGE_EVERY_S if self._under_way else IDLE_S)
                except TimeoutError:
                    pass
                else:
                    yield

    def on_iteration(self) -> None:
        while not self._ends.empty():
            self._under_way -= 1
            self._end_one(self._ends.get())
        if self.draining:
            for consumer in self._consumers:
                consumer.cancel()
            self._consumers = []
            self.should_stop = self._under_way == 0

    def on_connection_error(self, exc: Exception, interval: float) -> None:
        log.warning("the broker is away (%s); again in %.0f s", type(exc).__name__, interval)
        if self.draining:
            # Jobs under way are answered. Their messages come again unacknowledged and are dropped.
            raise _DrainedError

    # One message

    def _on_message(self, message: Any) -> None:
        self._under_way += 1
        self._threads.submit(self._answer, message)

    def _answer(self, message: Any) -> None:
        """In a thread of the pool: answer a message and have it acknowledged or put back, in every case."""
        end = message.requeue
        try:
            jobs, *_ = message.decode()
            if self._take(jobs, self._lane) is MessageOutcome.ACKNOWLEDGE:
                end = message.ack
        finally:
            self._ends.put(end)

    def _end_one(self, end: Callable[[], None]) -> None:
        try:
            end()
        except (*self.connection_errors, *self.channel_errors) as error:
            # The broker delivers it again after the visibility timeout, and the store has its answer.
            log.warning("a message could not be acknowledged: %s", type(error).__name__)


def _connection(redis_url: str) -> Any:
    install_transport()
    return kombu.Connection(
        redis_url,
        transport_options=SIDE_OPTIONS,
        connect_timeout=CELERY_OPTIONS["broker_connection_timeout"],
    )
