"""What lets one process be watched: its counts, its supervision and its port; knows neither model nor job."""

from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Protocol

from worker.engine.observer import EngineObserver
from worker.llava.model import ImageObserver
from worker.monitoring.health import Health
from worker.monitoring.http_port import HttpPort
from worker.monitoring.metrics import EngineGauges, Metrics
from worker.monitoring.supervision import Rules, Supervision
from worker.settings import Settings


class PortError(Exception):
    """The port cannot be opened; the message is one sentence for the operator."""


class Engine(EngineGauges, Protocol):
    """What is watched of the engine."""

    @property
    def ticked(self) -> float: ...
    def observe(self, observer: EngineObserver) -> None: ...


class Model(Protocol):
    """What is watched of the model."""

    def observe(self, observer: ImageObserver) -> None: ...


class Monitor:
    """One per process, from before the model is loaded to the end. `drain` as Supervision takes it."""

    def __init__(self, settings: Settings, drain: Callable[[], None]) -> None:
        """Opens the port, where the settings name one. Raises PortError."""
        self.metrics = Metrics()
        self.metrics.ready.set_function(lambda: float(self._ready))
        rules = Rules(settings.engine_stuck_s, settings.memory_limit_bytes, settings.health_file)
        self.supervision = Supervision(rules, settings.redis_url.get_secret_value(), drain)
        self._engine: Engine | None = None
        self._port = self._open_port(settings)

    def observe(self, engine: Engine, model: Model, kv_limit_bytes: int) -> None:
        """Count what they do from now on: the warm-up is behind them."""
        self._engine = engine
        self.metrics.read_engine(engine, kv_limit_bytes)
        engine.observe(self.metrics)
        model.observe(self.metrics)

    def start(self, slots: int, model: str, device: str) -> None:
        """The worker takes jobs. Called in the thread of Celery's event loop."""
        engine = self._engine
        assert engine is not None, "it is observed before it is given jobs"
        self.metrics.slots.set(slots)
        self.metrics.build.info({"model": model, "device": device, "version": _version()})
        self.supervision.start(lambda: engine.ticked)

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
