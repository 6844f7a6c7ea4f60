"""Supervised workers end when they can answer no more: real processes, engine and server."""

import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from contract.broker import JOB_QUEUE
from contract.job import Job
from contract.store import results_key
from producer.queue import Queue
from tests.support.fake_runner import PLENTY, FakeRunner, counting, embed, make_request
from tests.support.processes import ROOT, start_worker, wait_until
from worker.engine.loop import Engine
from worker.monitoring.health import FILE_STALE_S, HUB_FRESH_S, Health, file_says, write_health
from worker.monitoring.monitor import Monitor, PortError
from worker.monitoring.supervision import EXIT_ENGINE_DEAD, EXIT_ENGINE_STUCK, EXIT_MEMORY
from worker.settings import Settings

ENDS_WITHIN_S = 60


class Watched:
    """A broker and a worker on it; files in `folder` decide what the worker does."""

    def __init__(self, redis_url: str, connection: redis.Redis, images: Path, folder: Path) -> None:
        for name in ("a.png", "hang.png"):
            Image.new("RGB", (30, 20)).save(images / name)
        self.connection = connection
        self.queue = Queue(redis_url, connection)
        self.folder = folder
        self.log = folder / "worker.log"
        self.health_file = folder / "health.json"
        self.environment = {
            "CAPTIONMILL_REDIS_URL": redis_url,
            "CAPTIONMILL_MODEL_FOLDER": str(folder),
            "CAPTIONMILL_IMAGE_ROOTS": str(images),
            "CAPTIONMILL_HEALTH_FILE": str(self.health_file),
            "HOLD": str(folder / "hold"),
        }
        self._worker: subprocess.Popen[bytes] | None = None

    def start(self, **changes: str) -> subprocess.Popen[bytes]:
        self._worker = start_worker("tests.support.dying_worker", self.log, self.environment | changes)
        wait_until(lambda: self.says("ready") == "")
        return self._worker

    def submit(self, index: int, name: str = "a.png") -> None:
        job = Job.model_validate(
            {
                "run": "r",
                "index": index,
                "image": {"kind": "path", "path": name},
                "questions": [{"id": "q", "messages": "four"}],
            }
        )
        self.queue.submit([(f"r-{index}", job.model_dump_json())])

    def says(self, wanted: Any) -> str:
        return file_says(self.health_file, wanted, time.time())

    def told(self) -> dict[str, Any]:
        told: dict[str, Any] = json.loads(self.health_file.read_text())
        return told

    def stop(self) -> None:
        if self._worker is not None:
            self._worker.kill()
            self._worker.wait()
        self.queue.close()


@pytest.fixture
def watched(redis_url: str, connection: redis.Redis, images: Path, tmp_path: Path) -> Iterator[Watched]:
    made = Watched(redis_url, connection, images, tmp_path)
    yield made
    made.stop()


def test_an_idle_process_ends_when_its_engine_dies_and_its_job_goes_back(watched: Watched) -> None:
    worker = watched.start()
    watched.submit(0)
    wait_until(lambda: watched.connection.xlen(results_key("r")) == 1)
    (watched.folder / "kill").touch()
    watched.submit(1)
    assert worker.wait(ENDS_WITHIN_S) == EXIT_ENGINE_DEAD
    assert watched.connection.llen(JOB_QUEUE) == 1
    assert "the engine's thread died of SystemExit" in watched.log.read_text()
    assert not watched.health_file.exists()


def test_a_process_whose_engine_dies_ends_although_another_thread_hangs(watched: Watched) -> None:
    worker = watched.start()
    (watched.folder / "hold").touch()
    watched.submit(0, "hang.png")
    wait_until((watched.folder / "hanging").exists)
    (watched.folder / "kill").touch()
    watched.submit(1)
    assert worker.wait(ENDS_WITHIN_S) == EXIT_ENGINE_DEAD
    # What hung is not acknowledged: the broker hands it out again.
    assert watched.queue.backlog() >= 1


def test_a_stuck_engine_is_told_and_ends_the_process(watched: Watched) -> None:
    worker = watched.start(CAPTIONMILL_ENGINE_STUCK_S="3")
    first = watched.told()["time"]
    wait_until(lambda: watched.told()["time"] > first + 2)
    (watched.folder / "stall").touch()
    watched.submit(0)
    assert worker.wait(ENDS_WITHIN_S) == EXIT_ENGINE_STUCK
    # The process could not take its file away: what it said last is there.
    assert watched.says("live").startswith("not live: the engine is stuck")
    # Celery's loop went on meanwhile.
    assert watched.told()["hub_tick_age_s"] < watched.told()["engine_tick_age_s"]


def test_a_worker_that_hogs_memory_drains_and_ends(watched: Watched) -> None:
    worker = watched.start(CAPTIONMILL_MEMORY_LIMIT_BYTES="390000000")
    (watched.folder / "hog").touch()
    watched.submit(0)
    assert worker.wait(ENDS_WITHIN_S) == EXIT_MEMORY
    assert watched.connection.xlen(results_key("r")) == 1
    assert watched.queue.backlog() == 0
    assert "bytes are resident and 390000000 are allowed" in watched.log.read_text()


def test_readiness_follows_broker_and_drain(watched: Watched) -> None:
    worker = watched.start()
    assert watched.told()["pid"] == worker.pid
    (watched.folder / "hold").touch()
    watched.submit(0, "hang.png")
    wait_until((watched.folder / "hanging").exists)
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: watched.says("ready") == "not ready: draining")
    assert watched.says("live") == ""
    (watched.folder / "hold").unlink()
    assert worker.wait(ENDS_WITHIN_S) == 0
    assert not watched.health_file.exists()


# Without a worker


def healthy(**changes: Any) -> Health:
    values: dict[str, Any] = {
        "time": time.time(),
        "pid": 1,
        "engine_tick_age_s": 0.5,
        "hub_tick_age_s": 0.5,
        "broker": True,
        "draining": False,
        "stuck": None,
    }
    return Health(**(values | changes))


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({}, ""),
        ({"draining": True}, "draining"),
        ({"broker": False}, "the broker is away"),
        ({"hub_tick_age_s": HUB_FRESH_S + 1}, "not consuming"),
        ({"stuck": "hub"}, "the hub is stuck"),
    ],
)
def test_why_a_worker_is_not_ready(changes: dict[str, Any], why: str) -> None:
    health = healthy(**changes)
    assert health.why_not_ready == why
    assert health.ready == (not why)
    assert health.live == ("stuck" not in changes)


def test_the_probe_goes_by_age_and_content(tmp_path: Path) -> None:
    path = tmp_path / "health.json"

    def probe(*wanted: str) -> int:
        command = [sys.executable, "-m", "worker.monitoring.health", str(path), *wanted]
        return subprocess.run(command, cwd=ROOT, check=False, capture_output=True).returncode

    assert probe() == 1
    write_health(healthy(draining=True), path)
    assert (probe(), probe("ready")) == (0, 1)
    write_health(healthy(stuck="engine"), path)
    assert probe() == 1
    write_health(healthy(time=time.time() - FILE_STALE_S - 5), path)
    assert probe() == 1
    path.write_text("[]")
    assert probe() == 1


def test_the_probe_loads_the_standard_library_alone() -> None:
    script = "import sys, worker.monitoring.health; print(*sys.modules)"
    loaded = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout.split()
    assert not {"openvino", "numpy", "redis", "celery", "pydantic"} & set(loaded)


def test_an_engine_tells_of_its_death_once_and_of_no_orderly_end() -> None:
    deaths: list[BaseException] = []
    engine = Engine(FakeRunner(counting), embed, PLENTY, on_death=deaths.append)
    engine.submit(make_request([3])).result()
    engine.close()
    assert deaths == []

    def die() -> None:
        raise SystemExit

    engine = Engine(FakeRunner(counting, on_step=die), embed, PLENTY, on_death=deaths.append)
    with pytest.raises(Exception, match="died"):
        engine.submit(make_request([3])).result()
    wait_until(lambda: len(deaths) == 1)
    assert isinstance(deaths[0], SystemExit)


def test_an_idle_engine_ticks() -> None:
    engine = Engine(FakeRunner(counting), embed, PLENTY)
    before = engine.ticked
    wait_until(lambda: engine.ticked > before)
    engine.close()


def test_a_port_in_use_is_refused(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        settings = Settings(model_folder=tmp_path, http_port=port)
        with pytest.raises(PortError, match=f"127.0.0.1:{port} cannot be opened"):
            Monitor(settings)
