"""Reads the markers of a JPEG file before anything decodes it; knows no pixels.

Each scan of a progressive JPEG covers the whole picture but may take only a hundred bytes of the file. A file
of 345 KB with 64 megapixels and a thousand scans takes a minute to decode.
"""

import re
from collections.abc import Iterator
from typing import Final

START: Final = b"\xff\xd8\xff"
MARKER: Final = re.compile(rb"\xff([^\x00\x01\xff\xd0-\xd8])")
"""A marker that a length follows, or the end. Within pixels FF is followed by 00 or a restart marker."""
SCAN: Final = 0xDA
END: Final = 0xD9
FRAMES: Final = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
"""Markers of a frame header, which names the kind of picture and its components."""
COEFFICIENTS: Final = 64


def scan_count(content: bytes) -> int:
    """Number of scans that a decoder would find up to the end of the first image in the file."""
    return sum(kind == SCAN for kind, _ in _segments(content))


def lacks_end(content: bytes) -> bool:
    """Whether the file is a JPEG that stops before its first image ends, as a broken download does."""
    if not content.startswith(START) or content.endswith(b"\xff\xd9"):
        return False
    return all(kind != END for kind, _ in _segments(content))


def has_every_scan(content: bytes) -> bool:
    """Whether scans for all coefficients of every component have begun; the last scan may be cut."""
    components: set[int] = set()
    covered: dict[int, set[int]] = {}
    for kind, segment in _segments(content):
        if kind in FRAMES:
            components = set(segment[6::3])
        elif kind == SCAN and segment:
            count = segment[0]
            first, last, approximation = segment[1 + 2 * count : 4 + 2 * count].ljust(3, b"\xff")
            if approximation & 0x0F == 0:
                for component in segment[1 : 1 + 2 * count : 2]:
                    covered.setdefault(component, set()).update(range(first, last + 1))
    return bool(components) and all(
        covered.get(component, set()) >= set(range(COEFFICIENTS)) for component in components
    )


def _segments(content: bytes) -> Iterator[tuple[int, bytes]]:
    """Marker and content of each segment, up to the end of the first image."""
    place = 0
    while marker := MARKER.search(content, place):
        kind = marker[1][0]
        size_bytes = int.from_bytes(content[marker.end() : marker.end() + 2])
        yield kind, content[marker.end() + 2 : marker.end() + size_bytes]
        if kind == END:
            return
        place = marker.end() + size_bytes
