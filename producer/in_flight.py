"""Keeps the jobs that were sent and have no record yet; knows no ledger, no queue and no store."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from contract.broker import VISIBILITY_TIMEOUT_S

OVERDUE_S: Final = VISIBILITY_TIMEOUT_S * 1.5
"""Seconds after which the broker has redelivered a job, or has lost it."""


class InFlight:
    """Indices of jobs, in the order of sending."""

    def __init__(self) -> None:
        self._sent_at: dict[int, float] = {}
        """Job index → monotonic time of sending."""
        self.heard_at = time.monotonic()
        """Monotonic time of the last record, or of the first job sent after nothing was in flight."""
        self.any_yet = False
        """Whether this process has had any job in flight."""

    def __len__(self) -> int:
        return len(self._sent_at)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sent_at)

    def add(self, indices: Iterable[int]) -> None:
        now = time.monotonic()
        if not self._sent_at:
            self.heard_at = now
        self._sent_at.update(dict.fromkeys(indices, now))
        self.any_yet = self.any_yet or bool(self._sent_at)

    def remove(self, finished: Sequence[int]) -> None:
        """Their records have arrived."""
        for index in finished:
            self._sent_at.pop(index, None)
        if finished:
            self.heard_at = time.monotonic()

    def replace(self, lost: Iterable[int], sent: Iterable[int]) -> None:
        """Remove the lost jobs, and add those of them that were sent again."""
        for index in lost:
            self._sent_at.pop(index)
        self._sent_at.update(dict.fromkeys(sent, time.monotonic()))

    def overdue(self) -> set[int]:
        now = time.monotonic()
        return {index for index, sent_at in self._sent_at.items() if now - sent_at > OVERDUE_S}
