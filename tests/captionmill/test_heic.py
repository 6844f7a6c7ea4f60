"""HEIC photos from a folder to captions, turned as they should be; and what is said without a decoder."""

import io
import os
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from producer.chat.preview import preview_of
from producer.sinks.shards import _extension
from producer.thumbnails import thumbnail
from tests.faults.bad_images import noise, saved
from tests.support.processes import ROOT
from tests.support.producer_driver import lines, texts

DEMO = ROOT / "demo"
LOSSLESS = {"quality": -1, "chroma": 444, "matrix_coefficients": 0}
ROTATED = {6: Image.Transpose.ROTATE_90, 8: Image.Transpose.ROTATE_270}
"""EXIF's orientation → what makes an upright picture one that is stored so."""


def heic(picture: Image.Image, orientation: int = 1) -> bytes:
    """The picture, stored as a phone stores it that was held so."""
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = picture if orientation == 1 else picture.transpose(ROTATED[orientation])
    return saved(stored, "HEIF", exif=exif.tobytes(), **LOSSLESS)


def half(height: int, width: int) -> Image.Image:
    """Red above blue."""
    picture = Image.new("RGB", (width, height), (255, 0, 0))
    picture.paste((0, 0, 255), (0, height // 2, width, height))
    return picture


def test_photos_are_answered_as_their_pictures(tmp_path: Path) -> None:
    """The real command, worker and model: turned by what the container says, and that once."""
    photos = tmp_path / "photos"
    photos.mkdir()
    with Image.open(DEMO / "images" / "02-wide.png") as opened:
        picture = opened.convert("RGB")
    picture.save(photos / "plain.png")
    for orientation, name in ((1, "upright.HEIC"), (6, "left.heif"), (8, "right.hif")):
        content = heic(picture, orientation)
        assert (b"irot" in content) == (orientation != 1)
        (photos / name).write_bytes(content)
    (photos / "cut.heic").write_bytes(heic(picture)[:-100])
    ran = subprocess.run(
        [
            *(sys.executable, "-m", "captionmill", "run", str(photos), "--out", str(tmp_path / "out")),
            *("--model", str(DEMO / "model" / "openvino")),
        ],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 1, ran.stderr
    found = texts(tmp_path / "out")
    assert found.pop("cut.heic") == ["image_broken"]
    assert len(found) == 4
    assert len({text for (text,) in found.values()}) == 1, found
    assert (tmp_path / "out" / "contact_sheet.html").read_text().count('"/9j/') == 4, "JPEGs in base64"
    (failure,) = lines(tmp_path / "out", "failures.jsonl")
    assert failure["code"] == "image_broken"


@pytest.mark.parametrize("orientation", [1, 6, 8])
def test_thumbnails_and_previews_are_upright(tmp_path: Path, orientation: int) -> None:
    content = heic(half(60, 100), orientation)
    (tmp_path / "a.HEIC").write_bytes(content)
    preview = preview_of(tmp_path / "a.HEIC")
    assert preview == tmp_path / "a.HEIC.jpg"
    for jpeg in (thumbnail(content, side_px=50, max_bytes=100_000), preview.read_bytes()):
        assert jpeg is not None
        with Image.open(io.BytesIO(jpeg)) as small:
            width, height = small.size
            assert width > height
            above, below = (small.getpixel((width // 2, height * part // 4)) for part in (1, 3))
        assert isinstance(above, tuple)
        assert isinstance(below, tuple)
        assert above[0] > 200 > 50 > above[2]
        assert below[2] > 200 > 50 > below[0]


def test_what_is_no_photo_of_a_phone_is_shown_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(saved(noise(9, 9), "PNG"))
    (tmp_path / "b.heic").write_bytes(b"broken")
    for name in ("a.png", "b.heic"):
        assert preview_of(tmp_path / name) == tmp_path / name
    assert len(list(tmp_path.iterdir())) == 2


def test_a_shard_names_a_photo_by_its_content() -> None:
    assert _extension(None, heic(half(20, 20))) == "heic"
    assert _extension("a/b.HIF", b"") == "hif"


@pytest.mark.parametrize("brand", [b"heic", b"mif1"])
def test_a_worker_without_the_decoder_says_what_to_install(tmp_path: Path, brand: bytes) -> None:
    """In the process that decodes, whatever the file is called."""
    content = saved(half(20, 20), "HEIF")
    assert content[8:12] == b"heic"
    (tmp_path / "photo.jpg").write_bytes(content[:8] + brand + content[12:])
    (tmp_path / "good.avif").write_bytes(saved(half(20, 20), "AVIF"))
    script = (
        "import sys; sys.modules['pillow_heif'] = None\n"
        "from pathlib import Path\n"
        "from worker.images.image_file import ImageLimits, decode_image\n"
        "from contract.failure import Refusal\n"
        "limits = ImageLimits(10**8, 10**8, 10**5, 99)\n"
        "print(decode_image(Path('good.avif').read_bytes(), limits).size)\n"
        "try: decode_image(Path('photo.jpg').read_bytes(), limits)\n"
        "except Refusal as refusal: print(refusal)"
    )
    ran = subprocess.run(
        [sys.executable, "-c", script],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == [
        "(20, 20)",
        "not_an_image: The file is a HEIC photo, and this worker cannot decode those: "
        f"pip install -e '{ROOT}[heic]' where it runs.",
    ]
