"""The pictures of trade_images.py: each is what its author wanted, also through the real command."""

import json
import os
import subprocess
from pathlib import Path

import pytest
from PIL import Image

from contract.failure import FailureCode, Refusal
from tests.producer.test_cli import command
from tests.producer.trade_images import TradeImage, images
from tests.support.processes import ROOT
from tests.support.web_server import web_server
from worker.images.image_file import ImageLimits, decode_image

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
    """All in one run: answered, with their flags, or failed with their code, and nothing left out.

    Strips and URLs are beside them; of what the web server sends, no more than that it is no image.
    """
    photos = tmp_path / "photos"
    photos.mkdir()
    for case in CASES:
        (photos / case.name).write_bytes(case.content)
    strips = {"1x500.png": (1, 500), "2000x3.png": (3, 2000)}
    for name, (height, width) in strips.items():
        Image.new("RGB", (width, height)).save(photos / name)
    settings = {
        "CAPTIONMILL_URL_PRIVATE_NETWORKS": "127.0.0.0/8",
        "CAPTIONMILL_URL_USER_AGENT": "me (mail@example.org)",
        "CAPTIONMILL_RESPECT_NOAI": "true",
    }
    with web_server() as server:
        urls = {
            server.url("/named/utf-8"): FailureCode.NOT_AN_IMAGE,
            server.url("/dated?2"): FailureCode.NOT_AN_IMAGE,
            server.url("/robots?noai"): FailureCode.URL_OPTED_OUT,
        }
        (tmp_path / "urls.txt").write_text("\n".join(urls))
        out = tmp_path / "out"
        given = ["--model", "demo", "--out", str(out), "--max-new-tokens", "4"]
        ran = subprocess.run(
            command(photos, tmp_path / "urls.txt", *given),
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            env=os.environ | settings,
        )
        first, second = server.dated
        assert second - first >= 1, "a date has whole seconds"
        assert {one["User-Agent"] for one in server.headers} == {settings["CAPTIONMILL_URL_USER_AGENT"]}
    assert ran.returncode == 1, ran.stderr
    lines = [json.loads(line) for line in (tmp_path / "out" / "answers.jsonl").read_text().splitlines()]
    told = {}
    for line in lines:
        [one] = line["answers"]
        told[line["name"]] = one["failure"]["code"] if "failure" in one else tuple(one["flags"])
        if told[line["name"]] == FailureCode.IMAGE_ASPECT:
            assert "one side may be 100 times the other at most" in one["failure"]["message"]
    for case in CASES:
        wanted = ("truncated", *case.flags) if isinstance(case.wanted, tuple) else case.wanted
        assert told[f"photos/{case.name}"] == wanted, (case.name, case.wish)
    assert {told[f"photos/{name}"] for name in strips} == {FailureCode.IMAGE_ASPECT}
    assert {url: told[url] for url in urls} == urls
    assert len(told) == len(CASES) + len(strips) + len(urls)


def test_each_has_its_source() -> None:
    assert len({case.name for case in CASES}) == len(CASES) >= 8
    assert all("/" in case.source and "#" in case.source and case.wish for case in CASES)
