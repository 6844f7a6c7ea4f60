"""Reading image files: which are accepted, what they become, and the code of each refusal."""

import io
import os
import struct
import threading
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL
import pytest
from PIL import Image

from contract.failure import FailureCode, Refusal
from worker.images.image_file import ImageLimits, decode_image, read_bytes
from worker.images.jpeg_scans import lacks_end

LIMITS = ImageLimits(max_bytes=200_000, max_px=1_000_000, max_side_px=5_000, max_aspect=20.0)

PILLOW = int(PIL.__version__.split(".")[0])


def encoded(image: Image.Image, image_format: str, **options: object) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def picture() -> Image.Image:
    """20 x 30 (height x width): left half red, right half blue, the upper left corner green."""
    pixels = np.zeros((20, 30, 3), dtype=np.uint8)
    pixels[:, :15] = (255, 0, 0)
    pixels[:, 15:] = (0, 0, 255)
    pixels[:8, :8] = (0, 255, 0)
    return Image.fromarray(pixels)


def read_image(path: Path, roots: tuple[Path, ...], limits: ImageLimits) -> Image.Image:
    return decode_image(read_bytes(path, roots, limits.max_bytes), limits)


def colours(image: Image.Image) -> list[tuple[int, ...]]:
    """Of the upper left corner, the lower left and the lower right one."""
    width, height = image.size
    places = [(2, 2), (2, height - 3), (width - 3, height - 3)]
    return [image.convert("RGB").getpixel(place) for place in places]  # type: ignore[misc]


def png(height: int, width: int) -> bytes:
    """A PNG whose header alone says how large it is."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return (
            struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
        )

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(b""))
        + chunk(b"IEND", b"")
    )


def code_of(call: Callable[[], object]) -> FailureCode:
    with pytest.raises(Refusal) as refused:
        call()
    message = refused.value.failure.message
    assert message.endswith(".")
    assert "\n" not in message
    return refused.value.failure.code


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "BMP", "TIFF", "AVIF", "HEIF", "GIF"])
def test_formats(image_format: str) -> None:
    options = (
        {"lossless": True} if image_format == "WEBP" else {"quality": 100} if image_format == "JPEG" else {}
    )
    image = decode_image(encoded(picture(), image_format, **options), LIMITS)
    assert image.mode == "RGB"
    assert image.size == (30, 20)
    np.testing.assert_allclose(colours(image), colours(picture()), atol=60)


@pytest.mark.parametrize(
    "mode",
    [
        *("L", "1", "P", "RGBA", "LA", "CMYK", "LAB"),
        pytest.param("YCbCr", marks=pytest.mark.skipif(PILLOW < 13, reason="Pillow 12 reads no such TIFF")),
    ],
)
def test_modes(mode: str) -> None:
    image_format = "TIFF" if mode in ("CMYK", "YCbCr", "LAB") else "PNG"
    source = (
        picture().convert("RGB").convert(mode) if mode != "LAB" else picture().convert("L").convert("RGB")
    )
    image = decode_image(encoded(source, image_format), LIMITS)
    assert image.mode == "RGB"
    np.testing.assert_allclose(colours(image), colours(source.convert("RGB")), atol=3)


def test_cmyk_jpeg() -> None:
    image = decode_image(encoded(picture().convert("CMYK"), "JPEG", quality=100), LIMITS)
    np.testing.assert_allclose(colours(image), colours(picture()), atol=60)


@pytest.mark.parametrize("image_format", ["PNG", "TIFF"])
def test_sixteen_bit_grey_keeps_its_steps(image_format: str) -> None:
    ramp = np.linspace(0, 65535, 64, dtype=np.uint16).reshape(8, 8)
    image = decode_image(encoded(Image.fromarray(ramp), image_format), LIMITS)
    np.testing.assert_allclose(np.asarray(image)[..., 0], ramp / 257, atol=1)


def test_grey_of_unknown_white_is_refused() -> None:
    deep = encoded(Image.fromarray(np.full((8, 8), 70_000, dtype=np.int32)), "TIFF")
    real = encoded(Image.fromarray(np.full((8, 8), 0.5, dtype=np.float32)), "TIFF")
    assert code_of(lambda: decode_image(deep, LIMITS)) == FailureCode.IMAGE_BROKEN
    assert code_of(lambda: decode_image(real, LIMITS)) == FailureCode.IMAGE_BROKEN


def test_transparency_is_put_on_white() -> None:
    clear = Image.new("RGBA", (10, 10), (0, 0, 0, 0))
    half = Image.new("RGBA", (10, 10), (0, 0, 0, 128))
    palette = Image.new("P", (10, 10), 0)
    palette.putpalette([10, 20, 30] * 2)
    assert decode_image(encoded(clear, "PNG"), LIMITS).getpixel((5, 5)) == (255, 255, 255)
    np.testing.assert_allclose(np.asarray(decode_image(encoded(half, "PNG"), LIMITS)), 127, atol=1)
    assert decode_image(encoded(palette, "PNG", transparency=0), LIMITS).getpixel((5, 5)) == (255, 255, 255)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_undone(orientation: int) -> None:
    undo = {
        2: Image.Transpose.FLIP_LEFT_RIGHT,
        3: Image.Transpose.ROTATE_180,
        4: Image.Transpose.FLIP_TOP_BOTTOM,
        5: Image.Transpose.TRANSPOSE,
        6: Image.Transpose.ROTATE_90,
        7: Image.Transpose.TRANSVERSE,
        8: Image.Transpose.ROTATE_270,
    }
    stored = picture() if orientation == 1 else picture().transpose(undo[orientation])
    exif = Image.Exif()
    exif[0x0112] = orientation
    image = decode_image(encoded(stored, "PNG", exif=exif), LIMITS)
    assert image.size == (30, 20)
    assert colours(image) == colours(picture())


@pytest.mark.parametrize("image_format", ["GIF", "WEBP"])
def test_first_frame_only(image_format: str) -> None:
    frames = [Image.new("RGB", (9, 9), "white"), Image.new("RGB", (9, 9), "black")]
    moving = encoded(frames[0], image_format, save_all=True, append_images=frames[1:], duration=100)
    assert decode_image(moving, LIMITS).getpixel((4, 4)) == (255, 255, 255)


@pytest.mark.parametrize(
    "content",
    [
        b"<html><body>404</body></html>",
        b'<svg xmlns="http://www.w3.org/2000/svg" width="9" height="9"/>',
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        b"%PDF-1.4",
        b"\x00" * 64,
        b"P6 2 2 255 " + b"\x00" * 12,
        encoded(Image.new("RGB", (9, 9)), "ICO"),
    ],
    ids=["html", "svg", "eps", "pdf", "zeros", "ppm", "ico"],
)
def test_not_an_image(content: bytes) -> None:
    assert code_of(lambda: decode_image(content, LIMITS)) == FailureCode.NOT_AN_IMAGE


@pytest.mark.parametrize("image_format", ["PNG", "JPEG", "WEBP", "GIF", "BMP", "TIFF", "AVIF", "HEIF"])
def test_truncated(image_format: str) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    whole = encoded(Image.fromarray(noise), image_format)
    decode_image(whole, LIMITS)
    # Some decoders notice a cut at once and find no image; half a picture is what must not come.
    found = code_of(lambda: decode_image(whole[: len(whole) * 3 // 5], LIMITS))
    assert found in (FailureCode.IMAGE_BROKEN, FailureCode.NOT_AN_IMAGE)


@pytest.mark.filterwarnings("error::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize(
    ("height", "width", "sentence"),
    [
        (1001, 1000, "1000000 in all"),
        (60, 5001, "5000 a side"),
        (20_000, 20_000, "far more|in all"),
        (9_600, 9_600, "far more|in all"),
    ],
)
def test_too_large_is_known_from_the_header(height: int, width: int, sentence: str) -> None:
    with pytest.raises(Refusal, match=sentence) as refused:
        decode_image(png(height, width), LIMITS)
    assert refused.value.failure.code == FailureCode.IMAGE_TOO_LARGE


@pytest.mark.parametrize("size", [(1, 500), (2000, 3)])
def test_a_strip_is_told_from_what_is_too_large(size: tuple[int, int]) -> None:
    with pytest.raises(Refusal, match=r"one side may be 20 times the other at most .*IMAGE_MAX_ASPECT") as it:
        decode_image(png(*size), LIMITS)
    assert it.value.failure.code == FailureCode.IMAGE_ASPECT


@pytest.mark.parametrize("restarts", [0, 2])
@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_without_its_end(progressive: bool, restarts: int) -> None:
    """Without its last two bytes a file has every pixel; a file cut anywhere else is refused."""
    noise = np.random.default_rng(0).integers(0, 256, (33, 40, 3), dtype=np.uint8)
    options: dict[str, object] = {"progressive": progressive, "restart_marker_blocks": restarts}
    whole = encoded(Image.fromarray(noise), "JPEG", **options)
    picture = decode_image(whole, LIMITS).tobytes()
    assert not lacks_end(whole)
    # Of the three last bytes gone, the first may hold no bit of the pixels.
    for size in range(len(whole) - 1, 2, -1):
        assert lacks_end(whole[:size])
        if size < len(whole) - 3:
            found = code_of(lambda: decode_image(whole[:size], LIMITS))  # noqa: B023 - called at once
            assert found in (FailureCode.IMAGE_BROKEN, FailureCode.NOT_AN_IMAGE)
        elif size > len(whole) - 3:
            assert decode_image(whole[:size], LIMITS).tobytes() == picture


def test_limits_are_inclusive() -> None:
    assert decode_image(encoded(Image.new("RGB", (1000, 1000)), "PNG"), LIMITS).size == (1000, 1000)
    assert decode_image(encoded(Image.new("RGB", (200, 10)), "PNG"), LIMITS).size == (200, 10)


@pytest.fixture
def roots(tmp_path: Path) -> tuple[Path, ...]:
    """Two roots beside a folder that is none; each root holds its own picture under the name "in.png"."""
    for name, size in (("first", (30, 20)), ("second", (10, 10)), ("outside", (5, 5))):
        folder = tmp_path / name
        folder.mkdir()
        Image.new("RGB", size).save(folder / "in.png")
    return (tmp_path / "first", tmp_path / "second")


def test_a_path_below_a_root_is_read(roots: tuple[Path, ...]) -> None:
    assert read_image(roots[1] / "in.png", roots, LIMITS).size == (10, 10)
    assert read_image(Path("in.png"), roots, LIMITS).size == (30, 20)
    (roots[0] / "in.png").unlink()
    assert read_image(Path("in.png"), roots, LIMITS).size == (10, 10)


@pytest.mark.parametrize("name", [b"\xe9t\xe9.png", "é 🙂.png".encode(), b"a\nb.png"])
def test_any_file_name_is_read_and_shown(roots: tuple[Path, ...], name: bytes) -> None:
    path = roots[0] / os.fsdecode(name)
    assert (
        code_of(lambda: read_image(path.with_name("gone.png"), roots, LIMITS)) == FailureCode.IMAGE_NOT_FOUND
    )
    (roots[0] / "in.png").rename(path)
    assert read_image(path, roots, LIMITS).size == (30, 20)
    path.unlink()
    with pytest.raises(Refusal) as refused:
        read_image(path, roots, LIMITS)
    refused.value.failure.model_dump_json()


@pytest.mark.parametrize(
    "make",
    [
        lambda root: root.parent / "outside" / "in.png",
        lambda root: root / ".." / "outside" / "in.png",
        lambda _: Path("../outside/in.png"),
        lambda _: Path("/etc/passwd"),
        lambda _: Path("/dev/zero"),
        lambda root: root.parent / "first-and-more.png",
        lambda root: linked(root / "link.png", root.parent / "outside" / "in.png"),
        lambda root: linked(root / "folder", root.parent / "outside") / "in.png",
        lambda root: root.parent / "outside" / "gone.png",
    ],
    ids=[
        "absolute",
        "dots",
        "relative-dots",
        "passwd",
        "device",
        "prefix",
        "link",
        "linked-folder",
        "missing",
    ],
)
def test_outside_the_roots(roots: tuple[Path, ...], make: Callable[[Path], Path]) -> None:
    (roots[0].parent / "first-and-more.png").write_bytes((roots[0] / "in.png").read_bytes())
    path = make(roots[0])
    assert code_of(lambda: read_image(path, roots, LIMITS)) == FailureCode.IMAGE_NOT_ALLOWED


def linked(link: Path, target: Path) -> Path:
    link.symlink_to(target)
    return link


def test_a_link_within_the_roots_is_read(roots: tuple[Path, ...]) -> None:
    link = linked(roots[0] / "link.png", roots[1] / "in.png")
    assert read_image(link, roots, LIMITS).size == (10, 10)


def test_a_folder_exchanged_after_the_check_leads_nowhere(roots: tuple[Path, ...]) -> None:
    """A race: whoever wins it, the picture outside the roots (5 x 5) must not come."""
    real, link, place = roots[0] / "real", roots[0] / "link", roots[0] / "place"
    real.mkdir()
    (roots[0] / "in.png").rename(real / "in.png")
    link.symlink_to(roots[0].parent / "outside")
    done = threading.Event()

    def exchange() -> None:
        while not done.is_set():
            for one in (real, link):
                one.rename(place)
                place.rename(one)

    thread = threading.Thread(target=exchange)
    thread.start()
    came: set[tuple[int, int] | FailureCode] = set()
    try:
        for attempt in range(100_000):
            if attempt >= 3000 and FailureCode.IMAGE_NOT_ALLOWED in came:
                break
            try:
                came.add(read_image(place / "in.png", roots, LIMITS).size)
            except Refusal as refusal:
                came.add(refusal.failure.code)
    finally:
        done.set()
        thread.join()
    assert (5, 5) not in came
    assert FailureCode.IMAGE_NOT_ALLOWED in came


def fifo(path: Path) -> Path:
    os.mkfifo(path)
    return path


def holding(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


@pytest.mark.parametrize(
    ("make", "code"),
    [
        (lambda root: root / "gone.png", FailureCode.IMAGE_NOT_FOUND),
        (lambda root: root / "in.png" / "deeper.png", FailureCode.IMAGE_NOT_FOUND),
        (lambda root: linked(root / "dangling", root / "gone.png"), FailureCode.IMAGE_NOT_FOUND),
        (lambda root: root, FailureCode.IMAGE_NOT_ALLOWED),
        (lambda root: fifo(root / "fifo"), FailureCode.IMAGE_NOT_ALLOWED),
        (lambda root: holding(root / "empty.png", b""), FailureCode.NOT_AN_IMAGE),
        (lambda root: holding(root / "big.png", b"x" * 200_001), FailureCode.IMAGE_TOO_LARGE),
        (lambda root: root / ("x" * 300), FailureCode.IMAGE_UNREADABLE),
        (lambda root: root / "nul\0.png", FailureCode.IMAGE_UNREADABLE),
        (lambda root: linked(root / "loop", root / "loop"), FailureCode.IMAGE_UNREADABLE),
    ],
    ids=["gone", "below-a-file", "dangling", "folder", "fifo", "empty", "bytes", "long-name", "nul", "loop"],
)
def test_files_refused(roots: tuple[Path, ...], make: Callable[[Path], Path], code: FailureCode) -> None:
    path = make(roots[0])
    assert code_of(lambda: read_image(path, roots, LIMITS)) == code
