"""Pictures that people tripped over elsewhere, made anew, with what their authors wanted and where."""

import io
import struct
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Final

from PIL import Image

from contract.failure import FailureCode

RED: Final = (220, 20, 20)
HEIGHT, WIDTH = 24, 40


@dataclass(frozen=True)
class TradeImage:
    """`wanted` is the colour of the upper left pixel and of the lower right one, or a failure's code."""

    name: str
    content: bytes
    source: str
    """Project and number of the issue."""
    wish: str
    wanted: tuple[tuple[int, int, int], tuple[int, int, int]] | FailureCode
    flags: tuple[str, ...] = ()


def picture() -> Image.Image:
    """Red, with a white lower right corner that tells how it is turned."""
    image = Image.new("RGB", (WIDTH, HEIGHT), RED)
    image.paste((255, 255, 255), (WIDTH - 16, HEIGHT - 8, WIDTH, HEIGHT))
    return image


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png_with(*chunks: bytes, at_end: bool = False) -> bytes:
    """The picture with chunks after its header, or before its end."""
    whole = saved(picture(), "PNG")
    place = len(whole) - 12 if at_end else 33
    return whole[:place] + b"".join(chunks) + whole[place:]


def jpeg_with(*segments: bytes, image: Image.Image | None = None) -> bytes:
    """The picture with what is given before its first segment."""
    whole = saved(image or picture(), "JPEG", quality=95)
    return whole[:2] + b"".join(segments) + whole[2:]


def segment(marker: int, content: bytes) -> bytes:
    return bytes((0xFF, marker)) + struct.pack(">H", len(content) + 2) + content


def exif(*entries: tuple[int, int, int, int]) -> bytes:
    """A TIFF directory of (tag, type, count, value)."""
    told = struct.pack(">H", len(entries)) + b"".join(
        struct.pack(">HHI", tag, kind, count)
        + (struct.pack(">HH", value, 0) if kind == 3 else struct.pack(">I", value))
        for tag, kind, count, value in entries
    )
    return b"MM\0*\0\0\0\x08" + told + bytes(4)


SHORT: Final = 3
ORIENTATION: Final = (0x0112, SHORT, 1, 3)
"""Upside down."""
LARGE: Final = zlib.compress(bytes(3 * 2**20))
"""Three megabytes in three kilobytes."""
WHITE: Final = (255, 255, 255)


def _mpf(content: bytes) -> bytes:
    return segment(0xE2, b"MPF\0" + content)


def _grey_16(image_format: str) -> bytes:
    return saved(Image.new("I;16", (WIDTH, HEIGHT), 200 * 257), image_format)


def _palette_with_holes() -> bytes:
    image = Image.new("P", (WIDTH, HEIGHT), 1)
    image.putpalette([0, 0, 0, *RED])
    image.paste(0, (WIDTH - 16, HEIGHT - 8, WIDTH, HEIGHT))
    return saved(image, "PNG", transparency=bytes((0, 255)))


def _see_through() -> bytes:
    image = picture().convert("RGBA")
    image.paste((0, 0, 0, 0), (WIDTH - 16, HEIGHT - 8, WIDTH, HEIGHT))
    return saved(image, "PNG")


def images() -> Iterator[TradeImage]:
    upright = (RED, WHITE)
    turned = (WHITE, RED)
    grey = ((200, 200, 200), (200, 200, 200))
    jpeg = jpeg_with()
    made: list[tuple[str, Callable[[], bytes], str, str, Any, tuple[str, ...]]] = [
        (
            "ztxt.png",
            lambda: png_with(chunk(b"zTXt", b"a\0\0" + LARGE)),
            "python-pillow/Pillow#8363",
            "a PNG with a long text opens, as in GIMP and OpenCV",
            upright,
            (),
        ),
        (
            "itxt.png",
            lambda: png_with(chunk(b"iTXt", b"a\0\1\0\0\0" + LARGE), at_end=True),
            "python-pillow/Pillow#1111",
            "a long text behind the pixels refuses nothing",
            upright,
            (),
        ),
        (
            "ztxt-turn.png",
            lambda: png_with(chunk(b"zTXt", b"Raw profile type exif\0\0" + LARGE)),
            "python-pillow/Pillow#8363",
            "nor does a long one that might say how the picture is turned",
            upright,
            (),
        ),
        (
            "itxt-turn.png",
            lambda: png_with(chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE)),
            "python-pillow/Pillow#1111",
            "nor one of another kind",
            upright,
            (),
        ),
        (
            "iccp.png",
            lambda: png_with(chunk(b"iCCP", b"a\0\0" + LARGE)),
            "python-pillow/Pillow#2445",
            "a small PNG with a large profile opens",
            upright,
            (),
        ),
        (
            "iccp-small-file.png",
            lambda: png_with(chunk(b"iCCP", b"ICC\0\0" + LARGE), chunk(b"gAMA", b"\0")),
            "hiyouga/LlamaFactory#6300",
            "training goes on over such a picture",
            upright,
            (),
        ),
        (
            "checksum-text.png",
            lambda: png_with(chunk(b"iTXt", b"a\0\0\0\0\0b", crc=3), chunk(b"tEXt", b"a\0b", crc=3)),
            "python-pillow/Pillow#1991",
            "a wrong checksum of a text refuses nothing, as in browsers",
            upright,
            (),
        ),
        (
            "checksum-turn.png",
            lambda: png_with(chunk(b"eXIf", exif(ORIENTATION), crc=3)),
            "python-pillow/Pillow#1991",
            "nor one of the EXIF, which then turns nothing",
            upright,
            (),
        ),
        (
            "checksum-size.png",
            lambda: png_with(chunk(b"pHYs", bytes(9), crc=2)),
            "python-pillow/Pillow#5978",
            "a wrong checksum of the size in print refuses nothing",
            upright,
            (),
        ),
        (
            "checksum-profile.png",
            lambda: png_with(chunk(b"iCCP", b"a\0\0" + zlib.compress(b"x"), crc=1)),
            "python-pillow/Pillow#4472",
            "nor one of the profile, as in every viewer",
            upright,
            (),
        ),
        (
            "short-gamma.png",
            lambda: png_with(chunk(b"gAMA", b"\0\1")),
            "python-pillow/Pillow#9880",
            "a gamma of two bytes leaves a readable PNG",
            upright,
            (),
        ),
        (
            "short-others.png",
            lambda: png_with(chunk(b"sRGB", b""), chunk(b"pHYs", b"\0"), chunk(b"cHRM", b"\0")),
            "python-pillow/Pillow#6431",
            "short chunks beside the pixels refuse nothing",
            upright,
            (),
        ),
        (
            "size-twice.png",
            lambda: png_with(*[chunk(b"pHYs", bytes(9))] * 2),
            "image-rs/image-png#552",
            "a chunk that stands twice refuses nothing",
            upright,
            (),
        ),
        (
            "header-again.png",
            lambda: png_with(chunk(b"IHDR", b""), at_end=True),
            "python-pillow/Pillow#6252",
            "a second, broken header is told as a broken picture",
            FailureCode.IMAGE_BROKEN,
            (),
        ),
        (
            "no-end.jpg",
            lambda: jpeg[:-2],
            "p1atdev/stable-diffusion-webui-cafe-aesthetic#1",
            "a file whose last bytes are missing is used",
            upright,
            ("incomplete_image",),
        ),
        (
            "half-an-end.jpg",
            lambda: jpeg[:-1],
            "wkentaro/labelme#335",
            "a file that lacks one byte is used",
            upright,
            ("incomplete_image",),
        ),
        (
            "half.jpg",
            lambda: jpeg[: (jpeg.index(b"\xff\xda") + len(jpeg)) // 2],
            "pytorch/vision#138",
            "half a picture is told, and is not silently grey",
            FailureCode.IMAGE_BROKEN,
            (),
        ),
        (
            "junk-between.jpg",
            lambda: jpeg_with(segment(0xE0, b"JFIF\0\1\1\0\0\1\0\1\0\0"), b"\0"),
            "python-pillow/Pillow#630",
            "a stray byte before a marker is passed over, as browsers do",
            upright,
            (),
        ),
        (
            "mpf-broken.jpg",
            lambda: jpeg_with(_mpf(b"II*\0\xff\xff\xff\x7f")),
            "python-pillow/Pillow#1328",
            "a broken index of further pictures leaves the first one a JPEG",
            upright,
            (),
        ),
        (
            "mpf-two.jpg",
            lambda: jpeg_with(_mpf(_two_pictures())) + jpeg,
            "python-pillow/Pillow#1138",
            "a camera's JPEG with a large thumbnail behind it is a JPEG",
            upright,
            (),
        ),
        (
            "gain-map.jpg",
            lambda: jpeg + bytes(1000) + jpeg,
            "python-pillow/Pillow#7879",
            "what follows the picture decides nothing",
            upright,
            (),
        ),
        (
            "exif-twice.jpg",
            lambda: jpeg_with(segment(0xE1, b"Exif\0\0Exif\0\0" + exif(ORIENTATION))),
            "python-pillow/Pillow#8348",
            "turned as the EXIF says, though its head stands twice",
            turned,
            (),
        ),
        (
            "exif-gps.jpg",
            lambda: jpeg_with(segment(0xE1, b"Exif\0\0" + exif(ORIENTATION, (0x8825, 4, 1, 2**31)))),
            "python-pillow/Pillow#8548",
            "turned as the EXIF says, though its places are broken",
            turned,
            (),
        ),
        (
            "grey-16.png",
            lambda: _grey_16("PNG"),
            "python-pillow/Pillow#2574",
            "16-bit grey is scaled, not clipped to white",
            grey,
            (),
        ),
        (
            "grey-16.tif",
            lambda: _grey_16("TIFF"),
            "python-pillow/Pillow#1099",
            "the same of a microscope's TIFF",
            grey,
            (),
        ),
        (
            "see-through.png",
            _see_through,
            "NVIDIA/DIGITS#85",
            "transparency is white, not black",
            upright,
            (),
        ),
        (
            "palette.png",
            _palette_with_holes,
            "layumi/University1652-Baseline#17",
            "a palette with transparency by entries is read as a picture",
            upright,
            (),
        ),
        (
            "cmyk.jpg",
            lambda: saved(picture().convert("CMYK"), "JPEG", quality=95),
            "lovell/sharp#1649",
            "CMYK is not shown as its negative",
            upright,
            (),
        ),
        (
            "riff.jpg",
            lambda: saved(picture(), "WEBP", lossless=True),
            "GabrielePicco/deep-learning-flower-identifier#2",
            "a WebP that is named .jpg is read",
            upright,
            (),
        ),
    ]
    for name, make, source, wish, wanted, flags in made:
        yield TradeImage(name, make(), source, wish, wanted, flags)


def _two_pictures() -> bytes:
    """An MPF index that tells of a second picture."""
    entry = struct.pack("<III", 0x20030000, 100, 0) + struct.pack("<HH", 0, 0)
    other = struct.pack("<III", 0x00010001, 100, 2000) + struct.pack("<HH", 0, 0)
    directory = struct.pack("<H", 3)
    directory += struct.pack("<HHI4s", 0xB000, 7, 4, b"0100")
    directory += struct.pack("<HHII", 0xB001, 4, 1, 2)
    directory += struct.pack("<HHII", 0xB002, 7, 32, 8 + 2 + 3 * 12 + 4)
    return b"II*\0\x08\0\0\0" + directory + bytes(4) + entry + other
