"""One question that somebody waits for: ahead of bulk work, its text as it comes; knows no run folder."""

import base64
import hashlib
import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import redis

from contract.answer import Answer, JobResult
from contract.broker import INTERACTIVE_QUEUE
from contract.failure import Failure
from contract.job import (
    INLINE_MAX_BYTES,
    Detail,
    GenerationParameters,
    ImageInline,
    ImagePath,
    ImageReference,
    ImageStored,
    ImageUrl,
    Job,
    Question,
)
from contract.store import (
    END_FIELD,
    RECORD_FIELD,
    TOKENS_FIELD,
    attempts_key,
    done_key,
    image_key,
    results_key,
    stop_key,
    tokens_key,
)
from producer.progress import START_A_WORKER
from producer.queue import Queue
from producer.workers import live_workers

DEFAULTS: Final = GenerationParameters()
BLOCK_MS: Final = 200
NO_WORKER_S: Final = 5.0
KEPT_S: Final = 900
DEADLINE_S: Final = 600.0
QUESTION_ID: Final = "q1"


class NoWorkerError(Exception):
    """Nobody is there to answer; the message says what to start."""


@dataclass(frozen=True)
class Asked:
    """A question and its image: a path, a URL, the file's bytes, or none."""

    image: str | Path | bytes | None
    question: str
    parameters: GenerationParameters = DEFAULTS
    detail: Detail = "high"
    choices: tuple[str, ...] | None = None


def ask(
    connection: redis.Redis, queue: Queue, asked: Asked, on_text: Callable[[str], None] | None = None
) -> Answer | Failure:
    """The answer, or why there is none; `on_text` gets its pieces, if its parameters let it stream.

    Leaving by an exception, KeyboardInterrupt too, stops the generation. Raises NoWorkerError.
    """
    run = f"ask-{uuid.uuid4().hex}"
    job = _job(connection, run, asked, stream=on_text is not None)
    seen_at = time.monotonic()
    queue.submit([(f"{run}-0", job.model_dump_json())], INTERACTIVE_QUEUE)
    places: dict[Any, Any] = {results_key(run): "0-0"}
    if job.stream:
        places[tokens_key(run, 0)] = "0-0"
    try:
        while True:
            for key, entry_id, fields in _read(connection, places):
                places[key] = entry_id
                seen_at = time.monotonic()
                if RECORD_FIELD in fields:
                    if job.stream and on_text is not None:
                        _drain(connection, places, on_text)
                    return JobResult.model_validate_json(fields[RECORD_FIELD]).results[0].outcome
                if on_text is not None and fields.get(TOKENS_FIELD):
                    on_text(fields[TOKENS_FIELD])
            if time.monotonic() - seen_at > NO_WORKER_S and not live_workers(connection):
                raise NoWorkerError(f"No worker is there to answer; start one with: {START_A_WORKER}")
    except BaseException:
        connection.set(stop_key(run, 0), 1, ex=KEPT_S)
        raise
    finally:
        keys = [results_key(run), tokens_key(run, 0), attempts_key(run)]
        if isinstance(job.image, ImageStored):
            keys.append(image_key(run, job.image.sha256))
        connection.delete(*keys)
        connection.expire(done_key(run), KEPT_S)


def _drain(connection: redis.Redis, places: dict[Any, Any], on_text: Callable[[str], None]) -> None:
    """Pieces that were written before the record, and the end after the last of them."""
    until = time.monotonic() + 1.0
    while time.monotonic() < until:
        for key, entry_id, fields in _read(connection, places):
            places[key] = entry_id
            if END_FIELD in fields:
                return
            if fields.get(TOKENS_FIELD):
                on_text(fields[TOKENS_FIELD])


def _job(connection: redis.Redis, run: str, asked: Asked, *, stream: bool) -> Job:
    question = Question(id=QUESTION_ID, messages=asked.question, choices=asked.choices)
    single = max(asked.parameters.num_beams, asked.parameters.num_return_sequences) == 1
    return Job(
        run=run,
        index=0,
        image=_reference(connection, run, asked.image),
        questions=(question,),
        parameters=asked.parameters,
        detail=asked.detail,
        deadline=time.time() + DEADLINE_S,
        stream=stream and single and asked.choices is None,
    )


def _reference(connection: redis.Redis, run: str, image: str | Path | bytes | None) -> ImageReference | None:
    """Raises OSError for a file that cannot be read: its bytes travel, as the worker may not see it."""
    if image is None:
        return None
    if isinstance(image, str) and "://" in image:
        return ImageUrl(url=image)
    if isinstance(image, str | Path):
        path = Path(image)
        if not path.is_file():
            return ImagePath.of(path.absolute())
        image = path.read_bytes()
    if len(image) <= INLINE_MAX_BYTES:
        return ImageInline(base64=base64.b64encode(image).decode())
    sha256 = hashlib.sha256(image).hexdigest()
    connection.set(image_key(run, sha256), image, ex=KEPT_S)
    return ImageStored(sha256=sha256)


def _read(connection: redis.Redis, places: dict[Any, Any]) -> list[tuple[str, str, dict[str, str]]]:
    """New entries as (key, id, fields), tokens before records."""
    reply: Any = connection.xread(places, block=BLOCK_MS)
    streams = reply.items() if isinstance(reply, dict) else reply or ()
    found = []
    for key, entries in streams:
        if entries and isinstance(entries[0], list):
            (entries,) = entries
        for entry_id, fields in entries:
            texts = {name.decode(): value.decode() for name, value in fields.items()}
            found.append((key.decode(), entry_id.decode(), texts))
    return sorted(found, key=lambda one: RECORD_FIELD in one[2])
