"""Records what a run folder wrote into sidecars, to recognise edits; knows no captions and no policies."""

import hashlib
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple


class Sidecar(NamedTuple):
    """One sidecar that the run folder has written, or is about to write."""

    path: bytes
    image: bytes
    """Path of the image it belongs to."""
    position: int | None
    """Position of its row in the present run; None if it is from an earlier run."""
    base: bytes | None
    """A person's text that was there; None if there was none."""
    part: bytes
    """The text that was joined to `base`; the whole content without `base`, or over it."""
    pending: bytes
    """Hash of the content that is about to be written, or was just written."""
    written: bytes | None
    """Hash of the run's content that was there before `pending`; None if there was none."""

    def is_ours(self, content: bytes) -> bool:
        """Whether `content` is what the run wrote, unedited."""
        return sha256(content) in (self.pending, self.written)

    def is_untouched(self, content: bytes) -> bool:
        """Whether `content` is what was there before the run's first text, which was never written."""
        return self.written is None and content == self.base


class SidecarRecord:
    """An SQLite file in the run folder.

    A sidecar is recorded before it is written, so that both its old and its new content are known after a
    crash.
    """

    def __init__(self, path: Path) -> None:
        self._database = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        self._database.execute("PRAGMA synchronous=FULL")
        self._database.execute(
            "CREATE TABLE IF NOT EXISTS sidecar (path BLOB PRIMARY KEY, image BLOB NOT NULL, "
            "position INTEGER, base BLOB, part BLOB NOT NULL, pending BLOB NOT NULL, written BLOB)"
        )

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Durable changes, all or none. Raises OSError if the disk is full."""
        try:
            with self._database:
                self._database.execute("BEGIN IMMEDIATE")
                yield
        except sqlite3.OperationalError as error:
            raise OSError(f"The record of sidecars cannot be written: {error}.") from error

    def get(self, path: bytes) -> Sidecar | None:
        row = self._database.execute(
            "SELECT path, image, position, base, part, pending, written FROM sidecar WHERE path = ?", (path,)
        ).fetchone()
        return None if row is None else Sidecar(*row)

    def put(self, sidecar: Sidecar) -> None:
        self._database.execute("INSERT OR REPLACE INTO sidecar VALUES (?, ?, ?, ?, ?, ?, ?)", sidecar)

    def settle(self, path: bytes) -> None:
        """Note that the pending content was written."""
        self._database.execute("UPDATE sidecar SET written = pending WHERE path = ?", (path,))

    def remove(self, path: bytes) -> None:
        self._database.execute("DELETE FROM sidecar WHERE path = ?", (path,))

    def unsettled(self) -> list[Sidecar]:
        """Sidecars that may not have been written, after a crash or an error."""
        paths = self._database.execute("SELECT path FROM sidecar WHERE written IS NOT pending").fetchall()
        return [found for (path,) in paths if (found := self.get(path)) is not None]

    def begin_run(self) -> None:
        """Mark all sidecars as those of an earlier run."""
        self._database.execute("UPDATE sidecar SET position = NULL")

    def close(self) -> None:
        self._database.close()


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
