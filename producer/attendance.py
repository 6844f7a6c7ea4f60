"""Says while a run waits that no worker is alive, with the command that starts one, and when one has come."""

import time
from collections.abc import Callable
from typing import Any, Final

import redis

from producer.workers import live_workers

LOOK_EVERY_S: Final = 1.0

Tell = Callable[[str, str, dict[str, Any]], None]
"""Called with a sentence, and with the same as an event: its name and fields."""


class Attendance:
    """Looks at once, then every LOOK_EVERY_S, and each time while nobody was there; says what has changed."""

    def __init__(
        self,
        connection: redis.Redis,
        nobody: str,
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`nobody` is what to say while no worker is alive."""
        self._redis = connection
        self._nobody = nobody
        self._tell = tell
        self._clock = clock
        self._looked_at: float | None = None
        self._attended = True

    def look(self) -> None:
        now = self._clock()
        looked_lately = self._looked_at is not None and now - self._looked_at < LOOK_EVERY_S
        # A short run may be answered whole before the next look, and who came is said before its end.
        if looked_lately and self._attended:
            return
        self._looked_at = now
        live = live_workers(self._redis)
        if bool(live) == self._attended:
            return
        self._attended = bool(live)
        if not live:
            self._tell(self._nobody, "no_worker", {"message": self._nobody})
            return
        who = ", ".join(f"{one.worker} with {one.model} on {one.device}" for one in live)
        self._tell(f"A worker has come: {who}.", "worker", {"workers": [one.worker for one in live]})
