"""Writes answers as CSV or TSV, a line per row or per question; knows no types."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from contract.answer import Answer
from contract.failure import Failure
from producer.rows import AnsweredRow
from producer.sinks.answers import image_text, prompt_text
from producer.sinks.columns import Columns, cell, no_formula, printable
from producer.sinks.files import GrowingFile, replaced_file
from producer.sinks.output_record import OutputFile
from producer.sinks.sink import Rows, Sink, SinkError
from producer.sources import shown

WIDE = ("id", "image")
LONG = ("id", "image", "question", "prompt", "answer", "failure")


class TableSink(Sink):
    """A table with the columns of the first row.

    If a later row has others, the file is written again at the end, with all columns and in the source's
    order.
    """

    def __init__(
        self, name: str, file: OutputFile, *, tabs: bool, long: bool, raw_cells: bool = False
    ) -> None:
        """`raw_cells` writes cells without protection against formulas."""
        super().__init__(name)
        self._dialect = "excel-tab" if tabs else "excel"
        self._long = long
        self._raw_cells = raw_cells
        self._file = GrowingFile(file)
        self._columns: Columns | None = None
        self._late = False
        self._rewritten = False
        """Whether `finish` has replaced the file, which can then only be replaced again."""

    def files(self) -> list[OutputFile]:
        return [self._file.file]

    def resume(self, place: dict[str, Any] | None) -> None:
        self._columns, self._late, self._rewritten = None, False, False
        if place is None or place["columns"] is None:
            self._file.resume(None)
            return
        questions, carried = place["columns"]
        self._columns = Columns(dict.fromkeys(questions), dict.fromkeys(carried))
        self._late = place["late"]
        header = self._lines([self._header(self._columns)])
        self._rewritten = self._late and not _starts_with(self._file.path, header)
        if self._rewritten:
            self._file.size_bytes = place["bytes"]
            return
        self._file.resume(place["bytes"])
        if not _starts_with(self._file.path, header):
            raise SinkError(
                f"{shown(self._file.path)} is not as the run wrote it; put it back, or start a new run."
            )

    def write(self, rows: Sequence[AnsweredRow]) -> dict[str, Any]:
        lines: list[list[str]] = []
        columns, late = self._columns, self._late
        for row in rows:
            if columns is None:
                columns = Columns.of([row])
                lines.append(self._header(columns))
            late = late or self._brings_more(row, columns)
            lines += self._row_lines(row, columns)
        if lines and not self._rewritten:
            self._file.append(self._lines(lines))
        self._columns, self._late = columns, late
        return {
            "bytes": self._file.size_bytes,
            "columns": None if columns is None else [list(columns.questions), list(columns.carried)],
            "late": late,
        }

    def finish(self, rows: Rows) -> None:
        if not self._late:
            return
        self._file.close()
        columns = Columns.of(rows())
        with replaced_file(self._file.file) as file:
            file.write(self._lines([self._header(columns)]))
            for row in rows():
                file.write(self._lines(self._row_lines(row, columns)))
        self._rewritten = True

    def close(self) -> None:
        self._file.close()

    def _brings_more(self, row: AnsweredRow, columns: Columns) -> bool:
        if any(name not in columns.carried for name in row.columns):
            return True
        return not self._long and any(one.question not in columns.questions for one in row.answers)

    def _header(self, columns: Columns) -> list[str]:
        if self._long:
            return [*LONG, *Columns(carried=columns.carried).names(LONG)[1].values()]
        questions, carried = columns.names(WIDE)
        return [*WIDE, *questions.values(), *carried.values()]

    def _row_lines(self, row: AnsweredRow, columns: Columns) -> Iterator[list[str]]:
        own = [printable(row.id), printable(image_text(row) or row.name or "")]
        carried = [cell(row.columns.get(name)) for name in columns.carried]
        if not self._long:
            texts = {one.question: one.outcome.text for one in row.answers if isinstance(one.outcome, Answer)}
            yield [*own, *(texts.get(question, "") for question in columns.questions), *carried]
            return
        for one in row.answers:
            text = one.outcome.text if isinstance(one.outcome, Answer) else ""
            code = one.outcome.code.value if isinstance(one.outcome, Failure) else ""
            yield [*own, one.question, prompt_text(one.prompt), text, code, *carried]

    def _lines(self, lines: Any) -> bytes:
        if not self._raw_cells:
            lines = ([no_formula(one) for one in line] for line in lines)
        return b"".join(_line(line, self._dialect) for line in lines)


def _line(cells: Sequence[str], dialect: str) -> bytes:
    text = io.StringIO(newline="")
    # csv quotes only characters of its line end, and most readers end a line at a carriage return.
    csv.writer(text, dialect=dialect, lineterminator="\r\n").writerow(cells)
    return text.getvalue().removesuffix("\r\n").encode() + b"\n"


def _starts_with(path: Path, content: bytes) -> bool:
    try:
        with path.open("rb") as file:
            return file.read(len(content)) == content
    except FileNotFoundError:
        return False
