"""Lines of a text file with their numbers and offsets; knows nothing of what they say."""

from collections.abc import Iterator
from typing import IO, NamedTuple

from producer.sources.refusal import SourceError

_BYTE_ORDER_MARK = b"\xef\xbb\xbf"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")


class Line(NamedTuple):
    """One line with its end, in UTF-8; other bytes are surrogates, as in names of files."""

    number: int
    """From 1."""
    offset_bytes: int
    text: str


def lines(stream: IO[bytes]) -> Iterator[Line]:
    """The lines from the stream's beginning on. Raises SourceError for UTF-16."""
    offset = 0
    for number, raw in enumerate(stream, start=1):
        if offset == 0 and raw.startswith(_UTF_16):
            raise SourceError("the file is in UTF-16; save it as UTF-8")
        yield Line(number, offset, _text(raw, offset))
        offset += len(raw)


def line_at(stream: IO[bytes], offset_bytes: int) -> str:
    stream.seek(offset_bytes)
    return _text(stream.readline(), offset_bytes)


def _text(raw: bytes, offset_bytes: int) -> str:
    if offset_bytes == 0:
        raw = raw.removeprefix(_BYTE_ORDER_MARK)
    return raw.decode("utf-8", "surrogateescape")
