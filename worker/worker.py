"""Puts the parts of one process's worker together, starts, drains and closes them; loads no model."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

from worker.delivery.attempts import Answers, Attempts
from worker.delivery.results import ResultStore
from worker.delivery.side_queue import SuspectQueue, side_queues
from worker.device_scheduler import DeviceScheduler
from worker.engine.loop import EngineTimes
from worker.monitoring.announce import Announcer
from worker.monitoring.measured import MeasuredService
from worker.monitoring.monitor import Monitor
from worker.settings import Settings


class JobService(Answers, Protocol):
    """Answers jobs, drains and closes: worker.service's Service."""

    def drain(self) -> None: ...
    def close(self) -> None: ...


@dataclass(frozen=True, kw_only=True)
class Parts:
    """The parts of a worker. worker.startup loads real ones; tests and benches bring others."""

    service: JobService
    store: ResultStore
    monitor: Monitor
    device: DeviceScheduler
    """the one that the service uses"""
    device_name: str = "CPU"
    description: str = "a worker without a model"
    engine_times: EngineTimes = field(default_factory=EngineTimes)
    close_last: tuple[Callable[[], None], ...] = ()
    """functions called in this order, after the service is closed and before the store is"""


class Worker:
    """Answers for the task threads of one process and can be drained and closed."""

    def __init__(self, settings: Settings, parts: Parts) -> None:
        """Connects to nothing yet."""
        redis_url = settings.redis_url.get_secret_value()
        self.parts = parts
        self.description = parts.description
        self._suspects = SuspectQueue(redis_url)
        self.attempts = Attempts(
            MeasuredService(parts.service, parts.monitor.metrics),
            parts.store,
            self._suspects.put,
            device=parts.device,
        )
        self._side_queues = side_queues(redis_url, self.attempts.take, settings.interactive_slots)
        model_id = parts.service.model_id
        self._announcer = Announcer(parts.store, model_id, parts.device_name, settings.image_roots)

    def start(self, slots: int) -> None:
        """Take jobs from the side queues, and report this worker with its `slots` for bulk jobs."""
        self._announcer.start(slots, self.attempts.held.reconcile)
        for queue in self._side_queues:
            queue.start()
        self.parts.monitor.start(slots, self.parts.service.model_id, self.parts.device_name, self.drain)

    def drain(self) -> None:
        """Begin no further job. Safe in a signal handler."""
        self.parts.monitor.supervision.set_draining()
        self.parts.service.drain()
        for queue in self._side_queues:
            queue.drain()

    def close(self) -> None:
        """End threads and connections, after the last bulk job."""
        for queue in self._side_queues:
            queue.close()
        self._suspects.close()
        self._announcer.close()
        self.parts.service.close()
        for close in self.parts.close_last:
            close()
        self.parts.store.close()
        self.parts.monitor.close()
