"""Turns rows into jobs and sends those that are not answered yet; knows no answers on disk and no sinks."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol

from contract.failure import Failure, FailureCode
from contract.job import Detail, ImageStored, Job, Question
from producer.keys import effective, question_key
from producer.ledger import FileDigest, Ledger, LedgerQuestion, NextRow, OpenJob
from producer.question_planner import Flagged, PlannedQuestion, QuestionPlanner, by_parameters
from producer.references import Resolved, Resolver, digest_of
from producer.rows import Embedded, Row
from producer.uploads import Uploads

FIRST_ROWS: Final = 16
ROWS: Final = 256
"""Of one transaction: few at first, so that workers begin at once, then each time twice as many."""
READERS: Final = 4
"""Threads that read and hash image files."""
DONE_AGAIN: Final = frozenset(
    {
        FailureCode.WRONG_MODEL,
        FailureCode.UNSUPPORTED_VERSION,
        FailureCode.IMAGE_NOT_ALLOWED,
        FailureCode.IMAGE_NOT_FOUND,
        FailureCode.IMAGE_UNREADABLE,
        FailureCode.URL_NOT_ALLOWED,
    }
)
"""Failures that say nothing of the question but of workers then, so that a new submission asks it again."""


class JobQueue(Protocol):
    """Where jobs go: producer.queue's Queue."""

    def submit(self, jobs: Sequence[tuple[str, str]], *, together: int = 1) -> None: ...
    def queued(self) -> int: ...


@dataclass(frozen=True)
class Fed:
    """What a round of feeding did."""

    sent: tuple[int, ...]
    """Indices of the jobs sent."""
    rows: int
    """Rows looked at; 0 when there are none left, or none that fits."""


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
        """`on_flag` has the changed parameters of a question that is asked once more, by the flag of its
        answer. `model` is the model id that must answer, and whose answers of earlier submissions count."""
        self._ledger = ledger
        self._queue = queue
        self._uploads = uploads
        self._question_planner = question_planner
        self._resolver = resolver
        self._run = run
        self._model = model
        self._on_flag = on_flag or {}
        self._index = ledger.jobs.next_index()
        self._most_rows = FIRST_ROWS
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="reader")

    def close(self) -> None:
        self._readers.shutdown(cancel_futures=True)

    def feed(self, room: int, together: int = 1) -> Fed:
        """Look at the next rows, and send at least one and at most about `room` jobs of them.

        So many jobs `together` go in one message. A row whose questions are all known, or under way for
        another row, sends none.
        """
        self._uploads.keep_only(self._ledger.jobs.uploads())
        rows = self._ledger.next_rows(min(room, self._most_rows))
        if not rows:
            return Fed((), 0)
        self._most_rows = min(2 * self._most_rows, ROWS)
        images, digests = self._images([one.row for one in rows])
        messages: list[tuple[int, str]] = []
        taken = 0
        with self._ledger.transaction():
            for place, digest in digests.items():
                self._ledger.keep_file_digest(place, digest)
            again = self._ledger.retries.changes([one.position for one in rows])
            for one, found in zip(rows, images, strict=True):
                if isinstance(one.row.image, Embedded):
                    found = [self._resolver.resolve(one.row.image, None)[0]]
                if not self._upload(found):
                    break
                messages += self._row(one, found, again.get(one.position))
                taken += 1
            for flag, changes in self._on_flag.items():
                known = [one.position for one in rows[:taken]]
                self._ledger.retries.ask_flagged(flag, changes, positions=known)
        self._send(messages, together)
        return Fed(tuple(index for index, _ in messages), taken)

    def send_again(self, jobs: Sequence[OpenJob]) -> None:
        """Of open jobs; images that went by way of the store are still there."""
        self._send([(job.index, job.message) for job in jobs])

    def _send(self, messages: Sequence[tuple[int, str]], together: int = 1) -> None:
        if not messages:
            return
        jobs = [(f"{self._run}-{index}", message) for index, message in messages]
        self._queue.submit(jobs, together=together)
        with self._ledger.transaction():
            self._ledger.jobs.mark_sent(index for index, _ in messages)

    def _images(self, rows: Sequence[Row]) -> tuple[list[list[Resolved]], dict[bytes, FileDigest]]:
        """The rows' images, without those embedded in the source, which are read one at a time."""
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

    def _upload(self, images: Sequence[Resolved]) -> bool:
        """False: the budget has no room for them now."""
        contents = {
            image.reference.sha256: image.content
            for image in images
            if image.content is not None and isinstance(image.reference, ImageStored)
        }
        if not self._uploads.fits({sha256: len(content) for sha256, content in contents.items()}):
            return False
        for sha256, content in contents.items():
            self._uploads.put(sha256, content)
        return True

    def _row(
        self, one: NextRow, images: Sequence[Resolved], again: Mapping[int, Mapping[str, Any]] | None
    ) -> list[tuple[int, str]]:
        """Note what the row asks, and return the jobs that this takes."""
        position, row = one.position, one.row
        detail = self._question_planner.detail(row)
        asked: list[LedgerQuestion] = []
        missing: dict[bytes, PlannedQuestion] = {}
        waiting = 0
        for question in self._question_planner.ready(
            row, self._ledger.outcomes(position) if one.begun else {}, again
        ):
            refused = next((image.refusal for image in images if image.refusal is not None), question.asked)
            if isinstance(refused, Failure):
                key = b"refused" + position.to_bytes(5, "big") + question.number.to_bytes(4, "big")
                self._ledger.asks.settle(key, refused)
            else:
                key = question_key(digest_of(images), refused, question.parameters, detail)
                known = key not in missing and self._known(key)
                if known is None:
                    missing[key] = question
                waiting += known is not True
            asked.append(LedgerQuestion(question.number, question.id, question.prompt, key))
        messages = self._jobs(missing, images, detail)
        self._ledger.add_questions(position, asked, waiting)
        return messages

    def _known(self, key: bytes) -> bool | None:
        """True: has an outcome; False: it is under way; None: it must be asked."""
        found = self._ledger.asks.find(key)
        if found is None:
            return None
        has_outcome, model, code = found
        if has_outcome and (
            code in DONE_AGAIN or (None not in (model, self._model) and model != self._model)
        ):
            return None
        return has_outcome

    def _jobs(
        self, missing: Mapping[bytes, PlannedQuestion], images: Sequence[Resolved], detail: Detail
    ) -> list[tuple[int, str]]:
        messages = []
        references = [image.reference for image in images]
        uploads = [one.sha256 for one in references if isinstance(one, ImageStored)]
        keys = {id(question): key for key, question in missing.items()}
        for parameters, group in by_parameters(list(missing.values())).items():
            questions = tuple(question.asked for question in group if isinstance(question.asked, Question))
            scored = all(question.choices is not None for question in questions)
            job = Job(
                run=self._run,
                index=self._index,
                image=references[0] if references else None,
                more_images=tuple(references[1:]),
                questions=questions,
                parameters=effective(parameters, choices=scored),
                detail=detail,
                model=self._model,
            )
            message = job.model_dump_json()
            asks = {keys[id(question)]: question.id for question in group}
            self._ledger.add_job(self._index, message, uploads, asks)
            messages.append((self._index, message))
            self._index += 1
        return messages
