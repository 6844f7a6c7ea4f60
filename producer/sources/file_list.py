"""Rows of a text file that names one image a line; opens no image."""

from collections.abc import Iterator
from pathlib import Path

from producer.rows import Row
from producer.sources.files import open_plain, reading
from producer.sources.images import content_of, holds_bytes, named_image
from producer.sources.lines import at_fault, line_at, lines
from producer.sources.refusal import SourceError, shown
from producer.sources.skipped import Skipped


class FileList:
    """One path or URL a line, taken as it is; blank lines are passed over."""

    columns: tuple[str, ...] | None = ()
    skipped = Skipped()
    images_folder: Path | None = None

    def __init__(self, source: str, root: str) -> None:
        self._source = source
        self._root = root

    def rows(self) -> Iterator[Row]:
        empty = True
        number = 0
        with reading(self._source), open_plain(self._source) as stream:
            try:
                for line in lines(stream):
                    number = line.number
                    text = line.text.removesuffix("\n").removesuffix("\r")
                    if not text.strip():
                        continue
                    empty = False
                    image = named_image(text, self._root, line.offset_bytes)
                    yield Row(id=str(number), name=None if holds_bytes(text) else text, image=image)
            except SourceError as error:
                raise SourceError(f"{shown(self._source)}, line {at_fault(error, number)}: {error}") from None
        if empty:
            raise SourceError(f"{shown(self._source)} has no lines.")

    def read(self, place: int) -> bytes:
        with reading(self._source), open_plain(self._source) as stream:
            text = line_at(stream, place).rstrip("\r\n")
        if not holds_bytes(text):
            raise SourceError(f"{shown(self._source)} was changed while it was in use.")
        return content_of(text)
