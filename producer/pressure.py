"""Checks whether queue and store can take more jobs; knows nothing of the run's window."""

import time
from collections.abc import Callable
from typing import Any, Final

import redis

from contract.counting import counted
from contract.store import results_key
from producer.feed import JobQueue

PRESSURE_EVERY_S: Final = 1.0
"""Seconds between two checks."""
MOST_QUEUED: Final = 100_000
"""Number of messages in the queue from which on no job is sent."""
MOST_UNCOLLECTED: Final = 50_000
"""Number of uncollected records in the store from which on no job is sent."""
MOST_MEMORY: Final = 0.8
"""Share of the store's maxmemory from which on no job is sent."""


class Pressure:
    """The state of queue and store, checked once in PRESSURE_EVERY_S."""

    def __init__(
        self, connection: redis.Redis, queue: JobQueue, run: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = connection
        self._queue = queue
        self._key = results_key(run)
        self._clock = clock
        self._looked_at: float | None = None
        self._held: str | None = None

    def held(self) -> str | None:
        """A reason to wait with sending, as a clause; None if there is none."""
        now = self._clock()
        if self._looked_at is None or now - self._looked_at >= PRESSURE_EVERY_S:
            self._looked_at = now
            self._held = self._look()
        return self._held

    def _look(self) -> str | None:
        queued = self._queue.queued()
        if queued > MOST_QUEUED:
            return counted(queued, "job is queued", "jobs are queued")
        uncollected: Any = self._redis.xlen(self._key)
        if uncollected > MOST_UNCOLLECTED:
            waiting = counted(uncollected, "answer waits", "answers wait")
            return f"{waiting} in the store to be collected"
        memory: Any = self._redis.info("memory")
        used, most = memory["used_memory"], memory.get("maxmemory", 0)
        if most and used > MOST_MEMORY * most:
            return f"the store uses {used // 2**20} of its {most // 2**20} MiB"
        return None
