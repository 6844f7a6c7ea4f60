"""Makes the worker from its settings before the first job: device, model, engine, store; knows no Celery."""

import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Literal

from worker.allocation import RUNTIME_CACHE, bound_caches
from worker.delivery.answering import Answering
from worker.delivery.side_queue import SuspectQueue, side_queues
from worker.delivery.streaming import TokenStreams
from worker.delivery.token_store import TokenStore
from worker.device import UnknownDeviceError, resolve_device
from worker.device_lock import DeviceLock
from worker.engine.admission import Limits
from worker.engine.loop import Engine
from worker.engine.paged import PagedRunner
from worker.engine.runner import Runner
from worker.engine.stateful import StatefulRunner
from worker.images.decoder import Decoder
from worker.images.decoder_child import Bounds
from worker.images.download import UrlRules
from worker.images.fetch import ImageFetch
from worker.images.image_file import ImageLimits
from worker.interactive_priority import RightOfWay
from worker.llava.folder import ModelFolderError, folder_properties
from worker.llava.model import LlavaModel
from worker.memory import available_bytes
from worker.monitoring.announce import Announcer
from worker.monitoring.measured import MeasuredService, MeasuredStore, timed_fetch
from worker.monitoring.monitor import Monitor, PortError
from worker.precision import computed_as
from worker.service import Service
from worker.settings import Settings


class StartupError(Exception):
    """The operator must change something; the message is a sentence that says what."""


class Worker:
    """What one process holds: answering for its task threads, and the ends of it for the shutdown."""

    def __init__(self, settings: Settings) -> None:
        """Load and warm up; takes seconds to minutes. Raises StartupError; any other exception is a bug."""
        begun = time.monotonic()
        redis_url = settings.redis_url.get_secret_value()
        try:
            self._monitor = Monitor(settings, self.drain)
        except PortError as error:
            raise StartupError(str(error)) from None
        metrics = self._monitor.metrics
        bound_caches()
        # On a processor they share the cores, whatever the number of streams.
        lock = DeviceLock()
        way = RightOfWay(lock.kept_free)
        try:
            device = resolve_device(settings.device)
            _refuse_single_thread(device, settings)
            properties = _properties(device, settings, folder_properties(settings.model_folder))
            model = LlavaModel.load(
                settings.model_folder,
                device,
                properties,
                settings.image_cache_bytes,
                metrics.timed_vision(lock.first),
                _preparing(way),
            )
        except (UnknownDeviceError, ModelFolderError) as error:
            raise StartupError(str(error)) from None
        limits = Limits(
            kv_bytes=settings.kv_cache_bytes or _kv_cache_bytes(model.language_xml),
            rows=settings.max_rows,
            step_tokens=settings.max_step_tokens or max(settings.most_rows, model.context_tokens),
            urgent_rows=settings.interactive_slots,
        )
        runner = _load_runner(settings.attention, model.language_xml, device, properties, limits.kv_bytes)
        engine = Engine(
            runner,
            model.embed,
            limits,
            computing=lock.last,
            on_death=self._monitor.supervision.engine_died,
        )
        model_id = computed_as(model.model_id, settings.properties(), settings.attention)
        self._store = MeasuredStore(redis_url, metrics)
        self._fetch = _image_fetch(settings, self._store)
        self._decoder = _decoder(settings)
        self._streams = TokenStreams(TokenStore(redis_url))
        fetch = timed_fetch(self._fetch, metrics)
        self.service = Service(
            model, engine, fetch, self._decoder, model_id, self._streams, settings.drain_s, way
        )
        self.service.warm_up()
        self._monitor.observe(engine, model, limits.kv_bytes)
        self.engine_times = engine.times
        self._suspects = SuspectQueue(redis_url)
        self.answering = Answering(
            MeasuredService(self.service, metrics), self._store, self._suspects.put, way=way
        )
        self.description = f"{model_id} on {device}, loaded in {time.monotonic() - begun:.1f} s"
        self._side_queues = side_queues(redis_url, self.answering.take, settings.interactive_slots)
        self._announcer = Announcer(self._store, model_id, device, settings.image_roots)
        self._model_and_device = (model_id, device)

    def start(self, slots: int) -> None:
        """Take the jobs of the side queues, and tell of this worker with its `slots` for bulk jobs."""
        self._announcer.start(slots, self.answering.held.look_after)
        for queue in self._side_queues:
            queue.start()
        self._monitor.start(slots, *self._model_and_device)

    def drain(self) -> None:
        """Begin no further job; safe in a signal handler."""
        self._monitor.supervision.drains()
        self.service.drain()
        for queue in self._side_queues:
            queue.drain()

    def close(self) -> None:
        """After the last bulk job: end the threads and the connections."""
        for queue in self._side_queues:
            queue.close()
        self._suspects.close()
        self._announcer.close()
        self.service.close()
        self._streams.close()
        self._fetch.close()
        self._decoder.close()
        self._store.close()
        self._monitor.close()


def _image_fetch(settings: Settings, store: MeasuredStore) -> ImageFetch:
    """Raises StartupError."""
    try:
        rules = UrlRules(
            settings.url_hosts,
            settings.url_private_networks,
            settings.url_schemes,
            settings.url_timeout_s,
            settings.url_user_agent,
            settings.respect_noai,
        )
        return ImageFetch(settings.image_roots, settings.image_max_bytes, store, rules)
    except ValueError as error:
        raise StartupError(f"The settings of URLs do not fit: {error}") from None


def _decoder(settings: Settings) -> Decoder:
    limits = ImageLimits(
        max_bytes=settings.image_max_bytes,
        max_px=settings.image_max_px,
        max_side_px=settings.image_max_side_px,
        max_aspect=settings.image_max_aspect,
        draft_px=settings.image_draft_px,
    )
    bounds = Bounds(settings.image_decode_bytes, settings.image_decode_cpu_s, settings.image_decode_timeout_s)
    return Decoder(limits, settings.image_isolation, bounds, processes=len(os.sched_getaffinity(0)))


def _preparing(way: RightOfWay) -> Callable[[], AbstractContextManager[None]]:
    """Turns at making bulk jobs' images ready: more at once than there are cores finish no sooner."""
    turns = threading.BoundedSemaphore(len(os.sched_getaffinity(0)))

    @contextmanager
    def turn() -> Iterator[None]:
        with turns:
            way.give()
            yield

    return turn


def _properties(device: str, settings: Settings, of_folder: Mapping[str, str]) -> Mapping[str, str]:
    """What every part of the model is compiled with."""
    return {**(RUNTIME_CACHE if device == "CPU" else {}), **of_folder, **settings.properties()}


def _load_runner(
    attention: Literal["stateful", "paged"],
    language_xml: Path,
    device: str,
    properties: Mapping[str, str],
    kv_cache_bytes: int,
) -> Runner:
    """The language model behind the runner that the setting names. Raises StartupError."""
    try:
        if attention == "paged":
            return PagedRunner.load(language_xml, device, properties, kv_cache_bytes)
        return StatefulRunner.load(language_xml, device, properties)
    except ValueError as error:
        raise StartupError(str(error)) from None


def _kv_cache_bytes(language_xml: Path) -> int:
    """Half of what is free once the language model's weights are read too."""
    weights_bytes = language_xml.with_suffix(".bin").stat().st_size
    return max(1, (available_bytes() - weights_bytes) // 2)


def _refuse_single_thread(device: str, settings: Settings) -> None:
    """OpenVINO 2026.4.1 dies of SIGFPE compiling a stateful model for one CPU thread, unless in f32."""
    threads = settings.inference_threads or len(os.sched_getaffinity(0))
    if device == "CPU" and threads == 1 and settings.precision != "exact":
        raise StartupError(
            "With one CPU thread OpenVINO needs CAPTIONMILL_PRECISION=exact "
            "(`captionmill worker --precision exact`)."
        )
