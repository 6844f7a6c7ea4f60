"""`celery -A tests.faults.stub_worker worker`: the real worker on a stub of model and engine."""

import os
import resource
from pathlib import Path

import tests.faults.short_waits  # noqa: F401 - before what takes the waits from the contract
from tests.faults.stub_engine import Executions, StubEngine, StubModel
from tests.support.fakes import FakeModel
from worker.app import app, install
from worker.delivery.answering import Answering
from worker.delivery.results import ResultStore
from worker.delivery.side_queue import SuspectQueue, side_queues
from worker.images.decoder import Decoder
from worker.images.fetch import ImageFetch
from worker.images.image_file import ImageLimits
from worker.monitoring.announce import Announcer
from worker.service import Service
from worker.settings import load_settings

__all__ = ["app"]


class StubWorker:
    """worker.app's Loaded, made as worker.startup makes the real one."""

    description = "a stub"

    def __init__(self) -> None:
        settings = load_settings()
        redis_url = settings.redis_url.get_secret_value()
        folder = Path(os.environ["STUB_FOLDER"])
        executions = Executions(folder)
        model: FakeModel = StubModel(executions)
        rows = int(os.environ.get("STUB_ROWS", "8"))
        engine = StubEngine(folder, executions, rows, immune="STUB_IMMUNE" in os.environ)
        limits = ImageLimits(max_bytes=10**6, max_px=10**6, max_side_px=10**4, max_aspect=50.0)
        store = ResultStore(redis_url)
        fetch = ImageFetch(settings.image_roots, limits.max_bytes, store)
        self._service = Service(model, engine, fetch, Decoder(limits), drain_s=settings.drain_s)
        self.answering = Answering(self._service, store, SuspectQueue(redis_url).put)
        self._side_queues = side_queues(redis_url, self.answering.take, settings.interactive_slots)
        self._announcer = Announcer(store, model.model_id, "CPU")

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


if "STUB_MEMORY_BYTES" in os.environ:
    most = int(os.environ["STUB_MEMORY_BYTES"])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
install(StubWorker())
