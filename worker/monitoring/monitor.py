"""What lets one process be watched: its counts, its supervision and its port; knows neither model nor job."""

import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from worker.engine.observer import EngineObserver
from worker.errors import StartupError
from worker.llava.image_observer import ImageObserver
from worker.monitoring.health import Health
from worker.monitoring.http_port import HttpPort
from worker.monitoring.metrics import EngineGauges, Metrics
from worker.monitoring.supervision import Rules, Supervision
from worker.settings import Settings


class PortError(StartupError):
    """The port cannot be opened."""


class Engine(EngineGauges, Protocol):
    """What is watched of the engine."""

    @property
    def ticked(self) -> float: ...
    def observe(self, observer: EngineObserver) -> None: ...


class Model(Protocol):
    """What is watched of the model."""

    def observe(self, observer: ImageObserver) -> None: ...


class Monitor:
    """One per process, from before the model is loaded to the end."""

    def __init__(self, settings: Settings) -> None:
        """Opens the port, where the settings name one. Raises PortError."""
        self.metrics = Metrics()
        self.metrics.ready.set_function(lambda: float(self._ready))
        rules = Rules(settings.engine_stuck_s, settings.memory_limit_bytes, settings.health_file)
        self.supervision = Supervision(rules, settings.redis_url.get_secret_value())
        self._engine: Engine | None = None
        self._port = self._open_port(settings)

    def observe(self, engine: Engine, model: Model, kv_limit_bytes: int) -> None:
        """Count what they do from now on: the warm-up is behind them."""
        self._engine = engine
        self.metrics.read_engine(engine, kv_limit_bytes)
        engine.observe(self.metrics)
        model.observe(self.metrics)

    def start(self, slots: int, model: str, device: str, drain: Callable[[], None]) -> None:
        """The worker takes jobs. Called in Celery's event loop's thread; `drain` as Supervision takes it."""
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
        health = self._health()
        return health is not None and health.ready

    def _health(self) -> Health | None:
        return self.supervision.health

    def _open_port(self, settings: Settings) -> HttpPort | None:
        if settings.http_port is None:
            return None
        try:
            return HttpPort(settings.http_host, settings.http_port, self._health, self.metrics.text)
        except OSError as error:
            raise PortError(
                f"CAPTIONMILL_HTTP_PORT: {settings.http_host}:{settings.http_port} cannot be opened "
                f"({error.strerror})."
            ) from None


def _version() -> str:
    try:
        return version("captionmill")
    except PackageNotFoundError:
        return "unknown"  # run from a checkout that nobody installed
