"""The Celery app: broker options, and the model loaded once per process before the first job is taken."""

import gc
import logging
import re
import sys
import threading
import time
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Final, NoReturn

import celery
import kombu
from celery import signals

from contract.broker import CELERY_OPTIONS, JOB_QUEUE
from worker.delivery.transport import install_transport
from worker.errors import StartupError
from worker.settings import PREFIX, SettingsError, load_settings
from worker.torch_absent import keep_torch_out

if TYPE_CHECKING:
    from worker.worker import Worker

log = logging.getLogger(__name__)

OLDEST: Final = (5, 7)
EXIT_REFUSED: Final = 2
COLLECT_EVERY_S: Final = 10.0
POOLS: Final = ("celery.concurrency.thread", "celery.concurrency.solo")
"""Others fork after the model is loaded, and an OpenVINO model hangs in a forked process."""


_given_as: dict[str, str] = {}


def name_options(options: Mapping[str, str]) -> None:
    """Have refusals name the options that a person typed (variable → option) and not their variables."""
    _given_as.update(options)


def refuse(sentence: str) -> NoReturn:
    """End the process before it takes a job. By SystemExit, as Celery's signals swallow exceptions."""
    sentence = re.sub(rf"\b{PREFIX}[A-Z_]+\b", lambda found: _given_as.get(found[0], found[0]), sentence)
    print(f"captionmill worker: {sentence}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_REFUSED)


def check_versions(celery_version: str, kombu_version: str) -> None:
    """End the process on versions that lose jobs with late acknowledgement on Redis."""
    for name, version in (("celery", celery_version), ("kombu", kombu_version)):
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            refuse(f"{name} {version} loses jobs; {name} {OLDEST[0]}.{OLDEST[1]} or newer is needed.")


def check_serializers(accepted: Iterable[str]) -> None:
    """End the process where a message may be a pickle, which runs what its sender likes."""
    if not {"pickle", "application/x-python-serialize"}.isdisjoint(accepted):
        refuse("Celery's accept_content allows pickle, so that whoever reaches the queue runs code here.")


def _configuration() -> dict[str, Any]:
    try:
        settings = load_settings()
    except SettingsError as error:
        refuse(str(error))
    exchange = kombu.Exchange(JOB_QUEUE, type="direct")
    return {
        **CELERY_OPTIONS,
        "broker_url": settings.redis_url.get_secret_value(),
        "task_queues": (kombu.Queue(JOB_QUEUE, exchange, routing_key=JOB_QUEUE),),
        "worker_pool": "threads",
        "worker_consumer": "worker.delivery.consumer:ClosingConsumer",
    }


check_versions(celery.__version__, kombu.__version__)
install_transport()
app = celery.Celery("captionmill", include=["worker.delivery.tasks"])
app.add_defaults(_configuration)
"""Called when Celery first looks at its configuration, so that importing this file needs no settings."""


_loaded: list["Worker"] = []


def install(worker: "Worker") -> None:
    """Make `worker` this process's own. What is installed at the start is not loaded again."""
    assert not _loaded, "a process has one worker"
    _loaded.append(worker)


def loaded_worker() -> "Worker":
    """The process's worker. Only a running task asks, and no task runs before it is loaded."""
    (worker,) = _loaded
    return worker


def _load(sender: Any, **_: Any) -> None:
    """In the worker's own process, before it connects to the broker."""
    if sender.app is not app:
        return
    pool = sender.pool_cls if isinstance(sender.pool_cls, str) else sender.pool_cls.__module__
    if pool not in (*POOLS, "threads", "solo"):
        refuse("start it with -P threads; other pools fork, and a loaded model does not survive that.")
    settings = load_settings()
    _set_up_logs(sender.loglevel or logging.INFO)
    check_serializers(app.conf.accept_content)
    if app.conf.broker_url != settings.redis_url.get_secret_value():
        refuse(
            "set CAPTIONMILL_REDIS_URL for broker and result store together, not Celery's own broker option."
        )
    # A task thread acknowledges over a connection of its own.
    app.conf.broker_pool_limit = max(10, sender.concurrency)
    if _loaded:
        return
    keep_torch_out()
    from worker.delivery.server_check import check_server
    from worker.startup import load_worker

    try:
        check_server(settings.redis_url.get_secret_value(), require_durable=settings.require_durable_broker)
        install(load_worker(settings))
    except StartupError as error:
        refuse(str(error))
    except Exception:  # a bug: Celery would log it and go on without a model
        log.exception("the worker cannot be loaded")
        raise SystemExit(1) from None


def _set_up_logs(loglevel: int | str, logfile: str | None = None, **_: Any) -> None:
    """In place of Celery's own way."""
    from worker.monitoring.logs import set_up_logs
    from worker.service import WORKER

    settings = load_settings()
    set_up_logs(settings.log_format, loglevel, WORKER, settings.redis_url.get_secret_value(), logfile)


def _start(sender: Any, **_: Any) -> None:
    """Only now: Celery sets up its logging and its signals after the model is loaded."""
    for worker in _loaded:
        log.info("answering with %s", worker.description)
        worker.start(sender.controller.concurrency)
    # Connections that failed are cycles in kombu and keep their sockets open until they are collected, which
    # Python itself does hardly ever. What the start has made is left out, so that it costs little.
    gc.collect()
    gc.freeze()
    # Not by Celery's timer, which forgets its entries when the connection to the broker is lost.
    threading.Thread(target=_collect, name="captionmill-collect", daemon=True).start()


def _collect() -> None:
    while True:
        time.sleep(COLLECT_EVERY_S)
        gc.collect()


def _drain(**_: Any) -> None:
    for worker in _loaded:
        worker.drain()


def _close(**_: Any) -> None:
    for worker in _loaded:
        worker.close()


signals.setup_logging.connect(_set_up_logs)
signals.worker_init.connect(_load)
signals.worker_ready.connect(_start)
signals.worker_shutting_down.connect(_drain)
signals.worker_shutdown.connect(_close)
