"""Records what a run folder wrote into its outputs, to recognise a person's changes; knows no format."""

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
    """The content of a file, or of its beginning."""

    size_bytes: int
    crc32: int


class Known(NamedTuple):
    """A content that the run folder wrote, or is about to write."""

    size_bytes: int
    crc32: int
    growing: bool
    """Whether more may follow that the run wrote, and was killed before noting it."""
    mtime_ns: int | None = None
    """The file's time of change with this content, if nobody was writing then."""


class OutputRecord:
    """File → the contents that the run wrote; two while one replaces the other.

    A content is noted durably before it is written. That it was written is noted with the next `flush`; until
    then the older note holds, which allows both.
    """

    def __init__(self, ledger: Ledger, folder: Path) -> None:
        """`folder` is the run folder; it may be moved with the files in it."""
        self._ledger = ledger
        self._folder = Path(os.path.abspath(folder))
        self._unkept: dict[Path, list[Known]] = {}

    def known(self, path: Path) -> list[Known]:
        if path in self._unkept:
            return self._unkept[path]
        return [Known(*one) for one in self._ledger.output(self._name(path))]

    def note(self, path: Path, known: list[Known]) -> None:
        """Note contents with the next `flush`."""
        self._unkept[path] = known

    def note_now(self, path: Path, known: list[Known]) -> None:
        """Note contents durably."""
        with self._ledger.transaction():
            self.note_within(path, known)

    def note_within(self, path: Path, known: list[Known]) -> None:
        """Note contents within a transaction of the ledger."""
        self._ledger.keep_output(self._name(path), known)
        self._unkept.pop(path, None)

    def flush(self) -> None:
        """Write the notes, within a transaction of the ledger."""
        for path, known in self._unkept.items():
            self._ledger.keep_output(self._name(path), known)
        self._unkept.clear()

    def _name(self, path: Path) -> bytes:
        if path.is_relative_to(self._folder):
            return os.fsencode(path.relative_to(self._folder))
        return os.fsencode(Path(os.path.realpath(path.parent), path.name))


class OutputFile:
    """One file, and its contents in the record."""

    def __init__(
        self, path: Path, record: OutputRecord, kind: str | None, *, known_as: Path | None = None
    ) -> None:
        """`kind` is the sink's, for messages. A file that will be renamed is `known_as` its later name."""
        self.path = path
        self._record = record
        self._kind = kind
        self._known_as = known_as or path

    def is_as_written(self) -> bool:
        """Whether the file has the content that the run folder wrote last, or does not exist."""
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
        return any(crc32_of(self.path, one.size_bytes) == one.crc32 for one in sorted(possible))

    def complaint(self) -> str:
        """Why the file is left alone, and what to do."""
        is_ours = self._record.known(self._known_as)
        reason = "was changed since this run wrote it" if is_ours else "is there and not from this run"
        elsewhere = f"name another path with --sink {self._kind}:PATH, " if self._kind else ""
        return (
            f"{shown(self.path)} {reason}: move it away, {elsewhere}or let it be replaced with --overwrite."
        )

    def adopt(self) -> None:
        """Record the present content as the run's own, within a transaction of the ledger."""
        status = self.path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise SinkError(f"{shown(self.path)} is no regular file, and is not replaced; move it away.")
        size_bytes = status.st_size
        crc32 = crc32_of(self.path, size_bytes)
        known = Known(size_bytes, crc32, growing=False, mtime_ns=status.st_mtime_ns)
        self._record.note_within(self._known_as, [known])

    def crc32(self, size_bytes: int) -> int:
        """The checksum of the first bytes, from the record or from the file."""
        for one in self._record.known(self._known_as):
            if one.size_bytes == size_bytes:
                return one.crc32
        return crc32_of(self.path, size_bytes)

    def begin(self, content: Content) -> None:
        """Note that the file is about to be cut back to `content`, and to grow from there."""
        self._record.note_now(
            self._known_as, [*self._record.known(self._known_as), Known(*content, growing=True)]
        )

    def grown(self, content: Content) -> None:
        self._record.note(self._known_as, [Known(*content, growing=True)])

    def replace(self, by: Path) -> None:
        """Replace it by another file. Raises SinkError if a person has changed it."""
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
        """Note that the file has `content` since `mtime_ns`, and nobody is writing."""
        self._record.note(self._known_as, [Known(*content, growing=False, mtime_ns=mtime_ns)])

    def forget(self) -> None:
        """Note that the file was removed."""
        self._record.note(self._known_as, [])


def crc32_of(path: Path, size_bytes: int) -> int:
    """The checksum of a file's first bytes."""
    crc32, left = 0, size_bytes
    with path.open("rb") as file:
        while left > 0 and (piece := file.read(min(left, READ_BYTES))):
            crc32 = zlib.crc32(piece, crc32)
            left -= len(piece)
    return crc32
