"""Which jobs this worker holds, and no longer holds though the store says so; nobody else begins these.

A store that is away or without memory cannot be told that a job is let go. A server that ends without warning
forgets what it wrote last, an answer's record among it, and may still say that a worker is at the job.
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
"""Number of runs, those of the latest jobs, whose jobs are compared."""

RunAndIndex = tuple[str, int]


class HeldJobs:
    """Used by all threads that take jobs, and by one that compares."""

    def __init__(self, store: ResultStore, worker: str) -> None:
        self._store = store
        self._worker = worker
        self._lock = threading.Lock()  # guards the two fields below
        self._jobs: Counter[RunAndIndex] = Counter()
        self._runs: dict[str, None] = {}
        self._in_vain: deque[tuple[RunAndIndex, bool]] = deque()
        """Jobs to let go, and whether an attempt is to be undone."""
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

    def let_go(self, jobs: Sequence[RunAndIndex], *, begun: bool) -> None:
        """Hold these jobs no longer, at the latest when the store is back; with `begun` an attempt less."""
        self._in_vain.extend((one, begun) for one in jobs)
        try:
            self.let_go_in_vain()
        except RedisError as away:
            log.warning("jobs could not be let go: %s", type(away).__name__)

    @contextmanager
    def let_go_on_error(self, jobs: Sequence[RunAndIndex], *, begun: bool) -> Iterator[None]:
        """let_go() of these jobs if the block raises.

        Not if the engine has stopped: one of the jobs may have ended it, so the attempt counts.
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
                self.let_go(jobs, begun=begun)

    def let_go_in_vain(self) -> None:
        """Those that the store could not be told of before. Raises what it raises."""
        while self._in_vain:
            try:
                one, begun = self._in_vain.popleft()
            except IndexError:
                return
            done = False
            try:
                self._store.give_back(self._worker, *one, begun=begun)
                done = True
            except ResponseError as error:
                # By a key of another type nobody could hold it.
                done = is_wrong_type(error)
                if not done:
                    raise
            finally:
                if not done:
                    self._in_vain.append((one, begun))

    def look_after(self) -> None:
        """To be called every few seconds, as no message may come: let go of what is not here."""
        try:
            self.let_go_in_vain()
            self.compare()
        except RedisError as away:
            log.warning("held jobs cannot be looked after now: %s", type(away).__name__)

    def compare(self) -> None:
        """Let go of what only the store says is here, once the server is another process than before.

        It is believed at the second look, for at the first a job may be between being noted and being here. A
        user who may not ask which process the server is compares nothing.
        """
        server = self._store.server_id()
        if self._server is not None and server != self._server:
            self._looks_left, self._seen = 2, set()
        self._server = server
        if self._looks_left:
            self._look()

    def _look(self) -> None:
        with self._lock:
            runs = list(self._runs)
        noted = {(run, index) for run in runs for index in self._store.held_by(self._worker, run)}
        with self._lock:
            found = {job for job in noted if job not in self._jobs}
        for run, index in found & self._seen:
            log.warning("run %s job %d is not here, as the store says; it is let go", run, index)
            self._store.give_back(self._worker, run, index, begun=True)
        self._seen = found
        self._looks_left -= 1
