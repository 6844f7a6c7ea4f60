"""`celery -A tests.support.fake_worker worker`: the real worker on a fake model, idle while HOLD exists."""

import os
from pathlib import Path

from tests.support.fakes import FakeEngine, FakeModel
from worker.app import app, install
from worker.delivery.results import ResultStore
from worker.delivery.streaming import TokenStreams
from worker.delivery.token_store import TokenStore
from worker.device_scheduler import DeviceScheduler
from worker.images.decoder import Decoder
from worker.images.fetch import ImageFetch
from worker.images.image_file import ImageLimits
from worker.monitoring.monitor import Monitor
from worker.service import Service
from worker.settings import Settings, load_settings
from worker.worker import Parts, Worker

__all__ = ["app"]


def fake_parts(settings: Settings) -> Parts:
    redis_url = settings.redis_url.get_secret_value()
    limits = ImageLimits(max_bytes=10**7, max_px=10**6, max_side_px=10**4, max_aspect=50.0)
    decoder = Decoder(limits, settings.image_isolation)
    store = ResultStore(redis_url)
    fetch = ImageFetch(settings.image_roots, limits.max_bytes, store)
    streams = TokenStreams(TokenStore(redis_url))
    engine, device = FakeEngine(Path(os.environ["HOLD"])), DeviceScheduler()
    return Parts(
        service=Service(FakeModel(), engine, fetch, decoder, streams=streams, device=device),
        store=store,
        monitor=Monitor(settings),
        device=device,
        close_last=(streams.close, decoder.close),
    )


settings = load_settings()
install(Worker(settings, fake_parts(settings)))
