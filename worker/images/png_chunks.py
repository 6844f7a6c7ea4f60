"""Leaves out of a PNG file what decides no pixel, without reading it; knows no pixels.

A decoder refuses a good picture for a text that unpacks to much, a short gamma, a comment's checksum.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
HEAD: Final = struct.Struct(">I4s")
CHECKSUM_BYTES: Final = 4
ANCILLARY: Final = 0x20
"""The bit of a name's first letter that says that a decoder may do without the chunk."""
TRANSPARENCY: Final = b"tRNS"
TURN: Final = b"eXIf"
COLOUR_PLACE: Final = 25
"""Where the file says of which kind its pixels are."""
TRANSPARENT_BYTES: Final = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}
"""Kind of pixels → how long its transparency may be."""
TURNING: Final = {b"iTXt": (b"XML:com.adobe.xmp\0",), b"zTXt": (b"Raw profile type exif\0",)}
"""Texts by their keywords that may say how the picture is turned."""
TEXT_BYTES: Final = 2**20
"""Of one of them, unpacked; no program's are larger."""
_COMPRESSED_TEXT: Final = {b"iTXt": 18, b"zTXt": 22}
"""Where the byte is that says whether, or how, such a text is packed."""


def pixels_alone(content: bytes) -> bytes:
    """The file without what decides no pixel; as it is where it is no PNG or nothing is to be left out."""
    if not content.startswith(SIGNATURE):
        return content
    kept: list[bytes] = []
    begin = len(SIGNATURE)
    for place, end, name in _chunks(content):
        if name[0] & ANCILLARY and not _decides(name, content[place:end], content[COLOUR_PLACE]):
            kept.append(content[begin:place])
            begin = end
    if not kept:
        return content
    return b"".join([SIGNATURE, *kept, content[begin:]])


def _chunks(content: bytes) -> Iterator[tuple[int, int, bytes]]:
    """Begin, end and name of each chunk that is there as a whole."""
    place = len(SIGNATURE)
    while place + HEAD.size <= len(content):
        size_bytes, name = HEAD.unpack_from(content, place)
        end = place + HEAD.size + size_bytes + CHECKSUM_BYTES
        if end > len(content) or not name.isalpha():
            return
        yield place, end, name
        place = end


def _decides(name: bytes, chunk: bytes, colour: int) -> bool:
    """Whether an ancillary chunk is whole, and says something of pixels or of how they are turned."""
    told = chunk[HEAD.size : -CHECKSUM_BYTES]
    if name == TRANSPARENCY:
        says = len(told) in TRANSPARENT_BYTES.get(colour, ())
    elif name == TURN:
        says = True
    else:
        says = told.startswith(TURNING.get(name, ())) and _is_small(name, told)
    return says and zlib.crc32(chunk[4:-CHECKSUM_BYTES]) == int.from_bytes(chunk[-CHECKSUM_BYTES:])


def _is_small(name: bytes, told: bytes) -> bool:
    """Whether a text is small, unpacked too."""
    if len(told) > TEXT_BYTES:
        return False
    place = _COMPRESSED_TEXT[name]
    if name == b"iTXt":
        return told[place : place + 1] == b"\0"
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(told[place + 1 :], TEXT_BYTES)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail
