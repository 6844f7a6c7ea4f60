"""Tracks the jobs that this worker holds, and releases those held only by the store's record; knows no model.

Nobody else begins a held job. A store that is away or has no memory cannot note a release. A server that ends
without warning forgets its last writes, an answer's record among them, and may still name this worker as the
holder.
"""

import logging
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Final

from redis.exceptions import RedisError, ResponseError

from worker.delivery.results import ResultStore, is_wrong_type
from worker.engine.inbox import EngineStoppedError

log = logging.getLogger(__name__)

MOST_RUNS: Final = 1_000
"""Number of runs, those of the latest jobs, that are compared with the store."""

RunAndIndex = tuple[str, int]


class HeldJobs:
    """Shared by the threads that take jobs, and by one that reconciles."""

    def __init__(self, store: ResultStore, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._lock = threading.Lock()  # guards the two fields below
        self._jobs: Counter[RunAndIndex] = Counter()
        self._runs: dict[str, None] = {}
        self._pending: deque[tuple[RunAndIndex, bool]] = deque()
        """Jobs still to release, and whether an attempt of theirs is to be uncounted."""
        self._server: str | None = None
        self._comparisons_left = 0
        self._seen: set[RunAndIndex] = set()
        """Jobs that only the store held at the last comparison."""

    @contextmanager
    def holding(self, jobs: Sequence[RunAndIndex]) -> Iterator[None]:
        """Hold these jobs until the block ends."""
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

    def release(self, jobs: Sequence[RunAndIndex], *, begun: bool) -> None:
        """Hold these jobs no longer, at latest when the store is back; with `begun`, uncount an attempt."""
        self._pending.extend((one, begun) for one in jobs)
        try:
            self.release_pending()
        except RedisError as away:
            log.warning("jobs are released once the store is back: %s", type(away).__name__)

    @contextmanager
    def release_on_error(self, jobs: Sequence[RunAndIndex], *, begun: bool) -> Iterator[None]:
        """release() these jobs if the block raises.

        Jobs that were begun stay held when the engine has stopped: one of them may have ended it, so the
        attempt counts.
        """
        done = False
        try:
            yield
            done = True
        except EngineStoppedError:
            done = begun
            raise
        finally:
            if not done:
                self.release(jobs, begun=begun)

    def release_pending(self) -> None:
        """Release the jobs that could not be released before. Raises RedisError."""
        while self._pending:
            try:
                one, begun = self._pending.popleft()
            except IndexError:
                return
            done = False
            try:
                self._store.release(self._worker, *one, begun=begun)
                done = True
            except ResponseError as error:
                # A key of another type holds no job.
                done = is_wrong_type(error)
                if not done:
                    raise
            finally:
                if not done:
                    self._pending.append((one, begun))

    def reconcile(self) -> None:
        """Release every job that is not held here; to be called every few seconds, as no message may come."""
        try:
            self.release_pending()
            self._compare()
        except RedisError as away:
            log.warning("held jobs cannot be compared with the store now: %s", type(away).__name__)

    def _compare(self) -> None:
        """Release the jobs that only the store holds, once the server is another process than before.

        Two comparisons in a row must find a job, as it is noted in the store before it is held here. Nothing
        is compared for a user who may not ask which process the server is.
        """
        server = self._store.server_id()
        if self._server is not None and server != self._server:
            self._comparisons_left, self._seen = 2, set()
        self._server = server
        if self._comparisons_left:
            self._compare_once()

    def _compare_once(self) -> None:
        with self._lock:
            runs = list(self._runs)
        noted = {(run, index) for run in runs for index in self._store.held_by(self._worker, run)}
        with self._lock:
            found = {job for job in noted if job not in self._jobs}
        for run, index in found & self._seen:
            log.warning("run %s job %d is held by the store's record alone; it is released", run, index)
            self._store.release(self._worker, run, index, begun=True)
        self._seen = found
        self._comparisons_left -= 1
