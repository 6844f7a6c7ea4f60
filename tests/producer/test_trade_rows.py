"""Rows from the trade: one run of the real command over all of trade_rows.py, and what it says of them."""

import base64
import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import pyarrow
import pyarrow.parquet
import pytest
from PIL import Image

from tests.producer.trade_rows import CASES, Answered, Case, Form
from tests.support.processes import ROOT
from tests.support.producer_driver import lines

FORMS: Final[dict[Form, str]] = {
    "jsonl": "rows.jsonl", "csv": "rows.csv", "nested": "nested.parquet", "turns": "turns.parquet",
    "openai": "batch.jsonl",
}  # fmt: skip
WITH_IMAGE_TOKENS: Final = 60
"""A prompt with the demo model's image has more; those here have fewer without it, or with little of it."""
RUN_QUESTION: Final = "Which shape?"
DESCRIBED: Final = "Describe the image."
LOCAL_FILES: Final = "/data/local-files/?d="
LONGEST_MESSAGE: Final = 500
"""Characters of a failure's message, 200 of them quoted."""
LISTS: Final = ("jsonl", "label-studio", "coco", "vqa")


def captionmill(folder: Path, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "captionmill", *map(str, arguments)],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "10000"},
        capture_output=True,
        text=True,
        check=False,
    )


def picture(size: int) -> bytes:
    """Of noise, so that its base64 has every sign."""
    told = io.BytesIO()
    Image.effect_noise((70, 70 + size), 90).save(told, "png")
    return told.getvalue()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trade")
    for number, name in enumerate(("a.png", "b.png", "c+#.png")):
        (folder / name).write_bytes(picture(number))
    return folder


def filled(value: Any, place: Path) -> Any:
    """What the table leaves open."""
    if isinstance(value, dict):
        return {filled(key, place): filled(one, place) for key, one in value.items()}
    if isinstance(value, list):
        return [filled(one, place) for one in value]
    if not isinstance(value, str):
        return value
    content = (place / "a.png").read_bytes()
    coded = base64.b64encode(content).decode()
    folded = [coded[at : at + 76] for at in range(0, len(coded), 76)]
    if value == "BYTES":
        return content
    for name, told in {
        "PLACE": str(place),
        "BASE64": coded,
        "PRINTED": str(content),
        "LONG": "a." * 4500,
        "MEGABYTES": "x" * 3_000_000,
        "UNPADDED": base64.b64encode(content + b"\0" * ((1 - len(content)) % 3)).decode().rstrip("="),
        "FOLDED": "\n".join(folded),
        "ONE_LINE": " ".join(folded),
        "BLANKS": coded.replace("+", " "),
    }.items():
        value = value.replace(name, told)
    return value


def of_form(form: Form) -> list[Case]:
    return [case for case in CASES if case.form == form]


def write_sources(place: Path) -> None:
    given = {form: [filled(case.given, place) for case in of_form(form)] for form in FORMS}
    written = "".join(json.dumps(row) + "\n" for row in given["jsonl"])
    (place / FORMS["jsonl"]).write_text(written.replace('"1E999"', "1E999"))
    with (place / FORMS["csv"]).open("w", newline="") as file:
        writer = csv.DictWriter(file, ("image", "question", "choices", "seed"))
        writer.writeheader()
        writer.writerows(given["csv"])
    asked = [{"score": None, **row, "question": DESCRIBED} for row in given["nested"]]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(asked), place / FORMS["nested"])
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(given["turns"]), place / FORMS["turns"])
    batch = [
        {"custom_id": f"r{number}", "method": "POST", "url": "/v1/chat/completions", "body": body}
        for number, body in enumerate(given["openai"])
    ]
    (place / FORMS["openai"]).write_text("".join(json.dumps(row) + "\n" for row in batch))


@pytest.fixture(scope="module")
def ran(place: Path) -> tuple[subprocess.CompletedProcess[str], dict[int, dict[str, Any]]]:
    """The command, and its line for each case by the case's number."""
    write_sources(place)
    given = ("--question", RUN_QUESTION, "--num-beams", "2", "--max-new-tokens", "2", "--out", "out")
    sinks = (*(word for kind in LISTS for word in ("--sink", kind)), "--image-prefix", LOCAL_FILES)
    told = captionmill(place, "run", *FORMS.values(), *given, *sinks, "--model", "demo")
    assert (place / "out" / "answers.jsonl").exists(), told.stderr
    ordered = [CASES.index(case) for form in FORMS for case in of_form(form)]
    found = {ordered[line["index"]]: line for line in lines(place / "out")}
    return told, found


def test_no_case_is_silent(ran: Any) -> None:
    told, found = ran
    assert told.returncode == 1, told.stderr
    assert len(found) == len(CASES)
    reports = {case.source for case in CASES} - {"issue"}
    assert len(reports) >= 20
    failed = sum(not isinstance(case.verdict, Answered) for case in CASES)
    answered = sum(len(case.verdict.prompts) for case in CASES if isinstance(case.verdict, Answered))
    assert f"{answered} questions answered, {failed} failed." in told.stdout
    assert "Columns of parameters' names that decide nothing: seed in 2 rows" in told.stdout
    assert "Columns that decide how their rows are answered: max_new_tokens in 1 row" in told.stdout
    assert '"ignore_eos" in 1 row' in told.stdout
    assert '"seed" without sampling in 1 row' in told.stdout
    assert '"id" of a turn in 1 row' in told.stdout
    assert '"name" of a turn in 1 row' in told.stdout


@pytest.mark.parametrize("number", range(len(CASES)), ids=[f"{one.source}: {one.wanted}" for one in CASES])
def test_a_row_of_the_trade(place: Path, ran: Any, number: int) -> None:
    verdict, line = CASES[number].verdict, ran[1][number]
    if not isinstance(verdict, Answered):
        (one,) = line["answers"]
        assert one["failure"]["code"] == verdict.code, one
        assert verdict.sentence in one["failure"]["message"]
        assert len(one["failure"]["message"]) <= LONGEST_MESSAGE
        return
    assert all("text" in one for one in line["answers"]), line
    assert tuple(one["prompt"] for one in line["answers"]) == verdict.prompts
    for one in line["answers"]:
        assert (one["prompt_tokens"] > max(1, len(verdict.images)) * WITH_IMAGE_TOKENS) != verdict.is_low
        assert tuple(choice["text"] for choice in one["choices"]) == verdict.choices
    assert line.get("images", []) == [str(place / name) for name in verdict.images]
    assert line.get("columns", {}).items() >= verdict.columns.items()
    if verdict.id is not None:
        assert line["id"].endswith(f"/{verdict.id}")


@pytest.mark.usefixtures("ran")
def test_lists_that_other_tools_load(place: Path) -> None:
    def listed(name: str) -> list[Any]:
        told: list[Any] = json.loads((place / "out" / name).read_text())
        return told

    images = {one["data"]["id"]: one["data"]["image"] for one in listed("label_studio.json")}
    assert images["rows.jsonl/signs"] == f"{LOCAL_FILES}c%2B%23.png"
    assert 391895 in [one["image_id"] for one in listed("coco.json")]
    assert 12 in [one["question_id"] for one in listed("vqa.json")]
