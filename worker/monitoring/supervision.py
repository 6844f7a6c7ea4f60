"""Watches this process from a thread of its own and ends it when it can answer no more; knows no job.

It looks at the engine's and Celery's threads, at the broker and at memory. It keeps the last look, writes the
health file and ends the process with a code that says why.
"""

import atexit
import logging
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis
from kombu.asynchronous import get_event_loop
from redis.backoff import NoBackoff
from redis.retry import Retry

from worker.monitoring.health import FILE_EVERY_S, HUB_STUCK_S, Health, write_health

log = logging.getLogger(__name__)

EXIT_ENGINE_DEAD: Final = 3
EXIT_ENGINE_STUCK: Final = 4
EXIT_MEMORY: Final = 5

LOOK_EVERY_S: Final = 1.0
LONGEST_LOOK_S: Final = 5.0
"""Most seconds counted between two looks: a process that was stopped and went on is not stuck."""
GRACE_S: Final = 4.0
"""Seconds from the engine's death to the end of the process, whatever else hangs."""
MEMORY_LOOKS: Final = 5
"""Number of looks in a row above the limit that end the process; one job may exceed it for a moment."""
BROKER_TIMEOUT_S: Final = 2.0


@dataclass(frozen=True)
class Rules:
    """When the worker ends, and where its health file is."""

    engine_stuck_s: float
    memory_limit_bytes: int | None = None
    health_file: Path | None = None


class _Stillness:
    """Seconds for which a thread's mark has not changed, as far as this process saw them pass."""

    def __init__(self) -> None:
        self._mark: float | None = None
        self.seconds = 0.0

    def look(self, mark: float, elapsed_s: float) -> None:
        self.seconds = 0.0 if mark != self._mark else self.seconds + min(elapsed_s, LONGEST_LOOK_S)
        self._mark = mark


class Supervision:
    """One per process."""

    def __init__(self, rules: Rules, redis_url: str) -> None:
        self._rules = rules
        self._drain: Callable[[], None] = lambda: None
        self._engine_ticked: Callable[[], float] = time.monotonic
        self._hub_ticked = time.monotonic()
        self._engine_still, self._hub_still = _Stillness(), _Stillness()
        self._over_limit = 0
        self._broker: redis.Redis = redis.Redis.from_url(
            redis_url,
            socket_timeout=BROKER_TIMEOUT_S,
            socket_connect_timeout=BROKER_TIMEOUT_S,
            retry=Retry(NoBackoff(), 0),
        )
        self._draining = False
        self._ends: set[int] = set()
        self._closed = threading.Event()
        self._thread = threading.Thread(target=self._run, name="captionmill-supervision", daemon=True)
        self._health: Health | None = None

    def start(self, drain: Callable[[], None], engine_ticked: Callable[[], float]) -> None:
        """Begin to watch. Called in the thread of Celery's event loop, whose turns are watched.

        `drain` makes the worker take no more jobs; any thread may call it. `engine_ticked` is Engine.ticked,
        or the time where there is no engine.
        """
        self._drain = drain
        self._engine_ticked = engine_ticked
        self._tick()
        # At each turn, not by a timer: the loop's timers are forgotten when the broker's connection is lost.
        get_event_loop().on_tick.add(self._tick)
        self._thread.start()

    def set_draining(self) -> None:
        """Note that the worker takes no more jobs. It only sets a flag, so a signal handler may call it."""
        self._draining = True

    def close(self) -> None:
        """Stop watching and remove the health file."""
        self._closed.set()
        if self._thread.is_alive():
            self._thread.join()
        if self._rules.health_file is not None:
            self._rules.health_file.unlink(missing_ok=True)
        self._broker.close()

    @property
    def health(self) -> Health | None:
        """The last look; None before the first."""
        return self._health

    def engine_died(self, death: BaseException) -> None:
        """Drain, and end the process whatever happens. Called in the engine's dying thread."""
        self._end(EXIT_ENGINE_DEAD, f"the engine's thread died of {type(death).__name__}", GRACE_S)

    # The thread

    def _tick(self) -> None:
        self._hub_ticked = time.monotonic()

    def _run(self) -> None:
        looked = written = time.monotonic() - FILE_EVERY_S
        while not self._closed.is_set():
            now = time.monotonic()
            self._health = health = self._look(now - looked)
            looked = now
            if health.stuck == "engine":
                waited = f"{self._engine_still.seconds:.0f} s"
                self._end(EXIT_ENGINE_STUCK, f"the engine has not moved for {waited}", GRACE_S)
            self._look_at_memory()
            if self._rules.health_file is not None and now - written >= FILE_EVERY_S:
                written = now
                self._write(health, self._rules.health_file)
            self._closed.wait(LOOK_EVERY_S)

    def _look(self, elapsed_s: float) -> Health:
        broker = self._broker_answers()
        engine, hub = self._engine_ticked(), self._hub_ticked
        self._engine_still.look(engine, elapsed_s)
        # While the broker is away Celery's loop stands still, and a new process would do no better.
        self._hub_still.look(hub if broker else -1.0, elapsed_s)
        now = time.monotonic()
        stuck_engine = self._engine_still.seconds > self._rules.engine_stuck_s
        stuck_hub = broker and not self._draining and self._hub_still.seconds > HUB_STUCK_S
        return Health(
            time=time.time(),
            pid=os.getpid(),
            engine_tick_age_s=now - engine,
            hub_tick_age_s=now - hub,
            broker=broker,
            draining=self._draining,
            stuck="engine" if stuck_engine else "hub" if stuck_hub else None,
        )

    def _broker_answers(self) -> bool:
        try:
            return bool(self._broker.ping())
        except redis.RedisError:
            return False

    def _look_at_memory(self) -> None:
        limit = self._rules.memory_limit_bytes
        if limit is None:
            return
        resident = resident_bytes()
        self._over_limit = self._over_limit + 1 if resident > limit else 0
        if self._over_limit >= MEMORY_LOOKS:
            self._end(EXIT_MEMORY, f"{resident} bytes are resident and {limit} are allowed", None)

    def _write(self, health: Health, path: Path) -> None:
        try:
            write_health(health, path)
        except OSError as error:
            log.error("the health file cannot be written: %s", error.strerror)

    # The end

    def _end(self, code: int, because: str, grace_s: float | None) -> None:
        """Drain as SIGTERM does and end with `code`; after `grace_s` seconds, if given, without waiting."""
        if code in self._ends:
            return
        self._ends.add(code)
        log.critical("%s: this process drains and ends with code %d", because, code)
        if grace_s is not None:
            threading.Thread(target=_exit_after, args=(grace_s, code), daemon=True).start()
        if signal.getsignal(signal.SIGTERM) == signal.SIG_DFL:
            _exit_now(code)  # nothing is under way yet that could drain
        # Celery ends a warm shutdown with code 0. Nothing is left to do when this handler runs.
        atexit.register(_exit_now, code)
        self._draining = True
        self._drain()
        os.kill(os.getpid(), signal.SIGTERM)


def resident_bytes() -> int:
    """Resident memory of this process in bytes, shared pages included."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def _exit_after(seconds: float, code: int) -> None:
    time.sleep(seconds)
    _exit_now(code)


def _exit_now(code: int) -> None:
    """End the process without waiting for any thread."""
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
