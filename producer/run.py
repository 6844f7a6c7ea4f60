"""Drives one run from first job to last answer: feeds, collects, sends lost jobs again; knows no console."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Final

import redis

from producer.collect import Collector
from producer.done_bits import DoneBits
from producer.feed import Feeder, JobQueue
from producer.first_jobs import FirstJobs
from producer.in_flight import InFlight
from producer.lease import Lease
from producer.ledger import Ledger
from producer.outputs import Outputs
from producer.pacing import Pacing
from producer.pressure import Pressure
from producer.reconciler import Reconciler
from producer.window import Window

BLOCK_MS: Final = 100
WATCHED: Final = 2000
"""Number of the oldest jobs in flight that a process without a collector checks at a time."""


@dataclass(frozen=True)
class Round:
    """The run's progress after one round of feeding and collecting."""

    complete: int
    """Number of rows with an outcome for every question."""
    failed_questions: int
    """Number since this process began."""
    in_flight: int
    """Number of jobs sent and not answered."""
    tokens: int
    """Number of tokens generated since this process began."""
    silent_s: float
    sent_again: int
    held: str | None
    """Why nothing is sent now although the window has room."""
    asked: bool = True
    """Whether this process has had any job in flight."""


class Run:
    """Drives one run. Lost jobs are sent again; a job sent twice still has one record."""

    def __init__(
        self,
        ledger: Ledger,
        queue: JobQueue,
        connection: redis.Redis,
        run: str,
        *,
        feeder: Feeder | None,
        collector: Collector | None,
        outputs: Outputs | None,
        window: Window,
        first_jobs: FirstJobs | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Without `feeder` it only collects, without `collector` it only feeds.

        Nothing is written while `first_jobs` is undecided.
        """
        self._ledger = ledger
        self._feeder = feeder
        self._collector = collector
        self._outputs = outputs
        self._window = window
        self._first_jobs = first_jobs
        self._lease = lease
        self._pressure = Pressure(connection, queue, run)
        self._pacing = Pacing(window)
        self._done_bits = DoneBits(connection, run)
        self._watched_at = time.monotonic()
        self.in_flight = InFlight()
        self.reconciler = Reconciler(
            ledger, queue, connection, run, self.in_flight, feeder=feeder, collector=collector
        )
        self._rows = ledger.rows()
        self.complete = ledger.complete_rows(None if outputs is None else outputs.emitted)
        """Number of rows answered, and written if this process writes."""

    def rounds(self) -> Iterator[Round]:
        """Rounds until every row is answered and written; between rounds everything on disk is consistent.

        Without a collector they end when every job is sent; without a feeder, when every job is collected.
        Raises WorkersCrashError, FirstJobsFailError, and LedgerError if the folder is gone or another process
        has the run.
        """
        self.reconciler.take_over()
        while True:
            self._ledger.check_place()
            if self._lease is not None:
                self._lease.hold()
            fed, held = self._feed()
            moved = self._collect(wait=not fed)
            self.reconciler.reconcile()
            if self._collector is not None:
                self._collector.stop_if_workers_crash()
            yield self._round(held)
            if not fed and not moved and self._at_end() and not self._decided_now():
                return

    def _round(self, held: str | None) -> Round:
        return Round(
            complete=self.complete,
            failed_questions=0 if self._collector is None else self._collector.failures,
            in_flight=len(self.in_flight),
            tokens=0 if self._collector is None else self._collector.tokens,
            silent_s=time.monotonic() - self.in_flight.heard_at,
            sent_again=self.reconciler.sent_again,
            held=held,
            asked=self.in_flight.any_yet,
        )

    def _decided_now(self) -> bool:
        """At the end: decide on the first jobs of a short run. Whether that allowed rows to be written."""
        if self._first_jobs is None or not self._first_jobs.undecided:
            return False
        self._first_jobs.decide(at_end=True)
        return True

    def _at_end(self) -> bool:
        if not self._ledger.is_fed():
            return False
        if self._collector is None:
            return True
        return not self.in_flight if self._feeder is not None else not self._ledger.has_open_jobs()

    def _feed(self) -> tuple[bool, str | None]:
        """Whether rows were taken, and why none could be."""
        if self._feeder is None:
            return False, None
        room, together = self._portion()
        if room <= 0:
            return False, None
        held = self._pressure.held()
        if held is not None:
            return False, held
        fed = self._feeder.feed(room, together)
        self.in_flight.add(fed.sent)
        return fed.rows > 0, None

    def _portion(self) -> tuple[int, int]:
        """How many jobs to send now, and how many of them in one message."""
        under_way = len(self.in_flight)
        if self._collector is None:
            return self._window.jobs - under_way, 1
        unsent = self._rows - self.complete - under_way
        return self._window.portion(under_way, unsent, self._collector.job_s)

    def _collect(self, *, wait: bool) -> bool:
        """Whether records came or rows were written."""
        if self._collector is None:
            return self._watch(wait=wait)
        if wait:
            self._pacing.wait(len(self.in_flight), is_fed=self._ledger.is_fed())
        finished = self._collector.collect(BLOCK_MS if wait and self.in_flight else 0)
        self._pacing.note(len(finished), waited=wait)
        self.in_flight.remove(finished)
        if self._first_jobs is not None:
            self._first_jobs.decide(at_end=False)
        written = self._write()
        is_idle = wait and not self.in_flight and not finished and not written
        if is_idle and (not self._ledger.is_fed() or self._ledger.has_open_jobs()):
            time.sleep(BLOCK_MS / 1000)
        return bool(finished or written)

    def _write(self) -> int:
        """Write completed rows; returns their number."""
        if self._first_jobs is not None and self._first_jobs.undecided:
            return 0
        written = 0
        while self._outputs is not None and (rows := self._outputs.write()):
            written += rows
        self.complete += written
        return written

    def _watch(self, *, wait: bool) -> bool:
        """Without a collector: remove done jobs from those in flight, by the workers' done bits."""
        if wait and self.in_flight:
            time.sleep(BLOCK_MS / 1000)
        elif time.monotonic() - self._watched_at < BLOCK_MS / 1000:
            return False
        self._watched_at = time.monotonic()
        finished = self._done_bits.of(list(islice(self.in_flight, WATCHED)))
        self.in_flight.remove(finished)
        return bool(finished)
