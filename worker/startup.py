"""Makes the worker from its settings before the first job: device, model, engine, store; knows no Celery."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from worker.allocation import RUNTIME_CACHE, bound_caches
from worker.delivery.results import ResultStore
from worker.delivery.streaming import TokenStreams
from worker.delivery.token_store import TokenStore
from worker.device import resolve_device
from worker.device_scheduler import DeviceScheduler
from worker.engine.admission import Limits
from worker.engine.loop import Engine
from worker.engine.paged import PagedRunner
from worker.engine.runner import Runner
from worker.engine.stateful import StatefulRunner
from worker.errors import StartupError
from worker.images.decoder import Decoder
from worker.images.decoder_child import Bounds
from worker.images.download import UrlRules
from worker.images.fetch import ImageFetch
from worker.images.image_file import ImageLimits
from worker.llava.folder import folder_properties
from worker.llava.model import LlavaModel
from worker.memory import available_bytes
from worker.monitoring.measured import MeasuredStore, timed_fetch
from worker.monitoring.monitor import Monitor
from worker.precision import computed_as
from worker.service import Service
from worker.settings import Settings
from worker.worker import Parts, Worker


def load_worker(settings: Settings) -> Worker:
    """Load the model and warm up: seconds to minutes. Raises StartupError; any other exception is a bug."""
    begun = time.monotonic()
    monitor = Monitor(settings)
    bound_caches()
    # One for all models: on a CPU they share the cores, whatever the number of streams.
    device = DeviceScheduler()
    device_name = resolve_device(settings.device)
    _refuse_single_thread(device_name, settings)
    properties = _properties(device_name, settings, folder_properties(settings.model_folder))
    model = LlavaModel.load(
        settings.model_folder, device_name, properties, settings.image_cache_bytes, device
    )
    limits = Limits(
        kv_bytes=settings.kv_cache_bytes or _kv_cache_bytes(model.language_xml),
        rows=settings.max_rows,
        step_tokens=settings.max_step_tokens or max(settings.most_rows, model.context_tokens),
        priority_rows=settings.interactive_slots,
    )
    engine = Engine(
        _load_runner(settings.attention, model.language_xml, device_name, properties, limits.kv_bytes),
        model.embed,
        limits,
        computing=device.language_turn,
        on_death=monitor.supervision.engine_died,
    )
    model_id = computed_as(model.model_id, settings.properties(), settings.attention)
    redis_url = settings.redis_url.get_secret_value()
    store = MeasuredStore(redis_url, monitor.metrics)
    fetch, decoder = _image_fetch(settings, store), _decoder(settings)
    streams = TokenStreams(TokenStore(redis_url))
    timed = timed_fetch(fetch, monitor.metrics)
    service = Service(model, engine, timed, decoder, model_id, streams, settings.drain_s, device)
    service.warm_up()
    monitor.observe(engine, model, limits.kv_bytes)
    parts = Parts(
        service=service,
        store=store,
        monitor=monitor,
        device=device,
        device_name=device_name,
        description=f"{model_id} on {device_name}, loaded in {time.monotonic() - begun:.1f} s",
        engine_times=engine.times,
        close_last=(streams.close, fetch.close, decoder.close),
    )
    return Worker(settings, parts)


def _image_fetch(settings: Settings, store: ResultStore) -> ImageFetch:
    """Raises StartupError if a URL setting has no valid value."""
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
        raise StartupError(f"CAPTIONMILL_URL_HOSTS or CAPTIONMILL_URL_PRIVATE_NETWORKS: {error}") from None


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


def _properties(device: str, settings: Settings, of_folder: Mapping[str, str]) -> Mapping[str, str]:
    """OpenVINO properties for every part of the model."""
    return {**(RUNTIME_CACHE if device == "CPU" else {}), **of_folder, **settings.properties()}


def _load_runner(
    attention: Literal["stateful", "paged"],
    language_xml: Path,
    device: str,
    properties: Mapping[str, str],
    kv_cache_bytes: int,
) -> Runner:
    """The runner that the setting names, with the language model loaded. Raises StartupError."""
    try:
        if attention == "paged":
            return PagedRunner.load(language_xml, device, properties, kv_cache_bytes)
        return StatefulRunner.load(language_xml, device, properties)
    except ValueError as error:
        raise StartupError(str(error)) from None


def _kv_cache_bytes(language_xml: Path) -> int:
    """Half of the memory that is free once the language model's weights are read."""
    weights_bytes = language_xml.with_suffix(".bin").stat().st_size
    return max(1, (available_bytes() - weights_bytes) // 2)


def _refuse_single_thread(device: str, settings: Settings) -> None:
    """Raise StartupError for one CPU thread unless in f32: OpenVINO 2026.4.1 dies of SIGFPE in compiling."""
    threads = settings.inference_threads or len(os.sched_getaffinity(0))
    if device == "CPU" and threads == 1 and settings.precision != "exact":
        raise StartupError(
            "With one CPU thread OpenVINO needs CAPTIONMILL_PRECISION=exact "
            "(`captionmill worker --precision exact`)."
        )
