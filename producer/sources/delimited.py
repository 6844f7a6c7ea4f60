"""Reads records of a CSV or TSV file with a header; knows nothing of images."""

import csv
import itertools
import re
from collections.abc import Iterator, Mapping, Sequence
from typing import IO, Any, Final, Literal

from contract.counting import counted
from contract.quoting import quoted
from producer.sources.conversation import QUESTION_COLUMNS
from producer.sources.fields import IMAGE_COLUMNS
from producer.sources.files import reading
from producer.sources.lines import LINE_MAX_BYTES, TOO_LONG, Line, LineError, at_fault, lines
from producer.sources.parameters import GROUP, parsed
from producer.sources.records import BadRecord, Record
from producer.sources.refusal import SourceError, listed, shown
from producer.sources.source import SourceOptions
from producer.sources.text import has_strange_bytes, open_text, strange_note

DELIMITERS: Final = (",", ";", "\t", "|")
SAMPLE_LINES: Final = 20
_SEPARATOR_LINE: Final = re.compile(r'"?sep=([^\r\n"])"?\s*', re.IGNORECASE)
"""The line that spreadsheets write before the header."""
_UNENDED: Final = "unexpected end of data"
"""csv's message for a quote that is never closed."""

csv.field_size_limit(LINE_MAX_BYTES)  # a cell may hold an image as a data: URL


class Delimited:
    """One record per row; quoted cells may span lines."""

    unit: Final = "line"

    def __init__(self, source: str, form: Literal["csv", "tsv"], options: SourceOptions) -> None:
        """Reads the header. Raises SourceError if there is none, or if two columns have the same name."""
        self._source = source
        self._options = options
        self._again: IO[bytes] | None = None
        self._strange: int | None = None
        """The first line with bytes that are not UTF-8."""
        self._quoted_rows = 0
        """Number of rows with a cell in quotes, where quotes are text."""
        with reading(source), self._opened() as stream:
            try:
                self._read_head(list(itertools.islice(lines(stream), SAMPLE_LINES)), form)
                stream.seek(0)
                rows = self._rows(lines(stream))
                header = next((cells for line, cells in rows if line.offset_bytes == self._header_offset), [])
            except SourceError as error:
                raise SourceError(f"{shown(source)}, line {at_fault(error, 1)}: {error}") from None
        if isinstance(header, BadRecord):
            raise SourceError(f"{shown(source)}, line {header.number}: {header.reason}")
        if not header:
            raise SourceError(f"{shown(source)} has no lines.")
        names = [name.strip() or f"column {number}" for number, name in enumerate(header, start=1)]
        doubled = [name for place, name in enumerate(names) if name in names[:place]]
        if doubled:
            raise SourceError(f"{shown(source)}: its header names {listed(doubled)} twice.")
        self.columns = tuple(names)

    @property
    def notes(self) -> tuple[str, ...]:
        notes = [] if self._delimiter_note is None else [self._delimiter_note]
        if self._strange is not None:
            notes.append(strange_note(self._source, f"line {self._strange}"))
        if self._quoted_rows:
            notes.append(
                f"{shown(self._source)}: {counted(self._quoted_rows, 'row has', 'rows have')} cells in "
                "quotes, which are part of the text; --quoting quotes takes them off."
            )
        return tuple(notes)

    def _opened(self) -> IO[bytes]:
        return open_text(self._source, self._options.encoding)

    def _read_head(self, sample: Sequence[Line], form: Literal["csv", "tsv"]) -> None:
        """Determine the delimiter, and where the header is."""
        separator = _SEPARATOR_LINE.fullmatch(sample[0].text) if sample else None
        header = sample[1:] if separator else sample
        header = [line for line in header if line.text.strip()]
        self._header_offset = header[0].offset_bytes if header else 0
        usual = "," if form == "csv" else "\t"
        if self._options.delimiter is not None:
            self._delimiter = _delimiter(self._options.delimiter)
        elif separator:
            self._delimiter = separator[1]
        else:
            self._delimiter = _recognised([line.text for line in header], usual, self._options)
        quoting = self._options.quoting or ("none" if self._delimiter == "\t" else "quotes")
        self._is_quoted = quoting == "quotes"
        self._delimiter_note = None
        if self._options.delimiter is None and self._delimiter != usual:
            between = "a tab" if self._delimiter == "\t" else f'"{self._delimiter}"'
            self._delimiter_note = (
                f"{shown(self._source)} is read with {between} between its cells; --delimiter names another."
            )

    def records(self) -> Iterator[Record | BadRecord | SourceError]:
        number = 0
        self._strange, self._quoted_rows = None, 0
        with self._opened() as stream:
            try:
                for first, cells in self._rows(lines(stream)):
                    number = first.number
                    if first.offset_bytes > self._header_offset and not _is_blank(cells):
                        yield self._record(first, cells)
            except SourceError as error:
                yield SourceError(f"line {at_fault(error, number)}: {error}")

    def _record(self, first: Line, cells: list[str] | BadRecord) -> Record | BadRecord:
        if isinstance(cells, BadRecord):
            return cells
        try:
            return Record(first.number, first.offset_bytes, self._fields(cells))
        except SourceError as error:
            return BadRecord(first.number, str(error))

    def at(self, place: int) -> Mapping[str, Any]:
        if self._again is None:
            self._again = self._opened()
        self._again.seek(place)
        _, cells = next(self._rows(lines(self._again)), (None, []))
        if isinstance(cells, BadRecord):
            raise SourceError(cells.reason)
        return self._fields(cells)

    def _rows(self, source: Iterator[Line]) -> Iterator[tuple[Line, list[str] | BadRecord]]:
        """The first line and the cells of each row. Reads no line beyond the row."""
        begun: list[Line] = []

        def texts() -> Iterator[str]:
            size = 0
            for line in source:
                if self._strange is None and has_strange_bytes(line.text):
                    self._strange = line.number
                size = size + len(line.text) if begun else len(line.text)
                begun.append(line)
                if size > LINE_MAX_BYTES:
                    raise LineError(begun[0].number, f"the row {TOO_LONG}")
                yield line.text

        quoting: Literal[0, 3] = csv.QUOTE_MINIMAL if self._is_quoted else csv.QUOTE_NONE
        reader = csv.reader(texts(), delimiter=self._delimiter, quoting=quoting, strict=True)
        while True:
            cells: list[str] | BadRecord
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                form = "TSV" if self._delimiter == "\t" else "CSV"
                reason = f"not {form}: {error}"
                if str(error) == _UNENDED:
                    # The rest of the file is in this cell.
                    raise LineError(begun[0].number, reason) from None
                cells = BadRecord(begun[0].number, reason)
            first = begun[0]
            begun.clear()
            yield first, cells

    def _fields(self, cells: list[str]) -> dict[str, Any]:
        if not self._is_quoted:
            self._quoted_rows += any(len(cell) > 1 and cell[0] == cell[-1] == '"' for cell in cells)
        width = len(self.columns)
        if len(cells) > width and not any(cell.strip() for cell in cells[width:]):
            cells = cells[:width]
        if len(cells) != width:
            more = ""
            if not self._is_quoted:
                more = "; a cell holds no tab and no line end, unless --quoting quotes allows them in quotes"
            raise SourceError(f"{len(cells)} cells, but the header names {width} columns{more}")
        return self._read(dict(zip(self.columns, cells, strict=True)))

    def _read(self, fields: dict[str, Any]) -> dict[str, Any]:
        """The fields, with lists and objects parsed, and blank cells as null."""
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


def _delimiter(given: str) -> str:
    """The character for --delimiter. Raises SourceError."""
    delimiter = "\t" if given.lower() in ("tab", "\\t") else given
    if len(delimiter) != 1 or delimiter in '\r\n"':
        raise SourceError(f'--delimiter "{quoted(given)}" is not one character, or tab')
    return delimiter


def _recognised(sample: Sequence[str], usual: str, options: SourceOptions) -> str:
    """The delimiter with which the header has an expected column name; else the one with most columns."""
    asked = (options.image_column, options.question_column, options.id_column)
    names = {"image", "text", *IMAGE_COLUMNS, *QUESTION_COLUMNS, *(name.lower() for name in asked if name)}
    widths = {}
    for delimiter in (usual, *(one for one in DELIMITERS if one != usual)):
        try:
            header = next(csv.reader(sample, delimiter=delimiter), [])
        except csv.Error:
            continue
        if any(name.strip().lower() in names for name in header):
            return delimiter
        widths[delimiter] = len(header)
    if widths.get(usual, 0) > 1:
        return usual
    return max(widths, key=lambda one: widths[one], default=usual)


def _is_blank(cells: list[str] | BadRecord) -> bool:
    """Whether it is a blank line, or one of delimiters alone, as spreadsheets write it."""
    if isinstance(cells, BadRecord):
        return False
    return not cells or (len(cells) > 1 and not any(cell.strip() for cell in cells))
