"""The log of a real worker: each line names its job, and neither log nor records have a secret."""

import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from contract.job import Job
from contract.store import results_key
from producer.queue import Queue
from tests.support.processes import start_server, start_worker, wait_until
from worker.monitoring.logs import JsonLines, Redaction, TextLines, about_job

PASSWORD = "tief%2Fgeheim"
SIGNATURE = "5ignature"


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[Any, str]]:
    """A server that wants a password, and the URL that has it."""
    folder = tmp_path / "server"
    folder.mkdir()
    process, url = start_server(folder)
    with redis.Redis.from_url(url) as connection:
        connection.config_set("requirepass", "tief/geheim")
    yield process, url.replace("redis://", f"redis://:{PASSWORD}@") + "/0"
    process.kill()
    process.wait()


def test_no_secret_is_in_log_or_records(server: tuple[Any, str], tmp_path: Path) -> None:
    process, url = server
    images = tmp_path / "images"
    images.mkdir()
    Image.new("RGB", (30, 20)).save(images / "a.png")
    log = tmp_path / "worker.log"
    environment = {
        "CAPTIONMILL_REDIS_URL": url,
        "CAPTIONMILL_MODEL_FOLDER": str(tmp_path),
        "CAPTIONMILL_IMAGE_ROOTS": str(images),
        "CAPTIONMILL_LOG_FORMAT": "json",
        "HOLD": str(tmp_path / "hold"),
    }
    worker = start_worker("tests.support.dying_worker", log, environment)
    connection = redis.Redis.from_url(url)
    queue = Queue(url, connection)
    signed = f"http://user:pass{SIGNATURE}@127.0.0.1:9/a.png?X-Amz-Signature={SIGNATURE}"
    jobs = [
        ({"kind": "url", "url": signed}, "four"),
        ({"kind": "path", "path": "a.png"}, "raise RuntimeError"),
    ]
    for index, (image, question) in enumerate(jobs):
        job = {"run": "r", "index": index, "image": image, "questions": [{"id": "q", "messages": question}]}
        queue.submit([(f"r-{index}", Job.model_validate(job).model_dump_json())])
    try:
        wait_until(lambda: connection.xlen(results_key("r")) == 2)
        entries: Any = connection.xrange(results_key("r"))
        records = b"".join(fields[b"record"] for _, fields in entries)
        process.kill()
        wait_until(lambda: "onnection to broker lost" in log.read_text() or "refused" in log.read_text())
    finally:
        worker.kill()
        worker.wait()
        queue.close()
    text = log.read_text()
    for secret in ("geheim", SIGNATURE):
        assert secret not in text
        assert secret not in records.decode()
    assert "http://127.0.0.1:9/a.png is not allowed" in records.decode()
    others = [line for line in text.splitlines() if not line.startswith("{")]
    assert not any("Traceback" in line for line in others), "only Celery's banner is no JSON"
    lines = [json.loads(line) for line in text.splitlines() if line.startswith("{")]
    assert {line["worker"].split(":")[1] for line in lines} == {str(worker.pid)}
    assert any(line.get("task") == "r-0" for line in lines)
    [bug] = [line for line in lines if "could not be started" in line["message"]]
    assert (bug["run"], bug["job"]) == ("r", 1)
    assert "RuntimeError" in bug["error"]


@pytest.mark.parametrize(
    "text",
    [
        "Error 111 connecting to redis://me:tief%2Fgeheim@host:6379/0",
        "AUTH tief/geheim failed",
        "GET https://bucket.example/a.png?X-Amz-Signature=5ignature&x=geheim HTTP/1.1",
        "('rediss://default:5ignature@host')",
        "Cannot fetch \"s3://key:5ignature@bucket/a\" or b'http://h/?token=geheim'",
    ],
)
def test_what_is_taken_out(text: str) -> None:
    redact = Redaction(f"redis://me:{PASSWORD}@host:6379/0")
    for formatter in (TextLines(redact), JsonLines(redact, "w:1")):
        try:
            raise ValueError(text)
        except ValueError:
            record = logging.LogRecord("l", logging.ERROR, "p", 1, "%s", (text,), sys.exc_info())
        with about_job("r", 7):
            line = formatter.format(record)
        assert "geheim" not in line
        assert "5ignature" not in line
        assert "ValueError" in line
        assert "[run r job 7]" in line or '"run": "r", "job": 7' in line


def test_what_is_left_in() -> None:
    redact = Redaction("redis://127.0.0.1:6379/0")
    for text in ("why? and @whom", "https://host/a.png", "redis://127.0.0.1:6379/0", "a@b.example"):
        assert redact(text) == text


def test_a_line_names_its_thread_s_job_and_no_other() -> None:
    lines = JsonLines(Redaction("redis://h"), "w:1")
    record = logging.LogRecord("l", logging.INFO, "p", 1, "hello", (), None)
    with about_job("outer", 1):
        with about_job("inner", 2):
            assert json.loads(lines.format(record))["job"] == 2
        assert json.loads(lines.format(record))["run"] == "outer"
    assert "job" not in json.loads(lines.format(record))
