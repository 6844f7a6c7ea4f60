"""--visual-tokens through the real command and a real worker, and in the keys of answers that are kept."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from contract.job import GenerationParameters, Question
from demo.samples import IMAGES
from producer.keys import question_key
from tests.support.command import run_command

PICTURE = "02-wide.png"
ASKED = {"image": PICTURE, "question": "Describe the image."}
CHOICES = {"image": PICTURE, "question": "Is there a star?", "choices": ["yes", "no"]}
ROWS: dict[str, dict[str, Any]] = {
    "all": ASKED,
    "few": {**ASKED, "visual_tokens": 20},
    "run's": {**ASKED, "visual_tokens": 30},
    "more than there are": {**ASKED, "visual_tokens": 10**6},
    "all, choices": CHOICES,
    "few, choices": {**CHOICES, "visual_tokens": 20},
}


@pytest.fixture(autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path_factory.mktemp("cache")))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    shutil.copy(IMAGES / PICTURE, tmp_path)
    return tmp_path


def write(folder: Path, rows: dict[str, dict[str, Any]]) -> None:
    lines = (json.dumps({"id": name, **row}) for name, row in rows.items())
    (folder / "rows.jsonl").write_text("\n".join(lines))


def answers(folder: Path, out: str, *options: str) -> dict[str, dict[str, Any]]:
    ran = run_command("run", "rows.jsonl", "--model", "demo", "--out", out, *options, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    records = map(json.loads, (folder / out / "answers.jsonl").read_text().splitlines())
    return {record["id"]: record["answers"][0] for record in records}


def test_answers_come_from_as_many_image_tokens_as_were_asked_for(folder: Path) -> None:
    write(folder, ROWS)
    found = answers(folder, "out")
    tokens = {name: answer["prompt_tokens"] for name, answer in found.items()}
    assert tokens["few"] < tokens["run's"] < tokens["all"] == tokens["more than there are"]
    assert tokens["few, choices"] < tokens["all, choices"]
    assert found["all"]["score"] == pytest.approx(found["more than there are"]["score"], abs=1e-3)
    # The run's own number holds for rows without one, and is another question than without it.
    write(folder, {"all": ASKED, "few": ROWS["few"]})
    run = answers(folder, "run", "--visual-tokens", "30")
    assert {name: answer["prompt_tokens"] for name, answer in run.items()} == {
        "all": tokens["run's"],
        "few": tokens["few"],
    }


@pytest.mark.parametrize(
    ("row", "options", "sentence"),
    [
        ({"question": "Why?"}, ("--text-only", "--visual-tokens", "30"), "--visual-tokens decides nothing"),
        (ASKED, ("--visual-tokens", "1"), "greater than or equal to 2"),
        ({**ASKED, "parameters": {"visual_tokens": 0}}, (), "visual_tokens"),
        (
            {"question": "Why?", "parameters": {"visual_tokens": 20}},
            ("--text-only",),
            "without an image, visual_tokens decides nothing",
        ),
    ],
    ids=("without an image", "too few", "too few of a row", "a row's own without an image"),
)
def test_refused(folder: Path, row: dict[str, Any], options: tuple[str, ...], sentence: str) -> None:
    write(folder, {"row": row})
    ran = run_command("run", "rows.jsonl", "--model", "demo", "--out", "out", *options, cwd=folder)
    assert ran.returncode == 2
    assert sentence in ran.stderr
    assert "Traceback" not in ran.stderr


@pytest.mark.parametrize("option", [("--visual-tokens", "20"), ("--detail", "low")])
def test_a_question_without_an_image_has_no_look(option: tuple[str, str]) -> None:
    ran = run_command("ask", "-", "Why?", "--model", "demo", *option)
    assert ran.returncode == 2
    assert f"{option[0]} decides nothing without an image." in ran.stderr


@pytest.mark.parametrize("choices", [None, ("yes", "no")], ids=("open", "choices"))
def test_a_key_tells_numbers_apart_where_there_is_an_image(choices: tuple[str, ...] | None) -> None:
    question = Question(id="q", messages="What is it?", choices=choices)

    def key(image: bytes | None, visual_tokens: int | None) -> bytes:
        parameters = GenerationParameters(visual_tokens=visual_tokens)
        return question_key(image, question, parameters, "high")

    assert len({key(b"image", number) for number in (None, 20, 30)}) == 3
    assert len({key(None, number) for number in (None, 20, 30)}) == 1


def test_keys_from_before_there_was_a_number_hold() -> None:
    question = Question(id="q", messages="What is it?")
    key = question_key(None, question, GenerationParameters(), "high")
    assert key.hex() == "1e1aa8ffd9f3e92d705792b33943c0a9"
