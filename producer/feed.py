"""Turns rows into jobs and sends them; knows no answers on disk and no sinks."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

from producer.ledger import FileDigest, Ledger, NewJob, NextRow, OpenJob
from producer.question_planner import Flagged, QuestionPlanner
from producer.references import Resolved, Resolver, contents_of
from producer.row_jobs import RowJobs
from producer.rows import Embedded, Row
from producer.uploads import Uploads

FIRST_ROWS: Final = 16
"""Number of rows in the first transaction: few, so that workers begin at once."""
ROWS: Final = 256
"""Largest number of rows in a transaction; each has twice as many as the one before."""
READERS: Final = 4
"""Number of threads that read and hash image files."""


class JobQueue(Protocol):
    """The queue that jobs go into: producer.queue's Queue, which loads Celery, or a test's."""

    def submit(self, jobs: Sequence[tuple[str, str]], *, together: int = 1) -> None: ...
    def queued(self) -> int: ...


@dataclass(frozen=True)
class Fed:
    """The result of one round of feeding."""

    sent: tuple[int, ...]
    """Indices of the jobs sent."""
    rows: int
    """Number of rows taken; 0 if none is left, or the next one does not fit."""


class Feeder:
    """One per ledger at a time."""

    def __init__(
        self,
        ledger: Ledger,
        queue: JobQueue,
        uploads: Uploads,
        question_planner: QuestionPlanner,
        resolver: Resolver,
        *,
        run: str,
        model: str | None,
        on_flag: Mapping[Flagged, Mapping[str, Any]] | None = None,
    ) -> None:
        """`model` is the model id that must answer, and whose answers of earlier submissions count.

        `on_flag`: flag of an answer → changed parameters with which its question is asked once more.
        """
        self._ledger = ledger
        self._queue = queue
        self._uploads = uploads
        self._row_jobs = RowJobs(question_planner, run, model)
        self._resolver = resolver
        self._run = run
        self._on_flag = on_flag or {}
        self._next_index = ledger.jobs.next_index()
        self._most_rows = FIRST_ROWS
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")

    def close(self) -> None:
        self._readers.shutdown(cancel_futures=True)

    def feed(self, room: int, together: int = 1) -> Fed:
        """Take the next rows and send their jobs, about `room` at most; `together` jobs go in one message.

        A row sends no job if all its questions are known, or are asked for another row.
        """
        self._uploads.keep_only(self._ledger.jobs.uploads())
        rows = self._ledger.next_rows(min(room, self._most_rows))
        if not rows:
            return Fed((), 0)
        self._most_rows = min(2 * self._most_rows, ROWS)
        images, digests = self._images([one.row for one in rows])
        jobs: list[NewJob] = []
        taken = 0
        with self._ledger.transaction():
            self._ledger.keep_file_digests(digests)
            for row, found in zip(rows, images, strict=True):
                if isinstance(row.row.image, Embedded):
                    found = [self._resolver.resolve(row.row.image, None)[0]]
                if not self._uploads.put(contents_of(found)):
                    break
                jobs += self._feed_row(row, found)
                taken += 1
            positions = [row.position for row in rows[:taken]]
            for flag, changes in self._on_flag.items():
                self._ledger.retries.ask_flagged(flag, changes, positions=positions)
        self.send(jobs, together)
        return Fed(tuple(job.index for job in jobs), taken)

    def _feed_row(self, row: NextRow, images: Sequence[Resolved]) -> Sequence[NewJob]:
        """Note what the row asks now, and return the jobs that this takes."""
        questions = self._row_jobs.questions(row, images)
        known = self._ledger.asks.known(list(questions))
        fed = self._row_jobs.decide(row, images, questions, known, self._next_index)
        self._ledger.feed_row(fed)
        self._next_index += len(fed.jobs)
        return fed.jobs

    def send(self, jobs: Sequence[NewJob | OpenJob], together: int = 1) -> None:
        """Put jobs into the queue; images of open ones are still in the store."""
        if not jobs:
            return
        messages = [(f"{self._run}-{job.index}", job.message) for job in jobs]
        self._queue.submit(messages, together=together)
        with self._ledger.transaction():
            self._ledger.jobs.mark_sent(job.index for job in jobs)

    def _images(self, rows: Sequence[Row]) -> tuple[list[list[Resolved]], dict[bytes, FileDigest]]:
        """The rows' images without embedded ones, which are read one by one, and new digests of files."""
        named = [
            (number, image)
            for number, row in enumerate(rows)
            for image in row.images
            if not isinstance(image, Embedded)
        ]
        places = [self._resolver.place(image) for _, image in named]
        known = [None if place is None else self._ledger.file_digest(place) for place in places]
        images: list[list[Resolved]] = [[] for _ in rows]
        digests: dict[bytes, FileDigest] = {}
        found = self._readers.map(self._resolver.resolve, [image for _, image in named], known)
        for (number, _), (image, digest), place, before in zip(named, found, places, known, strict=True):
            images[number].append(image)
            if digest is not None and place is not None and digest != before:
                digests[place] = digest
        return images, digests
