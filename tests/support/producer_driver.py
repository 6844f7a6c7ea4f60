"""Rows without a file, and workers that answer as soon as a job is sent, for tests of the producer."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import redis

from contract.answer import Answer, JobResult, QuestionResult
from contract.failure import Failure, FailureCode
from contract.job import Job, Question
from contract.store import WRITE_ONCE, record_keys, results_key
from producer.rows import Row
from producer.sources import BadRows, Skipped

Reply = Callable[[Job, Question], Answer | Failure]


class Rows:
    """Fulfils producer.sources.Source."""

    columns: tuple[str, ...] | None = None
    skipped = Skipped()
    images_folder: Path | None = None
    notes: tuple[str, ...] = ()

    def __init__(
        self, rows: Sequence[Row] | Callable[[], Iterator[Row]], embedded: Sequence[bytes] = ()
    ) -> None:
        self._rows = rows
        self._embedded = embedded

    def rows(self, _: BadRows | None = None, /) -> Iterator[Row]:
        return self._rows() if callable(self._rows) else iter(self._rows)

    def read(self, place: int) -> bytes:
        return self._embedded[place]


def answer(text: str, tokens: int = 3) -> Answer:
    return Answer(
        text=text,
        finish_reason="stop",
        prompt_tokens=9,
        completion_tokens=tokens,
        score=-0.5,
        mean_log_prob=-0.5,
    )


def say_what_was_asked(job: Job, question: Question) -> Answer | Failure:
    assert isinstance(question.messages, str)
    if question.messages.startswith("fail "):
        return Failure(code=FailureCode(question.messages.removeprefix("fail ")), message="No.")
    return answer(f"{question.messages} {job.parameters.max_new_tokens}")


def write(
    connection: redis.Redis,
    job: Job,
    reply: Reply = say_what_was_asked,
    model: str = "m",
    seconds: float = 0.1,
) -> bool:
    """As a worker writes a record."""
    results = tuple(QuestionResult(question=one.id, outcome=reply(job, one)) for one in job.questions)
    result = JobResult(
        run=job.run, index=job.index, worker="w", model=model, seconds=seconds, results=results
    )
    keys = record_keys(job.run)
    return bool(connection.eval(WRITE_ONCE, len(keys), *keys, str(job.index), result.model_dump_json()))


class Workers:
    """A queue with workers behind it, which answer a job as soon as it is sent.

    `loses` decides by index and attempt which jobs vanish. Obeys producer.feed's JobQueue.
    """

    def __init__(
        self,
        connection: redis.Redis,
        loses: Callable[[int, int], bool] = lambda *_: False,
        reply: Reply = say_what_was_asked,
        model: str = "m",
        seconds: float = 0.1,
    ) -> None:
        self._connection = connection
        self._loses = loses
        self._reply = reply
        self._model = model
        self._seconds = seconds
        self.together: list[int] = []
        """Of each call."""
        self.jobs: list[Job] = []
        self.most_unanswered = 0
        self.before_answer: Callable[[Job], None] = lambda _: None

    @property
    def sent(self) -> list[int]:
        return [job.index for job in self.jobs]

    def submit(self, jobs: Sequence[tuple[str, str]], *, together: int = 1) -> None:
        self.together.append(together)
        for task_id, message in jobs:
            job = Job.model_validate_json(message)
            assert task_id == f"{job.run}-{job.index}"
            self.jobs.append(job)
            if not self._loses(job.index, self.sent.count(job.index)):
                self.before_answer(job)
                write(self._connection, job, self._reply, self._model, self._seconds)
            length: Any = self._connection.xlen(results_key(job.run))
            self.most_unanswered = max(self.most_unanswered, length)

    def queued(self) -> int:
        return 0


def lines(out: Path, name: str = "answers.jsonl") -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / name).read_text().splitlines()]


def texts(out: Path) -> dict[str, list[str]]:
    """Row id → its answers' texts, or the failures' codes."""
    found = lines(out)
    assert len({line["id"] for line in found}) == len(found)
    return {
        line["id"]: [one["text"] if "text" in one else one["failure"]["code"] for one in line["answers"]]
        for line in found
    }
