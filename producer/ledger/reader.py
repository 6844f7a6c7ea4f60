"""Reads a run's ledger for status, outputs and pages; changes nothing."""

import json
from collections.abc import Iterator, Sequence
from typing import Final

from contract.failure import Failure
from producer.database import check_pages
from producer.ledger.file import LEDGER, LedgerFile
from producer.ledger.jobs import JobState
from producer.ledger.stored import OUTCOME, OUTPUT_KNOWN, OutputKnown, read_message, read_row
from producer.rows import Answered, AnsweredRow, Row

CHUNK: Final = 500
"""Number of rows that are in memory at once."""


class LedgerReader(LedgerFile):
    """Rows of the present submission, their outcomes, and outputs that are not on disk."""

    def rows(self) -> int:
        """Number of rows of the present submission."""
        return self.state.get("rows") or 0

    def complete_rows(self, up_to: int | None = None) -> int:
        """Number of complete rows; with `up_to`, those up to that place in the order of completion."""
        every = "SELECT count(*) FROM row WHERE seq IS NOT NULL AND (? IS NULL OR seq <= ?)"
        return int(self._db.value(every, (up_to, up_to)))

    def is_fed(self) -> bool:
        """Whether every question of every row was sent or has an outcome."""
        return not self._db.value("SELECT EXISTS (SELECT 1 FROM row WHERE fed < total)")

    def count_open_jobs(self) -> int:
        return int(self._db.value("SELECT count(*) FROM job WHERE state < 3"))

    def has_open_jobs(self) -> bool:
        return bool(self._db.value("SELECT EXISTS (SELECT 1 FROM job WHERE state < 3)"))

    def completed(self, after: int, limit: int = CHUNK) -> tuple[list[AnsweredRow], int]:
        """Rows completed after the place `after`, in order of completion, and the last one's place."""
        found = self._db.execute(
            "SELECT position, id, content, seq FROM row WHERE seq > ? ORDER BY seq LIMIT ?", (after, limit)
        ).fetchall()
        with self._db.reading():
            rows = self._answered([one[:3] for one in found])
        return rows, found[-1][3] if found else after

    def in_order(self) -> Iterator[AnsweredRow]:
        """Complete rows in the order of the source."""
        after = -1
        while found := self._db.execute(
            "SELECT position, id, content FROM row WHERE position > ? AND seq IS NOT NULL "
            "ORDER BY position LIMIT ?",
            (after, CHUNK),
        ).fetchall():
            with self._db.reading():
                answered = self._answered(found)
            yield from answered
            after = found[-1][0]

    def _answered(self, rows: Sequence[tuple[int, bytes, str]]) -> list[AnsweredRow]:
        marks = ",".join("?" * len(rows))
        answers: dict[int, list[Answered]] = {position: [] for position, _, _ in rows}
        models: dict[int, str] = {}
        for position, question, prompt, outcome, model in self._db.execute(
            f"""SELECT q.position, q.id, q.prompt, a.outcome, a.model
            FROM question q JOIN ask a ON a.id = q.ask WHERE q.position IN ({marks})
            ORDER BY q.position, q.number""",
            [position for position, _, _ in rows],
        ):
            asked = json.loads(prompt)
            answers[position].append(
                Answered(
                    question=question,
                    prompt=asked if isinstance(asked, str) else tuple(asked),
                    outcome=OUTCOME.validate_json(outcome),
                )
            )
            if model is not None:
                models[position] = model
        answered = []
        for position, row_id, content in rows:
            row = read_row(row_id, content)
            answered.append(
                AnsweredRow(
                    position=position,
                    id=row.id,
                    name=row.name,
                    image=row.image,
                    more_images=row.more_images,
                    columns=row.columns,
                    model=models.get(position),
                    answers=tuple(answers[position]),
                )
            )
        return answered

    def failures(self) -> dict[str, int]:
        """Failure code → number of failed questions of the present submission, the most frequent first."""
        found = self._db.execute(
            "SELECT a.code, count(*) FROM question q JOIN ask a ON a.id = q.ask "
            "WHERE a.code IS NOT NULL GROUP BY a.code ORDER BY 2 DESC, 1"
        )
        return dict(found.fetchall())

    def failed(self, code: str, limit: int) -> list[tuple[Row, Failure]]:
        """Rows of the present submission that failed with `code`, and the failure."""
        found = self._db.execute(
            "SELECT r.id, r.content, a.outcome FROM ask a JOIN question q ON q.ask = a.id "
            "JOIN row r ON r.position = q.position WHERE a.code = ? ORDER BY q.position LIMIT ?",
            (code, limit),
        ).fetchall()
        with self._db.reading():
            return [
                (read_row(row_id, content), Failure.model_validate_json(outcome))
                for row_id, content, outcome in found
            ]

    def has_answers(self) -> bool:
        """Whether the folder has any answer, of this submission or an earlier one."""
        any_answer = "SELECT EXISTS (SELECT 1 FROM ask WHERE outcome IS NOT NULL AND code IS NULL)"
        return bool(self._db.value(any_answer))

    def answered_questions(self) -> int:
        every = "SELECT count(*) FROM question q JOIN ask a ON a.id = q.ask"
        return int(self._db.value(f"{every} WHERE a.outcome IS NOT NULL AND a.code IS NULL"))

    def asked_again(self) -> tuple[int, int]:
        """Number of questions that were asked again for a flag, and of those with the second answer."""
        if not self._has_table("earlier"):
            return 0, 0
        found: tuple[int, int] = self._db.execute(
            """SELECT count(*), coalesce(sum(q.ask <> e.ask), 0) FROM earlier e
            JOIN question q ON q.position = e.position AND q.number = e.number"""
        ).fetchone()
        return found

    def count_unwritten(self) -> dict[str, int]:
        """Sink → number of outputs that are not on disk."""
        if not self._has_table("unwritten"):
            return {}
        return dict(self._db.execute("SELECT sink, count(*) FROM unwritten GROUP BY sink ORDER BY sink"))

    def unwritten(self, sink: str, limit: int = -1) -> Iterator[tuple[int, Row, str]]:
        """Position, row and reason of outputs that are not on disk, in the source's order."""
        found = self._db.execute(
            "SELECT r.position, r.id, r.content, u.reason FROM unwritten u JOIN row r USING (position) "
            "WHERE u.sink = ? ORDER BY u.position LIMIT ?",
            (sink, limit),
        )
        for position, row_id, content, reason in found:
            with self._db.reading():
                row = read_row(row_id, content)
            yield position, row, reason

    def output(self, path: bytes) -> list[OutputKnown]:
        """The known contents of an output file; none if the run folder did not write it."""
        found = self._db.execute("SELECT known FROM output WHERE path = ?", (path,)).fetchone()
        with self._db.reading():
            return [] if found is None else OUTPUT_KNOWN.validate_json(found[0])

    def check_everything(self) -> None:
        """Read the whole ledger. Raises LedgerDamagedError."""
        check_pages(self._db, self.folder / LEDGER, most_bytes=None)
        with self._db.reading():
            for row_id, content in self._db.execute("SELECT id, content FROM row"):
                read_row(row_id, content)
            for (outcome,) in self._db.execute("SELECT outcome FROM ask WHERE outcome IS NOT NULL"):
                OUTCOME.validate_json(outcome)
            for table, column in (("question", "prompt"), ("state", "value")):
                for (text,) in self._db.execute(f"SELECT {column} FROM {table}"):
                    json.loads(text)
            for (known,) in self._db.execute("SELECT known FROM output"):
                OUTPUT_KNOWN.validate_json(known)
            for state, message in self._db.execute("SELECT state, message FROM job WHERE state < 3"):
                JobState(state), read_message(message)

    def _has_table(self, name: str) -> bool:
        found = self._db.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        return found is not None
