"""Jobs that were sent and have no record yet; knows no ledger, no queue and no store."""

import time
from collections.abc import Iterable, Iterator, Sequence
from typing import Final

from contract.broker import VISIBILITY_TIMEOUT_S

OVERDUE_S: Final = VISIBILITY_TIMEOUT_S * 1.5
"""A job sent this long ago has been delivered a second time by the broker, or is lost."""


class InFlight:
    """Indices of jobs, in the order of sending."""

    def __init__(self) -> None:
        self._sent_at: dict[int, float] = {}
        """Index to monotonic time."""
        self.heard_at = time.monotonic()
        """When the last record came, or the first job after silence was sent."""
        self.any_yet = False
        """Whether any job has been under way since this process began."""

    def __len__(self) -> int:
        return len(self._sent_at)

    def __iter__(self) -> Iterator[int]:
        return iter(self._sent_at)

    def add(self, indices: Iterable[int]) -> None:
        now = time.monotonic()
        if not self._sent_at:
            # Silence counts from the first job on.
            self.heard_at = now
        self._sent_at.update(dict.fromkeys(indices, now))
        self.any_yet = self.any_yet or bool(self._sent_at)

    def remove(self, finished: Sequence[int]) -> None:
        """Their records have come."""
        for index in finished:
            self._sent_at.pop(index, None)
        if finished:
            self.heard_at = time.monotonic()

    def replace(self, lost: Iterable[int], sent: Iterable[int]) -> None:
        """Of the lost ones, those that were sent again are the last now, and the others gone."""
        for index in lost:
            self._sent_at.pop(index)
        self._sent_at.update(dict.fromkeys(sent, time.monotonic()))

    def overdue(self) -> set[int]:
        now = time.monotonic()
        return {index for index, sent_at in self._sent_at.items() if now - sent_at > OVERDUE_S}
