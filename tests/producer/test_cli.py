"""The command line without a worker: what is refused before anything is sent, and how a run is stopped."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from bench.stub_worker import WORKED_KEY, read_message
from contract.broker import JOB_QUEUE
from contract.job import GenerationParameters, Job
from tests.support.command import run_command
from tests.support.processes import ROOT, spawn, wait_until
from tests.support.producer_driver import lines, texts


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "captionmill", "run", *map(str, arguments)]


def captionmill(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments)


def events(ran: subprocess.CompletedProcess[str], name: str) -> list[dict[str, Any]]:
    """What a command with --json said."""
    found = [json.loads(line) for line in ran.stdout.splitlines()]
    return [one for one in found if one["event"] == name]


def queued(connection: redis.Redis) -> list[Job]:
    """The jobs in the queue, the first one first."""
    messages: Any = connection.lrange(JOB_QUEUE, 0, -1)
    return [Job.model_validate(job) for message in reversed(messages) for job in read_message(message)]


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[None]:
    process = spawn(
        [sys.executable, "-m", "bench.stub_worker", redis_url, "count"], tmp_path / "worker.log", {}
    )
    yield
    process.kill()
    process.wait()


@pytest.fixture
def photos(images: Path) -> Path:
    for number in range(7):
        Image.new("RGB", (8, 8), (number, 0, 0)).save(images / f"{number}.png")
    return images


def ask_all(photos: Path, out: Path, redis_url: str, *options: str) -> list[str]:
    return [str(photos), "--question", "What?", "--out", str(out), "--redis", redis_url, *options]


@pytest.mark.parametrize(
    ("line", "options", "sentence"),
    [
        ('{"image": "a.png"', (), "line 2: not JSON"),
        ('{"image": "a.png", "question": ""}', (), "line 2: .*must not be empty"),
        ('{"image": "a.png"}', ("--num-beams", "65"), "num-beams"),
        ('{"image": "a.png"}', ("--length-penalty", "nan"), "--length-penalty: "),
        ('{"image": "a.png"}', ("--detail", "lo"), "is not low, high, auto or a number"),
        ('{"image": "a.png"}', ("--seed", "3"), "seed decide nothing without do_sample"),
        ('{"image": "a.png"}', ("--choice", "yes"), "give at least two"),
        (
            '{"image": "a.png"}',
            ("--choice", "yes", "--choice", "no", "--num-beams", "2"),
            "no parameter but length_penalty and visual_tokens decides",
        ),
        ('{"image": "a.png"}', ("--redis", "redis://127.0.0.1:1/0"), "Nothing listens at"),
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
    "visual_tokens": 60,
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
    job = queued(connection)[0]
    assert job.parameters == GenerationParameters.model_validate(options)
    assert job.detail == 3


def test_every_parameter_has_an_option() -> None:
    assert OPTIONS.keys() | BEAMS.keys() | SAMPLING.keys() == GenerationParameters.model_fields.keys()


def test_ctrl_c_ends_the_run_with_a_sentence(
    redis_url: str, connection: redis.Redis, images: Path, tmp_path: Path
) -> None:
    name = os.fsdecode(b"\xe9.png")
    for size, one in enumerate((name, "b.png", "c.png"), start=8):
        Image.new("RGB", (8, size)).save(images / one, "PNG")
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
    message: Any = connection.lindex(JOB_QUEUE, -1)
    assert json.loads(message)["headers"]["argsrepr"] == "-"
    job = queued(connection)[0]
    assert job.index == 0
    assert job.parameters == GenerationParameters(
        num_beams=4, early_stopping="never", length_penalty=0.5, max_new_tokens=9
    )
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130
    assert "Stopped. 0 of 3 rows are answered and kept in" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert (tmp_path / "out" / "answers.jsonl").read_bytes() == b""


@pytest.mark.usefixtures("worker")
def test_a_run_tells_how_it_went(redis_url: str, photos: Path, tmp_path: Path) -> None:
    ran = captionmill("run", *ask_all(photos, tmp_path / "out", redis_url, "--json"))
    assert ran.returncode == 0, ran.stderr
    (summary,) = events(ran, "summary")
    assert (summary["rows"], summary["complete"], summary["answered"], summary["failed"]) == (7, 7, 7, 0)
    assert summary["finished"]
    (*_, last) = events(ran, "progress")
    assert (last["done"], last["rows"], last["in_flight"]) == (7, 7, 0)
    assert last["tokens_per_s"] > 0
    assert len(texts(tmp_path / "out")) == 7
    assert (tmp_path / "out" / "contact_sheet.html").exists()
    for told in (captionmill("status", tmp_path / "out"), captionmill("watch", tmp_path / "out")):
        assert told.returncode == 0, told.stderr
        assert "7 images: 7 questions answered, 0 failed." in told.stdout
    (listed,) = events(captionmill("list", tmp_path, "--json"), "run")
    assert (listed["rows"], listed["finished"]) == (7, True)
    (row,) = [line for line in captionmill("list", tmp_path).stdout.splitlines() if "finished" in line]
    assert str(tmp_path / "out") in row
    assert str(photos) in row
    # Nothing is open: no server is named, and no model to start one with.
    for again in (("run", "--resume", "--out", tmp_path / "out"), ("retry", tmp_path / "out")):
        told = captionmill(*again)
        assert told.returncode == 0, told.stderr
        assert "7 images: 7 questions answered, 0 failed.\nNew jobs: 0;" in told.stdout


@pytest.mark.usefixtures("worker")
def test_more_rows_cost_only_what_is_new(
    redis_url: str, connection: redis.Redis, photos: Path, tmp_path: Path
) -> None:
    given = ask_all(photos, tmp_path / "out", redis_url)
    assert captionmill("run", *given).returncode == 0
    Image.new("RGB", (9, 9)).save(photos / "new.png")
    assert captionmill("run", *given).returncode == 0
    assert connection.hlen(WORKED_KEY) == 8
    assert len(texts(tmp_path / "out")) == 8


def test_submit_then_collect(redis_url: str, connection: redis.Redis, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    ran = captionmill("submit", *ask_all(photos, out, redis_url, "--window", "100"))
    assert ran.returncode == 0, ran.stderr
    assert "captionmill collect" in ran.stdout
    assert len(queued(connection)) == 7
    assert "0 of them complete" in captionmill("status", out).stdout
    worker = spawn(
        [sys.executable, "-m", "bench.stub_worker", redis_url, "count"], tmp_path / "worker.log", {}
    )
    try:
        ran = captionmill("collect", out, "--redis", redis_url)
    finally:
        worker.kill()
        worker.wait()
    assert ran.returncode == 0, ran.stderr
    assert len(texts(out)) == 7
    assert set(connection.hvals(WORKED_KEY)) == {b"1"}


def test_cancel_then_resume(redis_url: str, connection: redis.Redis, photos: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert captionmill("submit", *ask_all(photos, out, redis_url)).returncode == 0
    assert events(captionmill("cancel", out, "--redis", redis_url, "--json"), "cancelled")[0]["jobs"] == 7
    worker = spawn(
        [sys.executable, "-m", "bench.stub_worker", redis_url, "count"], tmp_path / "worker.log", {}
    )
    try:
        wait_until(lambda: connection.llen(JOB_QUEUE) == 0)
        assert connection.hlen(WORKED_KEY) == 0
        ran = captionmill("run", "--resume", "--out", out, "--redis", redis_url)
    finally:
        worker.kill()
        worker.wait()
    assert ran.returncode == 0, ran.stderr
    assert len(texts(out)) == 7


@pytest.mark.usefixtures("worker")
def test_failures_are_retried(redis_url: str, tmp_path: Path) -> None:
    """The failure is of a question that cannot even be asked, which no other try mends."""
    line = {"custom_id": "a", "method": "POST", "url": "/v1/chat/completions"}
    message = {"role": "user", "content": "Hello?"}
    body = {"model": "m", "messages": [message], "best_of": 3}
    (tmp_path / "batch.jsonl").write_text(json.dumps({**line, "body": body}))
    out = tmp_path / "out"
    ran = captionmill("run", tmp_path / "batch.jsonl", "--out", out, "--redis", redis_url)
    assert ran.returncode == 1, ran.stderr
    assert "invalid_job" in ran.stdout
    assert lines(out, "failures.jsonl")[0]["code"] == "invalid_job"
    again = captionmill("retry", out, "--code", "invalid_job", "--redis", redis_url)
    assert again.returncode == 1
    assert "1 failed question is asked again" in again.stdout
    none = captionmill("retry", out, "--code", "image_broken", "--redis", redis_url)
    assert "0 failed questions are asked again" in none.stdout


def test_a_dry_run_prints_jobs_and_leaves_nothing(photos: Path, tmp_path: Path) -> None:
    given = (photos, "--question", "What is {name}?", "--num-beams", "2", "--dry-run")
    ran = captionmill("run", *given, "--redis", "redis://127.0.0.1:1/0", "--json")
    assert ran.returncode == 0, ran.stderr
    jobs = events(ran, "job")
    assert [job["id"] for job in jobs] == [f"{n}.png" for n in range(5)]
    assert jobs[0]["questions"] == [{"id": "q1", "prompt": "What is 0.png?", "parameters": {"num_beams": 2}}]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (("run", "{photos}", "--question", "Is {colour}?", "--out", "{out}"), 'no column "colour"'),
        (("run", "--resume"), "--resume needs --out"),
        (("run", "--resume", "--out", "{out}"), "holds no run"),
        (("run", "{photos}", "--resume", "--out", "{out}"), "give --out alone"),
        (("run", "--out", "{out}"), "Give a source"),
        (("run", "--resume", "--add", "--out", "{out}"), "give --out alone"),
        (("run", "{photos}", "--question", "A?", "--out", "{out}", "--sink", "word"), 'no output "word"'),
        (("run", "{photos}/none", "--question", "A?", "--out", "{out}"), "none"),
        (("status", "{out}"), "holds no run"),
        (("retry", "{out}"), "holds no run"),
        (("cancel", "{out}"), "holds no run"),
        (("collect", "{out}"), "holds no run"),
        (("estimate", "{photos}", "--question", "A?"), "No worker is alive"),
    ],
)
def test_one_sentence_for_what_cannot_be_done(
    redis_url: str, photos: Path, tmp_path: Path, arguments: tuple[str, ...], sentence: str
) -> None:
    places = {"{photos}": str(photos), "{out}": str(tmp_path / "out")}
    given = list(arguments)
    for name, place in places.items():
        given = [one.replace(name, place) for one in given]
    if arguments[0] != "status":
        given += ["--redis", redis_url]
    ran = captionmill(*given)
    assert ran.returncode == 2, ran.stdout + ran.stderr
    assert sentence in ran.stderr
    assert ran.stderr.startswith("captionmill: ")
    assert "Traceback" not in ran.stderr
