"""`celery -A tests.support.fake_worker worker`: the real worker on a fake model, idle while HOLD exists."""

import os
from pathlib import Path

from tests.support.fakes import FakeEngine, FakeModel
from worker.app import app, install
from worker.delivery.answering import Answering
from worker.delivery.results import ResultStore
from worker.delivery.side_queue import SuspectQueue, side_queues
from worker.delivery.streaming import TokenStreams
from worker.delivery.token_store import TokenStore
from worker.images.decoder import Decoder
from worker.images.fetch import ImageFetch
from worker.images.image_file import ImageLimits
from worker.monitoring.announce import Announcer
from worker.service import Service
from worker.settings import load_settings

__all__ = ["app"]


class FakeWorker:
    description = "a fake model"

    def __init__(self) -> None:
        settings = load_settings()
        limits = ImageLimits(max_bytes=10**7, max_px=10**6, max_side_px=10**4, max_aspect=50.0)
        self._decoder = Decoder(limits, settings.image_isolation)
        engine = FakeEngine(Path(os.environ["HOLD"]))
        redis_url = settings.redis_url.get_secret_value()
        store = ResultStore(redis_url)
        fetch = ImageFetch(settings.image_roots, limits.max_bytes, store)
        self._streams = TokenStreams(TokenStore(redis_url))
        self._service = Service(FakeModel(), engine, fetch, self._decoder, streams=self._streams)
        self.answering = Answering(self._service, store, SuspectQueue(redis_url).put)
        self._side_queues = side_queues(redis_url, self.answering.take, settings.interactive_slots)
        self._announcer = Announcer(store, "fake", "CPU", settings.image_roots)

    def start(self, slots: int) -> None:
        self._announcer.start(slots, self.answering.held.look_after)
        for queue in self._side_queues:
            queue.start()

    def drain(self) -> None:
        self._service.drain()
        for queue in self._side_queues:
            queue.drain()

    def close(self) -> None:
        for queue in self._side_queues:
            queue.close()
        self._announcer.close()
        self._service.close()
        self._streams.close()
        self._decoder.close()


install(FakeWorker())
