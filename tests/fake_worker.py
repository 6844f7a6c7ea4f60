"""`celery -A tests.fake_worker worker`: the real worker on a fake model, idle while the file HOLD exists."""

import os
from pathlib import Path

from tests.fakes import FakeEngine, FakeModel
from worker.answering import Answering
from worker.app import app, install
from worker.images import ImageLimits
from worker.results import ResultStore
from worker.service import Service
from worker.settings import load_settings

__all__ = ["app"]


class FakeWorker:
    description = "a fake model"

    def __init__(self) -> None:
        settings = load_settings()
        limits = ImageLimits(max_bytes=10**6, max_px=10**6, max_side_px=10**4, max_aspect=50.0)
        engine = FakeEngine(Path(os.environ["HOLD"]))
        self._service = Service(FakeModel(), engine, settings.image_roots, limits)
        self.answering = Answering(self._service, ResultStore(settings.redis_url.get_secret_value()))

    def drain(self) -> None:
        self._service.drain()

    def close(self) -> None:
        self._service.close()


install(FakeWorker())
