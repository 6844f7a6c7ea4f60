"""The ledger as a run's writers use it: they plan rows, feed them, collect outcomes; knows no Redis."""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from contract.answer import Outcome
from contract.failure import Failure
from producer.database import LedgerDamagedError
from producer.ledger.asks import Asks, Result
from producer.ledger.jobs import Jobs, NewJob
from producer.ledger.new_rows import NewRows, Replacement
from producer.ledger.output_state import OutputState
from producer.ledger.reader import LedgerReader
from producer.ledger.retries import Retries
from producer.ledger.stored import OUTCOME, read_row
from producer.rows import Row


@dataclass(frozen=True)
class LedgerQuestion:
    """A question of a row with its content key."""

    number: int
    """Number of the question in its row, from 0."""
    id: str
    prompt: Any
    """Its messages, JSON-ready."""
    key: bytes


@dataclass(frozen=True)
class FedRow:
    """What a row asks now."""

    position: int
    questions: Sequence[LedgerQuestion]
    refused: Mapping[bytes, Failure]
    """Content key → failure, of questions that end unasked."""
    jobs: Sequence[NewJob]
    """Jobs for questions that were not asked before."""
    waiting: int
    """Number of the questions without an outcome."""


class NextRow(NamedTuple):
    """A row to feed, and what the ledger knows of it."""

    position: int
    row: Row
    outcomes: Mapping[str, Outcome | None]
    """Question id → outcome, of its questions that were fed before."""
    changes: Mapping[int, Mapping[str, Any]]
    """Number of a question that is asked again → its changed parameters."""


class FileDigest(NamedTuple):
    """An image file's row in the table `file`."""

    size: int
    mtime_ns: int
    digest: bytes


class Ledger(LedgerReader):
    """Every change needs a `transaction` of the caller around it."""

    def __init__(self, folder: Path, *, create: bool = False, read_only: bool = False) -> None:
        """Raises LedgerError as LedgerFile does."""
        super().__init__(folder, create=create, read_only=read_only)
        self.jobs = Jobs(self._db)
        self.asks = Asks(self._db)
        self.outputs = OutputState(self._db, self.state)
        self.retries = Retries(self._db, self.outputs)

    @contextmanager
    def new_rows(self, replacement: Replacement | None = None) -> Iterator[NewRows]:
        """Takes rows that replace the present ones when the block ends without an exception.

        `replacement` gives the row for a duplicate id; without it, `add` and `flush` raise LedgerError.
        """
        with self.transaction():
            rows = NewRows(self._db, replacement)
            yield rows
            rows.take_place()
            self.state.set("rows", rows.count)
            self.outputs.begin()

    def next_rows(self, limit: int) -> list[NextRow]:
        """Rows to feed; those whose earlier questions are answered come first."""
        chosen: list[tuple[int, bytes, str, int]] = []
        for which in ("due IS NOT NULL", "fed = 0 AND due IS NULL AND seq IS NULL"):
            chosen += self._db.execute(
                f"SELECT position, id, content, fed FROM row WHERE {which} ORDER BY position LIMIT ?",
                (limit - len(chosen),),
            ).fetchall()
            if len(chosen) >= limit:
                break
        changes = self.retries.changes([position for position, *_ in chosen])
        with self._db.reading():
            return [
                NextRow(
                    position,
                    read_row(row_id, content),
                    self.outcomes(position) if fed else {},
                    changes.get(position, {}),
                )
                for position, row_id, content, fed in chosen
            ]

    def outcomes(self, position: int) -> dict[str, Outcome | None]:
        """Question id → outcome, of the row's questions that were fed."""
        found = self._db.execute(
            "SELECT q.id, a.outcome FROM question q JOIN ask a ON a.id = q.ask WHERE q.position = ?",
            (position,),
        )
        with self._db.reading():
            return {
                question: None if outcome is None else OUTCOME.validate_json(outcome)
                for question, outcome in found
            }

    def feed_row(self, row: FedRow) -> None:
        """Note a row's questions, and the jobs that are about to be sent for them.

        Each question is refused, in one of the jobs, or was asked before.
        """
        for key, failure in row.refused.items():
            self.asks.settle(key, failure)
        for job in row.jobs:
            self.jobs.add(job)
            self.asks.ask(job.index, job.asks)
        self._db.executemany(
            "INSERT INTO question VALUES (?, ?, ?, ?, (SELECT id FROM ask WHERE key = ?))",
            [(row.position, one.number, one.id, json.dumps(one.prompt), one.key) for one in row.questions],
        )
        self._db.execute(
            "UPDATE row SET fed = fed + ?, open = open + ?, due = NULL WHERE position = ?",
            (len(row.questions), row.waiting, row.position),
        )
        if not row.waiting:
            self._finish([row.position])

    def file_digest(self, path: bytes) -> FileDigest | None:
        found = self._db.execute("SELECT size, mtime_ns, digest FROM file WHERE path = ?", (path,)).fetchone()
        return None if found is None else FileDigest(*found)

    def keep_file_digests(self, digests: Mapping[bytes, FileDigest]) -> None:
        rows = [(path, *digest) for path, digest in digests.items()]
        self._db.executemany("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?)", rows)

    def record(self, results: Iterable[Result], jobs: Sequence[int]) -> list[int]:
        """Note the records of `jobs` that are new. Returns the indices of these jobs."""
        fresh = self.jobs.open_of(jobs)
        if not fresh:
            return []
        self._db.execute("DELETE FROM touched")
        self._db.execute(
            f"""INSERT INTO touched SELECT q.position, count(*)
            FROM ask a CROSS JOIN question q ON q.ask = a.id
            WHERE a.job IN ({",".join("?" * len(fresh))}) AND a.outcome IS NULL GROUP BY q.position""",
            fresh,
        )
        self.asks.record(results, fresh)
        self.jobs.end(fresh)
        # Written so that SQLite looks up the few touched rows, and does not go through all.
        self._db.execute(
            """UPDATE row SET open = open - (SELECT n FROM touched t WHERE t.position = row.position)
            WHERE position IN (SELECT position FROM touched)"""
        )
        finished = self._db.execute(
            "SELECT r.position FROM touched t CROSS JOIN row r ON r.position = t.position WHERE r.open = 0"
        ).fetchall()
        self._finish([position for (position,) in finished])
        return fresh

    def _finish(self, positions: Sequence[int]) -> None:
        """Mark rows without open questions as complete, or as due for their further questions."""
        self.retries.choose(positions)
        following = int(self.state.get("last_seq") or 0) + 1
        complete: list[tuple[int, int]] = []
        for position in positions:
            found = self._db.execute("SELECT total, fed FROM row WHERE position = ?", (position,)).fetchone()
            if found is None:
                raise LedgerDamagedError(self.folder, f"row {position} is gone")
            total, fed = found
            if fed < total:
                self._db.execute("UPDATE row SET due = 1 WHERE position = ?", (position,))
            else:
                complete.append((following + len(complete), position))
        self._db.executemany("UPDATE row SET seq = ? WHERE position = ?", complete)
        if complete:
            self.state.set("last_seq", complete[-1][0])

    def withdraw(self) -> int:
        """Make all unanswered questions due again. Returns the number of jobs withdrawn."""
        with_open = "SELECT id FROM ask WHERE outcome IS NULL"
        for position, count in self._db.execute(
            f"SELECT position, count(*) FROM question WHERE ask IN ({with_open}) GROUP BY position"
        ).fetchall():
            self._db.execute(
                "UPDATE row SET fed = fed - ?, open = 0, due = 1 WHERE position = ?", (count, position)
            )
        self._db.execute(f"DELETE FROM question WHERE ask IN ({with_open})")
        self._db.execute("DELETE FROM ask WHERE outcome IS NULL")
        return self.jobs.end_all()

    def keep_output(self, path: bytes, known: Sequence[Sequence[Any]]) -> None:
        if known:
            self._db.execute("INSERT OR REPLACE INTO output VALUES (?, ?)", (path, json.dumps(known)))
        else:
            self._db.execute("DELETE FROM output WHERE path = ?", (path,))
