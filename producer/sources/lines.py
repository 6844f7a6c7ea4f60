"""Lines of a text file with their numbers and offsets; knows nothing of what they say."""

from collections.abc import Iterator
from typing import IO, Final, NamedTuple

from producer.sources.refusal import SourceError

LINE_MAX_BYTES: Final = 100 * 2**20
"""Of a line, a cell or an entry. An image of the 50 MB that workers take is 67 MB as a data: URL."""
TOO_LONG: Final = f"has more than {LINE_MAX_BYTES // 2**20} MiB"
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


class LineError(SourceError):
    """What cannot be read from a line on."""

    def __init__(self, number: int, reason: str) -> None:
        super().__init__(reason)
        self.number = number
        """Of the line that it begins with."""


def at_fault(error: SourceError, number: int) -> int:
    """The number of the line that `error` is about, after `number` lines were read."""
    return error.number if isinstance(error, LineError) else number or 1


class Line(NamedTuple):
    """One line with its end, in UTF-8; other bytes are surrogates, as in names of files."""

    number: int
    """From 1."""
    offset_bytes: int
    text: str


def lines(stream: IO[bytes]) -> Iterator[Line]:
    """The lines from the stream's beginning on. Raises SourceError for lines without end."""
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
