"""Records of a CSV or TSV file with a header; knows which cells hold lists, and nothing of images."""

import csv
from collections.abc import Iterator, Mapping
from typing import IO, Any, Final

from producer.sources.files import open_plain, reading
from producer.sources.lines import LINE_MAX_BYTES, Line, TooLongError, at_fault, lines
from producer.sources.parameters import GROUP, parsed
from producer.sources.records import Record
from producer.sources.refusal import SourceError, listed, shown
from producer.sources.source import SourceOptions

csv.field_size_limit(LINE_MAX_BYTES)  # a cell may hold an image as a data: URL


class Delimited:
    """One record a row; what is quoted may go over several lines."""

    unit: Final = "line"

    def __init__(self, source: str, delimiter: str, options: SourceOptions) -> None:
        """Reads the header. Raises SourceError if there is none, or two columns have one name."""
        self._source = source
        self._delimiter = delimiter
        self._options = options
        self._again: IO[bytes] | None = None
        with reading(source), open_plain(source) as stream:
            try:
                _, header = next(self._rows(lines(stream)), (None, []))
                if isinstance(header, SourceError):
                    raise header
            except SourceError as error:
                raise SourceError(f"{shown(source)}, line 1: {error}") from None
        if not header:
            raise SourceError(f"{shown(source)} has no lines.")
        doubled = [name for place, name in enumerate(header) if name in header[:place]]
        if doubled:
            raise SourceError(f"{shown(source)}: its header names {listed(doubled)} twice.")
        self.columns = tuple(header)

    def records(self) -> Iterator[Record | SourceError]:
        number = 0
        with open_plain(self._source) as stream:
            try:
                for first, cells in self._rows(lines(stream)):
                    number = first.number
                    if isinstance(cells, SourceError):
                        raise cells
                    if cells and first.offset_bytes:
                        yield Record(number, first.offset_bytes, self._fields(cells))
            except SourceError as error:
                yield SourceError(f"line {at_fault(error, number)}: {error}")

    def at(self, place: int) -> Mapping[str, Any]:
        if self._again is None:
            self._again = open_plain(self._source)
        self._again.seek(place)
        _, cells = next(self._rows(lines(self._again)), (None, []))
        if isinstance(cells, SourceError):
            raise cells
        return self._fields(cells)

    def _rows(self, source: Iterator[Line]) -> Iterator[tuple[Line, list[str] | SourceError]]:
        """Cells of each row and the line that it begins with; the reader asks for no line too many."""
        begun: list[Line] = []

        def texts() -> Iterator[str]:
            size = 0
            for line in source:
                size = size + len(line.text) if begun else len(line.text)
                begun.append(line)
                if size > LINE_MAX_BYTES:
                    raise TooLongError(begun[0].number, "the row")
                yield line.text

        reader = csv.reader(texts(), delimiter=self._delimiter, strict=True)
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield begun[0], SourceError(f"not {self._form()}: {error}")
                return
            first = begun[0]
            begun.clear()
            yield first, cells

    def _form(self) -> str:
        return "TSV" if self._delimiter == "\t" else "CSV"

    def _fields(self, cells: list[str]) -> dict[str, Any]:
        if len(cells) != len(self.columns):
            raise SourceError(f"{len(cells)} cells, but the header names {len(self.columns)} columns")
        return self._read(dict(zip(self.columns, cells, strict=True)))

    def _read(self, fields: dict[str, Any]) -> dict[str, Any]:
        """Lists and objects as such, and a blank cell as null."""
        options = self._options
        objects = {"questions", "messages", "conversations"} if options.own_questions else set()
        for name, text in fields.items():
            if not text.strip():
                fields[name] = None
            elif name == options.image_column:
                continue
            elif name in objects or (name == GROUP and text.lstrip().startswith("{")):
                fields[name] = parsed(text)
        return fields
