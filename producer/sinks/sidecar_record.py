"""What a run folder wrote into sidecars, to tell an edit from its own text; knows no captions or policies."""

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
    """Of its row in the present run; None: it is of an earlier run."""
    base: bytes | None
    """What was there of somebody else's; None: nothing was."""
    part: bytes
    """What was joined to `base`; without one, or written over it, the whole content."""
    pending: bytes
    """Hash of the content about to be written or just written."""
    written: bytes | None
    """Hash of the content that was there of ours when `pending` was decided; None: there was none."""

    def is_ours(self, content: bytes) -> bool:
        """Whether `content` is what we wrote, and nobody has edited it since."""
        return sha256(content) in (self.pending, self.written)

    def is_untouched(self, content: bytes) -> bool:
        """Whether `content` is what was there before our first writing, which then never came about."""
        return self.written is None and content == self.base


class SidecarRecord:
    """A file of its own in the run folder.

    A sidecar is recorded before it is written: after a crash between the two, its content is known as the one
    before or the one after.
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
        """What is put within is on the disk after it, or not there at all; OSError if the disk is full."""
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
        """The pending content is there."""
        self._database.execute("UPDATE sidecar SET written = pending WHERE path = ?", (path,))

    def remove(self, path: bytes) -> None:
        self._database.execute("DELETE FROM sidecar WHERE path = ?", (path,))

    def unsettled(self) -> list[Sidecar]:
        """Those that a crash, or an error, may have kept from being written."""
        paths = self._database.execute("SELECT path FROM sidecar WHERE written IS NOT pending").fetchall()
        return [found for (path,) in paths if (found := self.get(path)) is not None]

    def begin_run(self) -> None:
        """Every sidecar so far is of an earlier run."""
        self._database.execute("UPDATE sidecar SET position = NULL")

    def close(self) -> None:
        self._database.close()


def sha256(content: bytes) -> bytes:
    return hashlib.sha256(content).digest()
