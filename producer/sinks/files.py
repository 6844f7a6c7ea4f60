"""Writes files that survive a crash, by appending or by replacing them as a whole; knows no format."""

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
    """A file that is appended to, by one process at a time. When `append` returns, the content is on disk."""

    def __init__(self, file: OutputFile) -> None:
        self.file = file
        self.path = file.path
        self._descriptor: int | None = None
        self.size_bytes = 0
        self._crc32 = 0

    def resume(self, size_bytes: int | None) -> None:
        """Cut the file back to its first bytes; None empties it. Raises SinkError if it has fewer bytes.

        Does not check whether the content is the run's own; that is checked before.
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
        """Append durably. After an OSError the file is unchanged, as far as the disk allows."""
        assert self._descriptor is not None, "resume comes first"
        descriptor = self._descriptor
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
            # A failed write may have left more than is noted.
            if status.st_size == self.size_bytes:
                self.file.settle(Content(self.size_bytes, self._crc32), status.st_mtime_ns)
            os.close(self._descriptor)
            self._descriptor = None


@contextmanager
def replaced_file(file: OutputFile) -> Iterator[BinaryIO]:
    """Replace a file's content; at any moment it has either the whole old or the whole new content.

    Raises SinkError, and keeps the file, if a person has changed it.
    """
    with _written_aside(file.path, file.replace) as written:
        yield written


@contextmanager
def own_file(path: Path) -> Iterator[BinaryIO]:
    """The same for the run folder's own files, without that check."""
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
    """A temporary name in the same folder; short, as the file's own name may have the greatest length."""
    return path.with_name(f".captionmill-{hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]}.new")


def sync_folder(folder: Path) -> None:
    """Make the folder's file names durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def json_line(fields: dict[str, Any]) -> bytes:
    """One JSON line in UTF-8; in ASCII with escapes if it has surrogates, as in names that are not UTF-8."""
    return json_text(fields) + b"\n"


def json_text(value: Any) -> bytes:
    try:
        return json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError:
        return json.dumps(value).encode("ascii")
