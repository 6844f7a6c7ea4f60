"""Opens a ledger's SQLite database, and says what to do when it is damaged; knows no tables."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, Self

from producer.errors import ProducerError
from producer.sources import shown

BUSY_S: Final = 60.0
CACHE_KIB: Final = 64 * 1024
CHECKED_BYTES: Final = 64 * 2**20
"""Largest ledger that is checked as a whole when it is opened; damage in a larger one shows on reading."""
HEADER_BYTES: Final = 100
DAMAGE: Final = (
    sqlite3.SQLITE_CORRUPT,
    sqlite3.SQLITE_NOTADB,
    sqlite3.SQLITE_FORMAT,
    sqlite3.SQLITE_SCHEMA,
    sqlite3.SQLITE_MISMATCH,
)
"""Primary error codes that only damaged pages lead to."""


class LedgerError(ProducerError):
    """The run folder cannot be used as asked; the message says why."""


class LedgerDamagedError(LedgerError):
    """The ledger's file is damaged."""

    def __init__(self, folder: Path, reason: object) -> None:
        super().__init__(
            f"The ledger of {shown(folder)} is damaged ({reason}); make a new one, from the answers that are "
            f"there, with: captionmill repair {shown(folder)}"
        )


class _DamageTold:
    """Turns SQLite's errors about a damaged file into LedgerDamagedError, around every statement."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> None: ...

    def __exit__(self, _: object, error: BaseException | None, __: object) -> None:
        if isinstance(error, sqlite3.Error) and is_damage(error):
            # For a text that is not UTF-8, SQLite's message would contain all of it.
            reason = error if hasattr(error, "sqlite_errorcode") else "a text in it is not UTF-8"
            raise LedgerDamagedError(self._folder, reason) from error


class Cursor(sqlite3.Cursor):
    """Raises LedgerDamagedError for SQLite's errors about a damaged file."""

    connection: "Connection"

    def execute(self, *arguments: Any) -> Self:
        with self.connection.damage_told:
            return super().execute(*arguments)

    def executemany(self, *arguments: Any) -> Self:
        with self.connection.damage_told:
            return super().executemany(*arguments)

    def fetchone(self) -> Any:
        with self.connection.damage_told:
            return super().fetchone()

    def fetchall(self) -> list[Any]:
        with self.connection.damage_told:
            return super().fetchall()

    def __next__(self) -> Any:
        with self.connection.damage_told:
            return super().__next__()


class Connection(sqlite3.Connection):
    folder: Path
    """The run folder."""
    damage_told: _DamageTold

    def execute(self, *arguments: Any) -> Cursor:
        return self.cursor(Cursor).execute(*arguments)

    def executemany(self, *arguments: Any) -> Cursor:
        return self.cursor(Cursor).executemany(*arguments)

    def value(self, *arguments: Any) -> Any:
        """The first column of the first row."""
        return self.execute(*arguments).fetchone()[0]

    @contextmanager
    def reading(self) -> Iterator[None]:
        """Around code that parses stored values. Raises LedgerDamagedError if they are invalid."""
        try:
            yield
        except (ValueError, TypeError, KeyError, OverflowError) as error:
            # Invalid JSON, a model's fields, an enumeration's value.
            raise LedgerDamagedError(
                self.folder, f"a stored value is invalid: {type(error).__name__}"
            ) from error


def is_damage(error: sqlite3.Error) -> bool:
    code: int | None = getattr(error, "sqlite_errorcode", None)
    if code is None:
        return isinstance(error, sqlite3.OperationalError)  # text that is not UTF-8
    missing = code == sqlite3.SQLITE_ERROR and ("no such" in str(error) or "file format" in str(error))
    return missing or code == sqlite3.SQLITE_IOERR_SHORT_READ or code & 0xFF in DAMAGE


def open_database(path: Path, *, mode: str) -> Connection:
    """Open the ledger `path` of a run folder; `mode` is that of SQLite's URIs. Raises sqlite3.Error."""
    connection = sqlite3.connect(
        f"{path.resolve().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_S,
        isolation_level=None,
        check_same_thread=False,
        factory=Connection,
    )
    connection.folder = path.parent
    connection.damage_told = _DamageTold(path.parent)
    connection.execute(f"PRAGMA cache_size = -{CACHE_KIB}")
    connection.execute("PRAGMA trusted_schema = OFF")
    connection.execute("PRAGMA cell_size_check = ON")
    return connection


def check_header(path: Path) -> None:
    """Raises LedgerDamagedError if the file does not begin with SQLite's header; an empty file is valid.

    For some of these bytes, SQLite itself would say that the file is read-only or of a later release.
    """
    with path.open("rb") as file:
        header = file.read(HEADER_BYTES)
    journal, fractions, encoding = header[18:20], header[21:24], header[56:60]
    if header and not (
        len(header) == HEADER_BYTES
        and header.startswith(b"SQLite format 3\0")
        and journal in (b"\1\1", b"\2\2")
        and fractions == bytes((64, 32, 32))
        and header[44:48] in (bytes(4), b"\0\0\0\4")
        and encoding in (bytes(4), b"\0\0\0\1")
    ):
        raise LedgerDamagedError(path.parent, "file is not a database")


def check_pages(connection: Connection, path: Path, most_bytes: int | None = CHECKED_BYTES) -> None:
    """Raises LedgerDamagedError if SQLite's integrity check fails. Skips ledgers above `most_bytes`."""
    if most_bytes is not None and path.stat().st_size > most_bytes:
        return
    found = connection.value("PRAGMA integrity_check(1)")
    if found != "ok":
        raise LedgerDamagedError(connection.folder, str(found).replace("\n", " "))
