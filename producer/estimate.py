"""Measures how long the live workers take for a sample of a source; knows no command line."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import redis

from contract.answer import Answer
from producer.queue import Queue
from producer.remedies import Surroundings
from producer.rows import Row
from producer.run_folder import RunFolder
from producer.sources import BadRows, PlainSource, Source, shown
from producer.work import work_on
from producer.workers import live_workers


class Sample(PlainSource):
    """Rows of a source at even distances."""

    def __init__(self, source: Source, wanted: int) -> None:
        """Reads the whole source once, to count its rows."""
        self._source = source
        self.total = sum(1 for _ in source.rows(BadRows("skip")))
        self._every = max(1, self.total // wanted)
        self._wanted = wanted
        self.columns, self.notes = source.columns, source.notes
        self.skipped, self.images_folder = source.skipped, source.images_folder

    def rows(self, bad: BadRows | None = None, /) -> Iterator[Row]:
        left = self._wanted
        for number, row in enumerate(self._source.rows(bad)):
            if left and number % self._every == 0:
                left -= 1
                yield row

    def read(self, place: int) -> bytes:
        return self._source.read(place)


def estimate(
    opened: RunFolder,
    sample: Sample,
    connection: redis.Redis,
    queue: Queue,
    check: Callable[[], None] = lambda: None,
    *,
    own_workers: bool = False,
) -> dict[str, Any]:
    """Answer the sample, which is planned in `opened`, and scale its time up to the whole source.

    Other queued jobs slow the workers down and are not corrected for. `check` is called after each round.
    If a question fails there is no forecast, but "failures": number, example and remedy for each code.
    """
    planned = opened.ledger.rows()
    working = work_on(
        opened, connection, queue, feed=True, collect=True, keep_going=True, own_workers=own_workers
    )
    with working as work:
        begun = time.monotonic()
        for _ in work.run.rounds():
            check()
        seconds = time.monotonic() - begun
        work.finish(keep_done_s=60)
    answers = [one.outcome for row in opened.ledger.in_order() for one in row.answers]
    texts = [one for one in answers if isinstance(one, Answer)]
    workers = len(live_workers(connection))
    failed = len(answers) - len(texts)
    result = {"rows": sample.total, "sample_rows": planned, "workers": workers, "failed_questions": failed}
    failures = _failures(opened, opened.surroundings(connection, own=own_workers))
    opened.close()
    if failed:
        return result | {"failures": failures}
    tokens = sum(one.completion_tokens for one in texts)
    prompt_tokens = sum(one.prompt_tokens for one in texts)
    scale = sample.total / planned
    return result | {
        "seconds": seconds,
        "images_per_s": planned / seconds,
        "tokens_per_s": tokens / seconds,
        "total_s": seconds * scale,
        "total_tokens": tokens * scale,
        "total_prompt_tokens": prompt_tokens * scale,
    }


def _failures(opened: RunFolder, around: Surroundings) -> list[dict[str, Any]]:
    """One entry for each failure code, the most frequent first."""
    remedies = opened.remedies(around)
    found = []
    for code, count in opened.ledger.failures().items():
        [(row, failure)] = opened.ledger.failed(code, 1)
        found.append(
            {
                "code": code,
                "questions": count,
                "row": shown(row.id),
                "example": remedies.get(code, failure.message),
            }
        )
    return found
