"""The worker's Celery app; in turns its process also answers jobs without the queue; knows no producer.

bench/queue_overhead.py starts it. Both ways have the same process, model and threads, and other programs on
the machine slow down both alike.
"""

import itertools
import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from typing import Any, Final, Literal, cast

import redis

from bench.server import cpu_s
from contract.answer import JobResult
from contract.job import Job
from worker.app import app, loaded_worker
from worker.engine.loop import EngineTimes
from worker.settings import load_settings

__all__ = ["app"]

ASKED_KEY: Final = "bench:asked"
"""Key of a list with the fields of an Order as JSON."""
TOLD_KEY: Final = "bench:told"
"""Key of a list of JSON: null when jobs may come, then all Slices, and at the end a Run."""
SETTLE_S: Final = 2.5
"""Seconds between two ways, for begun jobs to end and answers to be collected."""
SLICE_S: Final = 5.0
"""Seconds of one slice."""
WARM: Final = 64
"""Images answered before the first slice."""
LEFT: Final = 200
"""Images left at the beginning of the last slice, so that it does not run out of jobs."""
WayName = Literal["queued", "direct"]
ORDER: Final[tuple[WayName, ...]] = ("queued", "direct", "direct", "queued")


@dataclass(frozen=True)
class Order:
    """A producer's request: turns of `jobs` in `slots` threads, beside its run of `images` jobs."""

    slots: int
    images: int
    jobs: Sequence[str]
    pids: Mapping[str, int]
    """Name → id of the processes whose time is measured."""


@dataclass(frozen=True)
class Slice:
    """Figures of some seconds of one way."""

    way: WayName
    images_per_s: float
    cpu_ms_per_image: Mapping[str, float]
    outside_ms_per_image: float
    """Processor time in ms of the worker outside its service: taking jobs and writing records."""
    steps_per_image: float
    """Steps of the engine; equal in both ways if batches are equally full."""


@dataclass(frozen=True)
class Run:
    """Start of a run's first job and end of its last one, as Unix time."""

    begun: float
    ended: float


class Turns:
    """Lets jobs of one way begin, while those of the other way wait."""

    def __init__(self, answer: Callable[..., JobResult]) -> None:
        self._answer = answer
        self._changed = threading.Condition()
        self._way: WayName | None = "queued"
        self.ended: Counter[WayName] = Counter()
        self._inside_s = 0.0
        """Processor time of the queue's threads inside the service."""
        self._queue_threads = {threading.main_thread().ident}
        self.first_begun = 0.0
        self.last_ended = 0.0

    def change(self, way: WayName | None) -> None:
        """Let this way begin jobs. None: no more direct jobs, and queued jobs go on."""
        with self._changed:
            self._way = way
            self._changed.notify_all()

    def queued(self, job: Job, *lane_and_wanted: Any) -> JobResult:
        """Answer a job from the queue, in place of the service."""
        with self._changed:
            self._changed.wait_for(lambda: self._way != "direct")
            self.first_begun = self.first_begun or time.time()
            self._queue_threads.add(threading.get_ident())
        spent = time.thread_time()
        result = self._answer(job, *lane_and_wanted)
        with self._changed:
            self._inside_s += time.thread_time() - spent
            self.ended["queued"] += 1
            self.last_ended = time.time()
        return result

    def outside_s(self) -> float:
        """Processor time of the queue's threads so far, outside the service."""
        with self._changed:
            clocks = [time.pthread_getcpuclockid(thread) for thread in self._queue_threads if thread]
            return sum(map(time.clock_gettime, clocks)) - self._inside_s

    def direct(self, jobs: "itertools.cycle[Job]") -> None:
        """Answer `jobs`, which other threads also take from, until the last turn is over."""
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._way != "queued")
                if self._way is None:
                    return
                job = next(jobs)
            result = self._answer(job)
            assert all(one.outcome.kind == "answer" for one in result.results), result
            with self._changed:
                self.ended["direct"] += 1


def slices(turns: Turns, times: EngineTimes, order: Order) -> list[Slice]:
    """The slices of both ways in turn, until few images of the run are left."""
    jobs = itertools.cycle([Job.model_validate_json(job) for job in order.jobs])
    found = []
    with ThreadPoolExecutor(order.slots) as threads:
        ways = [threads.submit(turns.direct, jobs) for _ in range(order.slots)]
        while turns.ended["queued"] < WARM:
            time.sleep(0.1)
        for way in itertools.cycle(ORDER):
            if order.images - turns.ended["queued"] < LEFT:
                break
            turns.change(way)
            time.sleep(SETTLE_S)
            found.append(_slice(turns, times, way, order.pids))
        turns.change(None)
        for one in ways:
            one.result()
    return found


def _slice(turns: Turns, times: EngineTimes, way: WayName, pids: Mapping[str, int]) -> Slice:
    begun, ended = time.monotonic(), turns.ended.total()
    spent = {name: -cpu_s(pid) for name, pid in pids.items()}
    outside_s, steps = turns.outside_s(), times.steps
    time.sleep(SLICE_S)
    images = turns.ended.total() - ended
    seconds = time.monotonic() - begun
    return Slice(
        way,
        images / seconds,
        {name: 1000 * (spent[name] + cpu_s(pid)) / images for name, pid in pids.items()},
        1000 * (turns.outside_s() - outside_s) / images,
        (times.steps - steps) / images,
    )


def _serve() -> None:
    url = load_settings().redis_url.get_secret_value()
    with redis.Redis.from_url(url, socket_timeout=None) as connection:
        reply: Any = connection.blpop([ASKED_KEY])
        order = Order(**json.loads(reply[1]))
        worker = cast(Any, loaded_worker())
        service = worker.parts.service
        turns = Turns(service.answer)
        service.answer = turns.queued
        connection.rpush(TOLD_KEY, json.dumps(None))
        found = slices(turns, worker.parts.engine_times, order)
        connection.rpush(TOLD_KEY, json.dumps([asdict(one) for one in found]))
        while turns.ended["queued"] < order.images:
            time.sleep(0.1)
        connection.rpush(TOLD_KEY, json.dumps(asdict(Run(turns.first_begun, turns.last_ended))))


def _start(**_: Any) -> None:
    threading.Thread(target=_serve, name="bench", daemon=True).start()


app.on_after_finalize.connect(_start)
