"""Makes the worker from its settings before the first job: device, model, engine, store; knows no Celery."""

import os
import time

from worker.answering import Answering
from worker.device import UnknownDeviceError, resolve_device
from worker.engine.loop import Engine
from worker.engine.stateful import StatefulRunner
from worker.images import ImageLimits
from worker.llava.folder import ModelFolderError
from worker.llava.model import LlavaModel
from worker.results import ResultStore
from worker.service import Service
from worker.settings import Settings


class StartupError(Exception):
    """The operator must change something; the message is a sentence that says what."""


class Worker:
    """What one process holds: answering for its task threads, and the ends of it for the shutdown."""

    def __init__(self, settings: Settings) -> None:
        """Load and warm up; takes seconds to minutes. Raises StartupError; any other exception is a bug."""
        begun = time.monotonic()
        try:
            device = resolve_device(settings.device)
            _refuse_single_thread(device, settings)
            properties = settings.properties()
            model = LlavaModel.load(settings.model_folder, device, properties)
        except (UnknownDeviceError, ModelFolderError) as error:
            raise StartupError(str(error)) from None
        try:
            runner = StatefulRunner.load(model.language_xml, device, properties)
        except ValueError as error:
            raise StartupError(str(error)) from None
        limits = ImageLimits(
            max_bytes=settings.image_max_bytes,
            max_px=settings.image_max_px,
            max_side_px=settings.image_max_side_px,
            max_aspect=settings.image_max_aspect,
        )
        self._service = Service(model, Engine(runner, model.embed), settings.image_roots, limits)
        self._service.warm_up()
        self._store = ResultStore(settings.redis_url.get_secret_value())
        self.answering = Answering(self._service, self._store)
        self.description = f"{model.model_id} on {device}, loaded in {time.monotonic() - begun:.1f} s"

    def drain(self) -> None:
        """Begin no further job; safe in a signal handler."""
        self._service.drain()

    def close(self) -> None:
        """After the last job: end the engine's thread and the store's connections."""
        self._service.close()
        self._store.close()


def _refuse_single_thread(device: str, settings: Settings) -> None:
    """OpenVINO 2026.4.1 dies of SIGFPE compiling a stateful model for one CPU thread, unless in f32."""
    threads = settings.inference_threads or len(os.sched_getaffinity(0))
    if device == "CPU" and threads == 1 and settings.precision != "exact":
        raise StartupError("With one CPU thread OpenVINO needs CAPTIONMILL_PRECISION=exact.")
