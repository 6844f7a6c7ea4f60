"""Opens and checks a ledger's database, and runs its transactions; knows no rows."""

import os
import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, Self

from contract.quoting import shown
from producer.database import LedgerDamagedError, LedgerError, check_header, check_pages, open_database
from producer.ledger.schema import EARLIER, GOT, OUTPUT, ROW_INDICES, SCHEMA, TOUCHED, UNWRITTEN, VERSION
from producer.ledger.state import State

LEDGER: Final = "ledger.sqlite"
OF_THE_DISK: Final = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
)
"""Primary error codes that an operator can do something about; others are bugs."""


class LedgerFile:
    """One connection, for one thread at a time."""

    def __init__(self, folder: Path, *, create: bool = False, read_only: bool = False) -> None:
        """Raises LedgerError if there is no ledger of this version, or it cannot be made."""
        path = folder / LEDGER
        require_folder(folder)
        if not create and not path.exists():
            raise LedgerError(f"{shown(folder)} holds no run.")
        self.folder = folder
        self._path = path.absolute()
        # Opened with mode=ro in a writable folder, SQLite would leave two files behind.
        mode = "rwc" if create else "rw"
        if read_only and not os.access(folder, os.W_OK):
            mode = "ro"
        try:
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                check_header(path)
            self._db = open_database(path, mode=mode)
            with ExitStack() as failed:
                failed.callback(self._db.close)
                self._open(path, create=create, read_only=read_only)
                failed.pop_all()
            self._opened = os.stat(path)
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"{shown(path)} cannot be opened: {error}.") from None
        self.state = State(self._db)
        self._db.execute(GOT)
        self._db.execute(TOUCHED)
        if read_only:
            self._db.execute("PRAGMA query_only = ON")

    def _open(self, path: Path, *, create: bool, read_only: bool) -> None:
        if not read_only:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
        version = self._db.value("PRAGMA user_version")
        is_empty = not self._db.value("SELECT EXISTS (SELECT 1 FROM sqlite_schema)")
        if version == 0 and is_empty and create:
            with self.transaction():
                for statement in (SCHEMA + ROW_INDICES).split(";"):
                    self._db.execute(statement)
                self._db.execute(f"PRAGMA user_version = {VERSION}")
        elif version == 0 or is_empty:
            raise LedgerDamagedError(self.folder, "it holds nothing")
        elif not 0 < version <= VERSION and self._has_our_tables():
            raise LedgerDamagedError(self.folder, f"its tables are those of version {VERSION}, not {version}")
        elif version != VERSION:
            raise LedgerError(
                f"{shown(path)} has version {version}, and this program reads {VERSION}: go on with the "
                "release that began the run, or start a new run folder."
            )
        check_pages(self._db, path)
        if not read_only:
            self._db.execute(OUTPUT)
            self._db.execute(UNWRITTEN)
            self._db.execute(EARLIER)

    def _has_our_tables(self) -> bool:
        found = {sql for (sql,) in self._db.execute("SELECT sql FROM sqlite_schema")}
        ours = [" ".join(one.split()) for one in SCHEMA.split(";") if one.strip() and " row (" not in one]
        return {" ".join(sql.split()) for sql in found if sql} >= set(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All changes or none, durable when the block ends. Raises LedgerError if the disk refuses them."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # If this fails, SQLite has rolled back already, or does so at the next opening.
                with suppress(sqlite3.OperationalError):
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            self.check_place()
            if error.sqlite_errorcode & 0xFF not in OF_THE_DISK:
                raise
            raise LedgerError(
                f"{shown(self.folder / LEDGER)} cannot be written: {error}. Its contents are kept; "
                "when there is room, go on with run --resume."
            ) from error

    def check_place(self) -> None:
        """Raises LedgerError if the folder was moved or deleted since the ledger was opened."""
        try:
            found = os.stat(self._path)
            is_here = os.path.samestat(found, self._opened)
        except OSError:
            is_here = False
        if not is_here:
            raise LedgerError(
                f"The run's folder {shown(self.folder)} was moved or deleted, so the run has stopped. Where "
                "it is now, it goes on with: captionmill run --resume --out FOLDER"
            )


def require_folder(folder: Path) -> None:
    """Raises LedgerError if a file is in the place of the run's folder or of one above it."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise LedgerError(f"{shown(place)} is a file, not a folder: name a folder for the run instead.")
