"""What has its answer on disk already is not asked about, and is counted."""

import csv
import json
from pathlib import Path
from typing import Any

import pytest
import redis
from PIL import Image

from bench.stub_worker import WORKED_KEY
from producer.planning import plan_run
from producer.questions import read_prompts
from producer.sinks.sink import SinkOptions
from producer.sources import SourceError
from producer.submission import Submission
from tests.producer.test_cli import ask_all, captionmill, events, photos, worker

__all__ = ["photos", "worker"]


@pytest.mark.usefixtures("worker")
def test_the_command_asks_what_has_no_answer(
    redis_url: str, connection: redis.Redis, photos: Path, tmp_path: Path
) -> None:
    (photos / "0.txt").write_text("a caption")
    with (tmp_path / "captions.csv").open("w") as file:
        csv.writer(file).writerows([("image", "caption"), ("images/1.png", "one"), ("images/2.png", " ")])
    (tmp_path / "earlier.jsonl").write_text(
        f"{line('images/3.png', 'three')}\n{line('images/4.png', None)}\n"
    )
    given = ["--sink", "sidecar"]
    for name in ("captions.csv", "earlier.jsonl"):
        given += ["--skip-answered", str(tmp_path / name)]
    ran = captionmill("run", *ask_all(photos, tmp_path / "out", redis_url, *given))
    assert ran.returncode == 0, ran.stderr
    assert "1 image not asked about, as the answer is there: a caption beside the image" in ran.stdout
    for name in ("captions.csv", "earlier.jsonl"):
        assert f"1 image not asked about, as the answer is there: {tmp_path}/{name}" in ran.stdout
    assert connection.hlen(WORKED_KEY) == 4
    assert (photos / "0.txt").read_text() == "a caption"
    assert sorted(path.stem for path in photos.glob("*.txt")) == ["0", "2", "4", "5", "6"]
    # The run's own captions are not somebody else's; another run folder has nothing to ask.
    ran = captionmill("run", *ask_all(photos, tmp_path / "out", redis_url, *given, "--json"))
    assert events(ran, "planned")[0]["rows"] == 4
    for name in ("1.txt", "3.txt"):
        Image.open(photos / "0.png").save(photos / name, "PNG")
    ran = captionmill("run", *ask_all(photos, tmp_path / "other", redis_url, "--sink", "sidecar"))
    assert (ran.returncode, "There is nothing to ask." in ran.stdout) == (0, True)
    assert connection.hlen(WORKED_KEY) == 4


def line(name: str, *texts: str | None) -> str:
    answers: list[dict[str, Any]] = [
        {"question": "q1", "text": text} if text else {"failure": {}} for text in texts
    ]
    return json.dumps({"image": name, "answers": answers})


FILES: dict[str, tuple[str, set[str]]] = {
    "answers.jsonl": ("\n".join([line("0.png", "a", "b"), line("1.png", "a", None)]), {"0"}),
    "wide.csv": ("image,q1,q2\n0.png,a,b\n1.png,a,\n", {"0"}),
    "long.csv": ("image,question,answer\n0.png,q1,a\n0.png,q2,b\n1.png,q1,a\n1.png,q2,\n", {"0"}),
    "metadata.jsonl": ('{"file_name": "2.png", "text": "a"}\n{"file_name": "3.png", "text": null}', {"2"}),
    "captions.tsv": ("image\tcaption\n3.png\ta\n", {"3"}),
}
"""What a file says → the images that are answered."""


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("sinks", [("jsonl",), ("sidecar",)])
def test_files_that_hold_answers(photos: Path, tmp_path: Path, name: str, sinks: Any) -> None:
    content, answered = FILES[name]
    (photos / name).write_text(content)
    (photos / "6.txt").write_text("a caption")
    asked = Submission(
        sources=(str(photos),),
        prompts=read_prompts(["What?", "Who?"], None, None),
        sinks=sinks,
        skip_answered=(str(photos / name),),
    )
    planned = plan_run(tmp_path / "out", asked, asked.open())
    # A sidecar alone is no reason where another output wants the row.
    beside = 1 if sinks == ("sidecar",) else 0
    assert planned.rows == 7 - len(answered) - beside
    assert sum(planned.answered.values()) == len(answered) + beside


def test_a_policy_that_replaces_captions_asks_for_them(photos: Path, tmp_path: Path) -> None:
    (photos / "6.txt").write_text("a caption")
    asked = Submission(
        sources=(str(photos),),
        prompts=read_prompts(["What?"], None, None),
        sinks=("sidecar",),
        sink_options=SinkOptions(sidecar_policy="overwrite"),
    )
    assert plan_run(tmp_path / "out", asked, asked.open()).rows == 7


def test_a_file_without_answers_is_refused(photos: Path, tmp_path: Path) -> None:
    (photos / "sizes.csv").write_text("image,width\n0.png,8\n")
    asked = Submission(sources=(str(photos),), skip_answered=(str(photos / "sizes.csv"),))
    with pytest.raises(SourceError, match="no answers for --skip-answered"):
        plan_run(tmp_path / "out", asked, asked.open())
