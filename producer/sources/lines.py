"""Reads lines of a text file with their numbers and offsets; knows nothing of their contents."""

from collections.abc import Iterator
from typing import IO, Final, NamedTuple

from producer.sources.refusal import SourceError

LINE_MAX_BYTES: Final = 100 * 2**20
"""Largest size of a line, a cell or an entry; an image of 50 MB is 67 MB as a data: URL."""
TOO_LONG: Final = f"has more than {LINE_MAX_BYTES // 2**20} MiB"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LineError(SourceError):
    """The file cannot be read from a line on."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number
        """Number of that line."""


def at_fault(error: SourceError, number: int) -> int:
    """The number of the line with the error, after `number` lines were read."""
    return error.number if isinstance(error, LineError) else number or 1


class Line(NamedTuple):
    """One line with its end, in UTF-8; other bytes are surrogates, as in file names."""

    number: int
    """Number of the line, from 1."""
    offset_bytes: int
    text: str


def lines(stream: IO[bytes]) -> Iterator[Line]:
    """The lines from the stream's beginning on. Raises LineError for a line that is too long."""
    offset = 0
    number = 0
    while raw := stream.readline(LINE_MAX_BYTES + 1):
        number += 1
        if len(raw) > LINE_MAX_BYTES:
            raise LineError(number, f"the line {TOO_LONG}")
        yield Line(number, offset, _text(raw, offset))
        offset += len(raw)


def line_at(stream: IO[bytes], offset_bytes: int) -> str:
    stream.seek(offset_bytes)
    return _text(stream.readline(LINE_MAX_BYTES), offset_bytes)


def _text(raw: bytes, offset_bytes: int) -> str:
    if offset_bytes == 0:
        raw = raw.removeprefix(_BYTE_ORDER_MARK)
    return raw.decode("utf-8", "surrogateescape")
