"""Takes out of a PNG file the chunks that change no pixel, without decoding; knows no pixels.

A decoder refuses a good picture for a text that unpacks to much, a short gamma or a comment's checksum.
"""

import struct
import zlib
from collections.abc import Iterator
from typing import Final

SIGNATURE: Final = b"\x89PNG\r\n\x1a\n"
HEAD: Final = struct.Struct(">I4s")
CHECKSUM_BYTES: Final = 4
ANCILLARY: Final = 0x20
"""Bit of a name's first letter that marks a chunk as unnecessary for decoding."""
TRANSPARENCY: Final = b"tRNS"
TURN: Final = b"eXIf"
COLOUR_PLACE: Final = 25
"""Offset in bytes of the colour type in the file."""
TRANSPARENT_BYTES: Final = {0: range(2, 3), 2: range(6, 7), 3: range(1, 257)}
"""Colour type → lengths in bytes that its transparency chunk may have."""
TURNING: Final = {b"iTXt": (b"XML:com.adobe.xmp\0",), b"zTXt": (b"Raw profile type exif\0",)}
"""Name of a text chunk → keywords of texts that may say how the picture is turned."""
TEXT_BYTES: Final = 2**20
"""Most bytes of such a text, unpacked; no program writes larger ones."""
_COMPRESSED_TEXT: Final = {b"iTXt": 18, b"zTXt": 22}
"""Name of a text chunk → offset in bytes of the flag that says whether, or how, it is packed."""


def pixels_alone(content: bytes) -> bytes:
    """The file without chunks that change no pixel; unchanged if it is no PNG or has no such chunk."""
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
    """Begin, end and name of each complete chunk."""
    place = len(SIGNATURE)
    while place + HEAD.size <= len(content):
        size_bytes, name = HEAD.unpack_from(content, place)
        end = place + HEAD.size + size_bytes + CHECKSUM_BYTES
        if end > len(content) or not name.isalpha():
            return
        yield place, end, name
        place = end


def _decides(name: bytes, chunk: bytes, colour: int) -> bool:
    """Whether an ancillary chunk is intact and affects pixels or how they are turned."""
    content = chunk[HEAD.size : -CHECKSUM_BYTES]
    if name == TRANSPARENCY:
        decides = len(content) in TRANSPARENT_BYTES.get(colour, ())
    elif name == TURN:
        decides = True
    else:
        decides = content.startswith(TURNING.get(name, ())) and _is_small(name, content)
    return decides and zlib.crc32(chunk[4:-CHECKSUM_BYTES]) == int.from_bytes(chunk[-CHECKSUM_BYTES:])


def _is_small(name: bytes, content: bytes) -> bool:
    """Whether a text is small, also once unpacked."""
    if len(content) > TEXT_BYTES:
        return False
    place = _COMPRESSED_TEXT[name]
    if name == b"iTXt":
        return content[place : place + 1] == b"\0"
    unpacking = zlib.decompressobj()
    try:
        unpacking.decompress(content[place + 1 :], TEXT_BYTES)
    except zlib.error:
        return False
    return not unpacking.unconsumed_tail
