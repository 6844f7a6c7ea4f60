"""`celery -A tests.support.dying_worker worker`: the real worker and engine with a fake model and runner.

Files beside HOLD decide what happens. With `hold` a job for hang.png waits in its fetch, and the file
`hanging` says so. With `kill` the next step ends the engine's thread, and with `stall` it does not return.
With `hog` a job takes memory and keeps it.
"""

import os
import time
from pathlib import Path

from contract.job import ImagePath, Job
from tests.support.fake_runner import PLENTY, FakeRunner, counting, embed
from tests.support.fakes import FakeModel
from worker.app import app, install
from worker.device_scheduler import DeviceScheduler
from worker.engine.loop import Engine
from worker.images.decoder import Decoder
from worker.images.fetch import ImageFetch
from worker.images.image_file import ImageLimits
from worker.llava.image_observer import ImageObserver
from worker.monitoring.measured import MeasuredStore, timed_fetch
from worker.monitoring.monitor import Monitor
from worker.service import Service
from worker.settings import Settings, load_settings
from worker.worker import Parts, Worker

__all__ = ["app"]

FOLDER = Path(os.environ["HOLD"]).parent
HOG_BYTES = 400_000_000
hogged: list[bytes] = []


class WatchedModel(FakeModel):
    def observe(self, observer: ImageObserver) -> None:
        """Nobody asks for its images' times."""


def dying_parts(settings: Settings) -> Parts:
    limits = ImageLimits(max_bytes=10**6, max_px=10**6, max_side_px=10**4, max_aspect=50.0)
    monitor, model = Monitor(settings), WatchedModel()
    runner = FakeRunner(counting, on_step=on_step)
    engine = Engine(runner, embed, PLENTY, on_death=monitor.supervision.engine_died)
    monitor.observe(engine, model, PLENTY.kv_bytes)
    store = MeasuredStore(settings.redis_url.get_secret_value(), monitor.metrics)
    fetch_image = ImageFetch(settings.image_roots, limits.max_bytes, store)

    def fetch(job: Job) -> bytes:
        if isinstance(job.image, ImagePath) and job.image.to_path().name == "hang.png":
            (FOLDER / "hanging").touch()
            while (FOLDER / "hold").exists():
                time.sleep(0.05)
        if (FOLDER / "hog").exists() and not hogged:
            hogged.append(b"x" * HOG_BYTES)
        return fetch_image(job)

    device = DeviceScheduler()
    timed = timed_fetch(fetch, monitor.metrics)
    service = Service(model, engine, timed, Decoder(limits), device=device)
    return Parts(service=service, store=store, monitor=monitor, device=device)


def on_step() -> None:
    if (FOLDER / "kill").exists():
        raise SystemExit("what the engine does not catch")
    while (FOLDER / "stall").exists():
        time.sleep(0.05)


settings = load_settings()
install(Worker(settings, dying_parts(settings)))
