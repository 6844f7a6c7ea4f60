"""Reports every few seconds that this worker is alive and which model it has; knows no job."""

import logging
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import redis

from contract.store import WORKER_REPORT_S, WorkerRecord
from worker.delivery.results import ResultStore
from worker.images.image_file import shown
from worker.service import WORKER

log = logging.getLogger(__name__)


class Announcer:
    """Reports in a thread of its own, from start() to close()."""

    def __init__(
        self,
        store: ResultStore,
        model: str,
        device: str,
        image_roots: Sequence[Path] = (),
        every_s: float = WORKER_REPORT_S,
    ) -> None:
        self._store = store
        self._model = model
        self._device = device
        self._image_roots = tuple(map(shown, image_roots))
        self._every_s = every_s
        self._started = time.time()
        self._closed = threading.Event()
        self._thread: threading.Thread | None = None

    def start(self, slots: int, after: Callable[[], None] = lambda: None) -> None:
        """Report a worker that takes `slots` bulk jobs at once, and call `after` after each report."""
        self._thread = threading.Thread(
            target=self._run, args=(slots, after), name="captionmill-announce", daemon=True
        )
        self._thread.start()

    def close(self) -> None:
        """Withdraw the report and make no more; a store that is away forgets it by itself."""
        self._closed.set()
        if self._thread is not None:
            self._thread.join()

    def _run(self, slots: int, after: Callable[[], None]) -> None:
        while not self._closed.is_set():
            record = WorkerRecord(
                worker=WORKER,
                model=self._model,
                device=self._device,
                slots=slots,
                time=time.time(),
                started=self._started,
                image_roots=self._image_roots,
            )
            try:
                self._store.announce(record)
            except redis.RedisError as away:
                log.warning("this worker cannot be announced now: %s", type(away).__name__)
            after()
            self._closed.wait(self._every_s)
        try:
            self._store.withdraw(WORKER)
        except redis.RedisError as away:
            log.warning("this worker cannot be withdrawn: %s", type(away).__name__)
