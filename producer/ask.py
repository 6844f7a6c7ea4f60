"""Asks one interactive question, ahead of bulk work, and streams its answer; knows no run folder."""

import time
import uuid
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import redis

from contract.answer import Answer, JobResult
from contract.broker import INTERACTIVE_QUEUE, VISIBILITY_TIMEOUT_S
from contract.failure import Failure
from contract.job import (
    Detail,
    GenerationParameters,
    ImagePath,
    ImageReference,
    ImageStored,
    ImageUrl,
    Job,
    Question,
    Turn,
)
from contract.store import (
    END_FIELD,
    RECORD_FIELD,
    TOKENS_FIELD,
    attempts_key,
    cancelled_key,
    done_key,
    holders_key,
    image_key,
    results_key,
    stop_key,
    tokens_key,
)
from producer.errors import ProducerError
from producer.queue import Queue
from producer.references import shipped
from producer.streams import Entry, read_streams
from producer.worker_line import no_worker
from producer.workers import live_workers

DEFAULTS: Final = GenerationParameters()
BLOCK_MS: Final = 200
NO_WORKER_S: Final = 1.0
KEPT_S: Final = 2 * VISIBILITY_TIMEOUT_S
"""Seconds until the store deletes what a question left there, longer than any redelivery takes."""
DEADLINE_S: Final = 600.0
OVERDUE_S: Final = 30.0
STOP_WAIT_S: Final = 3.0
"""Seconds to wait for the text that a stopped worker had generated."""
LOOK_EVERY_S: Final = 1.0
QUESTION_ID: Final = "q1"


class NoWorkerError(ProducerError):
    """No worker is alive, or none answers; the message says what to start."""


@dataclass(frozen=True)
class InteractiveQuestion:
    """A question and its image: a path, a URL, the file's bytes, or none.

    In a conversation the turns place the image, and the last turn is the question.
    """

    image: str | Path | bytes | None
    question: str | tuple[Turn, ...]
    parameters: GenerationParameters = DEFAULTS
    detail: Detail = "high"
    choices: tuple[str, ...] | None = None
    model: str | None = None
    """The model id that must answer; None takes any."""

    @property
    def streams(self) -> bool:
        """Whether the answer can stream: it is one generated row, not a choice."""
        rows = max(self.parameters.num_beams, self.parameters.num_return_sequences)
        return rows == 1 and self.choices is None


def ask(
    connection: redis.Redis,
    queue: Queue,
    asked: InteractiveQuestion,
    on_text: Callable[[str], None] | None = None,
) -> Answer | Failure:
    """The answer, or why there is none. `on_text` gets its pieces, if it can stream.

    An exception, also KeyboardInterrupt, stops the generation. Raises NoWorkerError.
    """
    waiting = Waiting(connection, queue, asked, stream=on_text is not None)
    for piece in waiting.pieces():
        if on_text is not None:
            on_text(piece)
    assert waiting.outcome is not None, "it is not stopped here"
    return waiting.outcome


class Waiting:
    """A question that was sent. For one thread at a time; any thread may call stop()."""

    def __init__(
        self, connection: redis.Redis, queue: Queue, asked: InteractiveQuestion, *, stream: bool = True
    ) -> None:
        """Sends the question. Raises what `queue.submit` raises, and OSError for an unreadable image."""
        self._redis = connection
        self._queue = queue
        self._run = f"ask-{uuid.uuid4().hex}"
        self._job = _job(connection, self._run, asked, stream=stream)
        self._stopped_at: float | None = None
        self._could_take: set[str] = set()
        """Workers that were alive when it was sent, or later: one of them has it."""
        self.outcome: Answer | Failure | None = None
        """Set when pieces() has ended; None if the question was stopped without an answer."""
        self._limit_stay()
        self._send()

    def stop(self) -> None:
        """End the generation. Of a question that streams, the text so far becomes the answer."""
        self._stopped_at = time.monotonic()
        if self._job.stream:
            self._redis.set(stop_key(self._run, 0), 1, ex=KEPT_S)
        else:
            self._redis.set(cancelled_key(self._run), 1, ex=KEPT_S)

    @property
    def stopped(self) -> bool:
        return self._stopped_at is not None

    def pieces(self) -> Generator[str, None, None]:
        """The answer's text as it comes, if it streams. Read it once; leaving it early stops the question.

        Raises NoWorkerError, and redis.RedisError when the store does not come back.
        """
        try:
            yield from self._pieces()
        finally:
            self._clean_up()

    def _pieces(self) -> Iterator[str]:
        places = {results_key(self._run): "0-0"}
        if self._job.stream:
            places[tokens_key(self._run, 0)] = "0-0"
        heard_at = looked_at = time.monotonic()
        text_ended = not self._job.stream
        while not self._given_up():
            for key, entry_id, fields in self._read(places):
                places[key] = entry_id
                heard_at = time.monotonic()
                if RECORD_FIELD in fields:
                    if not text_ended:
                        yield from self._rest(places)
                    self.outcome = JobResult.model_validate_json(fields[RECORD_FIELD]).results[0].outcome
                    return
                text_ended = text_ended or END_FIELD in fields
                if fields.get(TOKENS_FIELD):
                    yield fields[TOKENS_FIELD]
            if time.monotonic() - max(heard_at, looked_at) > LOOK_EVERY_S:
                looked_at = time.monotonic()
                self._see_to_a_worker(silent_s=looked_at - heard_at)

    def _read(self, places: dict[str, str]) -> list[Entry]:
        """New entries, tokens before records."""
        found = read_streams(self._redis, places, BLOCK_MS)
        return sorted(found, key=lambda entry: RECORD_FIELD in entry.fields)

    def _rest(self, places: dict[str, str]) -> Iterator[str]:
        """Pieces up to the end of the text, once the record has come."""
        until = time.monotonic() + 1.0
        while time.monotonic() < until:
            for key, entry_id, fields in self._read(places):
                places[key] = entry_id
                if END_FIELD in fields:
                    return
                if fields.get(TOKENS_FIELD):
                    yield fields[TOKENS_FIELD]

    def _given_up(self) -> bool:
        """Whether it was stopped, and the time for a last answer is over."""
        if self._stopped_at is None:
            return False
        return time.monotonic() > self._stopped_at + (STOP_WAIT_S if self._job.stream else 0.0)

    def _see_to_a_worker(self, silent_s: float) -> None:
        """Send it again when a worker that may have it is gone; the broker would wait for much longer."""
        live = {record.worker for record in live_workers(self._redis)}
        if not live and silent_s > NO_WORKER_S:
            raise NoWorkerError(no_worker(self._queue.url, "so the question cannot be answered"))
        if live and self._could_take - live:
            self._send()
        self._could_take |= live
        assert self._job.deadline is not None
        if time.time() > self._job.deadline + OVERDUE_S:
            raise NoWorkerError(
                f"No answer came for {DEADLINE_S:.0f} s; look at the logs of the workers: {', '.join(live)}"
            )

    def _send(self) -> None:
        """Send it to the broker. A second time does no harm: workers drop what is answered."""
        self._could_take = {record.worker for record in live_workers(self._redis)}
        self._queue.submit([(f"{self._run}-0", self._job.model_dump_json())], INTERACTIVE_QUEUE)

    def _limit_stay(self) -> None:
        """Create the worker's keys with an expiry, so that they go even if this process dies."""
        with self._redis.pipeline() as commands:
            commands.xgroup_create(results_key(self._run), "none", mkstream=True)
            commands.expire(results_key(self._run), KEPT_S)
            commands.setbit(done_key(self._run), 0, 0)
            commands.expire(done_key(self._run), KEPT_S)
            commands.execute()

    def _clean_up(self) -> None:
        """Stop the generation if it still goes on, and delete the keys that nobody writes to any more."""
        keys = [tokens_key(self._run, 0), attempts_key(self._run), holders_key(self._run)]
        if isinstance(self._job.image, ImageStored):
            keys.append(image_key(self._run, self._job.image.sha256))
        if self.outcome is None:
            self._redis.set(cancelled_key(self._run), 1, ex=KEPT_S)
            self._redis.set(stop_key(self._run, 0), 1, ex=KEPT_S)
        else:
            keys += [results_key(self._run), stop_key(self._run, 0)]
        self._redis.delete(*keys)


def _job(connection: redis.Redis, run: str, asked: InteractiveQuestion, *, stream: bool) -> Job:
    question = Question(id=QUESTION_ID, messages=asked.question, choices=asked.choices)
    return Job(
        run=run,
        index=0,
        image=_reference(connection, run, asked.image),
        questions=(question,),
        parameters=asked.parameters,
        detail=asked.detail,
        deadline=time.time() + DEADLINE_S,
        model=asked.model,
        stream=stream and asked.streams,
    )


def _reference(connection: redis.Redis, run: str, image: str | Path | bytes | None) -> ImageReference | None:
    """The image as a job refers to it. A file's bytes are sent, as the worker may not see the file.

    Raises OSError for a file that cannot be read.
    """
    if image is None:
        return None
    if isinstance(image, str) and "://" in image:
        return ImageUrl(url=image)
    if isinstance(image, str | Path):
        path = Path(image)
        if not path.is_file():
            return ImagePath.of(path.absolute())
        image = path.read_bytes()
    reference = shipped(image).reference
    if isinstance(reference, ImageStored):
        connection.set(image_key(run, reference.sha256), image, ex=KEPT_S)
    return reference
