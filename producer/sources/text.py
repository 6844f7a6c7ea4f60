"""Opens text files of any encoding as UTF-8; knows nothing of their contents."""

import codecs
import io
from typing import IO, Any, Final, cast

from contract.quoting import quoted
from producer.sources.files import open_plain
from producer.sources.refusal import SourceError, shown

HEAD_BYTES: Final = 1 << 16
PIECE_BYTES: Final = 1 << 16
_MARKS: Final = (
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_text(source: str, encoding: str | None = None) -> IO[bytes]:
    """A file's text in UTF-8, with newlines as line ends; offsets count its bytes in that form.

    Without `encoding`, UTF-16 and UTF-32 are recognised by their marks; other bytes are unchanged. Raises
    SourceError.
    """
    stream = open_plain(source)
    head = stream.read(HEAD_BYTES)
    stream.seek(0)
    encoding = encoding or next((name for mark, name in _MARKS if head.startswith(mark)), None)
    if encoding is not None:
        # Invalid bytes are reported when they are read.
        head = text_codec(encoding).incrementaldecoder("replace").decode(head).encode("utf-8", "replace")
    # Spreadsheets of old Macs end lines so.
    returns = b"\r" in head and b"\n" not in head
    if encoding is None and not returns:
        return stream
    recoded = _Recoded(stream, encoding, shown(source), returns=returns)
    return cast(IO[bytes], io.BufferedReader(recoded, PIECE_BYTES))


def text_codec(encoding: str) -> codecs.CodecInfo:
    """The codec of an encoding. Raises SourceError if it is unknown or not for text."""
    try:
        codec = codecs.lookup(encoding)
        b"".decode(encoding)
    except (LookupError, ValueError):
        raise SourceError(
            f'--encoding "{quoted(encoding)}" is not known; usual ones are utf-8, cp1252, latin-1, utf-16, '
            "shift_jis, gb18030."
        ) from None
    return codec


def has_strange_bytes(text: str) -> bool:
    """Whether text that was read as UTF-8 has bytes that are not UTF-8."""
    if text.isascii():
        return False
    try:
        text.encode()
    except UnicodeEncodeError:
        return True
    return False


def strange_note(source: str, where: str) -> str:
    """A sentence about a file with such bytes."""
    return (
        f"{shown(source)} is not in UTF-8 ({where}), and its bytes are kept as they are: --encoding says "
        "what it is in, such as cp1252."
    )


class _Recoded(io.RawIOBase):
    """Text recoded to UTF-8. Raises SourceError for bytes that are invalid in the encoding."""

    def __init__(self, stream: IO[bytes], encoding: str | None, name: str, *, returns: bool) -> None:
        """`returns`: lines end in carriage returns. `encoding` None leaves the bytes unchanged."""
        self._stream = stream
        self._encoding = encoding
        self._name = name
        self._returns = returns
        self._begin()

    def _begin(self) -> None:
        self._stream.seek(0)
        codec = None if self._encoding is None else text_codec(self._encoding)
        self._decoder = None if codec is None else codec.incrementaldecoder("strict")
        self._read_bytes = 0
        self._at = 0
        self._left = b""
        self._ended = False

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and not self._ended:
            piece = self._stream.read(PIECE_BYTES)
            self._ended = not piece
            self._left = self._recoded(piece)
            self._read_bytes += len(piece)
        size = min(len(buffer), len(self._left))
        buffer[:size] = self._left[:size]
        self._left = self._left[size:]
        self._at += size
        return size

    def _recoded(self, piece: bytes) -> bytes:
        if self._decoder is not None:
            try:
                text = self._decoder.decode(piece, final=self._ended)
            except UnicodeDecodeError as error:
                place = self._read_bytes + error.start
                raise SourceError(
                    f"{self._name} is not in {self._encoding}: its byte {place + 1} is none; --encoding "
                    "names another one."
                ) from None
            piece = text.encode("utf-8", "surrogatepass")
        return piece.replace(b"\r", b"\n") if self._returns else piece

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        assert whence == io.SEEK_SET
        if offset < self._at:
            self._begin()
        while self._at < offset:
            if not self.readinto(bytearray(min(PIECE_BYTES, offset - self._at))):
                break
        return self._at

    def tell(self) -> int:
        return self._at

    def close(self) -> None:
        if not self.closed:
            self._stream.close()
        super().close()
