"""Files that survive a crash: one that grows and can be cut back, one that is replaced as a whole."""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from producer.sinks.sink import SinkError
from producer.sources import shown


class GrowingFile:
    """Opened by one process at a time. What `append` returned from is on the disk."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._descriptor: int | None = None
        self.size_bytes = 0

    def resume(self, size_bytes: int | None) -> None:
        """Empty the file (None), or cut it back to its first bytes.

        Raises SinkError if it has fewer than these.
        """
        self.close()
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        there = os.fstat(descriptor).st_size
        if size_bytes is not None and there < size_bytes:
            os.close(descriptor)
            raise SinkError(
                f"{shown(self.path)} has lost what the run wrote there; put it back, or start a new run."
            )
        os.ftruncate(descriptor, size_bytes or 0)
        os.fsync(descriptor)
        sync_folder(self.path.parent)
        self._descriptor = descriptor
        self.size_bytes = size_bytes or 0

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

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    def _opened(self) -> int:
        assert self._descriptor is not None, "resume comes first"
        return self._descriptor


@contextmanager
def replaced_file(path: Path) -> Iterator[BinaryIO]:
    """A new content for `path`, which has the old one or the new one, whole, at any moment."""
    temporary = path.with_name(path.name + ".new")
    try:
        with temporary.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(path.parent)


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
