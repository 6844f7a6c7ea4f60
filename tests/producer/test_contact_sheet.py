"""The contact sheet: everything on it, nothing in it that runs, and no image or number of rows stops it."""

import io
import json
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from contract.answer import ChoiceProbability
from producer.contact_sheet import MAX_ROWS, write_contact_sheet
from producer.rows import Answered, AnsweredRow
from producer.thumbnails import thumbnail
from tests.support.answered import answer, answered_row, failure, read_path

HOSTILE = "</script><!--<script>alert(1)</script>\"'&\u2028\u2029"


def blocks(text: str, kind: str) -> list[Any]:
    """What the page's script parses."""
    found = re.findall(rf'<script type="application/json" class="{kind}">(.*?)</script>', text, re.DOTALL)
    return [value for block in found for value in json.loads(block)]


def page(folder: Path, *rows: AnsweredRow, title: str = "t") -> str:
    with (folder / "sheet.html").open("wb") as file:
        write_contact_sheet(rows, file, title, read_path)
    return (folder / "sheet.html").read_text(encoding="utf-8")


def test_everything_of_a_row(tmp_path: Path) -> None:
    Image.new("RGB", (1000, 500), "red").save(tmp_path / "a.png")
    choices = (
        ChoiceProbability(text="yes", probability=0.75, score=-0.3),
        ChoiceProbability(text="no", probability=0.25, score=-1.4),
    )
    sure = answer("yes", choices=choices, flags=("truncated", "empty"))
    text = page(tmp_path, answered_row(7, sure, failure(), image=tmp_path / "a.png", name="a.png"))
    assert blocks(text, "rows") == [
        {
            "id": "7",
            "name": "a.png",
            "answers": [
                {
                    "question": "q1",
                    "prompt": "What 1?",
                    "text": "yes",
                    "score": -0.125,
                    "mean_log_prob": -0.25,
                    "flags": ["truncated", "empty"],
                    "choices": [["yes", 0.75], ["no", 0.25]],
                },
                {
                    "question": "q2",
                    "prompt": "What 2?",
                    "code": "image_broken",
                    "message": "The image is broken.",
                },
            ],
        }
    ]
    (picture,) = blocks(text, "pictures")
    assert Image.open(io.BytesIO(b64decode(picture))).size == (320, 160)
    assert "default-src 'none'; img-src data:" in text
    assert not re.search(r"https?:", text)
    assert 'id="sample"' not in text


def test_hostile_text_is_text(tmp_path: Path) -> None:
    turns = ({"role": "user", "content": [{"type": "image"}, {"type": "text", "text": HOSTILE}]},)
    rows = [
        answered_row(0, answer(HOSTILE), failure(HOSTILE), id=HOSTILE, name=HOSTILE),
        answered_row(1, answers=(Answered(HOSTILE, turns, answer()),)),
    ]
    text = page(tmp_path, *rows, title=HOSTILE)
    assert text.count("alert(1)") == 8
    assert "<script>alert" not in text
    # Rows, pictures and the page's own script, and nothing that opens or closes another.
    assert text.count("<script") == text.count("</script") == 3
    assert text.count("<!--") == 0
    assert not re.search("[\u2028\u2029]", text.replace(HOSTILE[-2:], "", 2))
    first, second = blocks(text, "rows")
    assert first["name"] == first["answers"][0]["text"] == first["answers"][1]["message"] == HOSTILE
    assert second["answers"][0]["prompt"] == f"user: [image] {HOSTILE}"


def test_names_that_are_not_utf8_are_shown_with_escapes(tmp_path: Path) -> None:
    (row,) = blocks(page(tmp_path, answered_row(id="\udce9.png", name="\udce9.png")), "rows")
    assert row["name"] == row["id"] == "\\xe9.png"


@pytest.mark.parametrize("name", ["gone.png", "text.png", "large.png"])
def test_a_row_without_a_picture_is_a_row(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.new("1", (70_000, 1_000)).save(tmp_path / "large.png")
    text = page(tmp_path, answered_row(image=tmp_path / name), answered_row(1))
    assert blocks(text, "pictures") == [None, None]
    assert len(blocks(text, "rows")) == 2


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_modes_of_thumbnails(mode: str) -> None:
    white = np.full((40, 60), 65535, dtype=np.uint16)
    image = Image.fromarray(white) if mode == "I;16" else Image.new("RGB", (60, 40), "white").convert(mode)
    file = io.BytesIO()
    image.save(file, "TIFF")
    jpeg = thumbnail(file.getvalue(), side_px=320, max_bytes=10_000)
    assert jpeg is not None
    assert np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")).min() > 250


def test_a_thumbnail_keeps_to_its_size() -> None:
    noise = np.random.default_rng(0).integers(0, 256, (200, 300, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "PNG")
    jpeg = thumbnail(file.getvalue(), side_px=320, max_bytes=3_600)
    assert jpeg is not None
    assert 1_000 < len(jpeg) <= 3_600


@pytest.mark.parametrize("rows", [MAX_ROWS, MAX_ROWS + 500])
def test_ten_thousand_rows_and_more(tmp_path: Path, rows: int) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    file = io.BytesIO()
    Image.fromarray(noise).save(file, "JPEG")
    failed = {3, 77, rows - 1}
    many = (answered_row(n, failure() if n in failed else "A cat. " * 30, "Two.") for n in range(rows))
    with (tmp_path / "sheet.html").open("wb") as page:
        write_contact_sheet(many, page, "many", lambda _: file.getvalue())
    text = (tmp_path / "sheet.html").read_text(encoding="utf-8")
    assert len(text) < 80_000_000
    shown = blocks(text, "rows")
    assert len(shown) == len(blocks(text, "pictures")) == MAX_ROWS
    positions = [int(row["id"]) for row in shown]
    assert positions == sorted(set(positions))
    assert failed <= set(positions)
    assert text.count('class="rows"') == text.count('class="pictures"') == MAX_ROWS // 100
    told = re.search(r'<p id="sample">(.*)</p>', text)
    assert (told is None) == (rows == MAX_ROWS)
    if told is not None:
        assert told[1] == "A sample: 10,000 of 10,500 rows, with 3 of the 3 that have a failure."
        # From everywhere, not from the beginning.
        assert 400 < sum(position >= MAX_ROWS - 500 for position in positions) < 1_000
