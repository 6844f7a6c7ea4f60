"""Finds jobs that broker or workers have lost, and has them sent again; collects nothing."""

import time
from typing import Final

import redis

from contract.store import cancelled_key, done_key
from producer.collect import Collector, WorkersCrashError
from producer.done_bits import DoneBits
from producer.feed import Feeder, JobQueue
from producer.holders import holders
from producer.in_flight import InFlight
from producer.ledger import JobState, Ledger, OpenJob

LOOK_EVERY_S: Final = 5.0
"""Seconds between two looks for lost jobs."""
QUIET_S: Final = 2.0
"""Seconds without a record after which the next look comes early."""


class Reconciler:
    """Compares the jobs in flight with those of workers and queue. A job sent twice still has one record."""

    def __init__(
        self,
        ledger: Ledger,
        queue: JobQueue,
        connection: redis.Redis,
        run: str,
        in_flight: InFlight,
        *,
        feeder: Feeder | None,
        collector: Collector | None,
    ) -> None:
        """Without `feeder` it does nothing, as another process sends."""
        self._ledger = ledger
        self._queue = queue
        self._redis = connection
        self._run = run
        self._in_flight = in_flight
        self._feeder = feeder
        self._collector = collector
        self._done_bits = DoneBits(connection, run)
        self._looked_at = time.monotonic()
        self._missing: set[int] = set()
        """Jobs that were missing at the last look."""
        self.quiet_s = QUIET_S
        self.sent_again = 0
        """Number of jobs that were sent again."""

    def take_over(self) -> None:
        """Take over the jobs that an earlier process has sent, and send those that it may not have."""
        if self._feeder is None:
            return
        # Keys that keep late redeliveries out after an end of the run.
        self._redis.delete(cancelled_key(self._run))
        self._redis.persist(done_key(self._run))
        jobs = self._ledger.jobs.open()
        self._feeder.send([job for job in jobs if job.state is JobState.SENDING])
        self._in_flight.add(job.index for job in jobs)

    def reconcile(self) -> None:
        """Look every LOOK_EVERY_S, or after `quiet_s` without a record. Raises WorkersCrashError.

        A job is missing if its worker is dead, or if no worker has it and the queue is empty. It counts as
        lost at the second look: at the first, a worker may have taken its message and not noted it yet.
        """
        if self._feeder is None or not self._in_flight or not self._is_due():
            return
        self._looked_at = time.monotonic()
        if self._redis.exists(cancelled_key(self._run)):
            raise WorkersCrashError("Another process has stopped the run; its message says why.")
        empty = self._queue.queued() == 0
        held = holders(self._redis, self._run)
        missing = {
            index for index in self._in_flight if index in held.dead or (empty and index not in held.live)
        }
        lost = missing & self._missing
        self._missing = missing - lost
        if self._collector is not None and not self._collector.backlog():
            # Every worker would drop a job whose done bit is set, though its record is nowhere. That happens
            # in a folder restored from an old copy: its records were collected into the lost one.
            self._done_bits.clear(lost - held.dead)
        self._send_again(self._feeder, lost | (self._in_flight.overdue() - held.live))

    def _is_due(self) -> bool:
        now = time.monotonic()
        silent = now - max(self._in_flight.heard_at, self._looked_at) >= self.quiet_s
        return silent or now - self._looked_at >= LOOK_EVERY_S

    def _send_again(self, feeder: Feeder, lost: set[int]) -> None:
        jobs = [
            OpenJob(index, JobState.SENT, message)
            for index in sorted(lost)
            if (message := self._ledger.jobs.message(index)) is not None
        ]
        feeder.send(jobs)
        self._in_flight.replace(lost, [job.index for job in jobs])
        self.sent_again += len(jobs)
