"""Sinks that write one file as a whole when the run ends; knows when, not what."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, BinaryIO

from producer.rows import AnsweredRow
from producer.sinks.files import replaced_file
from producer.sinks.sink import LeftAlone, Rows, SinkError
from producer.sources import shown

WriteWhole = Callable[[BinaryIO, Rows, LeftAlone], None]


class WholeFileSink:
    """Keeps nothing between: what it writes, it reads from the ledger's rows, in the source's order."""

    def __init__(self, name: str, path: Path, write_whole: WriteWhole, *, replaces: bool = True) -> None:
        """`replaces` False: a file that is there when the run begins is somebody's, and stops the run."""
        self.name = name
        self.left_alone = LeftAlone()
        self._path = path
        self._write_whole = write_whole
        self._replaces = replaces

    def resume(self, place: dict[str, Any] | None) -> None:
        """Earlier output stays until there is a new one."""
        if place is None and not self._replaces and self._path.exists():
            raise SinkError(
                f"{shown(self._path)} is there and will not be replaced; move it away or name another path."
            )

    def write(self, rows: Sequence[AnsweredRow]) -> dict[str, Any]:  # noqa: ARG002 - they come again at the end
        return {}

    def finish(self, rows: Rows) -> None:
        left_alone = LeftAlone()
        with replaced_file(self._path) as file:
            self._write_whole(file, rows, left_alone)
        self.left_alone = left_alone

    def close(self) -> None:
        """Nothing is open."""
