"""Makes one process observable by its metrics, supervision and port; knows neither model nor job."""

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from worker.engine.observer import EngineObserver
from worker.errors import StartupError
from worker.llava.image_observer import ImageObserver
from worker.monitoring.http_port import HttpPort
from worker.monitoring.metrics import EngineGauges, Metrics
from worker.monitoring.supervision import Rules, Supervision
from worker.settings import Settings


class PortError(StartupError):
    """The HTTP port cannot be opened."""


class Engine(EngineGauges, Protocol):
    """The engine as the monitor sees it."""

    @property
    def ticked(self) -> float: ...
    def observe(self, observer: EngineObserver) -> None: ...


class Model(Protocol):
    """The model as the monitor sees it."""

    def observe(self, observer: ImageObserver) -> None: ...


class Monitor:
    """One per process, from before the model is loaded to the end."""

    def __init__(self, settings: Settings) -> None:
        """Open the port if the settings name one. Raises PortError."""
        self.metrics = Metrics()
        self.metrics.ready.set_function(lambda: float(self._ready))
        rules = Rules(settings.engine_stuck_s, settings.memory_limit_bytes, settings.health_file)
        self.supervision = Supervision(rules, settings.redis_url.get_secret_value())
        self._engine: Engine | None = None
        self._port = self._open_port(settings)

    def observe(self, engine: Engine, model: Model, kv_limit_bytes: int) -> None:
        """Measure engine and model from now on, without the warm-up before."""
        self._engine = engine
        self.metrics.read_engine(engine, kv_limit_bytes)
        engine.observe(self.metrics)
        model.observe(self.metrics)

    def start(self, slots: int, model: str, device: str, drain: Callable[[], None]) -> None:
        """Begin the supervision of a worker that takes jobs, in the thread of Celery's event loop.

        `drain` is as in Supervision.start().
        """
        engine = self._engine
        self.metrics.slots.set(slots)
        self.metrics.build.info({"model": model, "device": device, "version": _version()})
        self.supervision.start(drain, time.monotonic if engine is None else lambda: engine.ticked)

    def close(self) -> None:
        self.supervision.close()
        if self._port is not None:
            self._port.close()

    @property
    def _ready(self) -> bool:
        health = self.supervision.health
        return health is not None and health.ready

    def _open_port(self, settings: Settings) -> HttpPort | None:
        if settings.http_port is None:
            return None
        host, port = settings.http_host, settings.http_port
        try:
            return HttpPort(host, port, lambda: self.supervision.health, self.metrics.text)
        except OSError as error:
            raise PortError(
                f"CAPTIONMILL_HTTP_PORT: {host}:{port} cannot be opened ({error.strerror})."
            ) from None


def _version() -> str:
    try:
        return version("captionmill")
    except PackageNotFoundError:
        return "unknown"  # run from a checkout that nobody installed
