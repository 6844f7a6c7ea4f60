"""The whole way as a user goes it: a worker process with a real model, the command line, answers on disk."""

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from PIL import Image

from contract.model_folder import FolderManifest
from contract.store import WORKERS_KEY
from tests.support.command import run_command
from tests.support.processes import start_worker, wait_until
from worker.precision import computed_as
from worker.settings import EXACT


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def worker(
    tiny_folder: Path, pictures: Path, server_url: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """The URL of a broker that a worker listens at."""
    log = tmp_path_factory.mktemp("worker") / "worker.log"
    environment = {
        "CAPTIONMILL_REDIS_URL": f"{server_url}/1",
        "CAPTIONMILL_MODEL_FOLDER": str(tiny_folder),
        "CAPTIONMILL_IMAGE_ROOTS": str(pictures),
        "CAPTIONMILL_PRECISION": "exact",
    }
    process = start_worker("worker", log, environment)

    def ready() -> bool:
        assert process.poll() is None, log.read_text()
        return " ready." in log.read_text()

    wait_until(ready)
    yield f"{server_url}/1"
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 0, log.read_text()


def captionmill(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command("run", *arguments)


def answers(out: Path) -> dict[str, dict[str, Any]]:
    lines = [json.loads(line) for line in (out / "answers.jsonl").read_text().splitlines()]
    assert len({line["index"] for line in lines}) == len(lines)
    return {line["id"]: line for line in lines}


def save_picture(path: Path, height: int, width: int, seed: int) -> None:
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def test_a_folder_with_bad_files(worker: str, pictures: Path, tiny_folder: Path, tmp_path: Path) -> None:
    folder = pictures / "mixed"
    folder.mkdir()
    good = {
        "square.png": (60, 60),
        "wide.png": (40, 170),
        "tall.png": (150, 50),
        os.fsdecode(b"\xe9.png"): (50, 60),
    }
    for seed, (name, (height, width)) in enumerate(good.items()):
        save_picture(folder / name, height, width, seed)
    (folder / "page.jpg").write_text("<html>not found</html>")
    (folder / "cut.png").write_bytes((folder / "wide.png").read_bytes()[:900])
    out = tmp_path / "out"
    options = ("--redis", worker, "--max-new-tokens", "6", "--json")
    ran = captionmill(folder, "--question", "What is it?", "--question", "x" * 3000, "--out", out, *options)
    assert ran.returncode == 1, ran.stderr
    found = answers(out)
    assert found.keys() == {*good, "page.jpg", "cut.png"}
    for name in good:
        first, second = found[name]["answers"]
        assert first["prompt"] == "What is it?"
        assert 1 <= first["completion_tokens"] <= 6
        assert first["prompt_tokens"] > 4
        assert second["failure"]["code"] == "question_too_long"
        assert "context is" in second["failure"]["message"]
    for name, code in (("page.jpg", "not_an_image"), ("cut.png", "image_broken")):
        for answer in found[name]["answers"]:
            assert answer["failure"]["code"] == code
            assert answer["failure"]["message"].endswith(".")
    manifest = FolderManifest.model_validate_json((tiny_folder / "captionmill.json").read_bytes())
    assert {line["model"] for line in found.values()} == {computed_as(manifest.model, EXACT, "stateful")}
    summary = json.loads(ran.stdout.splitlines()[-1])
    assert summary["answered"] == 4
    assert summary["failures"] == {"question_too_long": 4, "not_an_image": 2, "image_broken": 2}
    assert (out / "contact_sheet.html").read_text().count('"answers":[') == 6


def test_a_manifest_of_conversations(worker: str, pictures: Path, tmp_path: Path) -> None:
    save_picture(pictures / "one.png", 60, 80, seed=9)
    rows = [
        {"id": "there", "image": str(pictures / "one.png"), "question": "What is it?"},
        {"id": "gone", "image": str(pictures / "gone.png"), "question": "What is it?"},
        {"id": "outside", "image": "/etc/hostname", "question": "What is it?"},
        {"id": "words", "messages": [{"role": "user", "content": "Hello?"}]},
        {
            "id": "talk",
            "messages": [
                {"role": "system", "content": "Be brief."},
                {
                    "role": "user",
                    "content": [
                        {"type": "image_url", "image_url": {"url": str(pictures / "one.png")}},
                        {"type": "text", "text": "What is it?"},
                    ],
                },
                {"role": "assistant", "content": "A dog."},
                {"role": "user", "content": "Which colour?"},
            ],
        },
    ]
    source = tmp_path / "rows.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    beams = ("--num-beams", "3", "--max-new-tokens", "5", "--redis", worker)
    ran = captionmill(source, "--out", tmp_path / "out", *beams, "--text-only")
    assert ran.returncode == 1, ran.stderr
    found = {name: line["answers"][0] for name, line in answers(tmp_path / "out").items()}
    assert found["gone"]["failure"]["code"] == "image_not_found"
    assert found["outside"]["failure"]["code"] == "image_not_allowed"
    assert found["words"]["prompt_tokens"] < found["there"]["prompt_tokens"] < found["talk"]["prompt_tokens"]
    assert "2 failed" in ran.stdout
    source.write_text(json.dumps(rows[0]))
    again = captionmill(source, "--out", tmp_path / "again", *beams)
    assert again.returncode == 0, again.stderr
    same = answers(tmp_path / "again")["there"]["answers"][0]
    assert same["text"] == found["there"]["text"]
    assert same["score"] == pytest.approx(found["there"]["score"], abs=1e-4)


def test_choices_detail_and_alternatives(worker: str, pictures: Path, tmp_path: Path) -> None:
    save_picture(pictures / "choice.png", 60, 120, seed=4)
    row = {"image": str(pictures / "choice.png"), "question": "Red?"}
    source = tmp_path / "rows.jsonl"
    scored, free = tmp_path / "scored", tmp_path / "free"
    source.write_text(json.dumps({**row, "choices": ["yes", "no", "perhaps a bit"]}))
    assert captionmill(source, "--out", scored, "--redis", worker, "--detail", "low").returncode == 0
    source.write_text(json.dumps(row))
    options = ("--do-sample", "--seed", "3", "--num-return-sequences", "3", "--max-new-tokens", "5")
    assert captionmill(source, "--out", free, "--redis", worker, *options).returncode == 0
    chosen, drawn = (answers(out)["1"]["answers"][0] for out in (scored, free))
    found = {choice["text"]: choice for choice in chosen["choices"]}
    assert list(found) == ["yes", "no", "perhaps a bit"]
    assert sum(choice["probability"] for choice in found.values()) == pytest.approx(1)
    best = max(found, key=lambda text: found[text]["probability"])
    assert (chosen["text"], chosen["score"]) == (best, found[best]["score"])
    assert len(drawn["alternatives"]) == 2
    assert chosen["prompt_tokens"] < drawn["prompt_tokens"]


def test_a_finished_run_leaves_nothing_in_the_broker(worker: str, pictures: Path, tmp_path: Path) -> None:
    folder = pictures / "single"
    folder.mkdir()
    save_picture(folder / "a.png", 60, 60, seed=1)
    options = ("--question", "What?", "--redis", worker, "--max-new-tokens", "3")
    assert captionmill(folder, "--out", tmp_path / "out", *options).returncode == 0
    with redis.Redis.from_url(worker) as connection:
        wait_until(lambda: connection.hlen("unacked") == 0)
        found: Any = connection.keys("captionmill*")
        left = set(found) - {WORKERS_KEY.encode()}
        assert all(key.endswith((b":done", b":cancelled")) and connection.ttl(key) > 0 for key in left)


def command(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return run_command(*arguments)


def test_one_question_is_answered_as_a_run_answers_it(worker: str, pictures: Path, tmp_path: Path) -> None:
    folder = pictures / "asked"
    folder.mkdir()
    save_picture(folder / "large.png", 200, 160, seed=3)  # above what travels within a job
    options = ("--redis", worker, "--max-new-tokens", "6")
    assert captionmill(folder, "--question", "What?", "--out", tmp_path / "out", *options).returncode == 0
    wanted = answers(tmp_path / "out")["large.png"]["answers"][0]["text"]
    asked = command("ask", folder / "large.png", "What?", *options)
    assert (asked.returncode, asked.stdout) == (0, wanted + "\n"), asked.stderr
    told = json.loads(command("ask", folder / "large.png", "What?", "--json", *options).stdout)
    assert told["text"] == wanted
    beams = command("ask", folder / "large.png", "What?", "--num-beams", "3", *options)
    assert beams.returncode == 0, beams.stderr
    chosen = command(
        "ask", folder / "large.png", "What?", "--choice", "yes", "--choice", "no", "--redis", worker
    )
    assert chosen.stdout.strip() in ("yes", "no"), chosen.stderr
    gone = command("ask", folder / "none.png", "What?", *options)
    assert gone.returncode == 1
    assert "image_not_" in gone.stderr
    words = command("ask", "-", "Hello?", *options)
    assert words.returncode == 0, words.stderr
    with redis.Redis.from_url(worker) as connection:
        left: Any = connection.keys("captionmill:{ask-*")
        assert all(connection.ttl(key) > 0 for key in left)


def test_an_estimate_of_a_source(worker: str, pictures: Path) -> None:
    folder = pictures / "estimated"
    folder.mkdir()
    for seed in range(6):
        save_picture(folder / f"{seed}.png", 60, 60, seed)
    options = ("--question", "What?", "--redis", worker, "--max-new-tokens", "3", "--sample", "3", "--json")
    ran = command("estimate", folder, *options)
    assert ran.returncode == 0, ran.stderr
    found = json.loads(ran.stdout.splitlines()[-1])
    assert (found["rows"], found["sample_rows"], found["workers"], found["failed_questions"]) == (6, 3, 1, 0)
    assert 6 <= found["total_tokens"] <= 18
    assert found["total_s"] == pytest.approx(6 / found["images_per_s"])


def test_the_model_that_must_answer(worker: str, pictures: Path, tmp_path: Path) -> None:
    folder = pictures / "model"
    folder.mkdir()
    save_picture(folder / "a.png", 60, 60, seed=1)
    options = ("--question", "What?", "--redis", worker, "--max-new-tokens", "3", "--out", tmp_path / "out")
    other = captionmill(folder, *options, "--model", "another")
    assert other.returncode == 2
    assert "No live worker has the model another: they have " in other.stderr
    assert not (tmp_path / "out").exists()
    again = captionmill(folder, *options)
    assert again.returncode == 0, again.stderr
