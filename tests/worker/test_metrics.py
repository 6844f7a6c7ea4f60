"""The metrics of a real worker on the demo model, read as Prometheus does, and their table in the docs."""

import re
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import redis
from prometheus_client import CollectorRegistry
from prometheus_client.parser import text_string_to_metric_families

from contract.broker import INTERACTIVE_QUEUE, JOB_QUEUE, SUSPECT_QUEUE
from contract.job import Job
from contract.store import DEAD_LETTERS_KEY, results_key
from producer.exporter import StoreCollector, serve
from producer.queue import UNACKED_KEY, Queue
from tests.support.processes import ROOT, free_port, spawn, start_worker, wait_until
from tests.support.workers import announce
from worker.monitoring.metrics import Metrics, table

DEMO = ROOT / "demo"
Samples = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def scrape(url: str) -> Samples:
    text = httpx.get(url, timeout=30).raise_for_status().text
    return {
        (sample.name.removeprefix("captionmill_"), tuple(sorted(sample.labels.items()))): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


@pytest.fixture
def worker_port(redis_url: str, tmp_path: Path) -> Iterator[int]:
    """Of a worker on the demo model that takes jobs."""
    port = free_port()
    environment = {
        "CAPTIONMILL_REDIS_URL": redis_url,
        "CAPTIONMILL_MODEL_FOLDER": str(DEMO / "model" / "openvino"),
        "CAPTIONMILL_IMAGE_ROOTS": str(DEMO / "images"),
        "CAPTIONMILL_PRECISION": "exact",
        "CAPTIONMILL_KV_CACHE_BYTES": str(2**28),
        "CAPTIONMILL_HTTP_PORT": str(port),
    }
    worker = start_worker("worker", tmp_path / "worker.log", environment)

    def ready() -> bool:
        assert worker.poll() is None, (tmp_path / "worker.log").read_text()
        try:
            return httpx.get(f"http://127.0.0.1:{port}/readyz").status_code == 200
        except httpx.TransportError:
            return False

    wait_until(ready)
    yield port
    worker.kill()
    worker.wait()


def submit(queue: Queue, index: int, path: str, questions: int) -> None:
    job = Job.model_validate(
        {
            "run": "r",
            "index": index,
            "image": {"kind": "path", "path": path},
            "questions": [{"id": f"q{i}", "messages": "What is this?"} for i in range(questions)],
            "parameters": {"max_new_tokens": 4},
        }
    )
    queue.submit([(f"r-{index}", job.model_dump_json())])


def test_a_worker_counts_what_it_did(worker_port: int, redis_url: str, connection: redis.Redis) -> None:
    queue = Queue(redis_url, connection)
    image = sorted((DEMO / "images").iterdir())[0].name
    submit(queue, 0, image, 2)
    wait_until(lambda: connection.xlen(results_key("r")) == 1)
    submit(queue, 1, image, 1)
    submit(queue, 2, "missing.png", 1)
    wait_until(lambda: connection.xlen(results_key("r")) == 3 and queue.backlog() == 0)
    submit(queue, 0, image, 2)
    wait_until(lambda: queue.backlog() == 0)
    queue.close()
    seen = scrape(f"http://127.0.0.1:{worker_port}/metrics")

    def of(name: str, **labels: str) -> float:
        return seen[name, tuple(sorted(labels.items()))]

    assert of("jobs_total", outcome="dropped") == 1
    assert of("jobs_total", outcome="answered") == 2
    assert of("jobs_total", outcome="failed") == 1
    assert of("jobs_total", outcome="given_back") == of("jobs_total", outcome="dead_letter") == 0
    assert of("questions_total", code="answer") == 3
    assert of("questions_total", code="image_not_found") == 1
    assert of("attempts_total", queue="bulk") == 3
    assert of("images_total") == 2
    assert (
        of("image_cache_misses_total") == of("vision_seconds_count") == of("decode_image_seconds_count") == 1
    )
    assert of("image_cache_hits_total") == 1
    assert of("fetch_seconds_count") == of("job_seconds_count") == 3
    assert of("time_to_first_token_seconds_count") == 3
    assert 3 <= of("completion_tokens_total") <= 12
    assert of("prompt_tokens_total") > 3 * 100
    steps = of("prefill_seconds_count") + of("decode_step_seconds_count")
    assert of("rows_per_step_count") == steps >= 4
    assert of("prefix_cache_hits_total") == 1
    assert of("jobs_in_flight", queue="bulk") == of("rows_active") == of("kv_cache_bytes") == 0
    assert of("kv_cache_limit_bytes") == 2**28
    assert of("slots") == 2
    assert of("ready") == 1
    assert of("process_resident_memory_bytes") > 10**7
    [build] = [dict(labels) for name, labels in seen if name == "build_info"]
    assert build["device"] == "CPU"
    assert build["model"]
    assert httpx.get(f"http://127.0.0.1:{worker_port}/livez").json()["live"] is True
    assert httpx.get(f"http://127.0.0.1:{worker_port}/").status_code == 404


def test_the_exporter_tells_of_queues_store_and_workers(redis_url: str, connection: redis.Redis) -> None:
    connection.lpush(JOB_QUEUE, "a", "b", "c")
    connection.lpush(INTERACTIVE_QUEUE, "a")
    connection.lpush(SUSPECT_QUEUE, "a", "b")
    connection.hset(UNACKED_KEY, "tag", "message")
    connection.rpush(DEAD_LETTERS_KEY, "letter")
    connection.xadd(results_key("one"), {"record": "x"})
    connection.xadd(results_key("two"), {"record": "x"})
    connection.xtrim(results_key("two"), maxlen=0)
    connection.set(results_key("no-stream"), "x")
    announce(connection, "w1", "m", slots=3)
    announce(connection, "dead", "m", slots=5, age_s=100)
    port = free_port()
    close = serve(redis_url, "127.0.0.1", port)
    try:
        seen = scrape(f"http://127.0.0.1:{port}/metrics")
        assert seen.pop(("store_memory_bytes", ())) > 10**5
        assert seen == {
            ("up", ()): 1,
            ("queue_messages", (("queue", "bulk"),)): 3,
            ("queue_messages", (("queue", "interactive"),)): 1,
            ("queue_messages", (("queue", "suspect"),)): 2,
            ("unacked_messages", ()): 1,
            ("dead_letters", ()): 1,
            ("result_records", (("run", "one"),)): 1,
            ("result_records", (("run", "two"),)): 0,
            ("store_memory_limit_bytes", ()): 0,
            ("workers_live", ()): 1,
            ("workers_slots", ()): 3,
        }
        connection.delete(results_key("one"))
        scrape(f"http://127.0.0.1:{port}/metrics")
        gone = ("result_records", (("run", "one"),))
        assert gone not in scrape(f"http://127.0.0.1:{port}/metrics")
    finally:
        close()


def test_the_exporter_is_a_command_that_a_signal_ends(redis_url: str, tmp_path: Path) -> None:
    port = free_port()
    command = [sys.executable, "-m", "captionmill", "exporter", "--port", str(port), "--redis", redis_url]
    exporter = spawn(command, tmp_path / "exporter.log", {})
    wait_until(lambda: "/metrics" in (tmp_path / "exporter.log").read_text())
    assert scrape(f"http://127.0.0.1:{port}/metrics")["up", ()] == 1
    again = spawn(command, tmp_path / "again.log", {})
    assert again.wait(60) == 2
    assert f"127.0.0.1:{port} cannot be opened" in (tmp_path / "again.log").read_text()
    exporter.send_signal(signal.SIGTERM)
    assert exporter.wait(60) == 0


def test_the_exporter_says_that_the_server_is_away() -> None:
    port = free_port()
    close = serve(f"redis://:geheim@127.0.0.1:{free_port()}/0", "127.0.0.1", port)
    try:
        text = httpx.get(f"http://127.0.0.1:{port}/metrics", timeout=30).text
        assert "captionmill_up 0.0" in text
        assert "geheim" not in text
        assert scrape(f"http://127.0.0.1:{port}/metrics") == {("up", ()): 0}
    finally:
        close()


def test_the_documentation_names_every_metric() -> None:
    documented = (ROOT / "docs" / "operations.md").read_text()
    exporter = CollectorRegistry()
    collector = StoreCollector("redis://127.0.0.1:1/0")
    exporter.register(collector)
    names = {f"`{family.name}`" for family in collector.describe()}
    of_worker = table(Metrics().registry)
    assert of_worker in documented, "run: python -m worker.monitoring.metrics"
    rows = set(re.findall(r"^\| (`captionmill_\w+`) ", documented.replace(of_worker, ""), re.MULTILINE))
    assert rows == names
