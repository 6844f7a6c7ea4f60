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
"""Modules of the pools that do not fork: a loaded OpenVINO model hangs in a forked process."""


_given_as: dict[str, str] = {}


def name_options(options: Mapping[str, str]) -> None:
    """Have refusals name the options that a person typed; `options` is variable → option."""
    _given_as.update(options)


def refuse(sentence: str) -> NoReturn:
    """Print the sentence and end the process. Raises SystemExit, as Celery's signals swallow exceptions."""
    sentence = re.sub(rf"\b{PREFIX}[A-Z_]+\b", lambda found: _given_as.get(found[0], found[0]), sentence)
    print(f"captionmill worker: {sentence}", file=sys.stderr, flush=True)
    raise SystemExit(EXIT_REFUSED)


def check_versions(celery_version: str, kombu_version: str) -> None:
    """End the process on versions that lose jobs when messages are acknowledged late on Redis."""
    for name, version in (("celery", celery_version), ("kombu", kombu_version)):
        if tuple(int(part) for part in version.split(".")[:2]) < OLDEST:
            refuse(f"{name} {version} loses jobs; install {name} {OLDEST[0]}.{OLDEST[1]} or newer.")


def check_serializers(accepted: Iterable[str]) -> None:
    """End the process where a message may be a pickle, which runs its sender's code."""
    if not {"pickle", "application/x-python-serialize"}.isdisjoint(accepted):
        refuse("Celery's accept_content allows pickle, which lets senders run code here; set it to json.")


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
"""Celery calls it when it first reads its configuration, so importing this file needs no settings."""


_loaded: list["Worker"] = []


def install(worker: "Worker") -> None:
    """Make `worker` this process's worker. After an early install() the start loads none."""
    assert not _loaded, "a process has one worker"
    _loaded.append(worker)


def loaded_worker() -> "Worker":
    """The process's worker. Only a running task asks, and no task runs before the worker is loaded."""
    (worker,) = _loaded
    return worker


def _load(sender: Any, **_: Any) -> None:
    """Check settings and server and load the worker, before Celery connects to the broker."""
    if sender.app is not app:
        return
    pool = sender.pool_cls if isinstance(sender.pool_cls, str) else sender.pool_cls.__module__
    if pool not in (*POOLS, "threads", "solo"):
        refuse("start it with -P threads; other pools fork, and a loaded model hangs in a forked process.")
    settings = load_settings()
    _set_up_logs(sender.loglevel or logging.INFO)
    check_serializers(app.conf.accept_content)
    if app.conf.broker_url != settings.redis_url.get_secret_value():
        refuse(
            "set CAPTIONMILL_REDIS_URL for broker and result store together, not Celery's own broker option."
        )
    # Each task thread acknowledges over its own connection.
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
        log.exception("loading the worker failed with an error that is a bug; please report it")
        raise SystemExit(1) from None


def _set_up_logs(loglevel: int | str, logfile: str | None = None, **_: Any) -> None:
    """Set up the log in place of Celery's own way."""
    from worker.monitoring.logs import set_up_logs
    from worker.service import WORKER

    settings = load_settings()
    set_up_logs(settings.log_format, loglevel, WORKER, settings.redis_url.get_secret_value(), logfile)


def _start(sender: Any, **_: Any) -> None:
    """Start the worker's threads; Celery sets up its logging and signals only after the model is loaded."""
    for worker in _loaded:
        log.info("answering with %s", worker.description)
        worker.start(sender.controller.concurrency)
    # kombu's failed connections are reference cycles that keep their sockets open until they are collected.
    # Python itself collects too seldom. Objects made so far are frozen, so that a collection costs little.
    gc.collect()
    gc.freeze()
    # A thread, as Celery's timer forgets its entries when the connection to the broker is lost.
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
