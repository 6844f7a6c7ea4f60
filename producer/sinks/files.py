"""Files that survive a crash: one that grows and can be cut back, one that is replaced as a whole."""

import hashlib
import json
import os
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from producer.sinks.output_record import Content, OutputFile
from producer.sinks.sink import SinkError
from producer.sources import shown


class GrowingFile:
    """Opened by one process at a time. What `append` returned from is on the disk."""

    def __init__(self, file: OutputFile) -> None:
        self.file = file
        self.path = file.path
        self._descriptor: int | None = None
        self.size_bytes = 0
        self._crc32 = 0

    def resume(self, size_bytes: int | None) -> None:
        """Empty the file (None), or cut it back to its first bytes.

        Raises SinkError if it has fewer than these. Whether they are ours is asked before: this takes it so.
        """
        self.close()
        kept_bytes = size_bytes or 0
        there = self.path.stat().st_size if self.path.exists() else 0
        if there < kept_bytes:
            raise SinkError(
                f"{shown(self.path)} has lost what the run wrote there: put it back, or have all outputs "
                "written again with run --resume --overwrite."
            )
        self._crc32 = self.file.crc32(kept_bytes) if kept_bytes else 0
        self.file.begin(Content(kept_bytes, self._crc32))
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        os.ftruncate(descriptor, kept_bytes)
        os.fsync(descriptor)
        sync_folder(self.path.parent)
        self._descriptor = descriptor
        self.size_bytes = kept_bytes

    def append(self, content: bytes) -> None:
        """Raises OSError with the file as it was before, as far as the disk lets it."""
        descriptor = self._opened()
        left = memoryview(content)
        place = self.size_bytes
        try:
            while left:
                written = os.pwrite(descriptor, left, place)
                left = left[written:]
                place += written
            os.fsync(descriptor)
        except OSError:
            with suppress(OSError):
                os.ftruncate(descriptor, self.size_bytes)
            raise
        self.size_bytes = place
        self._crc32 = zlib.crc32(content, self._crc32)
        self.file.grown(Content(self.size_bytes, self._crc32))

    def close(self) -> None:
        if self._descriptor is not None:
            status = os.fstat(self._descriptor)
            # A write that failed may have left more than is noted.
            if status.st_size == self.size_bytes:
                self.file.settle(Content(self.size_bytes, self._crc32), status.st_mtime_ns)
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        assert self._descriptor is not None, "resume comes first"
        return self._descriptor


@contextmanager
def replaced_file(file: OutputFile) -> Iterator[BinaryIO]:
    """A new content for a file, which has the old one or the new one, whole, at any moment.

    Raises SinkError, and leaves it, if a person's content is there at the end.
    """
    with _written_aside(file.path, file.replace) as written:
        yield written


@contextmanager
def own_file(path: Path) -> Iterator[BinaryIO]:
    """The same for a file of the run folder's own, whatever is there."""
    with _written_aside(path, lambda temporary: os.replace(temporary, path)) as written:
        yield written


@contextmanager
def _written_aside(path: Path, put_in_place: Callable[[Path], None]) -> Iterator[BinaryIO]:
    temporary = temporary_beside(path)
    try:
        with temporary.open("wb") as written:
            yield written
            written.flush()
            os.fsync(written.fileno())
        put_in_place(temporary)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


def temporary_beside(path: Path) -> Path:
    """A name that nobody else gives; short, since a name may be as long as the system allows."""
    return path.with_name(f".captionmill-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.new")


def sync_folder(folder: Path) -> None:
    """Make names in the folder certain."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_line(fields: dict[str, Any]) -> bytes:
    """One JSON line in UTF-8; a name that is not UTF-8 makes the line ASCII, with its surrogates escaped."""
    return json_text(fields) + b"\n"


def json_text(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode("ascii")
