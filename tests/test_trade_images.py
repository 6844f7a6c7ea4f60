"""The pictures of tests/trade_images.py: each is what its author wanted, also through the real command."""

import json
from pathlib import Path

import pytest

from contract.failure import Refusal
from tests.test_producer_cli import captionmill
from tests.trade_images import TradeImage, images
from worker.images import ImageLimits, decode_image

LIMITS = ImageLimits(max_bytes=10**7, max_px=10**6, max_side_px=10**4, max_aspect=50.0, draft_px=10**6)
CASES = list(images())
TOLERANCE = 12
"""Steps of 255 that JPEG may be off."""


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_picture_is_what_its_author_wanted(case: TradeImage) -> None:
    try:
        found = decode_image(case.content, LIMITS)
    except Refusal as refused:
        assert refused.failure.code == case.wanted, f"{case.wish}: {refused.failure.message}"  # noqa: PT017
        return
    assert isinstance(case.wanted, tuple), case.wish
    corners = [found.getpixel(place) for place in ((1, 1), (found.width - 2, found.height - 2))]
    for corner, wanted in zip(corners, case.wanted, strict=True):
        assert isinstance(corner, tuple)
        assert max(abs(a - b) for a, b in zip(corner, wanted, strict=True)) <= TOLERANCE, (case.wish, corners)


def test_the_command_answers_them(tmp_path: Path) -> None:
    """All in one run: answered, with their flags, or failed with their code, and nothing left out."""
    photos = tmp_path / "photos"
    photos.mkdir()
    for case in CASES:
        (photos / case.name).write_bytes(case.content)
    ran = captionmill("run", photos, "--model", "demo", "--out", tmp_path / "out", "--max-new-tokens", "4")
    assert ran.returncode == 1, ran.stderr
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    told = {}
    for line in lines:
        [one] = line["answers"]
        told[line["id"]] = one["failure"]["code"] if "failure" in one else tuple(one["flags"])
    for case in CASES:
        wanted = ("truncated", *case.flags) if isinstance(case.wanted, tuple) else case.wanted
        assert told[case.name] == wanted, (case.name, case.wish)


def test_each_has_its_source() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 8
    assert all("/" in case.source and "#" in case.source and case.wish for case in CASES)
