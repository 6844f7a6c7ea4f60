"""Counts the scans of a JPEG file before anything decodes them; knows no pixels.

Each scan of a progressive JPEG goes over the whole picture and may take but a hundred bytes of the file: one
of 345 KB, 64 megapixels and a thousand scans takes a minute to decode.
"""

import re
from typing import Final

MARKER: Final = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
"""A marker with a length after it, or the end. Among pixels FF is followed by 00 or by a restart's number."""
SCAN: Final = 0xDA
END: Final = 0xD9


def scan_count(content: bytes) -> int:
    """How many scans a decoder would find until the end of the first image in the file."""
    scans = place = 0
    while marker := MARKER.search(content, place):
        kind = marker[1][0]
        if kind == END:
            break
        scans += kind == SCAN
        place = marker.end() + int.from_bytes(content[marker.end() : marker.end() + 2])
    return scans
