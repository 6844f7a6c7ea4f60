"""Damages good image files so that the damage reaches deep into decoders, the same for the same seed."""

import random
import struct
from collections.abc import Iterator
from typing import Final

import numpy as np
from PIL import Image

from tests.faults.bad_images import PNG_SIGNATURE, noise, png_chunk, saved

EXTREMES: Final = (
    b"\x00",
    b"\xff",
    b"\x7f",
    b"\x80",
    b"\x00\x00\x00\x00",
    b"\xff\xff\xff\xff",
    b"\x7f\xff\xff\xff",
)


def bases() -> list[bytes]:
    """Small good files of every format, mode and compression that is let in."""
    picture = noise(24, 32)
    picture.paste((200, 30, 30), (0, 0, 20, 24))
    clear = noise(24, 32, 4)
    grey16 = Image.fromarray(np.arange(24 * 32, dtype=np.uint16).reshape(24, 32) * 80)
    exif = Image.Exif()
    exif[0x0112] = 6
    exif[0x010E] = "a description"
    frames = {"save_all": True, "append_images": [noise(24, 32), noise(24, 32)]}
    return [
        saved(picture, "JPEG", quality=90, exif=exif),
        saved(picture, "JPEG", quality=60, progressive=True),
        saved(picture, "JPEG", quality=60, restart_marker_rows=1),
        saved(picture.convert("CMYK"), "JPEG"),
        saved(picture.convert("L"), "JPEG"),
        saved(picture, "PNG", exif=exif),
        saved(clear, "PNG"),
        saved(grey16, "PNG"),
        saved(picture.convert("P"), "PNG", transparency=3),
        saved(picture.convert("1"), "PNG"),
        saved(picture, "PNG", **frames),
        saved(picture, "WEBP", lossless=True, exif=exif),
        saved(clear, "WEBP", quality=60),
        saved(picture, "WEBP", **frames),
        saved(picture, "GIF", **frames),
        saved(picture.convert("P"), "GIF", transparency=3),
        saved(picture, "AVIF", speed=10, exif=exif),
        saved(clear, "AVIF", speed=10),
        saved(picture, "HEIF", quality=60, exif=exif.tobytes()),
        saved(clear, "HEIF", quality=60),
        saved(picture, "BMP"),
        saved(picture.convert("P"), "BMP"),
        saved(picture.convert("1"), "BMP"),
        saved(clear, "BMP"),
        saved(picture, "TIFF", exif=exif, **frames),
        saved(grey16, "TIFF", compression="tiff_lzw"),
        saved(picture, "TIFF", compression="tiff_lzw"),
        saved(clear, "TIFF", compression="tiff_adobe_deflate"),
        saved(picture, "TIFF", compression="jpeg"),
        saved(picture, "TIFF", compression="packbits", tiled=True),
        saved(picture.convert("1"), "TIFF", compression="group4"),
        saved(picture.convert("1"), "TIFF", compression="group3"),
        saved(picture.convert("CMYK"), "TIFF"),
        # Its profile tells the second in which it was made.
        saved(picture.convert("LAB"), "TIFF", icc_profile=b""),
    ]


def mutated(count: int, seed: int) -> Iterator[bytes]:
    """So many damaged files; each has one to four of the damages below."""
    chance = random.Random(seed)
    whole = bases()
    for _ in range(count):
        content = chance.choice(whole)
        for _ in range(chance.choice((1, 1, 1, 2, 4))):
            content = chance.choice(DAMAGES)(content, whole, chance)
        # Most damage to a PNG would be noticed by the checksums alone.
        yield with_checksums(content) if chance.random() < 0.7 else content


def _flipped(content: bytes, _: list[bytes], chance: random.Random) -> bytes:
    damaged = bytearray(content)
    for _number in range(chance.choice((1, 2, 8, 64)) if content else 0):
        damaged[_place(content, chance)] ^= 1 << chance.randrange(8)
    return bytes(damaged)


def _extreme(content: bytes, _: list[bytes], chance: random.Random) -> bytes:
    """Replace one byte or four with values that make sizes, counts and offsets overflow."""
    value, place = chance.choice(EXTREMES), _place(content, chance)
    return content[:place] + value + content[place + len(value) :]


def _cut(content: bytes, _: list[bytes], chance: random.Random) -> bytes:
    return content[: chance.randrange(len(content) + 1)]


def _spliced(content: bytes, others: list[bytes], chance: random.Random) -> bytes:
    """The beginning of one, the end of another."""
    other = chance.choice(others)
    return content[: chance.randrange(len(content) + 1)] + other[chance.randrange(len(other)) :]


def _doubled(content: bytes, _: list[bytes], chance: random.Random) -> bytes:
    begin = _place(content, chance)
    end = begin + chance.choice((1, 4, 12, 100, 1000))
    return content[:end] + content[begin:end] * chance.choice((1, 2, 50)) + content[end:]


def _dropped(content: bytes, _: list[bytes], chance: random.Random) -> bytes:
    begin = _place(content, chance)
    return content[:begin] + content[begin + chance.choice((1, 2, 4, 12, 100)) :]


DAMAGES: Final = (_flipped, _flipped, _extreme, _extreme, _cut, _spliced, _doubled, _dropped)


def _place(content: bytes, chance: random.Random) -> int:
    """Any offset, half of the time among the first bytes, which describe the others."""
    if not content:
        return 0
    return chance.randrange(min(len(content), 200) if chance.random() < 0.5 else len(content))


def with_checksums(content: bytes) -> bytes:
    """The PNG with correct checksums of its chunks; everything else is unchanged."""
    if not content.startswith(PNG_SIGNATURE):
        return content
    right, place = PNG_SIGNATURE, len(PNG_SIGNATURE)
    while place + 12 <= len(content):
        (length,) = struct.unpack_from(">I", content, place)
        if place + 12 + length > len(content):
            break
        right += png_chunk(content[place + 4 : place + 8], content[place + 8 : place + 8 + length])
        place += 12 + length
    return right + content[place:]
