"""What a run folder remembers: rows, questions, jobs and answers, in SQLite; knows no Redis and no files.

row       a row of the source as it was submitted last, and how far it is
question  what a row asks, as rendered, and the ask that it shares with all that would be answered alike
ask       content key → its outcome, or the job that will bring it; kept from submission to submission, in
          the order of sending, so that what a batch of records changes lies together
job       what was sent: index in the run's done bitmap and stream, and whether its record has come
file      image file → its digest, so that what did not change is not read again
output    output file → what the run folder wrote there, so that a person's change is not written over
unwritten   sink and row → why the output is not on disk
earlier   question that is asked again for a flag → the ask before, and what is changed for the other

Everything that belongs together is one transaction, made durable before anything outside depends on it. Two
processes may have a ledger open, one that feeds and one that collects.
"""

import json
import os
import sqlite3
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple, Self

from pydantic import TypeAdapter

from contract.answer import Answer, Outcome
from contract.failure import Failure, FailureCode
from contract.quoting import quoted, shown
from producer.database import Connection, LedgerDamagedError, check_header, check_pages, open_database
from producer.database import LedgerError as LedgerError
from producer.rows import Answered, AnsweredRow, Row

LEDGER: Final = "ledger.sqlite"
VERSION: Final = 3
CHUNK: Final = 500
CHUNK_SIZE: Final = 1 << 26
"""Characters of new rows that are in memory at once, and one row more."""
OF_THE_DISK: Final = (
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_CANTOPEN,
)
"""Primary codes of what an operator can mend; others are bugs."""

ROW_COLUMNS: Final = """
    position INTEGER PRIMARY KEY,
    id BLOB NOT NULL UNIQUE,
    content TEXT NOT NULL,
    total INTEGER NOT NULL,
    fed INTEGER NOT NULL DEFAULT 0,
    open INTEGER NOT NULL DEFAULT 0,
    due INTEGER,
    seq INTEGER
"""
"""total: its questions; fed: those with a key; open: those of them without an outcome; due: 1 when the rest
can be fed; seq: place in the order of completion."""
INTO_ROWS: Final = "INTO row_next (position, id, content, total) VALUES (?, ?, ?, ?)"
SCHEMA: Final = f"""
CREATE TABLE state (name TEXT PRIMARY KEY, value TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE row ({ROW_COLUMNS});
CREATE TABLE question (
    position INTEGER NOT NULL, number INTEGER NOT NULL, id TEXT NOT NULL, prompt TEXT NOT NULL,
    ask INTEGER NOT NULL, PRIMARY KEY (position, number)
) WITHOUT ROWID;
CREATE TABLE ask (
    id INTEGER PRIMARY KEY, key BLOB NOT NULL UNIQUE,
    job INTEGER, question TEXT, outcome TEXT, code TEXT, model TEXT
);
CREATE TABLE job (idx INTEGER PRIMARY KEY, state INTEGER NOT NULL, message TEXT, upload TEXT);
CREATE TABLE file (
    path BLOB PRIMARY KEY, size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL, digest BLOB NOT NULL
) WITHOUT ROWID;
CREATE INDEX question_ask ON question (ask);
CREATE INDEX ask_job ON ask (job) WHERE outcome IS NULL;
CREATE INDEX job_open ON job (state) WHERE state < 3;
"""
ROW_INDICES: Final = """
CREATE UNIQUE INDEX row_seq ON row (seq) WHERE seq IS NOT NULL;
CREATE INDEX row_due ON row (position) WHERE due IS NOT NULL;
CREATE INDEX row_new ON row (position) WHERE fed = 0 AND due IS NULL AND seq IS NULL;
CREATE INDEX row_unfed ON row (position) WHERE fed < total;
"""
OUTPUT: Final = "CREATE TABLE IF NOT EXISTS output (path BLOB PRIMARY KEY, known TEXT NOT NULL) WITHOUT ROWID"
UNWRITTEN: Final = (
    "CREATE TABLE IF NOT EXISTS unwritten (sink TEXT NOT NULL, position INTEGER NOT NULL, "
    "at_end INTEGER NOT NULL, reason TEXT NOT NULL, PRIMARY KEY (sink, position)) WITHOUT ROWID"
)
EARLIER: Final = (
    "CREATE TABLE IF NOT EXISTS earlier (position INTEGER NOT NULL, number INTEGER NOT NULL, "
    "ask INTEGER NOT NULL, changes TEXT NOT NULL, PRIMARY KEY (position, number)) WITHOUT ROWID"
)
"""Folders of earlier releases get these when they are opened; readers do without."""
ASK: Final = """
INSERT INTO ask (key, job, question, outcome, code) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (key) DO UPDATE SET job = excluded.job, question = excluded.question,
    outcome = excluded.outcome, code = excluded.code, model = NULL
"""
"""Ask what was never asked, or ask it again: questions that share the ask keep it."""

OUTCOME: Final[TypeAdapter[Outcome]] = TypeAdapter(Outcome)
ROW: Final[TypeAdapter[Row]] = TypeAdapter(Row)
OutputKnown = tuple[int, int, bool, int | None]
"""As producer.sinks.output_record.Known."""
OUTPUT_KNOWN: Final[TypeAdapter[list[OutputKnown]]] = TypeAdapter(list[OutputKnown])


class JobState(IntEnum):
    """How far a job is. SENDING says that a crash may have come before it was in the queue."""

    SENDING = 1
    SENT = 2
    DONE = 3


@dataclass(frozen=True)
class Asked:
    """A question of a row with its content key."""

    number: int
    """Of the question in its row, from 0."""
    id: str
    prompt: Any
    """Its messages as JSON."""
    key: bytes


@dataclass(frozen=True)
class OpenJob:
    """A job without a record."""

    index: int
    state: JobState
    message: str


class NextRow(NamedTuple):
    """A row to feed."""

    position: int
    row: Row
    begun: bool
    """Whether some of its questions have been fed before."""


class Result(NamedTuple):
    """The outcome of one question of a job; question "*" stands for all of them."""

    job: int
    question: str
    outcome: Answer | Failure
    model: str | None


class FileDigest(NamedTuple):
    """What `file` says of an image file."""

    size: int
    mtime_ns: int
    digest: bytes


class Ledger:
    """One connection, for one thread at a time."""

    def __init__(self, folder: Path, *, create: bool = False, read_only: bool = False) -> None:
        """Raises LedgerError if there is no ledger, none that this version reads, or it cannot be made."""
        path = folder / LEDGER
        require_folder(folder)
        if not create and not path.exists():
            raise LedgerError(f"{shown(folder)} holds no run.")
        self.folder = folder
        self._path = path.absolute()
        # SQLite leaves two files behind where it may only read.
        looks = read_only and not os.access(folder, os.W_OK)
        try:
            if create:
                folder.mkdir(parents=True, exist_ok=True)
            if path.exists():
                check_header(path)
            self._db = open_database(path, mode="ro" if looks else "rwc" if create else "rw")
            with ExitStack() as failed:
                failed.callback(self._db.close)
                self._open(path, create=create, read_only=read_only)
                failed.pop_all()
            self._opened = os.stat(path)
        except (OSError, sqlite3.Error) as error:
            raise LedgerError(f"{shown(path)} cannot be opened: {error}.") from None
        self._db.execute(
            "CREATE TEMP TABLE got (job INTEGER, question TEXT, outcome TEXT, code TEXT, model TEXT)"
        )
        self._db.execute("CREATE TEMP TABLE touched (position INTEGER PRIMARY KEY, n INTEGER)")
        if read_only:
            self._db.execute("PRAGMA query_only = ON")

    def _open(self, path: Path, *, create: bool, read_only: bool) -> None:
        if not read_only:
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = FULL")
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        is_empty = not self._db.execute("SELECT EXISTS (SELECT 1 FROM sqlite_schema)").fetchone()[0]
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
        told = {sql for (sql,) in self._db.execute("SELECT sql FROM sqlite_schema")}
        ours = [" ".join(one.split()) for one in SCHEMA.split(";") if one.strip() and " row (" not in one]
        return {" ".join(sql.split()) for sql in told if sql} >= set(ours)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        self._db.close()

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All or nothing, and on disk when it ends. Raises LedgerError if the disk does not take it."""
        try:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                # SQLite itself has undone it, or could not, and does when the ledger is opened again.
                with suppress(sqlite3.OperationalError):
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.OperationalError as error:
            self.check_place()
            if error.sqlite_errorcode & 0xFF not in OF_THE_DISK:
                raise
            raise LedgerError(
                f"{shown(self.folder / LEDGER)} cannot be written: {error}. What it says so far holds; "
                "when there is room, go on with run --resume."
            ) from error

    def check_place(self) -> None:
        """Raises LedgerError where the folder was moved or deleted since the ledger was opened."""
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

    def check_everything(self) -> None:
        """Read all there is. Raises LedgerDamagedError."""
        check_pages(self._db, self.folder / LEDGER, most_bytes=None)
        with self._db.reading():
            for row_id, content in self._db.execute("SELECT id, content FROM row"):
                _row(row_id, content)
            for (outcome,) in self._db.execute("SELECT outcome FROM ask WHERE outcome IS NOT NULL"):
                OUTCOME.validate_json(outcome)
            for table, column in (("question", "prompt"), ("state", "value")):
                for (text,) in self._db.execute(f"SELECT {column} FROM {table}"):
                    json.loads(text)
            for (known,) in self._db.execute("SELECT known FROM output"):
                OUTPUT_KNOWN.validate_json(known)
            for state, message in self._db.execute("SELECT state, message FROM job WHERE state < 3"):
                JobState(state), _job(message)

    # What belongs to no table of its own.

    def state(self, name: str) -> Any:
        """None for what was never set."""
        found = self._db.execute("SELECT value FROM state WHERE name = ?", (name,)).fetchone()
        with self._db.reading():
            return None if found is None else json.loads(found[0])

    def set_state(self, name: str, value: Any) -> None:
        self._db.execute("INSERT OR REPLACE INTO state VALUES (?, ?)", (name, json.dumps(value)))

    # Planning.

    @contextmanager
    def new_rows(self, twice: "Twice | None" = None) -> Iterator["NewRows"]:
        """Rows that take the place of the present ones when the block ends well.

        Until then the ledger is as it was. `twice` says what stands in the place of a row whose id was there
        before; without it, `add` and `flush` raise LedgerError.
        """
        with self.transaction():
            # Earlier releases left one behind when they were killed.
            self._db.execute("DROP TABLE IF EXISTS row_next")
            self._db.execute(f"CREATE TABLE row_next ({ROW_COLUMNS})")
            rows = NewRows(self._db, twice)
            yield rows
            rows.flush()
            self._db.execute("DROP TABLE row")
            self._db.execute("ALTER TABLE row_next RENAME TO row")
            self._db.execute("DELETE FROM question")
            self._db.execute("DELETE FROM earlier")
            for statement in ROW_INDICES.split(";"):
                self._db.execute(statement)
            self.set_state("rows", rows.count)
            self.begin_outputs()

    # Feeding.

    def next_rows(self, limit: int) -> list[NextRow]:
        """Rows to feed: first those whose earlier questions are answered."""
        chosen: list[tuple[int, bytes, str, int]] = []
        for which in ("due IS NOT NULL", "fed = 0 AND due IS NULL AND seq IS NULL"):
            chosen += self._db.execute(
                f"SELECT position, id, content, fed FROM row WHERE {which} ORDER BY position LIMIT ?",
                (limit - len(chosen),),
            ).fetchall()
            if len(chosen) >= limit:
                break
        with self._db.reading():
            return [
                NextRow(position, _row(row_id, content), fed > 0) for position, row_id, content, fed in chosen
            ]

    def changes(self, positions: Sequence[int]) -> dict[int, dict[int, dict[str, Any]]]:
        """Position → number of a question that is asked again → the parameters that are changed for it."""
        found: dict[int, dict[int, dict[str, Any]]] = {}
        marks = ",".join("?" * len(positions))
        for position, number, changes in self._db.execute(
            f"SELECT position, number, changes FROM earlier WHERE position IN ({marks})", tuple(positions)
        ):
            with self._db.reading():
                found.setdefault(position, {})[number] = json.loads(changes)
        return found

    def outcomes(self, position: int) -> dict[str, Answer | Failure | None]:
        """Question id → outcome, of the row's questions that have been fed."""
        found = self._db.execute(
            "SELECT q.id, a.outcome FROM question q JOIN ask a ON a.id = q.ask WHERE q.position = ?",
            (position,),
        )
        with self._db.reading():
            return {
                question: None if outcome is None else OUTCOME.validate_json(outcome)
                for question, outcome in found
            }

    def ask(self, key: bytes) -> tuple[bool, str | None, FailureCode | None] | None:
        """(has an outcome, the model it is of, the failure's code); None for a key that was never asked."""
        found = self._db.execute(
            "SELECT outcome IS NOT NULL, model, code FROM ask WHERE key = ?", (key,)
        ).fetchone()
        if found is None:
            return None
        with self._db.reading():
            return bool(found[0]), found[1], None if found[2] is None else FailureCode(found[2])

    def next_index(self) -> int:
        found = self._db.execute("SELECT max(idx) FROM job").fetchone()[0]
        return 0 if found is None else found + 1

    def add_job(self, index: int, message: str, uploads: Sequence[str], asks: Mapping[bytes, str]) -> None:
        """Note a job that is about to be sent; `asks` maps content keys to the job's question ids.

        `uploads` are hashes of its images in the store.
        """
        row = (index, JobState.SENDING, message, " ".join(uploads) or None)
        self._db.execute("INSERT INTO job VALUES (?, ?, ?, ?)", row)
        self._db.executemany(
            ASK,
            [(key, index, question, None, None) for key, question in asks.items()],
        )

    def settle(self, key: bytes, failure: Failure) -> None:
        """Give a question an outcome that no worker was asked for."""
        self._db.execute(ASK, (key, None, None, failure.model_dump_json(), failure.code))

    def know(self, key: bytes, outcome: Answer | Failure, model: str | None) -> None:
        """Note an outcome that was kept elsewhere, over one that is there."""
        code = outcome.code if isinstance(outcome, Failure) else None
        self._db.execute(ASK, (key, None, None, outcome.model_dump_json(), code))
        self._db.execute("UPDATE ask SET model = ? WHERE key = ?", (model, key))

    def add_questions(self, position: int, asked: Sequence[Asked], waiting: int) -> None:
        """Note what a row asks now; `waiting` of it has no outcome yet. Each was asked or settled."""
        self._db.executemany(
            "INSERT INTO question VALUES (?, ?, ?, ?, (SELECT id FROM ask WHERE key = ?))",
            [(position, one.number, one.id, json.dumps(one.prompt), one.key) for one in asked],
        )
        self._db.execute(
            "UPDATE row SET fed = fed + ?, open = open + ?, due = NULL WHERE position = ?",
            (len(asked), waiting, position),
        )
        if not waiting:
            self._finish([position])

    def mark_sent(self, indices: Iterable[int]) -> None:
        self._db.executemany(
            "UPDATE job SET state = ? WHERE idx = ? AND state = ?",
            [(JobState.SENT, index, JobState.SENDING) for index in indices],
        )

    def open_jobs(self) -> list[OpenJob]:
        """Jobs without a record, the oldest first."""
        # Sorted here: ORDER BY would have SQLite walk through all jobs there ever were.
        found = sorted(self._db.execute("SELECT idx, state, message FROM job WHERE state < 3").fetchall())
        with self._db.reading():
            return [OpenJob(index, JobState(state), _job(message)) for index, state, message in found]

    def message(self, index: int) -> str | None:
        """None if the job has its record."""
        found = self._db.execute("SELECT message FROM job WHERE idx = ?", (index,)).fetchone()
        if found is None:
            raise LedgerDamagedError(self.folder, f"job {index} is gone")
        with self._db.reading():
            return None if found[0] is None else _job(found[0])

    def uploads(self) -> set[str]:
        """Hashes of the images in the store that open jobs need."""
        found = self._db.execute("SELECT DISTINCT upload FROM job WHERE state < 3 AND upload IS NOT NULL")
        return {one for (joined,) in found for one in joined.split()}

    def file_digest(self, path: bytes) -> FileDigest | None:
        found = self._db.execute("SELECT size, mtime_ns, digest FROM file WHERE path = ?", (path,)).fetchone()
        return None if found is None else FileDigest(*found)

    def keep_file_digest(self, path: bytes, digest: FileDigest) -> None:
        self._db.execute("INSERT OR REPLACE INTO file VALUES (?, ?, ?, ?)", (path, *digest))

    # Collecting.

    def record(self, results: Iterable[Result], jobs: Sequence[int]) -> list[int]:
        """Note the records of `jobs`, as far as they are new. Returns the indices that were open."""
        marks = ",".join("?" * len(jobs))
        fresh = [
            index
            for (index,) in self._db.execute(
                f"SELECT idx FROM job WHERE state < 3 AND idx IN ({marks})", tuple(jobs)
            )
        ]
        if not fresh:
            return []
        run = self._db.execute
        run("DELETE FROM got")
        self._db.executemany(
            "INSERT INTO got VALUES (?, ?, ?, ?, ?)",
            [
                (
                    one.job,
                    one.question,
                    one.outcome.model_dump_json(),
                    one.outcome.code if isinstance(one.outcome, Failure) else None,
                    one.model,
                )
                for one in results
            ],
        )
        run("DELETE FROM touched")
        marks = ",".join("?" * len(fresh))
        # Whatever the jobs were to bring: a question that a record leaves out ends as a failure below.
        run(
            f"""INSERT INTO touched SELECT q.position, count(*)
            FROM ask a CROSS JOIN question q ON q.ask = a.id
            WHERE a.job IN ({marks}) AND a.outcome IS NULL GROUP BY q.position""",
            fresh,
        )
        run(
            """UPDATE ask SET outcome = got.outcome, code = got.code, model = got.model FROM got
            WHERE ask.outcome IS NULL AND ask.job = got.job
            AND (ask.question = got.question OR got.question = '*')"""
        )
        left_out = Failure(
            code=FailureCode.INTERNAL_ERROR, message="The worker's record leaves this question out."
        )
        run(
            f"UPDATE ask SET outcome = ?, code = ? WHERE outcome IS NULL AND job IN ({marks})",
            (left_out.model_dump_json(), left_out.code, *fresh),
        )
        self._db.executemany(
            "UPDATE job SET state = 3, message = NULL WHERE idx = ?", [(index,) for index in fresh]
        )
        # Written so that SQLite goes from the few rows touched to the many there are, and not the other way.
        run(
            """UPDATE row SET open = open - (SELECT n FROM touched t WHERE t.position = row.position)
            WHERE position IN (SELECT position FROM touched)"""
        )
        finished = run(
            "SELECT r.position FROM touched t CROSS JOIN row r ON r.position = t.position WHERE r.open = 0"
        ).fetchall()
        self._finish([position for (position,) in finished])
        return fresh

    def _finish(self, positions: Sequence[int]) -> None:
        """Rows without open questions are complete, or due for what is left of them."""
        self._choose(positions)
        following = int(self.state("last_seq") or 0) + 1
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
            self.set_state("last_seq", complete[-1][0])

    def _choose(self, positions: Sequence[int]) -> None:
        """Of questions that were asked again, the better answer is the question's; the other is kept, too."""
        marks = ",".join("?" * len(positions))
        for position, number, ask, before, after in self._db.execute(
            f"""SELECT e.position, e.number, e.ask, b.outcome, a.outcome FROM earlier e
            JOIN question q ON q.position = e.position AND q.number = e.number
            JOIN ask a ON a.id = q.ask JOIN ask b ON b.id = e.ask
            WHERE q.ask <> e.ask AND a.outcome IS NOT NULL AND e.position IN ({marks})""",
            tuple(positions),
        ).fetchall():
            with self._db.reading():
                first, second = OUTCOME.validate_json(before), OUTCOME.validate_json(after)
            if not _is_better(second, first):
                self._db.execute(
                    "UPDATE question SET ask = ? WHERE position = ? AND number = ?", (ask, position, number)
                )

    def ask_flagged_again(
        self,
        flag: str,
        changes: Mapping[str, Any],
        *,
        positions: Sequence[int] | None = None,
        jobs: Sequence[int] | None = None,
    ) -> int:
        """Make questions whose answer has a flag due again, with changed parameters. Returns how many.

        Both answers are kept. With `positions` or `jobs`, of these alone, and once for each question.
        """
        chosen = ""
        of: tuple[int, ...] = ()
        if positions is not None or jobs is not None:
            column, numbers = ("q.position", positions) if positions is not None else ("a.job", jobs)
            of = tuple(numbers or ())
            chosen = (
                f"AND {column} IN ({','.join('?' * len(of))}) AND NOT EXISTS "
                "(SELECT 1 FROM earlier e WHERE e.position = q.position AND e.number = q.number)"
            )
        found = self._db.execute(
            f"""SELECT q.position, q.number, q.ask FROM question q JOIN ask a ON a.id = q.ask
            WHERE a.code IS NULL AND a.outcome IS NOT NULL {chosen}
            AND EXISTS (SELECT 1 FROM json_each(a.outcome, '$.flags') WHERE value = ?)""",
            (*of, flag),
        ).fetchall()
        text = json.dumps(dict(changes))
        for position, number, ask in found:
            self._db.execute(
                "INSERT OR REPLACE INTO earlier VALUES (?, ?, ?, ?)", (position, number, ask, text)
            )
            self._make_due(position, number)
        return len(found)

    def asked_again(self) -> tuple[int, int]:
        """Questions that were asked again for a flag, and how many of them have the other answer."""
        if not self._has_table("earlier"):
            return 0, 0
        found: tuple[int, int] = self._db.execute(
            """SELECT count(*), coalesce(sum(q.ask <> e.ask), 0) FROM earlier e
            JOIN question q ON q.position = e.position AND q.number = e.number"""
        ).fetchone()
        return found

    # Reading.

    def rows(self) -> int:
        """Of the present submission."""
        return self.state("rows") or 0

    def complete_rows(self, up_to: int | None = None) -> int:
        """Of the present submission; with `up_to` those not after that place in the order of completion."""
        found: int = self._db.execute(
            "SELECT count(*) FROM row WHERE seq IS NOT NULL AND (? IS NULL OR seq <= ?)", (up_to, up_to)
        ).fetchone()[0]
        return found

    def is_fed(self) -> bool:
        """Whether every question of every row has been sent, or found answered."""
        found = self._db.execute("SELECT EXISTS (SELECT 1 FROM row WHERE fed < total)").fetchone()
        return not found[0]

    def count_open_jobs(self) -> int:
        found: int = self._db.execute("SELECT count(*) FROM job WHERE state < 3").fetchone()[0]
        return found

    def has_open_jobs(self) -> bool:
        found = self._db.execute("SELECT EXISTS (SELECT 1 FROM job WHERE state < 3)").fetchone()
        return bool(found[0])

    def completed(self, after: int, limit: int = CHUNK) -> tuple[list[AnsweredRow], int]:
        """Rows that were completed after place `after`, in that order, and the place of the last of them."""
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
            row = _row(row_id, content)
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
        """Failure code → failed questions of the present submission, the most frequent first."""
        found = self._db.execute(
            "SELECT a.code, count(*) FROM question q JOIN ask a ON a.id = q.ask "
            "WHERE a.code IS NOT NULL GROUP BY a.code ORDER BY 2 DESC, 1"
        )
        return dict(found.fetchall())

    def failed(self, code: str, limit: int) -> list[tuple[Row, Failure]]:
        """Rows of the present submission with a question that failed so, and that question's failure."""
        found = self._db.execute(
            "SELECT r.id, r.content, a.outcome FROM ask a JOIN question q ON q.ask = a.id "
            "JOIN row r ON r.position = q.position WHERE a.code = ? ORDER BY q.position LIMIT ?",
            (code, limit),
        ).fetchall()
        with self._db.reading():
            return [
                (_row(row_id, content), Failure.model_validate_json(outcome))
                for row_id, content, outcome in found
            ]

    def has_answers(self) -> bool:
        """Whether the folder knows any answer, of this submission or an earlier one."""
        found = self._db.execute(
            "SELECT EXISTS (SELECT 1 FROM ask WHERE outcome IS NOT NULL AND code IS NULL)"
        ).fetchone()
        return bool(found[0])

    def answered_questions(self) -> int:
        found: int = self._db.execute(
            "SELECT count(*) FROM question q JOIN ask a ON a.id = q.ask "
            "WHERE a.outcome IS NOT NULL AND a.code IS NULL"
        ).fetchone()[0]
        return found

    # Doing again.

    def withdraw(self) -> int:
        """Make everything that is under way due again. Returns the number of jobs withdrawn."""
        with_open = "SELECT id FROM ask WHERE outcome IS NULL"
        for position, count in self._db.execute(
            f"SELECT position, count(*) FROM question WHERE ask IN ({with_open}) GROUP BY position"
        ).fetchall():
            self._db.execute(
                "UPDATE row SET fed = fed - ?, open = 0, due = 1 WHERE position = ?", (count, position)
            )
        self._db.execute(f"DELETE FROM question WHERE ask IN ({with_open})")
        self._db.execute("DELETE FROM ask WHERE outcome IS NULL")
        changed = self._db.execute("UPDATE job SET state = 3, message = NULL WHERE state < 3")
        return changed.rowcount

    def forget_failures(self, codes: Sequence[str] | None) -> int:
        """Make failed questions due again, of all codes or of these. Returns how many."""
        chosen = "a.code IS NOT NULL"
        if codes is not None:
            marks = ",".join("?" * len(codes))
            chosen = f"a.code IN ({marks})"
        failed = self._db.execute(
            f"SELECT q.position, q.number, a.id FROM question q JOIN ask a ON a.id = q.ask WHERE {chosen}",
            tuple(codes or ()),
        ).fetchall()
        for position, number, _ in failed:
            self._make_due(position, number)
        self._db.executemany("DELETE FROM ask WHERE id = ?", [(ask,) for _, _, ask in failed])
        if failed:
            self.begin_outputs()
        return len(failed)

    def _make_due(self, position: int, number: int) -> None:
        self._db.execute("DELETE FROM question WHERE position = ? AND number = ?", (position, number))
        self._db.execute(
            "UPDATE row SET fed = fed - 1, due = CASE WHEN open = 0 THEN 1 END, seq = NULL "
            "WHERE position = ?",
            (position,),
        )

    # Outputs.

    def begin_outputs(self) -> None:
        """All outputs are to be written from the first row on."""
        self.set_state("emitted", 0)
        self.set_state("places", {})
        self._db.execute("DELETE FROM unwritten")

    def output(self, path: bytes) -> list[OutputKnown]:
        """What `keep_output` kept of an output file; nothing for one that the run folder did not write."""
        found = self._db.execute("SELECT known FROM output WHERE path = ?", (path,)).fetchone()
        with self._db.reading():
            return [] if found is None else OUTPUT_KNOWN.validate_json(found[0])

    def keep_output(self, path: bytes, known: Sequence[Sequence[Any]]) -> None:
        if known:
            self._db.execute("INSERT OR REPLACE INTO output VALUES (?, ?)", (path, json.dumps(known)))
        else:
            self._db.execute("DELETE FROM output WHERE path = ?", (path,))

    def keep_unwritten(self, sink: str, rows: Iterable[tuple[int, str]]) -> None:
        """(position, reason) of outputs that a sink did not write while answers came."""
        self._add_unwritten(sink, rows, at_end=False)

    def keep_unwritten_at_end(self, sink: str, rows: Iterable[tuple[int, str]]) -> None:
        """The same of its end, in place of what an earlier end left."""
        self._db.execute("DELETE FROM unwritten WHERE sink = ? AND at_end", (sink,))
        self._add_unwritten(sink, rows, at_end=True)

    def keep_none_written(self, sink: str, reason: str) -> None:
        """No row's output of a sink is there, all for one reason."""
        self._db.execute(
            "INSERT OR REPLACE INTO unwritten SELECT ?, position, 1, ? FROM row WHERE seq IS NOT NULL",
            (sink, reason),
        )

    def count_unwritten(self) -> dict[str, int]:
        """Sink → outputs that are not on disk."""
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
                row = _row(row_id, content)
            yield position, row, reason

    def _add_unwritten(self, sink: str, rows: Iterable[tuple[int, str]], *, at_end: bool) -> None:
        self._db.executemany(
            "INSERT OR REPLACE INTO unwritten VALUES (?, ?, ?, ?)",
            [(sink, position, at_end, reason) for position, reason in rows],
        )

    def _has_table(self, name: str) -> bool:
        found = self._db.execute("SELECT 1 FROM sqlite_schema WHERE name = ?", (name,)).fetchone()
        return found is not None


Twice = Callable[[str, str, str], Iterator[Row]]
"""(id for it, its place in the source, what is wrong) → the rows in its place: one, or none."""


class _NewRow(NamedTuple):
    """As in INTO_ROWS, and its place in the source."""

    position: int
    id: bytes
    content: str
    questions: int
    where: str


class NewRows:
    """Takes the rows of a submission, one after the other."""

    def __init__(self, db: Connection, twice: "Twice | None") -> None:
        self._db = db
        self._twice = twice
        self._batch: list[_NewRow] = []
        self._batch_size = 0
        """Characters of its contents."""
        self.count = 0

    def add(self, row: Row, questions: int) -> None:
        """Raises LedgerError when the id was there before, at this row or a little later."""
        content = _content(row)
        self._batch.append(_NewRow(self.count, _row_id(row.id), content, questions, row.where))
        self._batch_size += len(content)
        self.count += 1
        if len(self._batch) >= CHUNK or self._batch_size > CHUNK_SIZE:
            self.flush()

    def gone(self) -> int:
        """How many of the rows whose place these take are not among them, by their ids."""
        self.flush()
        found: int = self._db.execute(
            "SELECT count(*) FROM row WHERE NOT EXISTS (SELECT 1 FROM row_next WHERE row_next.id = row.id)"
        ).fetchone()[0]
        return found

    def refuse_bare(self, failure: Failure) -> None:
        """Let rows end in `failure` that have no image and no leave to be asked without one."""
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
        inserted = self._db.executemany(
            f"INSERT OR IGNORE {INTO_ROWS}", [row[:4] for row in self._batch]
        ).rowcount
        if inserted < len(self._batch):
            self._take_others()
        self._batch.clear()
        self._batch_size = 0

    def _take_others(self) -> None:
        """In the places of those that are not there, as their ids were."""
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
            if self._twice is None:
                raise LedgerError(f"{where}: {reason}.")
            for other in self._twice(f"{row_id} (row {number})", where, reason):
                told = (row.position, _row_id(other.id), _content(other), 1)
                if not self._db.execute(f"INSERT OR IGNORE {INTO_ROWS}", told).rowcount:
                    raise LedgerError(f"{where}: {reason}.")


def _is_better(second: Outcome, first: Outcome) -> bool:
    """Whether an answer to the same question, asked again, takes the place of the first one."""
    if not isinstance(second, Answer):
        return False
    return not isinstance(first, Answer) or len(second.flags) < len(first.flags)


def _row_id(row_id: str) -> bytes:
    """File names that are not UTF-8 come as surrogates, which SQLite's text cannot hold."""
    return row_id.encode("utf-8", "surrogateescape")


def _content(row: Row) -> str:
    content: dict[str, Any] = {"name": row.name, "image": None}
    if row.image is not None:
        content["image"] = row.image.model_dump(mode="json")
    if row.more_images:
        content["more_images"] = [one.model_dump(mode="json") for one in row.more_images]
    if row.questions:
        content["questions"] = [one.model_dump(mode="json") for one in row.questions]
    if row.parameters:
        content["parameters"] = dict(row.parameters)
    if row.offered:
        content["offered"] = dict(row.offered)
    if row.text_only:
        content["text_only"] = True
    if row.detail is not None:
        content["detail"] = row.detail
    if row.columns:
        content["columns"] = dict(row.columns)
    if row.refusal is not None:
        content["refusal"] = row.refusal.model_dump(mode="json")
    # No number that JSON cannot hold gets past here into an output.
    return json.dumps(content, allow_nan=False)


def _job(message: str) -> str:
    """What no worker could read would never be answered. Raises ValueError."""
    json.loads(message)
    return message


def _row(row_id: bytes, content: str) -> Row:
    return ROW.validate_python({"id": row_id.decode("utf-8", "surrogateescape"), **json.loads(content)})


def require_folder(folder: Path) -> None:
    """Raises LedgerError where a file is in the way of a run's folder."""
    place = folder.absolute()
    while not os.path.lexists(place):
        place = place.parent
    if not place.is_dir():
        raise LedgerError(f"{shown(place)} is a file, not a folder: name a folder for the run instead.")
