"""One run from its first job to its last answer: feed within a window, collect, send again what was lost."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import islice
from typing import Any, Final

import redis

from contract.broker import VISIBILITY_TIMEOUT_S
from contract.counting import counted
from contract.store import attempts_key, cancelled_key, done_key, holders_key, results_key
from producer.collect import Collector
from producer.feed import Feeder, JobQueue
from producer.first_jobs import FirstJobs
from producer.holders import holders
from producer.lease import Lease
from producer.ledger import JobState, Ledger, OpenJob
from producer.outputs import Outputs
from producer.window import Window

BLOCK_MS: Final = 100
FEW: Final = 64
GATHER_S: Final = 1.0
"""Records are left to gather until there are about FEW, or a quarter of the window, and so long at most."""
LAST_GATHER_S: Final = 0.25
"""The same when every job is sent: what is left is what somebody waits for."""
LAST_FEW: Final = 8
"""So many jobs at the end are not left to gather at all."""
WATCHED: Final = 2000
"""Of the jobs in flight, those sent first: so many does a process without a collector look for at a time."""
PIECE_BITS: Final = 512
"""Of the done bits, fetched at once."""
LOOK_EVERY_S: Final = 5.0
QUIET_S: Final = 2.0
"""Without a record for so long, the next look at what was lost is due."""
OVERDUE_S: Final = VISIBILITY_TIMEOUT_S * 1.5
"""A job sent this long ago has been delivered a second time by the broker, or is lost."""
CANCELLED_KEPT_S: Final = 7 * 24 * 3600
PRESSURE_EVERY_S: Final = 1.0
MOST_QUEUED: Final = 100_000
MOST_UNCOLLECTED: Final = 50_000
"""Records in the store that no collector has fetched."""
MOST_MEMORY: Final = 0.8
"""Of the store's maxmemory, if it has one."""


class WorkersCrashError(Exception):
    """The run has stopped, as its jobs kill every worker; the message says what to do."""


@dataclass(frozen=True)
class Round:
    """How far the run is after a round of feeding and collecting."""

    complete: int
    """Rows with an outcome for every question."""
    failed_questions: int
    """Since this process began."""
    in_flight: int
    """Jobs sent and not answered."""
    tokens: int
    """Generated, since this process began."""
    silent_s: float
    sent_again: int
    held: str | None
    """Why nothing is sent at the moment though there is room in the window."""
    asked: bool = True
    """Whether any job has been under way since this process began."""


class Pressure:
    """Whether queue and store can take more, looked at once in PRESSURE_EVERY_S."""

    def __init__(
        self, connection: redis.Redis, queue: JobQueue, run: str, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._redis = connection
        self._queue = queue
        self._key = results_key(run)
        self._clock = clock
        self._looked_at: float | None = None
        self._held: str | None = None

    def held(self) -> str | None:
        """A reason to wait, as a clause; None to go on."""
        now = self._clock()
        if self._looked_at is None or now - self._looked_at >= PRESSURE_EVERY_S:
            self._looked_at = now
            self._held = self._look()
        return self._held

    def _look(self) -> str | None:
        queued = self._queue.queued()
        if queued > MOST_QUEUED:
            return counted(queued, "job is queued", "jobs are queued")
        uncollected: Any = self._redis.xlen(self._key)
        if uncollected > MOST_UNCOLLECTED:
            waiting = counted(uncollected, "answer waits", "answers wait")
            return f"{waiting} in the store to be collected"
        memory: Any = self._redis.info("memory")
        used, most = memory["used_memory"], memory.get("maxmemory", 0)
        if most and used > MOST_MEMORY * most:
            return f"the store uses {used // 2**20} of its {most // 2**20} MiB"
        return None


class Run:
    """Drives one run. Jobs lost by broker or workers are sent again; the store keeps each record single."""

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
        quiet_s: float = QUIET_S,
        first_jobs: FirstJobs | None = None,
        lease: Lease | None = None,
    ) -> None:
        """Without `feeder` it only collects, without `collector` it only feeds: another process does the
        rest. The run looks every LOOK_EVERY_S whether jobs were lost, without a record for `quiet_s` at once.
        Nothing is written while `first_jobs`, which the collector tells of its records, are undecided.
        """
        self._ledger = ledger
        self._queue = queue
        self._redis = connection
        self._run = run
        self._feeder = feeder
        self._collector = collector
        self._outputs = outputs
        self._window = window
        self._quiet_s = quiet_s
        self._first_jobs = first_jobs
        self._lease = lease
        self._pressure = Pressure(connection, queue, run)
        now = time.monotonic()
        self._sent_at: dict[int, float] = {}
        """Index to monotonic time, in order of sending."""
        self._sent_again = 0
        self._asked = False
        self._watched_at = now
        self._collected_at = now - GATHER_S
        self._gathered = 0
        """Records since then."""
        self._gather_s = 0.0
        self._heard_at = now
        self._looked_at = now
        self._missing: set[int] = set()
        """At the last look."""
        self._rows = ledger.rows()
        self.complete = ledger.complete_rows(None if outputs is None else outputs.emitted)
        """Rows answered, and written if they are written here."""

    def rounds(self) -> Iterator[Round]:
        """Until every row is answered and written; between rounds everything on disk is consistent.

        Without a collector, until every job is sent; without a feeder, until none is open or to be fed.
        Raises WorkersCrashError, FirstJobsFailError, and LedgerError where the folder is gone or another has
        the run.
        """
        self._take_over()
        while True:
            self._ledger.check_place()
            if self._lease is not None:
                self._lease.hold()
            fed, held = self._feed()
            self._asked = self._asked or bool(self._sent_at)
            moved = self._collect(wait=not fed)
            self._reconcile()
            self._stop_if_workers_crash()
            yield Round(
                complete=self.complete,
                failed_questions=0 if self._collector is None else self._collector.failures,
                in_flight=len(self._sent_at),
                tokens=0 if self._collector is None else self._collector.tokens,
                silent_s=time.monotonic() - self._heard_at,
                sent_again=self._sent_again,
                held=held,
                asked=self._asked,
            )
            if not fed and not moved and self._at_end() and not self._decided_now():
                return

    def _decided_now(self) -> bool:
        """At the end of a run with few jobs, whether rows can be written only now."""
        if self._first_jobs is None or not self._first_jobs.undecided:
            return False
        self._first_jobs.decide(at_end=True)
        return True

    def _take_over(self) -> None:
        """What an earlier process has sent, or was about to send when it ended."""
        if self._feeder is None:
            return
        # What an earlier end of the run has left for late redeliveries.
        self._redis.delete(cancelled_key(self._run))
        self._redis.persist(done_key(self._run))
        jobs = self._ledger.jobs.open()
        unsure = [job for job in jobs if job.state is JobState.SENDING]
        self._feeder.send_again(unsure)
        now = time.monotonic()
        self._sent_at = dict.fromkeys((job.index for job in jobs), now)

    def _at_end(self) -> bool:
        if not self._ledger.is_fed():
            return False
        if self._collector is None:
            return True
        return not self._sent_at if self._feeder is not None else not self._ledger.has_open_jobs()

    def _feed(self) -> tuple[bool, str | None]:
        """Whether rows were looked at, and what holds it back."""
        if self._feeder is None:
            return False, None
        room, together = self._portion()
        if room <= 0:
            return False, None
        held = self._pressure.held()
        if held is not None:
            return False, held
        fed = self._feeder.feed(room, together)
        now = time.monotonic()
        if not self._sent_at:
            # Silence counts from the first job on.
            self._heard_at = now
        self._sent_at.update(dict.fromkeys(fed.sent, now))
        return fed.rows > 0, None

    def _portion(self) -> tuple[int, int]:
        """How many jobs to send now, and how many of them in one message."""
        under_way = len(self._sent_at)
        if self._collector is None:
            return self._window.jobs - under_way, 1
        unsent = self._rows - self.complete - under_way
        return self._window.portion(under_way, unsent, self._collector.job_s)

    def _collect(self, *, wait: bool) -> bool:
        """Whether anything came or was written."""
        if self._collector is None:
            return self._watch(wait=wait)
        if wait:
            # A transaction for each answer would cost what the workers on this machine could use.
            gather_s = self._gather_s
            if self._ledger.is_fed():
                gather_s = 0.0 if 0 < len(self._sent_at) <= LAST_FEW else min(gather_s, LAST_GATHER_S)
            time.sleep(max(0.0, self._collected_at + gather_s - time.monotonic()))
        finished = self._collector.collect(BLOCK_MS if wait and self._sent_at else 0)
        self._gathered += len(finished)
        if wait:
            now = time.monotonic()
            since_s = now - self._collected_at
            self._gather_s = (
                min(GATHER_S, self._few() * since_s / self._gathered) if self._gathered else GATHER_S
            )
            self._collected_at, self._gathered = now, 0
        self._heard(finished)
        if self._first_jobs is not None:
            self._first_jobs.decide(at_end=False)
        written = self._write()
        if wait and not self._sent_at and not finished and not written:
            self._idle()
        return bool(finished or written)

    def _write(self) -> int:
        """Number of rows."""
        if self._first_jobs is not None and self._first_jobs.undecided:
            return 0
        written = 0
        while self._outputs is not None and (rows := self._outputs.write()):
            written += rows
        self.complete += written
        return written

    def _few(self) -> int:
        """A small window must not run empty while answers gather."""
        return max(1, min(FEW, self._window.jobs // 4))

    def _idle(self) -> None:
        if not self._ledger.is_fed() or self._ledger.has_open_jobs():
            time.sleep(BLOCK_MS / 1000)

    def _watch(self, *, wait: bool) -> bool:
        """Without a collector here: what the workers' done bits say of the jobs in flight."""
        if wait and self._sent_at:
            time.sleep(BLOCK_MS / 1000)
        elif time.monotonic() - self._watched_at < BLOCK_MS / 1000:
            return False
        self._watched_at = time.monotonic()
        finished = self._done(list(islice(self._sent_at, WATCHED)))
        self._heard(finished)
        return bool(finished)

    def _done(self, indices: list[int]) -> list[int]:
        """Those that have their done bit. In pieces of the bitmap, as the indices lie together."""
        pieces = list({index // PIECE_BITS for index in indices})
        pipeline = self._redis.pipeline(transaction=False)
        for piece in pieces:
            first_byte = piece * PIECE_BITS // 8
            pipeline.getrange(done_key(self._run), first_byte, first_byte + PIECE_BITS // 8 - 1)
        bits = {
            piece: int.from_bytes(content.ljust(PIECE_BITS // 8, b"\0"))
            for piece, content in zip(pieces, pipeline.execute(), strict=True)
        }
        return [
            index
            for index in indices
            if bits[index // PIECE_BITS] >> (PIECE_BITS - 1 - index % PIECE_BITS) & 1
        ]

    def _heard(self, finished: list[int]) -> None:
        for index in finished:
            self._sent_at.pop(index, None)
        if finished:
            self._heard_at = time.monotonic()

    def _reconcile(self) -> None:
        """Send again what was lost.

        A job is missing when its worker is dead, or when no worker has it and no queue holds any. That is
        believed at the second look: at the first, a worker may be between taking a message and noting so.
        """
        now = time.monotonic()
        if self._feeder is None or not self._sent_at:
            return
        silent = now - max(self._heard_at, self._looked_at) >= self._quiet_s
        if not silent and now - self._looked_at < LOOK_EVERY_S:
            return
        self._looked_at = now
        if self._redis.exists(cancelled_key(self._run)):
            raise WorkersCrashError("Another process has stopped the run; its message says why.")
        empty = self._queue.queued() == 0
        held = holders(self._redis, self._run)
        missing = {
            index for index in self._sent_at if index in held.dead or (empty and index not in held.live)
        }
        lost = missing & self._missing
        self._missing = missing - lost
        if self._collector is not None and not self._collector.backlog():
            self._clear_done_bits(lost - held.dead)
        lost |= {
            index
            for index, sent_at in self._sent_at.items()
            if now - sent_at > OVERDUE_S and index not in held.live
        }
        self._send_again(lost)

    def _send_again(self, indices: set[int]) -> None:
        assert self._feeder is not None, "only a feeder reconciles"
        jobs = [
            OpenJob(index, JobState.SENT, message)
            for index in sorted(indices)
            if (message := self._ledger.jobs.message(index)) is not None
        ]
        self._feeder.send_again(jobs)
        for index in indices:
            self._sent_at.pop(index)
        self._sent_at.update(dict.fromkeys((job.index for job in jobs), time.monotonic()))
        self._sent_again += len(jobs)

    def _stop_if_workers_crash(self) -> None:
        """Have workers drop what is queued, so that the jobs are as new when the run goes on."""
        if self._collector is None or not self._collector.workers_crash():
            return
        self._redis.set(cancelled_key(self._run), 1, ex=CANCELLED_KEPT_S)
        self._redis.delete(attempts_key(self._run), holders_key(self._run))
        raise WorkersCrashError(
            "Nearly every one of the latest jobs killed the worker that answered it alone, so the cause is "
            "the workers, not the jobs: look at their logs and model folder. Then go on with run --resume, "
            "and ask again what failed with retry --code crashed_worker."
        )

    def _clear_done_bits(self, indices: set[int]) -> None:
        """A job that is done in the store while its record is nowhere would be dropped by every worker.

        That happens when the folder is older than what was collected from it, restored from a copy.
        """
        pipeline = self._redis.pipeline(transaction=False)
        for index in indices:
            pipeline.setbit(done_key(self._run), index, 0)
        pipeline.execute()
