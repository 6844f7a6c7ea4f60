"""The worker as a Celery process: started, refused, drained, and fed with garbage. Its model is a fake."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import celery
import kombu
import pytest
import redis
from PIL import Image

from contract.broker import CELERY_OPTIONS, INTERACTIVE_QUEUE, JOB_QUEUE, TASK_NAME
from contract.job import Job
from contract.store import (
    DEAD_LETTERS_KEY,
    END_FIELD,
    WORKERS_KEY,
    WorkerRecord,
    results_key,
    stop_key,
    tokens_key,
)
from producer.queue import Queue
from tests.support.processes import ROOT, start_worker, wait_until
from worker.app import check_versions

CONCURRENCY = 3


class Site:
    """A broker, a folder of images, and workers on them."""

    def __init__(self, redis_url: str, connection: redis.Redis, images: Path, folder: Path) -> None:
        Image.new("RGB", (30, 20)).save(images / "a.png")
        self.connection = connection
        self.queue = Queue(redis_url, connection)
        self.hold, self.held = folder / "hold", folder / "held"
        self.log = folder / "worker.log"
        self.environment = {
            "CAPTIONMILL_REDIS_URL": redis_url,
            "CAPTIONMILL_MODEL_FOLDER": str(folder),
            "CAPTIONMILL_IMAGE_ROOTS": str(images),
            "HOLD": str(self.hold),
        }
        self.redis_url = redis_url
        self.sender = celery.Celery("asker", set_as_current=False)
        exchange = kombu.Exchange(INTERACTIVE_QUEUE, type="direct")
        queues = (kombu.Queue(INTERACTIVE_QUEUE, exchange, routing_key=INTERACTIVE_QUEUE),)
        self.sender.conf.update(**CELERY_OPTIONS, broker_url=redis_url, task_queues=queues)
        self.workers: list[subprocess.Popen[bytes]] = []

    def start(self, app: str = "tests.support.fake_worker", **options: Any) -> subprocess.Popen[bytes]:
        worker = start_worker(app, self.log, self.environment, concurrency=CONCURRENCY, **options)
        self.workers.append(worker)
        return worker

    def submit(self, count: int, question: str = "four", first: int = 0) -> None:
        image = {"kind": "path", "path": "a.png"}
        questions = [{"id": "q1", "messages": question}]
        jobs = (
            Job.model_validate({"run": "r", "index": first + i, "image": image, "questions": questions})
            for i in range(count)
        )
        self.queue.submit([(f"r-{job.index}", job.model_dump_json()) for job in jobs])

    def ask(self, index: int, question: str = "four", **changes: Any) -> None:
        """Submit an interactive job."""
        job = {"run": "r", "index": index, "questions": [{"id": "q1", "messages": question}], **changes}
        self.sender.send_task(
            TASK_NAME, args=(Job.model_validate(job).to_message(),), queue=INTERACTIVE_QUEUE, argsrepr="-"
        )

    def push_interactive(self, body: bytes | str, content_type: str = "application/json") -> None:
        with kombu.Connection(self.redis_url) as broker, broker.Producer() as producer:
            producer.publish(
                body,
                routing_key=INTERACTIVE_QUEUE,
                content_type=content_type,
                content_encoding="utf-8",
                headers={"task": TASK_NAME},
            )

    def workers_told(self) -> list[WorkerRecord]:
        told: Any = self.connection.hvals(WORKERS_KEY)
        return [WorkerRecord.model_validate_json(record) for record in told]

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
        self.sender.close()
        for worker in self.workers:
            worker.kill()
            worker.wait()
        self.queue.close()


@pytest.fixture
def site(redis_url: str, connection: redis.Redis, images: Path, tmp_path: Path) -> Iterator[Site]:
    made = Site(redis_url, connection, images, tmp_path)
    yield made
    made.stop()


def test_answers_come_and_the_queue_is_left_clean(site: Site) -> None:
    site.submit(10)
    site.start()
    wait_until(lambda: site.indices() == list(range(10)) and site.queue.backlog() == 0)
    assert site.records()[0]["results"][0]["outcome"]["text"] == "9 tokens"
    assert {key.decode() for key in site.connection.keys("captionmill:*")} == {  # type: ignore[union-attr]
        "captionmill:{r}:results",
        "captionmill:{r}:done",
        WORKERS_KEY,
    }


def test_a_worker_tells_of_itself_until_it_ends(site: Site) -> None:
    worker = site.start()
    wait_until(site.workers_told)
    [told] = site.workers_told()
    assert (told.model, told.device, told.slots) == ("fake", "CPU", CONCURRENCY)
    assert f":{worker.pid}:" in told.worker
    assert told.started <= told.time
    worker.send_signal(signal.SIGTERM)
    assert worker.wait() == 0
    assert site.workers_told() == []


def test_a_question_somebody_waits_for_is_answered_while_bulk_jobs_fill_every_slot(site: Site) -> None:
    site.hold.touch()
    site.start()
    site.submit(2 * CONCURRENCY)
    wait_until(lambda: site.connection.hlen("unacked") == CONCURRENCY)
    for index in range(100, 105):
        site.ask(index)
    wait_until(lambda: site.indices() == list(range(100, 105)))
    wait_until(lambda: site.connection.hlen("unacked") == CONCURRENCY)
    site.hold.unlink()
    wait_until(lambda: len(site.records()) == 5 + 2 * CONCURRENCY and site.queue.backlog() == 0)


def test_nothing_that_the_interactive_queue_holds_costs_a_slot(site: Site) -> None:
    site.start()
    for index, name in enumerate(("MemoryError", "SystemExit", "KeyboardInterrupt")):
        site.ask(index, f"raise {name}")
    for body in ("[[], {}, {}]", "[[1, 2], {}, {}]", '[[null], {"a": 1}, {}]', "7", "no JSON"):
        site.push_interactive(body)
    site.push_interactive(b"cos\nsystem\n(S'true'\ntR.", "application/x-python-serialize")
    for index in range(3, 8):
        site.ask(index)
    wait_until(lambda: site.indices() == list(range(8)) and site.queue.backlog() == 0)
    assert site.connection.llen(INTERACTIVE_QUEUE) == 0
    assert site.connection.llen(DEAD_LETTERS_KEY) == 7


def test_the_interactive_queue_is_taken_up_again_when_connections_break(site: Site) -> None:
    site.start()
    site.ask(0)
    wait_until(lambda: site.indices() == [0])
    for index in (1, 2):
        site.connection.client_kill_filter(_type="normal", skipme=True)
        site.ask(index)
        wait_until(lambda: site.indices()[-1] == index)  # noqa: B023 - called at once
    site.ask(3, stream=True, parameters={"min_new_tokens": 1})
    wait_until(lambda: site.connection.xlen(tokens_key("r", 3)))
    site.connection.client_kill_filter(_type="normal", skipme=True)
    site.connection.set(stop_key("r", 3), 1)
    wait_until(lambda: site.indices() == [0, 1, 2, 3])


def test_a_worker_may_take_no_interactive_jobs(site: Site) -> None:
    site.environment["CAPTIONMILL_INTERACTIVE_SLOTS"] = "0"
    site.start()
    site.ask(0)
    site.submit(1, first=1)
    wait_until(lambda: site.indices() == [1])
    assert site.connection.llen(INTERACTIVE_QUEUE) == 1


def test_a_drain_finishes_what_somebody_waits_for(site: Site) -> None:
    worker = site.start()
    site.ask(1, stream=True, parameters={"min_new_tokens": 1})
    wait_until(lambda: site.connection.xlen(tokens_key("r", 1)))
    worker.send_signal(signal.SIGTERM)
    wait_until(lambda: "Warm shutdown" in site.log.read_text())
    site.ask(2)
    site.connection.set(stop_key("r", 1), 1)
    assert worker.wait() == 0
    assert site.indices() == [1]
    assert site.connection.llen(INTERACTIVE_QUEUE) == 1
    assert site.connection.hlen("unacked") == 0
    entries: Any = site.connection.xrange(tokens_key("r", 1))
    _, last = entries[-1]
    assert END_FIELD.encode() in last


def test_nothing_a_message_holds_costs_a_slot(site: Site) -> None:
    site.start()
    for name in ("MemoryError", "SystemExit", "KeyboardInterrupt", "GeneratorExit"):
        site.submit(CONCURRENCY, f"raise {name}", first=len(site.records()))
        wait_until(lambda: site.queue.backlog() == 0 and len(site.records()) % CONCURRENCY == 0)
    for args, kwargs in (([], {}), ([1, 2], {}), ([None], {}), ([], {"job": {}}), (["x"], {"y": 1})):
        site.push(args, kwargs)
    before = len(site.records())
    site.submit(CONCURRENCY + 1, first=100)
    wait_until(lambda: len(site.records()) == before + CONCURRENCY + 1 and site.queue.backlog() == 0)
    assert site.connection.llen(DEAD_LETTERS_KEY) == 6
    assert before == 4 * CONCURRENCY


def test_sigterm_finishes_what_has_begun_and_gives_back_the_rest(site: Site) -> None:
    site.hold.touch()
    worker = site.start()
    site.submit(6)
    # One generates and is held, the others of the pool wait for the engine, the rest are in the queue.
    wait_until(lambda: site.connection.hlen("unacked") == CONCURRENCY)
    wait_until(lambda: site.log.read_text().count("received") == CONCURRENCY)
    wait_until(site.held.exists)
    worker.send_signal(signal.SIGTERM)
    # Celery itself puts them back only when the last one of its pool has ended.
    wait_until(lambda: site.log.read_text().count("goes back to the queue: Requeue") == CONCURRENCY - 1)
    site.hold.unlink()
    assert worker.wait() == 0
    assert len(site.records()) == 1
    assert site.connection.llen(JOB_QUEUE) == 5
    assert site.queue.backlog() == 5
    site.start()
    wait_until(lambda: site.indices() == list(range(6)) and site.queue.backlog() == 0)


def test_a_process_whose_engine_is_dead_gives_its_jobs_back_and_ends(site: Site) -> None:
    site.submit(1, "raise EngineStoppedError")
    worker = site.start()
    assert worker.wait() == 0
    assert site.records() == []
    assert site.connection.llen(JOB_QUEUE) == 1
    assert site.queue.backlog() == 1


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
    assert site.queue.backlog() == 2


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
    assert site.queue.backlog() == 1


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
        [sys.executable, "-c", "import sys, worker.celery, worker.delivery.tasks; print(*sys.modules)"],
        cwd=ROOT,
        env={name: value for name, value in os.environ.items() if not name.startswith("CAPTIONMILL_")},
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split()
    assert "worker.app" in modules
    assert not {"torch", "transformers", "openvino"} & set(modules)
