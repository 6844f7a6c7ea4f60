"""One run from its first job to its last answer: feed within a window, collect, send again what was lost."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

from contract.broker import VISIBILITY_TIMEOUT_S
from contract.job import Job
from producer.collect import Collector
from producer.run_folder import RunFolder

BLOCK_MS: Final = 250
QUIET_S: Final = 2.0
OVERDUE_S: Final = VISIBILITY_TIMEOUT_S * 1.5
"""A job sent this long ago has been delivered a second time by the broker, or is lost."""


class Queue(Protocol):
    """Where jobs go: producer.client's Client."""

    def submit(self, jobs: list[Job]) -> None: ...
    def backlog(self) -> int: ...


@dataclass(frozen=True)
class Round:
    """How far the run is after a round of feeding and collecting."""

    in_flight: int
    silent_s: float
    sent_again: int


class Run:
    """Drives one run. Jobs lost by broker or workers are sent again; the store keeps each record single."""

    def __init__(
        self, folder: RunFolder, queue: Queue, collector: Collector, window: int, quiet_s: float = QUIET_S
    ) -> None:
        """`window` bounds the jobs that are sent and not answered.

        Without a record for `quiet_s`, the run looks whether jobs were lost.
        """
        self._folder = folder
        self._queue = queue
        self._collector = collector
        self._window = window
        self._quiet_s = quiet_s
        self._unsent = (i for i in range(folder.record.jobs) if not collector.is_done(i))
        self._sent_at: dict[int, float] = {}
        """Index to monotonic time, in order of sending."""
        self._sent_again = 0
        self._heard_at = time.monotonic()
        self._looked_at = time.monotonic()
        self._empty_at_last_look = False

    def rounds(self) -> Iterator[Round]:
        """Until every job is answered; between rounds everything on disk is consistent."""
        while True:
            self._feed()
            if not self._sent_at:
                return
            self._collect()
            self._reconcile()
            yield Round(len(self._sent_at), time.monotonic() - self._heard_at, self._sent_again)

    def _feed(self) -> None:
        indices: list[int] = []
        while len(self._sent_at) + len(indices) < self._window:
            index = next(self._unsent, None)
            if index is None:
                break
            if not self._collector.is_done(index):
                indices.append(index)
        self._send(indices)

    def _send(self, indices: list[int]) -> None:
        if indices:
            self._queue.submit([self._folder.entry(index).job for index in indices])
        for index in indices:
            self._sent_at.pop(index, None)
            self._sent_at[index] = time.monotonic()

    def _collect(self) -> None:
        finished = self._collector.collect(BLOCK_MS)
        for index in finished:
            self._sent_at.pop(index, None)
        if finished:
            self._heard_at = time.monotonic()
            self._empty_at_last_look = False

    def _reconcile(self) -> None:
        """Send again what the broker has lost.

        A job is lost when nothing is queued or taken and it has no record. That is believed at the second
        look: at the first, a worker may be between taking a message and noting so.
        """
        now = time.monotonic()
        if now - max(self._heard_at, self._looked_at) < self._quiet_s:
            return
        self._looked_at = now
        empty = self._queue.backlog() == 0
        if empty and self._empty_at_last_look:
            lost = list(self._sent_at)
        else:
            lost = [index for index, sent_at in self._sent_at.items() if now - sent_at > OVERDUE_S]
        self._empty_at_last_look = empty and not lost
        self._send(lost)
        self._sent_again += len(lost)
