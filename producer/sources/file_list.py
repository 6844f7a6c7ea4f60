"""Reads rows of a text file with one image per line; opens no image."""

from collections.abc import Iterator

from producer.rows import Row
from producer.sources.bad_rows import BadRows
from producer.sources.files import reading
from producer.sources.images import content_of, holds_bytes, named_image
from producer.sources.lines import at_fault, line_at, lines
from producer.sources.refusal import SourceError, shown
from producer.sources.source import PlainSource
from producer.sources.text import open_text


class FileList(PlainSource):
    """One path or URL per line, taken literally; blank lines are skipped."""

    def __init__(self, source: str, root: str, encoding: str | None = None) -> None:
        self._encoding = encoding
        self._source = source
        self._root = root

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        empty = True
        bad = bad or BadRows()
        shown_source = shown(self._source)
        number = 0
        with reading(self._source), open_text(self._source, self._encoding) as stream:
            try:
                for line in lines(stream):
                    number = line.number
                    text = line.text.removesuffix("\n").removesuffix("\r")
                    if not text.strip():
                        continue
                    empty = False
                    where = f"{shown_source}, line {number}"
                    try:
                        image = named_image(text, self._root, line.offset_bytes)
                    except SourceError as error:
                        yield from bad.instead(str(number), where, str(error))
                        continue
                    name = None if holds_bytes(text) else text
                    yield Row(id=str(number), name=name, image=image, where=where)
            except SourceError as error:
                raise SourceError(f"{shown(self._source)}, line {at_fault(error, number)}: {error}") from None
        if empty:
            raise SourceError(f"{shown(self._source)} has no lines.")

    def read(self, place: int) -> bytes:
        with reading(self._source), open_text(self._source, self._encoding) as stream:
            text = line_at(stream, place).rstrip("\r\n")
        if not holds_bytes(text):
            raise SourceError(f"{shown(self._source)} was changed while it was in use.")
        return content_of(text)
