"""Jobs that were sent, until their records have come: the table `job`; knows no questions."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum

from producer.database import Connection, LedgerDamagedError
from producer.ledger.stored import read_message


class JobState(IntEnum):
    """A job's state. After a crash, a job that is SENDING may not be in the queue."""

    SENDING = 1
    SENT = 2
    DONE = 3


@dataclass(frozen=True)
class NewJob:
    """A job that is about to be sent."""

    index: int
    message: str
    uploads: Sequence[str]
    """Hashes of its images in the store."""
    asks: Mapping[bytes, str]
    """Content key → question id in the job."""


@dataclass(frozen=True)
class OpenJob:
    """A job without a record."""

    index: int
    state: JobState
    message: str


class Jobs:
    """Changes become durable with the ledger's transaction around them."""

    def __init__(self, db: Connection) -> None:
        self._db = db

    def next_index(self) -> int:
        return int(self._db.value("SELECT coalesce(max(idx) + 1, 0) FROM job"))

    def add(self, job: NewJob) -> None:
        row = (job.index, JobState.SENDING, job.message, " ".join(job.uploads) or None)
        self._db.execute("INSERT INTO job VALUES (?, ?, ?, ?)", row)

    def mark_sent(self, indices: Iterable[int]) -> None:
        self._db.executemany(
            "UPDATE job SET state = ? WHERE idx = ? AND state = ?",
            [(JobState.SENT, index, JobState.SENDING) for index in indices],
        )

    def open(self) -> list[OpenJob]:
        """Jobs without a record, the oldest first."""
        # Sorted here: with ORDER BY, SQLite would go through all jobs there ever were.
        found = sorted(self._db.execute("SELECT idx, state, message FROM job WHERE state < 3").fetchall())
        with self._db.reading():
            return [OpenJob(index, JobState(state), read_message(message)) for index, state, message in found]

    def open_of(self, indices: Sequence[int]) -> list[int]:
        """Those of `indices` that have no record."""
        marks = ",".join("?" * len(indices))
        found = self._db.execute(f"SELECT idx FROM job WHERE state < 3 AND idx IN ({marks})", tuple(indices))
        return [index for (index,) in found]

    def message(self, index: int) -> str | None:
        """The job as JSON; None if it has its record."""
        found = self._db.execute("SELECT message FROM job WHERE idx = ?", (index,)).fetchone()
        if found is None:
            raise LedgerDamagedError(self._db.folder, f"job {index} is gone")
        with self._db.reading():
            return None if found[0] is None else read_message(found[0])

    def uploads(self) -> set[str]:
        """Hashes of images in the store that open jobs need."""
        found = self._db.execute("SELECT DISTINCT upload FROM job WHERE state < 3 AND upload IS NOT NULL")
        return {one for (joined,) in found for one in joined.split()}

    def end(self, indices: Sequence[int]) -> None:
        """Mark jobs whose records have come."""
        self._db.executemany(
            "UPDATE job SET state = 3, message = NULL WHERE idx = ?", [(index,) for index in indices]
        )

    def end_all(self) -> int:
        """Mark all jobs as ended. Returns the number of jobs without a record."""
        return self._db.execute("UPDATE job SET state = 3, message = NULL WHERE state < 3").rowcount
