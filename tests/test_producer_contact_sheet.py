"""The contact sheet: everything on it, nothing in it that runs, and no image that stops it."""

import io
import re
from base64 import b64decode
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from producer.contact_sheet import THUMBNAIL_PX, thumbnail, write_contact_sheet

HOSTILE = "<script>alert(1)</script>\"'&"


def line(image: str | None, prompt: Any = "What?", **answer: Any) -> dict[str, Any]:
    told = {
        "text": "A dog.",
        "finish_reason": "stop",
        "prompt_tokens": 1,
        "completion_tokens": 1,
        "score": -0.125,
    }
    return {
        "index": 0,
        "id": "row",
        "image": image,
        "model": "m",
        "answers": [{"question": "q1", "prompt": prompt, **(answer or told)}],
    }


def page(folder: Path, *lines: dict[str, Any], title: str = "t") -> str:
    write_contact_sheet(lines, folder / "sheet.html", title)
    return (folder / "sheet.html").read_text(encoding="utf-8")


def test_thumbnail_question_answer_and_score(tmp_path: Path) -> None:
    Image.new("RGB", (1000, 500), "red").save(tmp_path / "a.png")
    text = page(tmp_path, line(str(tmp_path / "a.png")))
    for part in ("What?", "A dog.", "-0.12"):
        assert part in text
    (encoded,) = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', text)
    assert Image.open(io.BytesIO(b64decode(encoded))).size == (THUMBNAIL_PX, THUMBNAIL_PX // 2)
    assert not re.search(r'(src|href)="(?!data:)', text)


def test_everything_from_outside_is_escaped(tmp_path: Path) -> None:
    failure = {"failure": {"code": "image_broken", "message": HOSTILE}}
    lines = [line(None, HOSTILE, **failure), {**line(None), "id": HOSTILE}]
    lines.append(line(None, [{"role": HOSTILE, "content": [{"type": "text", "text": HOSTILE}]}]))
    lines.append(line(None, text=HOSTILE, finish_reason="length", score=0.0))
    text = page(tmp_path, *lines, title=HOSTILE)
    assert "alert(1)" in text
    assert "<script>alert" not in text
    assert text.count("<script>") == 1
    assert "cut at the token limit" in text
    assert text.count('class="failure"') == 1


def test_names_that_are_not_utf8_are_shown_with_escapes(tmp_path: Path) -> None:
    assert "\\udce9.png" in page(tmp_path, {**line("/no/\udce9.png"), "id": "\udce9.png"})


@pytest.mark.parametrize("name", ["gone.png", "text.png", "large.png"])
def test_a_row_without_a_picture_is_a_row(tmp_path: Path, name: str) -> None:
    (tmp_path / "text.png").write_text("no image")
    Image.new("1", (70_000, 1_000)).save(tmp_path / "large.png")
    assert "no picture" in page(tmp_path, line(str(tmp_path / name)))


@pytest.mark.parametrize("mode", ["L", "LA", "P", "RGBA", "CMYK", "I;16"])
def test_modes_of_thumbnails(tmp_path: Path, mode: str) -> None:
    white = np.full((40, 60), 65535, dtype=np.uint16)
    image = Image.fromarray(white) if mode == "I;16" else Image.new("RGB", (60, 40), "white").convert(mode)
    image.save(tmp_path / "a.tiff")
    jpeg = thumbnail(tmp_path / "a.tiff")
    assert jpeg is not None
    assert np.asarray(Image.open(io.BytesIO(jpeg)).convert("L")).min() > 250
