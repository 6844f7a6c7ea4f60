"""Exit code 0 says that all that was asked for is on disk; what is not is named, and written later."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from contract.broker import JOB_QUEUE
from producer import Client
from producer.outputs import NotWrittenError
from producer.planning import plan_run
from producer.questions import read_prompts
from producer.run_folder import RunFolder
from producer.sinks.kinds import KINDS
from producer.sinks.sink import SinkOptions
from producer.sources import SourceError
from producer.submission import Submission
from tests.captionmill.test_closed_pipe import unread
from tests.producer.test_cli import ask_all, captionmill, command, events, worker
from tests.producer.test_outputs_kept import drive
from tests.support.processes import ROOT, spawn, wait_until
from tests.support.producer_driver import lines

__all__ = ["worker"]


def picture(path: Path, number: int = 0) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (8, 8), (number, number // 256, 0)).save(path)
    return path


def not_written(out: Path) -> list[dict[str, Any]]:
    return [line for line in lines(out, "failures.jsonl") if line["code"] == "not_written"]


def test_a_contact_sheet_that_was_not_written(
    redis_url: str, connection: redis.Redis, images: Path, tmp_path: Path
) -> None:
    """Somebody else's file has its name when the answers are there."""
    picture(images / "a.png")
    out = tmp_path / "out"
    log = (tmp_path / "run.log").open("w+")
    asked = ["-m", "captionmill", "run", *ask_all(images, out, redis_url, "--json")]
    run = subprocess.Popen([sys.executable, *asked], cwd=ROOT, stdout=log, stderr=log)
    wait_until(lambda: connection.llen(JOB_QUEUE) == 1)
    (out / "contact_sheet.html").write_text("mine")
    stub = spawn([sys.executable, "-m", "bench.stub_worker", redis_url, "count"], tmp_path / "stub.log", {})
    try:
        assert run.wait(60) == 3
    finally:
        stub.kill()
        stub.wait()
        run.kill()
    log.seek(0)
    (told,) = (one for one in map(json.loads, log) if one["event"] == "summary")
    assert told["not_written"].keys() == {"contact_sheet"}
    assert (out / "contact_sheet.html").read_text() == "mine"


@pytest.mark.usefixtures("worker")
def test_the_exit_codes_of_the_documentation(
    redis_url: str, connection: redis.Redis, images: Path, tmp_path: Path
) -> None:
    """Each code of the table by a command that ends with it."""
    out, captions = tmp_path / "out", tmp_path / "captions"
    for number in range(12):
        picture(images / f"{number:02}.png", number)
        (captions / f"{number:02}.txt").mkdir(parents=True)  # root, too, cannot write a file there
    picture(images / "00.jpg", 77)
    (captions / "edited.txt").touch()
    sinks = ["--sink", "jsonl", "--sink", f"sidecar:{captions}", "--sink", f"hf:{captions}/metadata.jsonl"]
    seen = {}

    ran = captionmill("run", *ask_all(images, out, redis_url, *sinks))
    seen[ran.returncode] = "not written"
    assert "Not on disk: 13 outputs of sidecar" in ran.stdout
    assert f"Not on disk: 13 outputs of hf:{captions}/metadata.jsonl" in ran.stdout
    assert ran.stdout.count("no regular file") == 10
    assert "and 3 more, in failures.jsonl" in ran.stdout
    assert f"captionmill export {out}" in ran.stdout
    assert len(lines(out)) == 13
    told = not_written(out)
    assert {line["sink"] for line in told} == {"sidecar:" + str(captions), f"hf:{captions}/metadata.jsonl"}
    assert len(told) == 26
    assert {"id", "name", "message"} <= told[0].keys()
    ran = captionmill("status", out, "--json")
    assert events(ran, "summary")[0]["not_written"][f"sidecar:{captions}"]["count"] == 13

    connection.flushall()
    for number in range(12):
        (captions / f"{number:02}.txt").rmdir()
    ran = captionmill("export", out)
    assert ran.returncode == 3
    assert "Not on disk: 1 output of sidecar" in ran.stdout
    assert "--sidecar-name full" in ran.stdout
    assert len(not_written(out)) == 14
    ran = captionmill(
        "export", out, "--sidecar-name", "full", "--sink", "csv", "--sink", f"sidecar:{captions}"
    )
    seen[ran.returncode] = "all is written"
    assert (captions / "00.png.txt").read_text() != (captions / "00.jpg.txt").read_text()
    assert not not_written(out)
    assert (out / "answers.csv").exists()
    assert connection.dbsize() == 0, "nothing was asked, and no server needed"

    body = {"messages": [{"role": "user", "content": "Hi?"}], "best_of": 2}  # refused, that row alone
    line = {"custom_id": "1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (tmp_path / "rows.jsonl").write_text(json.dumps(line))
    ran = captionmill("run", *ask_all(tmp_path / "rows.jsonl", tmp_path / "failed", redis_url))
    seen[ran.returncode] = "failed"
    ran = captionmill("run", *ask_all(tmp_path / "nowhere", tmp_path / "refused", redis_url))
    seen[ran.returncode] = "refused"
    code, _ = unread("status", str(out))
    seen[code] = "closed pipe"
    assert seen == {0: "all is written", 1: "failed", 2: "refused", 3: "not written", 141: "closed pipe"}
    told_codes = re.findall(r"^\| (\d+) \|", (ROOT / "docs" / "producer.md").read_text(), re.MULTILINE)
    assert sorted(map(int, told_codes)) == sorted([*seen, 130])


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody can make a file in the folder, root included."""
    if os.getuid() != 0:
        closes, opens = ["chmod", "555"], ["chmod", "755"]
    else:
        closes, opens = ["chattr", "+i"], ["chattr", "-i"]
    if subprocess.run([*closes, folder], check=False, capture_output=True).returncode:
        pytest.skip("this file system has no folders that root cannot write in")
    try:
        yield
    finally:
        subprocess.run([*opens, folder], check=True)


@pytest.mark.usefixtures("worker")
def test_captions_in_a_folder_that_cannot_be_written(redis_url: str, images: Path, tmp_path: Path) -> None:
    for number, name in enumerate(("a.png", "below/b.png")):
        picture(images / name, number)
    asked = ask_all(images, tmp_path / "out", redis_url, "--recursive", "--sink", "sidecar")
    with read_only(images / "below"):
        ran = captionmill("run", *asked)
    assert ran.returncode == 3, ran.stderr
    assert "Not on disk: 1 output of sidecar:\n    below/b.png: the system refuses it (" in ran.stdout
    assert (images / "a.txt").exists()
    assert [line["id"] for line in not_written(tmp_path / "out")] == ["below/b.png"]
    assert captionmill("export", tmp_path / "out").returncode == 0
    assert (images / "below" / "b.txt").exists()


def test_a_stopped_run_ends_with_130(
    redis_url: str, connection: redis.Redis, images: Path, tmp_path: Path
) -> None:
    picture(images / "a.png")
    log = tmp_path / "log"
    process = spawn(command(*ask_all(images, tmp_path / "out", redis_url)), log, {})
    wait_until(lambda: connection.llen(JOB_QUEUE) == 1 or process.poll() is not None)
    process.send_signal(signal.SIGINT)
    assert process.wait() == 130, log.read_text()
    ran = captionmill("export", tmp_path / "out")
    assert ran.returncode == 1
    assert "0 of them complete" in ran.stdout


@pytest.fixture
def pictures(images: Path) -> Path:
    """Three in a folder, of which two have one sidecar name, and one elsewhere."""
    for number, name in enumerate(("a.png", "a.jpg", "b.png")):
        picture(images / name, number)
    return images


LOST: dict[str, tuple[str, dict[str, Any], list[str], int]] = {
    "jsonl": ("jsonl", {}, ["What?"], 0),
    "failures": ("failures", {}, ["What?"], 0),
    "csv": ("csv", {}, ["What?"], 0),
    "tsv": ("tsv", {}, ["What?"], 0),
    "parquet": ("parquet", {}, ["What?"], 0),
    "openai": ("openai", {}, ["What?"], 0),
    "coco": ("coco", {}, ["What?"], 0),
    "vqa": ("vqa", {}, ["What?"], 0),
    "llava": ("llava", {}, ["What?"], 0),
    "label-studio": ("label-studio", {}, ["What?"], 0),
    "sidecar": ("sidecar", {"sidecar_policy": "overwrite"}, ["What?"], 1),
    "webdataset": ("webdataset", {}, ["What?"], 1),
    "hf": ("hf:{}/elsewhere/metadata.jsonl", {}, ["What?"], 3),
}
"""Kind → a sink of it, its options, what is asked, and how many outputs cannot be on disk."""


def test_every_kind_is_tried() -> None:
    assert LOST.keys() == set(KINDS)


@pytest.mark.parametrize("kind", LOST)
def test_what_a_sink_does_not_write(pictures: Path, connection: redis.Redis, kind: str) -> None:
    """Also when its whole place is gone at the end, and written by an export once it is there again."""
    spec, options, questions, lost = LOST[kind]
    out = pictures.parent / "out"
    asked = Submission(
        sources=(str(pictures),),
        prompts=read_prompts(questions, None, None),
        sinks=(spec.format(pictures.parent),),
        sink_options=SinkOptions(**options),
    )
    (pictures.parent / "elsewhere").mkdir()
    plan_run(out, asked, asked.open())
    if kind == "webdataset":
        drive(out, connection, rounds=1)
        (pictures / "b.png").rename(pictures / "away.png")
    for _ in range(2):  # the second one as `run --resume` does, which writes no row again
        drive(out, connection)
        assert len(not_written(out)) == lost
    if kind == "webdataset":
        (pictures / "away.png").rename(pictures / "b.png")
    with closing(RunFolder(out)) as folder, folder.written_again():
        pass
    assert len(not_written(out)) == (0 if kind == "webdataset" else lost)


def test_one_sink_that_cannot_end_keeps_no_other_from_its_end(
    pictures: Path, connection: redis.Redis
) -> None:
    out, gone = pictures.parent / "out", pictures.parent / "gone"
    asked = Submission(
        sources=(str(pictures),),
        prompts=read_prompts(["What?"], None, None),
        sinks=(f"coco:{gone}/coco.json", "llava", "jsonl"),
    )
    plan_run(out, asked, asked.open())
    drive(out, connection, gone.rmdir)
    assert len(json.loads((out / "llava.json").read_text())) == 3
    assert len(not_written(out)) == 3
    drive(out, connection)  # as `run --resume` does, which makes the folder
    assert len(json.loads((gone / "coco.json").read_text())) == 3
    assert not not_written(out)


def test_several_answers_for_the_columns_of_one(pictures: Path, connection: redis.Redis) -> None:
    out = pictures.parent / "out"
    asked = Submission(
        sources=(str(pictures),),
        prompts=read_prompts(["What?", "Who?"], None, None),
        sinks=("hf",),
        sink_options=SinkOptions(vqa_columns=True),
    )
    plan_run(out, asked, asked.open())
    drive(out, connection)
    assert len(not_written(out)) == 3


def test_a_caption_question_that_no_row_is_asked(pictures: Path, tmp_path: Path) -> None:
    asked = Submission(
        sources=(str(pictures),),
        prompts=read_prompts(["What?"], None, None),
        sinks=("sidecar",),
        sink_options=SinkOptions(question="captoin"),
    )
    with pytest.raises(SourceError, match=r'"captoin"; there are "q1"'):
        plan_run(tmp_path / "out", asked, asked.open())


@pytest.mark.usefixtures("worker")
def test_python_is_told(redis_url: str, pictures: Path, tmp_path: Path) -> None:
    with Client(redis_url) as client:
        run = client.submit(pictures, questions=["What?"], out=tmp_path / "out", sinks=["sidecar"])
        rows = iter(run)
        assert [next(rows).id for _ in range(3)]
        with pytest.raises(NotWrittenError, match=r"1 of sidecar.*captionmill export"):
            next(rows)
