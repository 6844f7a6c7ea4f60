"""Reads records of a JSONL file or of a JSON list; knows nothing of their meaning."""

import codecs
import json
import re
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final

from producer.sources.json_text import DECODER, parsed_object
from producer.sources.lines import LINE_MAX_BYTES, TOO_LONG, at_fault, line_at, lines
from producer.sources.records import BadRecord, Record
from producer.sources.refusal import SourceError
from producer.sources.text import has_strange_bytes, open_text, strange_note

CHUNK_BYTES: Final = 1 << 18
_SPACE: Final = re.compile(r"[ \t\r\n]*")
_LONGEST_TOKEN: Final = 16
"""Upper bound of the length of a literal, number or escape that a chunk's end may cut."""


class JsonLines:
    """One JSON object per line."""

    unit: Final = "line"
    columns: Final = None

    def __init__(self, source: str, encoding: str | None = None) -> None:
        self._source = source
        self._encoding = encoding
        self.notes: tuple[str, ...] = ()
        self._again: IO[bytes] | None = None

    def records(self) -> Iterator[Record | BadRecord | SourceError]:
        with open_text(self._source, self._encoding) as stream:
            number = 0
            try:
                for line in lines(stream):
                    number = line.number
                    if not line.text.strip():
                        continue
                    if not self.notes and has_strange_bytes(line.text):
                        self.notes = (strange_note(self._source, f"line {number}"),)
                    try:
                        fields = parsed_object(line.text)
                    except SourceError as error:
                        yield BadRecord(number, str(error))
                    else:
                        yield Record(number, line.offset_bytes, fields)
            except SourceError as error:
                yield SourceError(f"line {at_fault(error, number)}: {error}")

    def at(self, place: int) -> Mapping[str, Any]:
        if self._again is None:
            self._again = open_text(self._source, self._encoding)
        return parsed_object(line_at(self._again, place))


class JsonList:
    """The entries of one list, read one at a time."""

    unit: Final = "entry"
    columns: Final = None
    notes: Final = ()

    def __init__(self, source: str, encoding: str | None = None) -> None:
        self._source = source
        self._encoding = encoding
        self._again: Iterator[Record | BadRecord | SourceError] = iter(())
        self._next = 0

    def records(self) -> Iterator[Record | BadRecord | SourceError]:
        number = 0
        with open_text(self._source, self._encoding) as stream:
            try:
                for number, fields in enumerate(_entries(stream), start=1):
                    yield Record(number, number - 1, fields)
            except SourceError as error:
                yield SourceError(f"entry {number + 1}: {error}")

    def at(self, place: int) -> Mapping[str, Any]:
        if place < self._next or self._next == 0:
            self._again, self._next = self.records(), 0
        for record in self._again:
            self._next += 1
            if isinstance(record, Record) and record.place == place:
                return record.fields
        raise SourceError("no such entry")


class _Buffer:
    """Text of a stream, and how far it has been read."""

    def __init__(self, stream: IO[bytes]) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8-sig")("surrogateescape")
        self.text = ""
        self.at = 0
        self.ended = False

    def more(self, size_bytes: int = CHUNK_BYTES) -> None:
        """Read on from the stream, and drop the text before `at`."""
        raw = self._stream.read(size_bytes)
        self.ended = not raw
        self.text = self.text[self.at :] + self._decoder.decode(raw, final=self.ended)
        self.at = 0

    def first(self) -> str:
        """Skip spaces. Returns the next character, or "" at the end."""
        while True:
            space = _SPACE.match(self.text, self.at)
            assert space is not None
            self.at = space.end()
            if self.at < len(self.text) or self.ended:
                return self.text[self.at : self.at + 1]
            self.more()


def _entries(stream: IO[bytes]) -> Iterator[dict[str, Any]]:
    buffer = _Buffer(stream)
    if buffer.first() != "[":
        raise SourceError("the file is not a JSON list")
    buffer.at += 1
    if buffer.first() == "]":
        buffer.at += 1
        _require_end(buffer)
        return
    while True:
        if buffer.first() != "{":
            raise SourceError("not a JSON object")
        yield _entry(buffer)
        separator = buffer.first()
        buffer.at += 1
        if separator == "]":
            break
        if separator != ",":
            raise SourceError("not JSON: a comma or the list's end is missing after it")
    _require_end(buffer)


def _require_end(buffer: _Buffer) -> None:
    if buffer.first():
        raise SourceError("not JSON: the file goes on after the list's end")


def _entry(buffer: _Buffer) -> dict[str, Any]:
    size_bytes = CHUNK_BYTES
    while True:
        try:
            fields, end = DECODER.raw_decode(buffer.text, buffer.at)
        except json.JSONDecodeError as error:
            cut = error.msg.startswith("Unterminated") or error.pos > len(buffer.text) - _LONGEST_TOKEN
            if buffer.ended or not cut:
                raise SourceError(f"not JSON: {error.msg}") from None
            if len(buffer.text) - buffer.at > LINE_MAX_BYTES:
                raise SourceError(f"the entry {TOO_LONG}") from None
            buffer.more(size_bytes)
            # Doubled, so that a long entry is not parsed again for each chunk.
            size_bytes *= 2
        except (ValueError, RecursionError):
            raise SourceError("not JSON: a number too long, or brackets too deep") from None
        else:
            buffer.at = end
            assert isinstance(fields, dict)
            return fields
