"""What a run folder wrote into its output files, to tell a person's change from its own; knows no format."""

import os
import stat
import zlib
from pathlib import Path
from typing import Final, NamedTuple

from producer.ledger import Ledger
from producer.sinks.sink import SinkError
from producer.sources import shown

READ_BYTES: Final = 1 << 20


class Content(NamedTuple):
    """What a file holds, or begins with."""

    size_bytes: int
    crc32: int


class Known(NamedTuple):
    """A content that the run folder wrote, or is about to write."""

    size_bytes: int
    crc32: int
    growing: bool
    """Whether more of ours may follow it: whoever wrote it may have been killed before noting that."""
    mtime_ns: int | None = None
    """Of the file when it had this content and nobody was writing."""


class OutputRecord:
    """Path → the contents that are ours: several while one takes the place of another.

    What may come is noted durably before it comes; what has come, with the next `flush`. Until then the older
    note holds, which allows for more.
    """

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        """`folder` is the run's: it may be moved with the files in it."""
        self._ledger = ledger
        self._folder = Path(os.path.abspath(folder))
        self._unkept: dict[Path, list[Known]] = {}

    def known(self, path: Path) -> list[Known]:
        if path in self._unkept:
            return self._unkept[path]
        return [Known(*one) for one in self._ledger.output(self._name(path))]

    def note(self, path: Path, known: list[Known]) -> None:
        """For the next `flush`."""
        self._unkept[path] = known

    def note_now(self, path: Path, known: list[Known]) -> None:
        """On the disk when it returns."""
        with self._ledger.transaction():
            self.note_within(path, known)

    def note_within(self, path: Path, known: list[Known]) -> None:
        """The same, within a transaction of the ledger."""
        self._ledger.keep_output(self._name(path), known)
        self._unkept.pop(path, None)

    def flush(self) -> None:
        """Within a transaction of the ledger."""
        for path, known in self._unkept.items():
            self._ledger.keep_output(self._name(path), known)
        self._unkept.clear()

    def _name(self, path: Path) -> bytes:
        if path.is_relative_to(self._folder):
            return os.fsencode(path.relative_to(self._folder))
        return os.fsencode(Path(os.path.realpath(path.parent), path.name))


class OutputFile:
    """One file, and what the record says of it."""

    def __init__(
        self, path: Path, record: OutputRecord, kind: str | None, *, known_as: Path | None = None
    ) -> None:
        """`kind` is the sink's, for sentences; a file that will be renamed is known by its later name."""
        self.path = path
        self._record = record
        self._kind = kind
        self._known_as = known_as or path

    def is_as_written(self) -> bool:
        """Whether what is there is what the run folder wrote last; true where nothing is."""
        try:
            status = self.path.stat()
        except FileNotFoundError:
            return True
        if not stat.S_ISREG(status.st_mode):
            return False
        known = self._record.known(self._known_as)
        if any((one.size_bytes, one.mtime_ns) == (status.st_size, status.st_mtime_ns) for one in known):
            return True
        possible = [
            one
            for one in known
            if one.size_bytes == status.st_size or (one.growing and one.size_bytes < status.st_size)
        ]
        return any(self._crc32(one.size_bytes) == one.crc32 for one in sorted(possible))

    def complaint(self) -> str:
        """Why the file is left alone, and what to do."""
        is_ours = self._record.known(self._known_as)
        reason = "was changed since this run wrote it" if is_ours else "is there and not from this run"
        elsewhere = f"name another path with --sink {self._kind}:PATH, " if self._kind else ""
        return (
            f"{shown(self.path)} {reason}: move it away, {elsewhere}or let it be replaced with --overwrite."
        )

    def adopt(self) -> None:
        """Take what is there for our own. Within a transaction of the ledger."""
        status = self.path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SinkError(f"{shown(self.path)} is no regular file, and is not replaced; move it away.")
        size_bytes = status.st_size
        known = Known(size_bytes, self._crc32(size_bytes), growing=False, mtime_ns=status.st_mtime_ns)
        self._record.note_within(self._known_as, [known])

    def crc32(self, size_bytes: int) -> int:
        """Of the first bytes: as it was noted, or read."""
        for one in self._record.known(self._known_as):
            if one.size_bytes == size_bytes:
                return one.crc32
        return self._crc32(size_bytes)

    def begin(self, content: Content) -> None:
        """It is about to be cut back to this, and to grow from there."""
        self._record.note_now(
            self._known_as, [*self._record.known(self._known_as), Known(*content, growing=True)]
        )

    def grown(self, content: Content) -> None:
        self._record.note(self._known_as, [Known(*content, growing=True)])

    def replace(self, by: Path) -> None:
        """Put another file in its place, whole. Raises SinkError if a person's content is there."""
        if not self.is_as_written():
            raise SinkError(self.complaint())
        size_bytes = by.stat().st_size
        content = Content(size_bytes, crc32_of(by, size_bytes))
        known = [*self._record.known(self._known_as), Known(*content, growing=False)]
        self._record.note_now(self._known_as, known)
        mtime_ns = by.stat().st_mtime_ns
        by.replace(self.path)
        self.settle(content, mtime_ns)

    def settle(self, content: Content, mtime_ns: int) -> None:
        """It has this content since then, and nobody is writing."""
        self._record.note(self._known_as, [Known(*content, growing=False, mtime_ns=mtime_ns)])

    def forget(self) -> None:
        """It was removed."""
        self._record.note(self._known_as, [])

    def _crc32(self, size_bytes: int) -> int:
        return crc32_of(self.path, size_bytes)


def crc32_of(path: Path, size_bytes: int) -> int:
    """Of the first bytes of a file."""
    crc32, left = 0, size_bytes
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, READ_BYTES))):
            crc32 = zlib.crc32(piece, crc32)
            left -= len(piece)
    return crc32
