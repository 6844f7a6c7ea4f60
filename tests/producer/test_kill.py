"""SIGKILL at every step of a producer's life: each row ends on disk once, and no job is worked on twice."""

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from bench.stub_worker import WORKED_KEY
from contract.job import ImageUrl
from producer.planner import Planner
from producer.questions import read_prompts
from producer.rows import Row
from producer.run_folder import RunFolder
from producer.submission import Submission
from tests.support.processes import spawn
from tests.support.producer_driver import Rows, lines
from tests.support.producer_victim import STEPS

ROWS = 60


@pytest.fixture
def worker(redis_url: str, tmp_path: Path) -> Iterator[None]:
    process = spawn(
        [sys.executable, "-m", "bench.stub_worker", redis_url, "count"], tmp_path / "worker.log", {}
    )
    yield
    assert process.poll() is None, (tmp_path / "worker.log").read_text()
    process.kill()
    process.wait()


def make_run(folder: Path, rows: int) -> None:
    made = RunFolder(folder, create=True)
    content = [
        Row(id=f"row {n}", name=None, image=ImageUrl(url=f"https://example.org/{n}.png")) for n in range(rows)
    ]
    prompts = read_prompts(["What?", "Is it {answer:q1}?"], None, None)
    asked = Submission(sources=("rows",), prompts=prompts, sinks=("jsonl", "csv", "coco"))
    Planner(made, asked, Rows(content)).plan()
    made.close()


def victim(folder: Path, url: str, step: str, times: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "tests.support.producer_victim", str(folder), url, step, str(times)]
    return spawn(command, folder / "victim.log", {})


def check(folder: Path, connection: redis.Redis, rows: int) -> None:
    for name in ("answers.jsonl", "doomed.jsonl"):
        found = lines(folder, name)
        assert sorted(line["index"] for line in found) == list(range(rows)), name
        assert {len(line["answers"]) for line in found} == {2}
    assert (folder / "answers.csv").read_text().count("\n") == rows + 1
    assert len(json.loads((folder / "coco.json").read_text())) == rows
    worked = connection.hgetall(WORKED_KEY)
    assert len(worked) == 2 * rows
    assert set(worked.values()) == {b"1"}, "a job was worked on twice"


@pytest.mark.usefixtures("worker")
def test_a_kill_at_every_step(tmp_path: Path, redis_url: str, connection: redis.Redis) -> None:
    make_run(tmp_path / "run", ROWS)
    killed = []
    for number, step in enumerate(STEPS):
        process = victim(tmp_path / "run", redis_url, step, 1 + number % 3 if step != "finish" else 1)
        code = process.wait()
        assert code in (0, -signal.SIGKILL), (tmp_path / "run" / "victim.log").read_text()
        if code:
            killed.append(step)
    assert killed == [step for step in STEPS if step != "never"]
    check(tmp_path / "run", connection, ROWS)


@pytest.mark.soak
@pytest.mark.usefixtures("worker")
def test_kills_at_random(tmp_path: Path, redis_url: str, connection: redis.Redis) -> None:
    """At least 200 of them, half at steps and half at any moment, over as many runs as that takes."""
    chance = random.Random(20261123)
    kills = finished = 0
    while kills < 200:
        folder = tmp_path / f"run {finished}"
        connection.delete(WORKED_KEY)
        make_run(folder, ROWS)
        while True:
            by_step = chance.random() < 0.5
            process = victim(
                folder, redis_url, chance.choice(STEPS) if by_step else "never", chance.randint(1, 6)
            )
            if not by_step:
                time.sleep(chance.uniform(0.3, 1.2))
                process.send_signal(signal.SIGKILL)
            code = process.wait()
            assert code in (0, -signal.SIGKILL), (folder / "victim.log").read_text()
            if code == 0:
                break
            kills += 1
        check(folder, connection, ROWS)
        finished += 1
    print(f"{kills} kills in {finished} runs of {ROWS} rows")
