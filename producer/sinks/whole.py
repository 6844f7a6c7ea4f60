"""A sink that writes one file as a whole when the run ends; knows no format."""

from collections.abc import Callable, Sequence
from typing import Any, BinaryIO

from producer.rows import AnsweredRow
from producer.sinks.files import replaced_file
from producer.sinks.output_record import OutputFile
from producer.sinks.sink import LeftAlone, Rows, Sink

WriteWhole = Callable[[BinaryIO, Rows, LeftAlone], None]


class WholeFileSink(Sink):
    """Keeps no rows: at the end it reads them from the ledger, in the source's order."""

    def __init__(self, name: str, file: OutputFile, write_whole: WriteWhole) -> None:
        super().__init__(name)
        self._file = file
        self._write_whole = write_whole

    def files(self) -> list[OutputFile]:
        return [self._file]

    def write(self, rows: Sequence[AnsweredRow]) -> dict[str, Any]:  # noqa: ARG002 - read again at the end
        return {}

    def finish(self, rows: Rows) -> None:
        left_alone = LeftAlone()
        with replaced_file(self._file) as file:
            self._write_whole(file, rows, left_alone)
        self.left_alone = left_alone
