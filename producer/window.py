"""How many jobs are under way at once, and how many go in one message; knows no job."""

import time
from collections.abc import Callable
from typing import Final

import redis

from producer.workers import live_workers

SMALLEST_WINDOW: Final = 256
WINDOW_PER_SLOT: Final = 8
WORKERS_EVERY_S: Final = 5.0
TOGETHER_S: Final = 10.0
MOST_TOGETHER: Final = 8
"""Jobs go together in one message as long as they take a worker's slot no longer than TOGETHER_S."""
ROUNDS: Final = 2
"""Messages are so small that each slot could have as many, of a window and of what is not sent."""


class Window:
    """Bounds the jobs that are sent and not answered: by a number, or by what the live workers can take."""

    def __init__(
        self, connection: redis.Redis, jobs: int | None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Without `jobs` it follows the workers, looked at once in WORKERS_EVERY_S."""
        self._redis = connection
        self._fixed = jobs
        self._clock = clock
        self._looked_at: float | None = None
        self._slots = 0

    @property
    def slots(self) -> int:
        """Of the live workers together; without one, as many as suit the smallest window."""
        now = self._clock()
        if self._looked_at is None or now - self._looked_at >= WORKERS_EVERY_S:
            self._looked_at = now
            self._slots = sum(worker.slots for worker in live_workers(self._redis))
        return self._slots or SMALLEST_WINDOW // WINDOW_PER_SLOT

    @property
    def jobs(self) -> int:
        """Sent and not answered at most."""
        return max(SMALLEST_WINDOW, WINDOW_PER_SLOT * self.slots) if self._fixed is None else self._fixed

    def portion(self, under_way: int, unsent: int, job_s: float | None) -> tuple[int, int]:
        """How many jobs to send now, and how many of them in one message.

        `job_s` is what a job of late took its worker; until the first answer tells, few go, one by one.
        Towards the end messages hold fewer and fewer jobs, so that no slot has several left when the others
        have none.
        """
        room = self.jobs - under_way
        if job_s is None:
            return min(self.jobs, ROUNDS * self.slots) - under_way, 1
        in_time = int(TOGETHER_S / max(job_s, TOGETHER_S / MOST_TOGETHER))
        together = min(in_time, min(unsent, self.jobs) // (ROUNDS * self.slots))
        if together <= 1:
            return room, 1
        return min(room, unsent // 2), together
