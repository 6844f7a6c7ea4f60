"""`celery -A tests.support.dying_worker worker`: the real worker and engine; model and runner are fakes.

What files there are beside HOLD decides what becomes: while `hold` is there, a job for hang.png waits in its
fetch and says so by the file `hanging`; with `kill` the next step ends the engine's thread; while `stall` is
there the next step does not return; with `hog` a job takes memory that is not given back.
"""

import os
import time
from pathlib import Path

from contract.job import ImagePath, Job
from tests.support.fake_runner import PLENTY, FakeRunner, counting, embed
from tests.support.fakes import FakeModel
from worker.app import app, install
from worker.delivery.answering import Answering
from worker.delivery.side_queue import SuspectQueue
from worker.engine.loop import Engine
from worker.images.decoder import Decoder
from worker.images.fetch import ImageFetch
from worker.images.image_file import ImageLimits
from worker.llava.model import ImageObserver
from worker.monitoring.measured import MeasuredService, MeasuredStore, timed_fetch
from worker.monitoring.monitor import Monitor
from worker.service import Service
from worker.settings import load_settings

__all__ = ["app"]

HOG_BYTES = 400_000_000


class WatchedModel(FakeModel):
    def observe(self, observer: ImageObserver) -> None:
        """Nobody asks for its images' times."""


class DyingWorker:
    description = "a fake model on an engine that can die"

    def __init__(self) -> None:
        settings = load_settings()
        limits = ImageLimits(max_bytes=10**6, max_px=10**6, max_side_px=10**4, max_aspect=50.0)
        self._folder = Path(os.environ["HOLD"]).parent
        self._hogged: list[bytes] = []
        self._monitor = Monitor(settings, self.drain)
        runner = FakeRunner(counting, on_step=self._on_step)
        self._engine = Engine(runner, embed, PLENTY, on_death=self._monitor.supervision.engine_died)
        model = WatchedModel()
        self._monitor.observe(self._engine, model, PLENTY.kv_bytes)
        store = MeasuredStore(settings.redis_url.get_secret_value(), self._monitor.metrics)
        self._fetch_image = ImageFetch(settings.image_roots, limits.max_bytes, store)
        fetch = timed_fetch(self._fetch, self._monitor.metrics)
        self._service = Service(model, self._engine, fetch, Decoder(limits))
        self._suspects = SuspectQueue(settings.redis_url.get_secret_value())
        self.answering = Answering(
            MeasuredService(self._service, self._monitor.metrics), store, self._suspects.put
        )

    def start(self, slots: int) -> None:
        self._monitor.start(slots, "fake", "CPU")

    def drain(self) -> None:
        self._monitor.supervision.drains()
        self._service.drain()

    def close(self) -> None:
        self._service.close()
        self._monitor.close()

    def _fetch(self, job: Job) -> bytes:
        if isinstance(job.image, ImagePath) and job.image.to_path().name == "hang.png":
            (self._folder / "hanging").touch()
            while (self._folder / "hold").exists():
                time.sleep(0.05)
        if (self._folder / "hog").exists() and not self._hogged:
            self._hogged.append(b"x" * HOG_BYTES)
        return self._fetch_image(job)

    def _on_step(self) -> None:
        if (self._folder / "kill").exists():
            raise SystemExit("what the engine does not catch")
        while (self._folder / "stall").exists():
            time.sleep(0.05)


install(DyingWorker())
