"""`celery -A tests.faults.stub_worker worker`: the real worker on a stub of model and engine."""

import os
import resource
from pathlib import Path

import tests.faults.short_waits  # noqa: F401 - before what takes the waits from the contract
from tests.faults.stub_engine import Executions, StubEngine, StubModel
from worker.app import app, install
from worker.delivery.results import ResultStore
from worker.device_scheduler import DeviceScheduler
from worker.images.decoder import Decoder
from worker.images.fetch import ImageFetch
from worker.images.image_file import ImageLimits
from worker.monitoring.monitor import Monitor
from worker.service import Service
from worker.settings import Settings, load_settings
from worker.worker import Parts, Worker

__all__ = ["app"]


def stub_parts(settings: Settings) -> Parts:
    folder = Path(os.environ["STUB_FOLDER"])
    executions = Executions(folder)
    rows = int(os.environ.get("STUB_ROWS", "8"))
    engine = StubEngine(folder, executions, rows, immune="STUB_IMMUNE" in os.environ)
    limits = ImageLimits(max_bytes=10**6, max_px=10**6, max_side_px=10**4, max_aspect=50.0)
    store = ResultStore(settings.redis_url.get_secret_value())
    fetch, device = ImageFetch(settings.image_roots, limits.max_bytes, store), DeviceScheduler()
    service = Service(
        StubModel(executions), engine, fetch, Decoder(limits), drain_s=settings.drain_s, device=device
    )
    return Parts(service=service, store=store, monitor=Monitor(settings), device=device)


if "STUB_MEMORY_BYTES" in os.environ:
    most = int(os.environ["STUB_MEMORY_BYTES"])
    resource.setrlimit(resource.RLIMIT_AS, (most, most))
settings = load_settings()
install(Worker(settings, stub_parts(settings)))
