"""Decides how long to let records gather before they are collected together; knows no store."""

import time
from typing import Final

from producer.window import Window

FEW: Final = 64
"""Number of records that gather before they are collected, or a quarter of the window if that is less."""
GATHER_S: Final = 1.0
"""Longest time in seconds for records to gather."""
LAST_GATHER_S: Final = 0.25
"""Longest time in seconds when every job is sent, as somebody waits for the last ones."""
LAST_FEW: Final = 8
"""Number of last jobs whose records are collected at once."""


class Pacing:
    """Collects records in groups: a transaction for each would take time from workers on this machine."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._collected_at = time.monotonic() - GATHER_S
        self._gathered = 0
        """Number of records since then."""
        self._gather_s = 0.0

    def wait(self, in_flight: int, *, is_fed: bool) -> None:
        """Wait until it is time to collect; `is_fed` says that every job is sent."""
        gather_s = self._gather_s
        if is_fed:
            gather_s = 0.0 if 0 < in_flight <= LAST_FEW else min(gather_s, LAST_GATHER_S)
        time.sleep(max(0.0, self._collected_at + gather_s - time.monotonic()))

    def note(self, records: int, *, waited: bool) -> None:
        """Set the next wait, by the rate of records since the last one."""
        self._gathered += records
        if not waited:
            return
        now = time.monotonic()
        # A small window must not run empty while answers gather.
        few = max(1, min(FEW, self._window.jobs // 4))
        since_s = now - self._collected_at
        self._gather_s = min(GATHER_S, few * since_s / self._gathered) if self._gathered else GATHER_S
        self._collected_at, self._gathered = now, 0
