"""Which jobs this worker holds, beside what the store says; they differ where a server lost its last writes.

A server that ends without warning forgets what it wrote last, an answer's record among it, and may still say
that a worker is at the job. Nobody would begin it while that worker lives.
"""

import logging
import threading
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final, Protocol

from redis.exceptions import RedisError

log = logging.getLogger(__name__)

MOST_RUNS: Final = 1_000
"""Number of runs, those of the latest jobs, whose jobs are compared."""

RunAndIndex = tuple[str, int]


class HolderNotes(Protocol):
    """What the store says of who holds which job: worker.delivery.results' ResultStore."""

    def server_id(self) -> str | None: ...
    def held_by(self, worker: str, run: str) -> list[int]: ...
    def give_back(self, worker: str, run: str, index: int, *, begun: bool) -> None: ...


class HeldJobs:
    """Used by all threads that take jobs, and by one that compares."""

    def __init__(self, notes: HolderNotes, worker: str) -> None:
        self._notes = notes
        self._worker = worker
        self._lock = threading.Lock()  # guards the two fields below
        self._jobs: Counter[RunAndIndex] = Counter()
        self._runs: dict[str, None] = {}
        self._server: str | None = None
        self._looks_left = 0
        self._seen: set[RunAndIndex] = set()
        """At the last look: what only the store says."""

    @contextmanager
    def holding(self, jobs: Sequence[RunAndIndex]) -> Iterator[None]:
        """These jobs are here until the block ends."""
        with self._lock:
            self._jobs.update(jobs)
            for run, _ in jobs:
                self._runs.pop(run, None)
                self._runs[run] = None
            while len(self._runs) > MOST_RUNS:
                del self._runs[next(iter(self._runs))]
        try:
            yield
        finally:
            with self._lock:
                self._jobs.subtract(jobs)
                self._jobs = +self._jobs

    def compare(self) -> None:
        """Let go of what only the store says is here, once the server is another process than before.

        To be called every few seconds: it is believed at the second look, for at the first a job may be
        between being noted and being here. A user who may not ask which process the server is compares
        nothing. A server that is away is compared later.
        """
        try:
            server = self._notes.server_id()
            if self._server is not None and server != self._server:
                self._looks_left, self._seen = 2, set()
            self._server = server
            if self._looks_left:
                self._look()
        except RedisError as away:
            log.warning("jobs cannot be compared with the store now: %s", type(away).__name__)

    def _look(self) -> None:
        with self._lock:
            runs = list(self._runs)
        noted = {(run, index) for run in runs for index in self._notes.held_by(self._worker, run)}
        with self._lock:
            found = {job for job in noted if job not in self._jobs}
        for run, index in found & self._seen:
            log.warning("run %s job %d is not here, as the store says; it is let go", run, index)
            self._notes.give_back(self._worker, run, index, begun=True)
        self._seen = found
        self._looks_left -= 1
