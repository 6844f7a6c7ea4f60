"""Drains a run's records from the result store to the run's folder, each once; knows nothing of sending."""

from collections import Counter
from typing import Any, Final

import redis

from contract.answer import EVERY_QUESTION, Answer, JobResult, Outcome
from contract.failure import Failure, FailureCode
from contract.job import ImagePath, Question
from contract.store import RECORD_FIELD, done_key, results_key
from producer.run_folder import Entry, RunFolder

BATCH: Final = 256


class Collector:
    """One per run folder. A crash at any point loses nothing and leaves nothing twice on disk."""

    def __init__(self, connection: redis.Redis, folder: RunFolder) -> None:
        self._redis = connection
        self._folder = folder
        self._key = results_key(folder.record.run)
        self._done = bytearray((folder.record.jobs + 7) // 8)
        self._cursor = folder.checkpoint.stream_id
        self.done_jobs = 0
        self.failed_jobs = 0
        self.answered_questions = 0
        self.failures: Counter[str] = Counter()
        """Failed questions by code."""
        for line in folder.answered():
            self._count(line)
        if _stream_place(self._last_id()) < _stream_place(self._cursor):
            # The store was lost and began again; what is known already is dropped by its index.
            self._cursor = "0-0"

    def is_done(self, index: int) -> bool:
        return bool(self._done[index >> 3] & (1 << (index & 7)))

    def collect(self, block_ms: int) -> list[int]:
        """Wait up to `block_ms` for records, make them certain on disk, then drop them from the store.

        Returns the indices of jobs that were not on disk before.
        """
        records = self._read(block_ms)
        if not records:
            return []
        lines: dict[int, dict[str, Any]] = {}
        for _, record in records:
            result = JobResult.model_validate_json(record)
            if result.index < self._folder.record.jobs and not self.is_done(result.index):
                lines.setdefault(result.index, answer_line(self._folder.entry(result.index), result))
        last_id = records[-1][0]
        self._folder.append(list(lines.values()))
        self._folder.commit(last_id)
        for line in lines.values():
            self._count(line)
        self._cursor = last_id
        milliseconds, sequence = _stream_place(last_id)
        self._redis.xtrim(self._key, minid=f"{milliseconds}-{sequence + 1}", approximate=False)
        return list(lines)

    def forget(self, keep_done_s: int) -> None:
        """After the last job: free the store. The done bits stay a while to refuse late redeliveries."""
        self._redis.delete(self._key)
        self._redis.expire(done_key(self._folder.record.run), keep_done_s)

    def _read(self, block_ms: int) -> list[tuple[str, bytes]]:
        reply: Any = self._redis.xread({self._key: self._cursor}, count=BATCH, block=block_ms)
        if not reply:
            return []
        streams = reply.values() if isinstance(reply, dict) else (entries for _, entries in reply)
        (entries,) = streams
        # RESP3 nests the entries of a stream once more than RESP2.
        if entries and isinstance(entries[0], list):
            (entries,) = entries
        return [(entry_id.decode(), fields[RECORD_FIELD.encode()]) for entry_id, fields in entries]

    def _last_id(self) -> str:
        try:
            stream: Any = self._redis.xinfo_stream(self._key)
        except redis.ResponseError:
            return "0-0"
        last: str | bytes = stream["last-generated-id"]
        return last if isinstance(last, str) else last.decode()

    def _count(self, line: dict[str, Any]) -> None:
        index: int = line["index"]
        self._done[index >> 3] |= 1 << (index & 7)
        codes = [answer["failure"]["code"] for answer in line["answers"] if "failure" in answer]
        self.done_jobs += 1
        self.failed_jobs += bool(codes)
        self.failures.update(codes)
        self.answered_questions += len(line["answers"]) - len(codes)


def answer_line(entry: Entry, result: JobResult) -> dict[str, Any]:
    """The job's line in answers.jsonl: an answer or a failure for every question it asked."""
    outcomes = {one.question: one.outcome for one in result.results}
    return {
        "index": result.index,
        "id": entry.id,
        "image": str(entry.job.image.to_path()) if isinstance(entry.job.image, ImagePath) else None,
        "model": result.model,
        "answers": [_answer(question, outcomes) for question in entry.job.questions],
    }


def _answer(question: Question, outcomes: dict[str, Outcome]) -> dict[str, Any]:
    prompt: Any = question.messages
    if not isinstance(prompt, str):
        prompt = [turn.model_dump(mode="json") for turn in prompt]
    line: dict[str, Any] = {"question": question.id, "prompt": prompt}
    outcome = outcomes.get(question.id) or outcomes.get(EVERY_QUESTION)
    if isinstance(outcome, Answer):
        return {**line, **outcome.model_dump(mode="json", exclude={"kind"})}
    if outcome is None:
        outcome = Failure(
            code=FailureCode.INTERNAL_ERROR, message="The worker's record leaves this question out."
        )
    return {**line, "failure": outcome.model_dump(mode="json", exclude={"kind"})}


def _stream_place(entry_id: str) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition("-")
    return int(milliseconds), int(sequence)
