"""Image files as strangers make them: broken, enormous, disguised; each with its expected outcome."""

import gzip
import io
import struct
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from PIL import Image

from contract.failure import FailureCode
from worker.images.image_file import ImageLimits

LIMITS: Final = ImageLimits(max_bytes=10_000_000, max_px=1_000_000, max_side_px=10_000, max_aspect=50.0)
BROKEN: Final = FailureCode.IMAGE_BROKEN
TOO_LARGE: Final = FailureCode.IMAGE_TOO_LARGE
NO_IMAGE: Final = FailureCode.NOT_AN_IMAGE
PNG_SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
SAVED: Final[dict[str, dict[str, Any]]] = {
    "JPEG": {"quality": 90},
    "PNG": {},
    "WEBP": {"lossless": True},
    "GIF": {},
    "BMP": {},
    "TIFF": {"compression": "tiff_lzw"},
    "AVIF": {"speed": 10},
    "HEIF": {"quality": -1, "chroma": 444},
}
"""Formats that are let in, with Pillow's options."""


@dataclass(frozen=True)
class Case:
    """One file; `outcome` holds the codes it may be refused with, or the (height, width) it must have."""

    name: str
    content: bytes
    outcome: frozenset[FailureCode] | tuple[int, int]


def saved(image: Image.Image, image_format: str, **options: Any) -> bytes:
    file = io.BytesIO()
    image.save(file, image_format, **options)
    return file.getvalue()


def noise(height: int, width: int, channels: int = 3) -> Image.Image:
    """Pixels that hardly compress, so that a cut loses many of them."""
    return Image.fromarray(
        np.random.default_rng(7).integers(0, 256, (height, width, channels), dtype=np.uint8)
    )


def png_chunk(kind: bytes, content: bytes, crc: int | None = None) -> bytes:
    crc = zlib.crc32(kind + content) if crc is None else crc
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", crc)


def png(
    height: int, width: int, pixels: bytes = b"", *chunks: bytes, depth: int = 8, colour: int = 2
) -> bytes:
    """A PNG whose header claims any size."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    end = png_chunk(b"IDAT", zlib.compress(pixels, 9)) + png_chunk(b"IEND", b"")
    return PNG_SIGNATURE + png_chunk(b"IHDR", header) + b"".join(chunks) + end


def gif(height: int, width: int, frame: tuple[int, int, int, int] | None = None) -> bytes:
    """A GIF of one pixel's bits; `frame` is the left, upper, width and height of its picture."""
    left, upper, frame_width, frame_height = frame or (0, 0, width, height)
    return (
        b"GIF89a"
        + struct.pack("<HHBBB", width, height, 0x80, 0, 0)
        + b"\x00\x00\x00\xff\xff\xff,"
        + struct.pack("<HHHHB", left, upper, frame_width, frame_height, 0)
        + b"\x02\x02\x44\x01\x00;"
    )


def bmp(
    height: int, width: int, pixels: bytes = b"", bits: int = 24, compression: int = 0, offset: int = 54
) -> bytes:
    sizes = struct.pack("<IiiHHIIiiII", 40, width, height, 1, bits, compression, len(pixels), 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54 + len(pixels), 0, 0, offset) + sizes + pixels


def tiff(*entries: tuple[int, int, int, int], pixels: bytes = b"", following: int = 0) -> bytes:
    """A TIFF with one directory of (tag, type, count, value), after 8 + len(pixels) bytes."""
    directory = struct.pack("<H", len(entries)) + b"".join(struct.pack("<HHII", *entry) for entry in entries)
    return b"II*\x00" + struct.pack("<I", 8 + len(pixels)) + pixels + directory + struct.pack("<I", following)


def grey_tiff(height: int, width: int, strip_bytes: int, pixels: bytes = b"", **changed: int) -> bytes:
    """8-bit grey in one strip; `changed` overrides values by the names below."""
    values = {
        "width": width,
        "height": height,
        "bits": 8,
        "compression": 1,
        "photometric": 1,
        "offset": 8,
        "samples": 1,
        "rows": height,
        "bytes": strip_bytes,
    } | changed
    tags = dict(zip(values, (256, 257, 258, 259, 262, 273, 277, 278, 279), strict=False))
    entries = [(tags[name], 4, 1, value) for name, value in values.items() if name in tags]
    return tiff(*entries, pixels=pixels, following=changed.get("following", 0))


def webp(width: int, height: int) -> bytes:
    """A lossless WEBP that has only a header."""
    bits = struct.pack("<I", (width - 1) | (height - 1) << 14)
    chunk = b"VP8L" + struct.pack("<I", 6) + b"\x2f" + bits + b"\x00"
    return b"RIFF" + struct.pack("<I", 4 + len(chunk)) + b"WEBP" + chunk


def animated_webp_canvas(width: int, height: int) -> bytes:
    """The canvas of an animation without a frame."""
    size = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    chunks = b"VP8X" + struct.pack("<I", 10) + b"\x02\x00\x00\x00" + size
    chunks += b"ANIM" + struct.pack("<I", 6) + bytes(6)
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def jpeg_of_size(height: int, width: int) -> bytes:
    """A real JPEG whose frame header claims another size."""
    content = saved(noise(16, 16), "JPEG")
    place = content.index(b"\xff\xc0") + 5
    return content[:place] + struct.pack(">HH", height, width) + content[place + 4 :]


def avif_of_size(height: int, width: int) -> bytes:
    """A real AVIF whose boxes claim another size."""
    content = saved(noise(64, 64), "AVIF", speed=10)
    place = content.index(b"ispe") + 8
    return content[:place] + struct.pack(">II", width, height) + content[place + 8 :]


def heic_of_size(height: int, width: int) -> bytes:
    """A real HEIC whose boxes claim another size."""
    content = saved(noise(64, 64), "HEIF")
    place = content.index(b"ispe") + 8
    return content[:place] + struct.pack(">II", width, height) + content[place + 8 :]


def jpeg_with(segment: bytes, kind: int = 0xE1) -> bytes:
    """A good JPEG of 16 x 24 with one more segment."""
    content = saved(noise(16, 24), "JPEG")
    return content[:2] + bytes((0xFF, kind)) + struct.pack(">H", len(segment) + 2) + segment + content[2:]


def exif(directory: bytes, offset: int = 8) -> bytes:
    return b"Exif\x00\x00II*\x00" + struct.pack("<I", offset) + directory


def many_scans(side_px: int, scans: int) -> bytes:
    """A grey progressive JPEG with many scans of the same picture."""
    content = saved(Image.new("L", (side_px, side_px), 128), "JPEG", progressive=True, quality=50)
    # The last scan is repeated: it needs no table but the one that came before it.
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * (scans - content.count(b"\xff\xda")) + content[-2:]


def many_frames(frames: int) -> bytes:
    """The same picture of 20 x 30 so many times."""
    content = saved(Image.new("P", (30, 20)), "GIF")
    colours_end = 13 + 3 * 2 ** ((content[10] & 7) + 1)
    return content[:colours_end] + content[colours_end:-1] * frames + content[-1:]


def flipped(content: bytes, place: int) -> bytes:
    place %= len(content)
    return content[:place] + bytes([content[place] ^ 0xFF]) + content[place + 1 :]


def zipped() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("a.png", saved(noise(9, 9), "PNG"))
    return file.getvalue()


def cases() -> Iterator[Case]:
    """All cases, made again at each call and always the same."""

    def refused(name: str, content: bytes, *codes: FailureCode) -> Case:
        return Case(name, content, frozenset(codes))

    def good(name: str, content: bytes, height: int, width: int) -> Case:
        return Case(name, content, (height, width))

    yield from (refused(*one) for one in _no_images())
    yield from (refused(*one) for one in _cut())
    yield from (refused(*one) for one in _bombs())
    yield from (refused(*one) for one in _corrupt())
    yield from (good(*one) for one in _odd_but_good())


def _no_images() -> Iterator[tuple[str, bytes, FailureCode]]:
    svg = b'<?xml version="1.0"?><svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    contents = {
        "zeros": bytes(4096),
        "one-byte": b"\x89",
        "text": b"not an image at all\n",
        "html": b"<!DOCTYPE html><html><body><img src='http://127.0.0.1/'></body></html>",
        "svg": svg,
        "svgz": gzip.compress(svg),
        "eps": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(ls) system\n",
        "dos-eps": b"\xc5\xd0\xd3\xc6" + struct.pack("<IIIIII", 30, 100, 0, 0, 0, 0) + bytes(100),
        "pdf": b"%PDF-1.7\n1 0 obj<</Type/Catalog>>endobj\ntrailer<</Root 1 0 R>>\n%%EOF",
        "zip": zipped(),
        "gzip": gzip.compress(saved(noise(9, 9), "PNG")),
        "json": b'{"error": "not found"}',
        "script": b"#!/bin/sh\nrm -rf /\n",
        "elf": b"\x7fELF\x02\x01\x01" + bytes(60),
        "mp4": b"\x00\x00\x00\x20ftypisom\x00\x00\x02\x00isomiso2avc1mp41" + bytes(40),
        "webm": b"\x1a\x45\xdf\xa3" + bytes(60),
        "wav": b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(24),
        "jpeg-xl": b"\xff\x0a" + bytes(60),
        "git-lfs-pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n",
        "wmf": b"\xd7\xcd\xc6\x9a" + bytes(60),
        "fits": b"SIMPLE  =                    T" + bytes(100),
        "only-the-png-signature": PNG_SIGNATURE,
        "only-the-jpeg-marker": b"\xff\xd8\xff",
    }
    yield from ((name, content, NO_IMAGE) for name, content in contents.items())
    for image_format in ("ICO", "PPM", "TGA", "PCX", "JPEG2000", "DDS", "ICNS", "SGI", "XBM"):
        mode = "1" if image_format == "XBM" else "RGB"
        yield f"off-the-list-{image_format}", saved(Image.new(mode, (16, 16)), image_format), NO_IMAGE


def _cut() -> Iterator[tuple[str, bytes, FailureCode, FailureCode]]:
    """Files that end too soon, within the header and within the pixels."""
    for image_format, options in SAVED.items():
        whole = saved(noise(40, 50), image_format, **options)
        for name, size in (("12-bytes", 12), ("a-third", len(whole) // 3), ("half", len(whole) // 2)):
            # Some plugins find the cut when they look whose format it is.
            yield f"{image_format}-cut-at-{name}", whole[:size], BROKEN, NO_IMAGE
        # GIF's last byte is no loss; of the others, the last pixels are there by then.
        if image_format in ("PNG", "BMP", "AVIF", "HEIF"):
            yield f"{image_format}-last-100-bytes-gone", whole[:-100], BROKEN, NO_IMAGE


def _bombs() -> Iterator[tuple[str, bytes, FailureCode]]:
    """Small files that ask for much; each must be refused by its header alone."""
    contents = {
        "png-1-gigapixel": png(32_768, 32_768),
        "png-200-megapixels-real": saved(Image.new("1", (14_000, 14_000)), "PNG"),
        "png-just-over": png(1001, 1000),
        "png-of-2^31": png(2**31 - 1, 2**31 - 1),
        "png-long-side": png(300, 10_001),
        "gif-65535": gif(65_535, 65_535),
        "gif-frame-beyond-its-screen": gif(10, 10, (0, 0, 60_000, 60_000)),
        "gif-frame-far-away": gif(10, 10, (9_000, 9_000, 10, 10)),
        "bmp-of-2^31": bmp(2**31 - 1, 2**31 - 1),
        "bmp-upside-down": bmp(-30_000, 30_000),
        "bmp-rle": bmp(30_000, 30_000, b"\x00\x01", bits=8, compression=1),
        "tiff-65535": grey_tiff(65_535, 65_535, 10, bytes(10)),
        "tiff-of-2^32": grey_tiff(2**32 - 1, 2**32 - 1, 10, bytes(10)),
        "tiff-lzw": grey_tiff(60_000, 60_000, 10, bytes(10), compression=5),
        "webp-16383": webp(16_383, 16_383),
        "webp-canvas-of-2^24": animated_webp_canvas(2**14, 2**14),
        "jpeg-65535": jpeg_of_size(65_500, 65_500),
        "jpeg-3-megapixels-over": jpeg_of_size(2_600, 2_600),
        "avif-16384": avif_of_size(16_384, 16_384),
        "heic-9-megapixels-real": saved(Image.new("RGB", (3000, 3000)), "HEIF"),
        "jpeg-of-1000-scans": many_scans(1000, 1000),
    }
    yield from ((name, content, TOO_LARGE) for name, content in contents.items())
    yield "png-wide-strip", png(1, 9_999), FailureCode.IMAGE_ASPECT
    yield "png-tall-strip", png(9_999, 1), FailureCode.IMAGE_ASPECT


def _corrupt() -> Iterator[tuple[Any, ...]]:
    whole = {name: saved(noise(40, 50), name, **options) for name, options in SAVED.items()}
    idat = whole["PNG"].index(b"IDAT")
    yield "png-pixels-flipped", flipped(whole["PNG"], idat + 200), BROKEN
    yield "png-header-crc", png(9, 9)[:29] + bytes(4) + png(9, 9)[33:], BROKEN, NO_IMAGE
    yield "png-without-pixels", png(9, 9), BROKEN
    yield "png-few-pixels", png(100, 100, bytes(1000)), BROKEN
    yield "png-zero-size", png(0, 0), BROKEN, NO_IMAGE
    yield "png-zero-width", png(9, 0), BROKEN, NO_IMAGE
    yield "png-unknown-colour", png(9, 9, bytes(300), colour=5), BROKEN, NO_IMAGE
    yield "png-unknown-depth", png(9, 9, bytes(300), depth=3), BROKEN, NO_IMAGE
    yield "png-unknown-filter", png(9, 9, b"\x09" * 300), BROKEN
    yield (
        "png-chunk-longer-than-the-file",
        PNG_SIGNATURE + b"\x7f\xff\xff\xffIHDR" + bytes(40),
        BROKEN,
        NO_IMAGE,
    )
    yield "png-no-header", PNG_SIGNATURE + png_chunk(b"IDAT", zlib.compress(bytes(9))), BROKEN, NO_IMAGE
    yield "png-palette-missing", png(9, 9, bytes(90), colour=3), BROKEN
    yield "jpeg-zero-size", jpeg_of_size(0, 0), BROKEN, NO_IMAGE
    yield "jpeg-lossless", whole["JPEG"].replace(b"\xff\xc0", b"\xff\xc3"), BROKEN, NO_IMAGE
    yield "jpeg-hierarchical", whole["JPEG"].replace(b"\xff\xc0", b"\xff\xc5"), BROKEN, NO_IMAGE
    yield "jpeg-of-5-components", five_components(), BROKEN, NO_IMAGE
    yield "gif-zero-size", gif(0, 0), BROKEN, NO_IMAGE
    yield "gif-no-frame", b"GIF89a" + struct.pack("<HHBBB", 9, 9, 0, 0, 0) + b";", BROKEN, NO_IMAGE
    yield "gif-codes-beyond-the-table", gif(20, 30).replace(b"\x02\x02\x44\x01", b"\x0c\x02\xff\xff"), BROKEN
    yield "bmp-zero-width", bmp(9, 0), BROKEN, NO_IMAGE
    yield "bmp-17-bits", bmp(9, 9, bytes(999), bits=17), BROKEN, NO_IMAGE
    yield "bmp-pixels-before-the-file", bmp(9, 9, bytes(300), offset=2**31), BROKEN
    yield "bmp-unknown-compression", bmp(9, 9, bytes(300), compression=77), BROKEN, NO_IMAGE
    yield "bmp-rle-jumps", bmp(9, 9, b"\x00\x02\xff\xff" * 9, bits=8, compression=1, offset=54), BROKEN
    yield "tiff-strip-beyond-the-file", grey_tiff(90, 90, 8100, offset=2**31), BROKEN
    yield "tiff-strip-of-4-gigabytes", grey_tiff(90, 90, 2**32 - 1, bytes(99)), BROKEN
    yield "tiff-directory-beyond-the-file", b"II*\x00\xff\xff\xff\x7f", BROKEN, NO_IMAGE
    yield "tiff-directory-in-itself", b"II*\x00\x04\x00\x00\x00", BROKEN, NO_IMAGE
    yield "tiff-no-directory", b"II*\x00\x00\x00\x00\x00" + bytes(99), BROKEN, NO_IMAGE
    yield "tiff-65535-entries", b"II*\x00\x08\x00\x00\x00\xff\xff" + bytes(99), BROKEN, NO_IMAGE
    yield "tiff-zero-size", grey_tiff(0, 0, 0), BROKEN, NO_IMAGE
    yield "tiff-99-bits", grey_tiff(9, 9, 81, bytes(81), bits=99), BROKEN, NO_IMAGE
    yield "tiff-unknown-compression", grey_tiff(9, 9, 81, bytes(81), compression=31337), BROKEN, NO_IMAGE
    yield "tiff-65535-samples", grey_tiff(9, 9, 81, bytes(81), samples=65_535), BROKEN, NO_IMAGE
    yield "tiff-of-a-fraction-of-its-pixels", grey_tiff(900, 900, 100, bytes(100), compression=5), BROKEN
    yield "tiff-value-of-4-gigabytes", tiff((256, 5, 2**29, 8), (257, 4, 1, 9)), BROKEN, NO_IMAGE
    yield "tiff-floating-point", saved(Image.new("F", (9, 9), 0.5), "TIFF"), BROKEN
    yield "tiff-32-bit-grey", saved(Image.fromarray(np.full((9, 9), 70_000, np.int32)), "TIFF"), BROKEN
    yield "webp-header-alone", webp(100, 100), BROKEN, NO_IMAGE
    yield "webp-animation-without-a-frame", animated_webp_canvas(100, 100), BROKEN, NO_IMAGE
    yield (
        "webp-riff-of-the-wrong-size",
        whole["WEBP"][:4] + b"\xff\xff\xff\x7f" + whole["WEBP"][8:],
        BROKEN,
        NO_IMAGE,
    )
    yield "avif-no-primary-item", whole["AVIF"].replace(b"pitm", b"none"), BROKEN, NO_IMAGE
    yield "heic-brand-alone", b"\x00\x00\x00\x18ftypheic\x00\x00\x00\x00heicmif1" + bytes(40), BROKEN
    yield "heic-no-primary-item", whole["HEIF"].replace(b"pitm", b"none"), BROKEN
    yield "heic-pixels-gone", whole["HEIF"][: whole["HEIF"].index(b"mdat") + 4] + bytes(900), BROKEN
    yield "heic-items-beyond-the-file", whole["HEIF"].replace(b"iloc", b"free"), BROKEN
    yield "heic-boxes-say-a-larger-picture", heic_of_size(16_384, 16_384), BROKEN, TOO_LARGE
    yield "heic-boxes-say-a-smaller-picture", heic_of_size(9, 9), BROKEN
    yield "heic-zero-size", heic_of_size(0, 0), BROKEN
    yield "avif-brand-alone", b"\x00\x00\x00\x1cftypavif\x00\x00\x00\x00avifmif1miaf", BROKEN, NO_IMAGE


def _odd_but_good() -> Iterator[tuple[str, bytes, int, int]]:
    """Files that look wrong but hold a picture."""
    picture = noise(16, 24)
    png_bytes, jpeg_bytes = saved(picture, "PNG"), saved(picture, "JPEG")
    yield "png-text-bomb", png(9, 9, bytes(252), text_bomb()), 9, 9
    yield "jpeg-garbage-exif", jpeg_with(b"Exif\x00\x00" + bytes(range(200))), 16, 24
    yield (
        "jpeg-exif-directory-in-itself",
        jpeg_with(exif(struct.pack("<HHHII", 1, 0x8769, 4, 1, 8) + b"\x08\0\0\0")),
        16,
        24,
    )
    yield "jpeg-exif-beyond-its-end", jpeg_with(exif(b"", offset=2**31)), 16, 24
    yield "jpeg-exif-65535-entries", jpeg_with(exif(b"\xff\xff" + bytes(60))), 16, 24
    yield (
        "jpeg-exif-orientation-of-99",
        jpeg_with(exif(struct.pack("<HHHIIi", 1, 0x112, 3, 1, 99, 0))),
        16,
        24,
    )
    yield (
        "jpeg-exif-orientation-as-text",
        jpeg_with(exif(struct.pack("<HHHI4si", 1, 0x112, 2, 4, b"six\0", 0))),
        16,
        24,
    )
    yield (
        "jpeg-exif-orientation-as-list",
        jpeg_with(exif(struct.pack("<HHHIHHi", 1, 0x112, 3, 2, 6, 6, 0))),
        24,
        16,
    )
    # The standard's tables stand in for missing ones, as in motion JPEG.
    yield "jpeg-no-tables", jpeg_bytes.replace(b"\xff\xc4", b"\xff\xfe"), 16, 24
    yield "jpeg-segment-of-length-0", b"\xff\xd8\xff\xe0\x00\x00" + jpeg_bytes[20:], 16, 24
    yield "avif-boxes-say-another-size", avif_of_size(900, 900), 900, 900
    yield "jpeg-garbage-icc", jpeg_with(b"ICC_PROFILE\x00\x01\x01" + bytes(range(200)), 0xE2), 16, 24
    yield "jpeg-icc-of-255-parts", jpeg_with(b"ICC_PROFILE\x00\x01\xff" + bytes(50), 0xE2), 16, 24
    yield "jpeg-garbage-photoshop", jpeg_with(b"Photoshop 3.0\x008BIM" + b"\xff" * 90, 0xED), 16, 24
    yield "jpeg-garbage-mpo", jpeg_with(b"MPF\x00" + b"\xff" * 90, 0xE2), 16, 24
    yield "jpeg-garbage-adobe", jpeg_with(b"Adobe\x00\xff", 0xEE), 16, 24
    yield (
        "jpeg-xmp-orientation-of-77",
        jpeg_with(b"http://ns.adobe.com/xap/1.0/\x00<x tiff:Orientation='7'/>"),
        16,
        24,
    )
    yield "jpeg-with-html-behind-it", jpeg_bytes + b"<script>alert(1)</script>" * 99, 16, 24
    yield "jpeg-with-a-zip-behind-it", jpeg_bytes + zipped(), 16, 24
    yield "jpeg-with-html-in-a-comment", jpeg_with(b"*/<script>alert(1)</script>/*", 0xFE), 16, 24
    yield "png-with-a-zip-behind-it", png_bytes + zipped(), 16, 24
    yield "png-animated", saved(picture, "PNG", save_all=True, append_images=[noise(16, 24)]), 16, 24
    yield "png-garbage-icc", png(9, 9, bytes(252), png_chunk(b"iCCP", b"x\x00\x00" + bytes(30))), 9, 9
    yield "png-garbage-exif", png(9, 9, bytes(252), png_chunk(b"eXIf", b"\xff" * 30)), 9, 9
    yield "png-unknown-chunk", png(9, 9, bytes(252), png_chunk(b"haCk", bytes(999))), 9, 9
    yield "gif-of-100000-frames", many_frames(100_000), 20, 30
    yield "webp-animated", saved(picture, "WEBP", save_all=True, append_images=[noise(16, 24)]), 16, 24
    yield "avif-animated", saved(picture, "AVIF", speed=10, save_all=True, append_images=[picture]), 16, 24
    yield "heic-of-2-pictures", saved(picture, "HEIF", save_all=True, append_images=[noise(9, 9)]), 16, 24
    second = saved(noise(9, 9), "HEIF", save_all=True, append_images=[picture], primary_index=1)
    yield "heic-whose-second-picture-is-primary", second, 16, 24
    turned = exif(struct.pack("<HHHIIHHIIi", 2, *(0x112, 3, 1, 6), *(0x112, 3, 1, 6), 0))
    yield "heic-exif-orientation-twice", saved(picture, "HEIF", exif=turned), 24, 16
    yield "heic-as-mif1", saved(picture, "HEIF").replace(b"ftypheic", b"ftypmif1"), 16, 24
    yield "heic-garbage-exif", saved(picture, "HEIF", exif=b"Exif\x00\x00" + bytes(range(200))), 16, 24
    yield "tiff-of-2-pages", saved(picture, "TIFF", save_all=True, append_images=[noise(9, 9)]), 16, 24
    yield "tiff-pages-in-a-circle", grey_tiff(16, 24, 384, bytes(384), following=8 + 384), 16, 24
    yield "jpeg-cmyk-of-adobe", saved(picture.convert("CMYK"), "JPEG"), 16, 24
    yield "png-1-bit", saved(picture.convert("1"), "PNG"), 16, 24
    yield "bmp-top-down", bmp(-16, 24, bytes(16 * 72)), 16, 24


def text_bomb() -> bytes:
    """A compressed text of a hundred megabytes."""
    return png_chunk(b"zTXt", b"x\x00\x00" + zlib.compress(bytes(100_000_000), 9))


def five_components() -> bytes:
    content = saved(noise(16, 16), "JPEG")
    place = content.index(b"\xff\xc0")
    head = struct.pack(">HBHHB", 8 + 15, 8, 16, 16, 5) + b"".join(bytes((n, 0x11, 0)) for n in range(1, 6))
    return content[: place + 2] + head + content[place + 19 :]
