"""The worker's Celery app, whose process also answers jobs handed straight to its service, when asked to.

For bench.keeping_up: both ways then have the same process, model and threads. Measures nothing else.
"""

import json
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final, cast

import redis

from contract.job import Job
from worker.app import app, loaded_worker
from worker.settings import load_settings

__all__ = ["app"]

ASKED_KEY: Final = "bench:asked"
"""List of {"slots": how many threads, "jobs": jobs as JSON}; asked when the worker is ready."""
TOLD_KEY: Final = "bench:told"
"""List of seconds, one entry for each of ASKED_KEY."""


def answer_directly(slots: int, jobs: list[Job]) -> float:
    """Seconds from the first job's beginning to the last one's end; every question must have its answer."""
    service = cast(Any, loaded_worker()).service
    begun = time.monotonic()
    with ThreadPoolExecutor(slots) as threads:
        results = list(threads.map(service.answer, jobs))
    seconds = time.monotonic() - begun
    assert all(one.outcome.kind == "answer" for result in results for one in result.results), results
    return seconds


def _serve() -> None:
    url = load_settings().redis_url.get_secret_value()
    with redis.Redis.from_url(url, socket_timeout=None) as connection:
        while True:
            reply: Any = connection.blpop([ASKED_KEY])
            asked = json.loads(reply[1])
            jobs = [Job.model_validate_json(job) for job in asked["jobs"]]
            connection.rpush(TOLD_KEY, answer_directly(asked["slots"], jobs))


def _start(**_: Any) -> None:
    threading.Thread(target=_serve, name="bench", daemon=True).start()


app.on_after_finalize.connect(_start)
