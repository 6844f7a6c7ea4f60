"""One picture in every encoding, mode and orientation: the vision model sees the same tiles.

Differences are in steps of 8-bit brightness. Lossless encodings have none; of the others each value keeps to
the tolerance beside it.
"""

import struct
from collections.abc import Callable
from typing import Any, Final

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageCms

from tests.faults.bad_images import jpeg_with, png, saved, tiff
from tests.support.processes import ROOT
from worker.images.image_file import ImageLimits, decode_image
from worker.llava.tiles import Tiler, load_tiler

FOLDER: Final = ROOT / "demo" / "model" / "openvino"
SOURCE: Final = ROOT / "demo" / "images" / "02-wide.png"
LIMITS: Final = ImageLimits(max_bytes=10**8, max_px=64_000_000, max_side_px=30_000, max_aspect=100.0)
ORIENTATION: Final = 0x0112
STORED: Final = {
    1: lambda pixels: pixels,
    2: lambda pixels: pixels[:, ::-1],
    3: lambda pixels: pixels[::-1, ::-1],
    4: lambda pixels: pixels[::-1],
    5: lambda pixels: pixels.swapaxes(0, 1),
    6: lambda pixels: pixels.swapaxes(0, 1)[::-1],
    7: lambda pixels: pixels[::-1, ::-1].swapaxes(0, 1),
    8: lambda pixels: pixels.swapaxes(0, 1)[:, ::-1],
}
"""EXIF's orientation → how the picture's rows and columns then lie in the file, by EXIF's own definition."""
Pixels = NDArray[np.uint8]


def picture() -> Image.Image:
    """In 250 colours, so that a palette loses none; 150 x 230 (height x width)."""
    small = Image.open(SOURCE).convert("RGB").resize((230, 150), Image.Resampling.BICUBIC)
    return small.quantize(250, dither=Image.Dither.NONE).convert("RGB")


def clear() -> Image.Image:
    """The picture fading away from left to right, in 16 steps."""
    image = picture()
    alpha = np.repeat(np.linspace(0, 255, 16).astype(np.uint8), 15)[: image.width]
    image.putalpha(Image.fromarray(np.tile(alpha, (image.height, 1))))
    return image


def on_white(image: Image.Image) -> Image.Image:
    """By arithmetic of our own."""
    *colours, alpha = np.moveaxis(np.asarray(image.convert("RGBA"), dtype=np.float64), -1, 0)
    mixed = [colour * alpha / 255 + 255 - alpha for colour in colours]
    return Image.fromarray(np.stack(mixed, axis=-1).round().astype(np.uint8))


def sixteen_bits(pixels: Pixels) -> NDArray[np.uint16]:
    return pixels.astype(np.uint16) * 257


def png16() -> bytes:
    rows = sixteen_bits(np.asarray(picture())).astype(">u2")
    height, width = rows.shape[:2]
    return png(height, width, b"".join(b"\x00" + row.tobytes() for row in rows), depth=16)


def tiff_of(pixels: NDArray[Any], extra: int | None = None) -> bytes:
    """Pixels (height, width, channel) of 8 or 16 bits as they are; `extra` says what the last channel is."""
    height, width, channels = pixels.shape
    depths = struct.pack(f"<{channels}H", *[pixels.itemsize * 8] * channels)
    entries = {256: width, 257: height, 259: 1, 262: 2, 273: 8 + len(depths), 277: channels, 278: height}
    entries |= {279: pixels.nbytes} | ({} if extra is None else {338: extra})
    fields = [(tag, 4, 1, value) for tag, value in entries.items()]
    return tiff(*sorted([*fields, (258, 3, channels, 8)]), pixels=depths + pixels.tobytes())


def tiff16() -> bytes:
    return tiff_of(sixteen_bits(np.asarray(picture())).astype("<u2"))


def premultiplied() -> bytes:
    """A TIFF whose colours are multiplied by their alpha."""
    return tiff_of(np.asarray(clear().convert("RGBa")), extra=1)


def transparent_palette() -> tuple[bytes, Image.Image]:
    """One of the colours is clear, and what it looks like on white."""
    indexed = picture().quantize(250, dither=Image.Dither.NONE)
    index = int(np.bincount(np.asarray(indexed).ravel()).argmax())
    pixels = np.array(indexed.convert("RGB"))
    pixels[np.asarray(indexed) == index] = 255
    return saved(indexed, "PNG", transparency=index), Image.fromarray(pixels)


def inverted_cmyk() -> bytes:
    """As Adobe writes it: a marker says that 255 is no ink."""
    content = saved(picture().convert("CMYK"), "JPEG", quality=100, subsampling=0)
    assert b"Adobe" in content
    return content


COLOUR: Final[dict[str, tuple[Callable[[], bytes], float]]] = {
    "png": (lambda: saved(picture(), "PNG"), 0),
    "png-palette": (lambda: saved(picture().quantize(250, dither=Image.Dither.NONE), "PNG"), 0),
    "png-16-bit": (png16, 0),
    "png-opaque-alpha": (lambda: saved(picture().convert("RGBA"), "PNG"), 0),
    "bmp": (lambda: saved(picture(), "BMP"), 0),
    "bmp-palette": (lambda: saved(picture().quantize(250, dither=Image.Dither.NONE), "BMP"), 0),
    "gif": (lambda: saved(picture().quantize(250, dither=Image.Dither.NONE), "GIF"), 0),
    "tiff": (lambda: saved(picture(), "TIFF"), 0),
    "tiff-lzw": (lambda: saved(picture(), "TIFF", compression="tiff_lzw"), 0),
    "tiff-deflate": (lambda: saved(picture(), "TIFF", compression="tiff_adobe_deflate"), 0),
    "tiff-packbits": (lambda: saved(picture(), "TIFF", compression="packbits"), 0),
    "tiff-16-bit": (tiff16, 0),
    "tiff-cmyk": (lambda: saved(picture().convert("CMYK"), "TIFF"), 0),
    "webp-lossless": (lambda: saved(picture(), "WEBP", lossless=True), 0),
    "avif-4:4:4": (lambda: saved(picture(), "AVIF", quality=100, subsampling="4:4:4"), 3),
    "heic": (lambda: saved(picture(), "HEIF", quality=-1, chroma=444, matrix_coefficients=0), 0),
    "heic-4:4:4": (lambda: saved(picture(), "HEIF", quality=100, chroma=444), 3),
    "jpeg-4:4:4": (lambda: saved(picture(), "JPEG", quality=100, subsampling=0), 3),
    "jpeg-progressive": (lambda: saved(picture(), "JPEG", quality=100, subsampling=0, progressive=True), 3),
    "jpeg-rgb": (lambda: saved(picture(), "JPEG", quality=100, keep_rgb=True), 2),
    "jpeg-cmyk": (inverted_cmyk, 3),
    "jpeg-with-icc": (lambda: jpeg_with_profile(), 3),
    "webp-lossy": (lambda: saved(picture(), "WEBP", quality=100), 40),
    "jpeg-4:2:0": (lambda: saved(picture(), "JPEG", quality=95, subsampling=2), 40),
}
GREY: Final[dict[str, tuple[Callable[[], bytes], float]]] = {
    "png": (lambda: saved(grey(), "PNG"), 0),
    "png-colour": (lambda: saved(grey().convert("RGB"), "PNG"), 0),
    "png-alpha": (lambda: saved(grey().convert("LA"), "PNG"), 0),
    "png-16-bit": (lambda: saved(Image.fromarray(sixteen_bits(np.asarray(grey()))), "PNG"), 0),
    "tiff-16-bit": (lambda: saved(Image.fromarray(sixteen_bits(np.asarray(grey()))), "TIFF"), 0),
    "tiff-32-bit": (lambda: saved(Image.fromarray(np.asarray(grey()).astype(np.int32) * 257), "TIFF"), 0),
    "bmp": (lambda: saved(grey(), "BMP"), 0),
    "webp-lossless": (lambda: saved(grey(), "WEBP", lossless=True), 0),
    "jpeg": (lambda: saved(grey(), "JPEG", quality=100), 1.5),
    "avif": (lambda: saved(grey(), "AVIF", quality=100), 1.5),
}
BILEVEL: Final[dict[str, Callable[[], bytes]]] = {
    "png": lambda: saved(grey().convert("1"), "PNG"),
    "bmp": lambda: saved(grey().convert("1"), "BMP"),
    "gif": lambda: saved(grey().convert("1"), "GIF"),
    "tiff-group4": lambda: saved(grey().convert("1"), "TIFF", compression="group4"),
}
CLEAR: Final[dict[str, tuple[Callable[[], bytes], float]]] = {
    "png": (lambda: saved(clear(), "PNG"), 1),
    "webp-lossless": (lambda: saved(clear(), "WEBP", lossless=True, exact=True), 1),
    "tiff": (lambda: saved(clear(), "TIFF"), 1),
    "tiff-premultiplied": (premultiplied, 2),
    "avif": (lambda: saved(clear(), "AVIF", quality=100, subsampling="4:4:4"), 3),
    "heic": (lambda: saved(clear(), "HEIF", quality=100, chroma=444), 3),
}


def grey() -> Image.Image:
    return picture().convert("L")


def jpeg_with_profile() -> bytes:
    """A colour profile is left alone, as transformers leaves it."""
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return saved(picture(), "JPEG", quality=100, subsampling=0, icc_profile=profile)


@pytest.fixture(scope="module")
def tiler() -> Tiler:
    return load_tiler(FOLDER, "anyres")


def steps(tiler: Tiler, image: Image.Image) -> NDArray[np.float64]:
    """(tile, 3, height, width): the tiles of an RGB image, in steps of 8-bit brightness."""
    tiles = tiler(image)
    assert tiles.grid != (1, 1), "one tile would show no grid"
    deviation = np.array([0.26862954, 0.26130258, 0.27577711]).reshape(1, 3, 1, 1)
    values: NDArray[np.float64] = tiles.pixel_values.astype(np.float64) * deviation * 255
    return values


def check(tiler: Tiler, content: bytes, expected: Image.Image, tolerance: float) -> None:
    image = decode_image(content, LIMITS)
    assert (image.mode, image.size) == ("RGB", expected.size)
    if not tolerance:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(expected))
    difference = np.abs(steps(tiler, image) - steps(tiler, expected)).max()
    print(f"{difference:.2f} steps at most")
    assert difference <= tolerance + 1e-3


def test_there_are_enough_of_them() -> None:
    assert len(COLOUR) + len(GREY) + len(BILEVEL) + len(CLEAR) >= 40


@pytest.mark.parametrize("name", COLOUR)
def test_colour(tiler: Tiler, name: str) -> None:
    content, tolerance = COLOUR[name]
    check(tiler, content(), picture(), tolerance)


@pytest.mark.parametrize("name", GREY)
def test_grey(tiler: Tiler, name: str) -> None:
    content, tolerance = GREY[name]
    check(tiler, content(), grey().convert("RGB"), tolerance)


@pytest.mark.parametrize("name", BILEVEL)
def test_black_and_white(tiler: Tiler, name: str) -> None:
    check(tiler, BILEVEL[name](), grey().convert("1").convert("RGB"), 0)


@pytest.mark.parametrize("name", CLEAR)
def test_transparency(tiler: Tiler, name: str) -> None:
    content, tolerance = CLEAR[name]
    check(tiler, content(), on_white(clear()), tolerance)


def test_a_transparent_colour_of_a_palette(tiler: Tiler) -> None:
    check(tiler, *transparent_palette(), 0)


@pytest.mark.parametrize(
    ("image_format", "options", "tolerance"),
    [
        ("PNG", {}, 0),
        ("TIFF", {}, 0),
        ("WEBP", {"lossless": True}, 0),
        ("JPEG", {"quality": 100, "subsampling": 0}, 3),
        ("AVIF", {"quality": 100, "subsampling": "4:4:4"}, 3),
        ("HEIF", {"quality": 100, "chroma": 444}, 3),
    ],
)
@pytest.mark.parametrize("orientation", STORED)
def test_orientation(
    tiler: Tiler, image_format: str, options: dict[str, Any], tolerance: float, orientation: int
) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(picture()))))
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    # Bytes: of an Exif object pillow-heif does not tell the container, which alone counts in HEIC.
    content = saved(stored, image_format, exif=exif.tobytes(), **options)
    check(tiler, content, picture(), tolerance)


@pytest.mark.parametrize("orientation", [3, 6])
def test_exif_s_orientation_does_not_count_in_heic(tiler: Tiler, orientation: int) -> None:
    """As phones and browsers show it: only the container's rotation counts, and that once."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    content = saved(picture(), "HEIF", quality=100, chroma=444, exif=exif)
    assert b"irot" not in content
    check(tiler, content, picture(), 3)


@pytest.mark.parametrize("orientation", [3, 6])
def test_orientation_in_xmp(tiler: Tiler, orientation: int) -> None:
    stored = Image.fromarray(np.ascontiguousarray(STORED[orientation](np.asarray(picture()))))
    xmp = f'<x:xmpmeta><rdf:Description tiff:Orientation="{orientation}"/></x:xmpmeta>'.encode()
    check(tiler, saved(stored, "WEBP", lossless=True, xmp=xmp), picture(), 0)


@pytest.mark.parametrize("progressive", [False, True])
def test_a_large_jpeg_at_a_fraction_of_its_size(tiler: Tiler, progressive: bool) -> None:
    """At a fraction that leaves far more than the tiles have."""
    large = picture().resize((2300, 1500), Image.Resampling.BICUBIC)
    content = saved(large, "JPEG", quality=95, progressive=progressive)
    whole = decode_image(content, LIMITS)
    part = decode_image(content, ImageLimits(10**8, 64_000_000, 30_000, 100.0, draft_px=600_000))
    assert (whole.size, part.size) == ((2300, 1500), (1150, 750))
    assert np.abs(steps(tiler, whole) - steps(tiler, part)).max() <= 8


@pytest.mark.parametrize(
    ("size", "draft_px", "decoded"),
    [
        ((2000, 1000), 2_000_000, (2000, 1000)),
        ((2000, 1000), 500_001, (2000, 1000)),
        ((2000, 1000), 500_000, (1000, 500)),
        ((2000, 1000), 100, (250, 125)),
        ((4000, 40), 40_000, (2000, 20)),
        ((2000, 1000), 0, (2000, 1000)),
    ],
)
def test_what_fraction_that_is(size: tuple[int, int], draft_px: int, decoded: tuple[int, int]) -> None:
    content = saved(Image.new("RGB", size), "JPEG")
    limits = ImageLimits(10**8, 64_000_000, 30_000, 100.0, draft_px=draft_px)
    assert decode_image(content, limits).size == decoded
    assert decode_image(saved(Image.new("RGB", size), "PNG"), limits).size == size


def test_a_jpeg_from_a_telephone() -> None:
    """Behind its picture there are others, and before it things that nobody needs."""
    assert decode_image(jpeg_with(b"http://ns.adobe.com/xmp/extension/\x00" + bytes(999)), LIMITS).size == (
        24,
        16,
    )
    content = saved(
        picture(), "MPO", save_all=True, append_images=[picture().rotate(180)], quality=100, subsampling=0
    )
    assert (
        np.abs(np.asarray(decode_image(content, LIMITS), dtype=int) - np.asarray(picture(), dtype=int)).max()
        < 40
    )
