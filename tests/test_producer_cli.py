"""The command line without a worker: what is refused before anything is sent, and how a run is stopped."""

import base64
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

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
        ('{"image": "a.png"}', ("--detail", "lo"), "neither low nor high"),
        ('{"image": "a.png"}', ("--seed", "3"), "seed decide nothing without do_sample"),
        ('{"image": "a.png"}', ("--choice", "yes"), "choices"),
        (
            '{"image": "a.png"}',
            ("--choice", "yes", "--choice", "no", "--num-beams", "2"),
            "no parameter but length_penalty decides",
        ),
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


OPTIONS = {
    "max_new_tokens": 40,
    "min_new_tokens": 3,
    "num_return_sequences": 2,
    "length_penalty": 0.5,
    "repetition_penalty": 1.2,
    "no_repeat_ngram_size": 4,
    "stop": ("END", "."),
}
BEAMS = {"num_beams": 4, "early_stopping": "never"}
SAMPLING = {"do_sample": True, "temperature": 0.7, "top_k": 9, "top_p": 0.9, "min_p": 0.1, "seed": 11}


@pytest.mark.parametrize("options", [OPTIONS | BEAMS, OPTIONS | SAMPLING], ids=["beams", "sampling"])
def test_every_option_reaches_the_jobs(
    redis_url: str, connection: redis.Redis, images: Path, tmp_path: Path, options: dict[str, Any]
) -> None:
    Image.new("RGB", (8, 8)).save(images / "a.png")
    given = ["--question", "What?", "--out", str(tmp_path / "out"), "--redis", redis_url, "--detail", "3"]
    for name, value in options.items():
        for one in value if isinstance(value, tuple) else (value,):
            given += [f"--{name.replace('_', '-')}", *([] if one is True else [str(one)])]
    process = spawn(command(images, *given), tmp_path / "producer.log", {})
    wait_until(lambda: connection.llen(JOB_QUEUE) == 1 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, (tmp_path / "producer.log").read_text()
    line = json.loads((tmp_path / "out" / "jobs.jsonl").read_text())
    job = Job.model_validate(line["job"])
    assert job.parameters == GenerationParameters.model_validate(options)
    assert job.detail == 3
    assert json.loads((tmp_path / "out" / "run.json").read_text())["detail"] == 3


def test_every_parameter_has_an_option() -> None:
    assert OPTIONS.keys() | BEAMS.keys() | SAMPLING.keys() == GenerationParameters.model_fields.keys()


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
