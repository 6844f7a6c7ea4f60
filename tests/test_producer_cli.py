"""The command line without a worker: what is refused before anything is sent, and how a run is stopped."""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import redis
from PIL import Image

from contract.broker import JOB_QUEUE
from contract.job import GenerationParameters, Job
from tests.processes import ROOT, spawn, wait_until


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "producer", "run", *map(str, arguments)]


@pytest.mark.parametrize(
    ("line", "options", "sentence"),
    [
        ('{"image": "a.png"', (), "line 2: not JSON"),
        ('{"image": "a.png", "question": ""}', (), "line 2: .*must not be empty"),
        ('{"image": "a.png"}', ("--num-beams", "65"), "num-beams"),
        ('{"image": "a.png"}', ("--length-penalty", "nan"), "length_penalty"),
        ('{"image": "a.png"}', ("--redis", "redis://127.0.0.1:1/0"), "Redis does not answer"),
        ('{"image": "a.png"}', ("--redis", "http://127.0.0.1/"), "redis://"),
    ],
)
def test_refused_before_anything_is_sent(
    redis_url: str,
    connection: redis.Redis,
    tmp_path: Path,
    line: str,
    options: tuple[str, ...],
    sentence: str,
) -> None:
    source = tmp_path / "rows.jsonl"
    source.write_text('{"image": "a.png"}\n' + line)
    given = ["--question", "What?", "--out", str(tmp_path / "out"), "--redis", redis_url, *options]
    ran = subprocess.run(command(source, *given), cwd=ROOT, capture_output=True, text=True, check=False)
    assert ran.returncode == 2
    assert sentence.split(".*")[-1] in ran.stderr
    assert "Traceback" not in ran.stderr
    assert connection.dbsize() == 0


def test_ctrl_c_ends_the_run_with_a_sentence(
    redis_url: str, connection: redis.Redis, images: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"\xe9.png")
    for one in (name, "b.png", "c.png"):
        Image.new("RGB", (8, 8)).save(images / one, "PNG")
    log = tmp_path / "producer.log"
    given = ["--question", "What?", "--out", str(tmp_path / "out"), "--redis", redis_url, "--window", "2"]
    given += [
        "--num-beams",
        "4",
        "--early-stopping",
        "never",
        "--length-penalty",
        "0.5",
        "--max-new-tokens",
        "9",
    ]
    process = spawn(command(images, *given), log, {})
    wait_until(lambda: connection.llen(JOB_QUEUE) == 2)
    (_, first) = [json.loads(message) for message in connection.lrange(JOB_QUEUE, 0, -1)]
    assert first["headers"]["argsrepr"] == "-"
    (sent,), _, _ = json.loads(base64.b64decode(first["body"]))
    job = Job.model_validate(sent)
    assert job.index == 0
    assert job.parameters == GenerationParameters(
        num_beams=4, early_stopping="never", length_penalty=0.5, max_new_tokens=9
    )
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert "Stopped. 0 of 3 jobs are in" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert (tmp_path / "out" / "answers.jsonl").read_bytes() == b""
