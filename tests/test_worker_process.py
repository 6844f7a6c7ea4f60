"""The worker as a Celery process: started, refused, drained, and fed with garbage. Its model is a fake."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kombu
import pytest
import redis
from PIL import Image

from contract.broker import JOB_QUEUE, TASK_NAME
from contract.job import Job
from contract.store import DEAD_LETTERS_KEY, results_key
from producer.client import Client
from tests.processes import ROOT, start_worker, wait_until
from worker.app import check_versions

CONCURRENCY = 3


class Site:
    """A broker, a folder of images, and workers on them."""

    def __init__(self, redis_url: str, connection: redis.Redis, images: Path, folder: Path) -> None:
        Image.new("RGB", (30, 20)).save(images / "a.png")
        self.connection = connection
        self.client = Client(redis_url, connection)
        self.hold = folder / "hold"
        self.log = folder / "worker.log"
        self.environment = {
            "CAPTIONMILL_REDIS_URL": redis_url,
            "CAPTIONMILL_MODEL_FOLDER": str(folder),
            "CAPTIONMILL_IMAGE_ROOTS": str(images),
            "HOLD": str(self.hold),
        }
        self.redis_url = redis_url
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, app: str = "tests.fake_worker", **options: Any) -> subprocess.Popen[bytes]:
        worker = start_worker(app, self.log, self.environment, concurrency=CONCURRENCY, **options)
        self.workers.append(worker)
        return worker

    def submit(self, count: int, question: str = "four", first: int = 0) -> None:
        image = {"kind": "path", "path": "a.png"}
        questions = [{"id": "q1", "messages": question}]
        self.client.submit(
            Job.model_validate({"run": "r", "index": first + i, "image": image, "questions": questions})
            for i in range(count)
        )

    def push(self, args: Any, kwargs: Any) -> None:
        """A message to the task that no client of ours would send."""
        with kombu.Connection(self.redis_url) as broker, broker.Producer() as producer:
            producer.publish(
                [args, kwargs, {}],
                routing_key=JOB_QUEUE,
                serializer="json",
                headers={
                    "task": TASK_NAME,
                    "id": "garbage",
                    "lang": "py",
                    "argsrepr": "-",
                    "kwargsrepr": "-",
                },
            )

    def records(self) -> list[dict[str, Any]]:
        entries: Any = self.connection.xrange(results_key("r"))
        return [json.loads(fields[b"record"]) for _, fields in entries]

    def indices(self) -> list[int]:
        return sorted(record["index"] for record in self.records())

    def stop(self) -> None:
        self.hold.unlink(missing_ok=True)
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.client.close()


@pytest.fixture
def site(redis_url: str, connection: redis.Redis, images: Path, tmp_path: Path) -> Iterator[Site]:
    made = Site(redis_url, connection, images, tmp_path)
    yield made
    made.stop()


def test_answers_come_and_the_queue_is_left_clean(site: Site) -> None:
    site.submit(10)
    site.start()
    wait_until(lambda: site.indices() == list(range(10)) and site.client.backlog() == 0)
    assert site.records()[0]["results"][0]["outcome"]["text"] == "9 tokens"
    assert {key.decode() for key in site.connection.keys("captionmill:*")} == {  # type: ignore[union-attr]
        "captionmill:{r}:results",
        "captionmill:{r}:done",
    }


def test_nothing_a_message_holds_costs_a_slot(site: Site) -> None:
    site.start()
    for name in ("MemoryError", "SystemExit", "KeyboardInterrupt", "GeneratorExit"):
        site.submit(CONCURRENCY, f"raise {name}", first=len(site.records()))
        wait_until(lambda: site.client.backlog() == 0 and len(site.records()) % CONCURRENCY == 0)
    for args, kwargs in (([], {}), ([1, 2], {}), ([None], {}), ([], {"job": {}}), (["x"], {"y": 1})):
        site.push(args, kwargs)
    before = len(site.records())
    site.submit(CONCURRENCY + 1, first=100)
    wait_until(lambda: len(site.records()) == before + CONCURRENCY + 1 and site.client.backlog() == 0)
    assert site.connection.llen(DEAD_LETTERS_KEY) == 5
    assert before == 4 * CONCURRENCY


def test_sigterm_finishes_what_has_begun_and_gives_back_the_rest(site: Site) -> None:
    site.hold.touch()
    worker = site.start()
    site.submit(6)
    # One generates and is held, the others of the pool wait for the engine, the rest are in the queue.
    wait_until(lambda: site.connection.hlen("unacked") == CONCURRENCY)
    wait_until(lambda: site.log.read_text().count("received") == CONCURRENCY)
    worker.send_signal(signal.SIGTERM)
    # Celery itself puts them back only when the last one of its pool has ended.
    wait_until(lambda: site.log.read_text().count("goes back to the queue: GivenBack") == CONCURRENCY - 1)
    site.hold.unlink()
    assert worker.wait() == 0
    assert len(site.records()) == 1
    assert site.connection.llen(JOB_QUEUE) == 5
    assert site.client.backlog() == 5
    site.start()
    wait_until(lambda: site.indices() == list(range(6)) and site.client.backlog() == 0)


def test_a_process_whose_engine_is_dead_gives_its_jobs_back_and_ends(site: Site) -> None:
    site.submit(1, "raise EngineStoppedError")
    worker = site.start()
    assert worker.wait() == 0
    assert site.records() == []
    assert site.connection.llen(JOB_QUEUE) == 1
    assert site.client.backlog() == 1


def test_a_worker_that_cannot_start_takes_no_job(site: Site) -> None:
    site.submit(2)
    site.environment["CAPTIONMILL_DEVICE"] = "GPU.7"
    assert site.start("worker").wait() == 2
    assert 'There is no device "GPU.7" here; available are CPU' in site.log.read_text()
    site.environment["CAPTIONMILL_DEVICE"] = "CPU"
    site.log.unlink()
    assert site.start("worker").wait() == 2
    assert "captionmill worker: " in site.log.read_text()
    assert "Traceback" not in site.log.read_text()
    assert site.connection.llen(JOB_QUEUE) == 2
    assert site.client.backlog() == 2


@pytest.mark.parametrize(
    ("changes", "pool", "sentence"),
    [
        ({"CAPTIONMILL_DEVISE": "CPU"}, "threads", "CAPTIONMILL_DEVISE is not a setting of the worker"),
        (
            {"CAPTIONMILL_INFERENCE_THREADS": "1"},
            "threads",
            "one CPU thread OpenVINO needs CAPTIONMILL_PRECISION",
        ),
        ({}, "processes", "start it with -P threads"),
        ({"CELERY_BROKER_URL": "redis://127.0.0.1:1/0"}, "threads", "set CAPTIONMILL_REDIS_URL"),
    ],
)
def test_refused_starts(site: Site, changes: dict[str, str], pool: str, sentence: str) -> None:
    site.submit(1)
    site.environment.update(changes)
    assert site.start("worker", pool=pool).wait() == 2
    assert sentence in site.log.read_text()
    assert "Traceback" not in site.log.read_text()
    assert site.client.backlog() == 1


@pytest.mark.parametrize(
    ("celery_version", "kombu_version"), [("5.6.2", "5.7.0"), ("5.7.0", "5.6.9"), ("4.4.7", "4.6.11")]
)
def test_versions_that_lose_jobs_are_refused(celery_version: str, kombu_version: str) -> None:
    check_versions("5.7.0", "5.7.0")
    check_versions("6.0.0rc1", "5.10.1")
    with pytest.raises(SystemExit) as exit_:
        check_versions(celery_version, kombu_version)
    assert exit_.value.code == 2


def test_importing_the_app_is_cheap_and_needs_no_settings() -> None:
    modules = subprocess.run(
        [sys.executable, "-c", "import sys, worker.celery, worker.tasks; print(*sys.modules)"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("CAPTIONMILL_")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert "worker.app" in modules
    assert not {"torch", "transformers", "openvino"} & set(modules)
