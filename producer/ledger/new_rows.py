"""Takes the rows of a submission into a new table, which replaces `row` at the end; reads no source."""

import os
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from contract.failure import Failure
from contract.quoting import quoted
from producer.database import Connection, LedgerError
from producer.ledger.schema import ROW_COLUMNS, ROW_INDICES
from producer.ledger.stored import stored_content, stored_id
from producer.rows import Row

CHUNK: Final = 500
"""Number of new rows that are in memory at once."""
CHUNK_SIZE: Final = 1 << 26
"""Number of characters of new rows from which on they are written."""
INSERT: Final = "INSERT OR IGNORE INTO row_next (position, id, content, total) VALUES (?, ?, ?, ?)"

Replacement = Callable[[str, str, str], Iterator[Row]]
"""(new id, place in the source, what is wrong) → the replacement of a row: one row, or none."""


class _NewRow(NamedTuple):
    """The values of INSERT, and the row's place in the source."""

    position: int
    id: bytes
    content: str
    questions: int
    where: str


class NewRows:
    """Takes the rows of a submission one by one."""

    def __init__(self, db: Connection, replacement: Replacement | None) -> None:
        self._db = db
        self._replacement = replacement
        self._batch: list[_NewRow] = []
        self._batch_size = 0
        """Number of characters of its contents."""
        self.count = 0
        # An earlier release that was killed may have left one.
        db.execute("DROP TABLE IF EXISTS row_next")
        db.execute(f"CREATE TABLE row_next ({ROW_COLUMNS})")

    def add(self, row: Row, questions: int) -> None:
        """Raises LedgerError for a duplicate id, at this row or at a later one."""
        content = stored_content(row)
        self._batch.append(_NewRow(self.count, stored_id(row.id), content, questions, row.where))
        self._batch_size += len(content)
        self.count += 1
        if len(self._batch) >= CHUNK or self._batch_size > CHUNK_SIZE:
            self.flush()

    def take_place(self) -> None:
        """Replace the earlier rows and their questions."""
        self.flush()
        self._db.execute("DROP TABLE row")
        self._db.execute("ALTER TABLE row_next RENAME TO row")
        self._db.execute("DELETE FROM question")
        self._db.execute("DELETE FROM earlier")
        for statement in ROW_INDICES.split(";"):
            self._db.execute(statement)

    def gone(self) -> int:
        """Number of earlier rows whose ids are not among the new ones."""
        self.flush()
        among = "SELECT 1 FROM row_next WHERE row_next.id = row.id"
        return int(self._db.value(f"SELECT count(*) FROM row WHERE NOT EXISTS ({among})"))

    def refuse_bare(self, failure: Failure) -> None:
        """Make rows without an image fail, unless they may be asked without one."""
        self.flush()
        self._db.execute(
            "UPDATE row_next SET total = 1, content = json_set(content, '$.refusal', json(?)) WHERE "
            "json_extract(content, '$.image') IS NULL AND json_extract(content, '$.refusal') IS NULL AND "
            "json_extract(content, '$.text_only') IS NULL",
            (failure.model_dump_json(),),
        )

    def flush(self) -> None:
        """Raises LedgerError as `add` does."""
        if not self._batch:
            return
        inserted = self._db.executemany(INSERT, [row[:4] for row in self._batch]).rowcount
        if inserted < len(self._batch):
            self._replace_duplicates()
        self._batch.clear()
        self._batch_size = 0

    def _replace_duplicates(self) -> None:
        """Insert replacements for rows whose ids were there before."""
        since = self._batch[0].position
        found = self._db.execute("SELECT position FROM row_next WHERE position >= ?", (since,))
        there = {position for (position,) in found}
        for row in self._batch:
            if row.position in there:
                continue
            found = self._db.execute("SELECT position FROM row_next WHERE id = ?", (row.id,))
            earlier = found.fetchone()[0] + 1
            row_id, number = os.fsdecode(row.id), row.position + 1
            where = row.where or f"Row {number}"
            reason = (
                f'the id "{quoted(row_id)}" is that of an earlier row (row {earlier}); '
                "every row needs its own"
            )
            if self._replacement is None:
                raise LedgerError(f"{where}: {reason}.")
            for other in self._replacement(f"{row_id} (row {number})", where, reason):
                values = (row.position, stored_id(other.id), stored_content(other), 1)
                if not self._db.execute(INSERT, values).rowcount:
                    raise LedgerError(f"{where}: {reason}.")
