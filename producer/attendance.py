"""Tells a waiting run's user when no worker is alive, and when one has come; starts none."""

import time
from collections.abc import Callable
from typing import Any, Final

import redis

from producer.workers import live_workers

LOOK_EVERY_S: Final = 1.0

Tell = Callable[[str, str, dict[str, Any]], None]
"""Called with a sentence, and with the same as an event: name and fields."""


class Attendance:
    """Says what has changed since the last look, at most once in LOOK_EVERY_S.

    While no worker is alive, it looks at every call: a short run may be answered before the next look, and
    the worker's name has to come before its end.
    """

    def __init__(
        self,
        connection: redis.Redis,
        no_worker: str,
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`no_worker` is the sentence for a server without workers."""
        self._redis = connection
        self._no_worker = no_worker
        self._tell = tell
        self._clock = clock
        self._looked_at: float | None = None
        self._attended = True

    def look(self) -> None:
        now = self._clock()
        looked_lately = self._looked_at is not None and now - self._looked_at < LOOK_EVERY_S
        if looked_lately and self._attended:
            return
        self._looked_at = now
        live = live_workers(self._redis)
        if bool(live) == self._attended:
            return
        self._attended = bool(live)
        if not live:
            self._tell(self._no_worker, "no_worker", {"message": self._no_worker})
            return
        who = ", ".join(f"{one.worker} with {one.model} on {one.device}" for one in live)
        self._tell(f"A worker has come: {who}.", "worker", {"workers": [one.worker for one in live]})
