"""Decides how many jobs are in flight, and how many go in one message; knows no job."""

import time
from collections.abc import Callable
from typing import Final

import redis

from producer.workers import live_workers

SMALLEST_WINDOW: Final = 256
WINDOW_PER_SLOT: Final = 8
"""Number of jobs in flight for each slot of the live workers."""
WORKERS_EVERY_S: Final = 5.0
"""Seconds between two looks at the live workers."""
TOGETHER_S: Final = 10.0
"""Longest time in seconds that the jobs of one message take a slot."""
MOST_TOGETHER: Final = 8
"""Largest number of jobs in one message."""
ROUNDS: Final = 2
"""Smallest number of messages for each slot, in a window and in what is not sent yet."""


class Window:
    """Bounds the jobs in flight, by a fixed number or by the slots of the live workers."""

    def __init__(
        self, connection: redis.Redis, jobs: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`jobs` is the fixed number; None follows the workers."""
        self._redis = connection
        self._fixed = jobs
        self._clock = clock
        self._looked_at: float | None = None
        self._slots = 0

    @property
    def slots(self) -> int:
        """Slots of all live workers; without a worker, the number that fits the smallest window."""
        now = self._clock()
        if self._looked_at is None or now - self._looked_at >= WORKERS_EVERY_S:
            self._looked_at = now
            self._slots = sum(worker.slots for worker in live_workers(self._redis))
        return self._slots or SMALLEST_WINDOW // WINDOW_PER_SLOT

    @property
    def jobs(self) -> int:
        """Largest number of jobs in flight."""
        return max(SMALLEST_WINDOW, WINDOW_PER_SLOT * self.slots) if self._fixed is None else self._fixed

    def portion(self, under_way: int, unsent: int, job_s: float | None) -> tuple[int, int]:
        """How many jobs to send now, and how many of them in one message.

        `job_s` is the recent mean time of a job; until the first answer few jobs go, one by one. Towards the
        end messages hold fewer and fewer jobs, so that no slot has several left when the others have none.
        """
        room = self.jobs - under_way
        if job_s is None:
            return min(self.jobs, ROUNDS * self.slots) - under_way, 1
        in_time = int(TOGETHER_S / max(job_s, TOGETHER_S / MOST_TOGETHER))
        together = min(in_time, min(unsent, self.jobs) // (ROUNDS * self.slots))
        if together <= 1:
            return room, 1
        return min(room, unsent // 2), together
