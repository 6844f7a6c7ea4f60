"""How long records are left to gather before they are collected together; knows no store."""

import time
from typing import Final

from producer.window import Window

FEW: Final = 64
GATHER_S: Final = 1.0
"""Records are left to gather until there are about FEW, or a quarter of the window, and so long at most."""
LAST_GATHER_S: Final = 0.25
"""The same when every job is sent: what is left is what somebody waits for."""
LAST_FEW: Final = 8
"""So many jobs at the end are not left to gather at all."""


class Pacing:
    """A transaction for each answer would cost what the workers on this machine could use."""

    def __init__(self, window: Window) -> None:
        self._window = window
        self._collected_at = time.monotonic() - GATHER_S
        self._gathered = 0
        """Records since then."""
        self._gather_s = 0.0

    def wait(self, in_flight: int, *, is_fed: bool) -> None:
        """Until it is time to collect; `is_fed` says that every job is sent."""
        gather_s = self._gather_s
        if is_fed:
            gather_s = 0.0 if 0 < in_flight <= LAST_FEW else min(gather_s, LAST_GATHER_S)
        time.sleep(max(0.0, self._collected_at + gather_s - time.monotonic()))

    def note(self, records: int, *, waited: bool) -> None:
        """Set the next wait by how fast records came since the last one."""
        self._gathered += records
        if not waited:
            return
        now = time.monotonic()
        # A small window must not run empty while answers gather.
        few = max(1, min(FEW, self._window.jobs // 4))
        since_s = now - self._collected_at
        self._gather_s = min(GATHER_S, few * since_s / self._gathered) if self._gathered else GATHER_S
        self._collected_at, self._gathered = now, 0
