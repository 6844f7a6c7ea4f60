"""Writes files of JSON lines row by row: answers, failures, an OpenAI batch; knows no run."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any, Final

from contract.answer import Answer, Generated
from contract.failure import Failure
from producer.rows import Answered, AnsweredRow
from producer.sinks.answers import answer_line
from producer.sinks.files import GrowingFile, json_line
from producer.sinks.output_record import OutputFile
from producer.sinks.sink import Sink

LINES: Final = 1000
"""Number of lines in one append."""
Lines = Callable[[AnsweredRow], Iterator[dict[str, Any]]]


class LinesSink(Sink):
    """Files of JSON lines, each with a function that gives a row's lines."""

    def __init__(self, name: str, files: Sequence[tuple[OutputFile, Lines]]) -> None:
        super().__init__(name)
        self._files = [(GrowingFile(file), lines) for file, lines in files]

    def files(self) -> list[OutputFile]:
        return [file.file for file, _ in self._files]

    def resume(self, place: dict[str, Any] | None) -> None:
        sizes = [None] * len(self._files) if place is None else place["bytes"]
        for (file, _), size_bytes in zip(self._files, sizes, strict=True):
            file.resume(size_bytes)

    def write(self, rows: Sequence[AnsweredRow]) -> dict[str, Any]:
        for file, lines in self._files:
            content = b"".join(json_line(line) for row in rows for line in lines(row))
            if content:
                file.append(content)
        return {"bytes": [file.size_bytes for file, _ in self._files]}

    def close(self) -> None:
        for file, _ in self._files:
            file.close()


class FailuresSink(LinesSink):
    """A line for each question that failed, and at the end one for each output that is not on disk."""

    def __init__(self, name: str, file: OutputFile) -> None:
        super().__init__(name, [(file, failure_lines)])

    def tell(self, lines: Iterator[dict[str, Any]]) -> None:
        """Append lines at the end. They are not part of `place`, so `resume` cuts them off."""
        ((file, _),) = self._files
        while chunk := b"".join(map(json_line, islice(lines, LINES))):
            file.append(chunk)


def answer_lines(row: AnsweredRow) -> Iterator[dict[str, Any]]:
    yield answer_line(row)


def failure_lines(row: AnsweredRow) -> Iterator[dict[str, Any]]:
    """One line for each question that failed."""
    for one in row.answers:
        if isinstance(one.outcome, Failure):
            yield {
                "position": row.position,
                "id": row.id,
                "name": row.name,
                "question": one.question,
                "code": one.outcome.code.value,
                "message": one.outcome.message,
            }


def openai_output_lines(row: AnsweredRow) -> Iterator[dict[str, Any]]:
    """Lines of an OpenAI batch's output file: one for each answer, with its alternatives as choices."""
    for one in row.answers:
        if isinstance(one.outcome, Answer):
            line = _openai_line(row, one)
            number = line["id"].removeprefix("batch_req_")
            response = {
                "status_code": 200,
                "request_id": f"req_{number}",
                "body": _completion(one.outcome, f"chatcmpl-{number}", row.model or ""),
            }
            yield {**line, "response": response, "error": None}


def openai_error_lines(row: AnsweredRow) -> Iterator[dict[str, Any]]:
    """Lines of an OpenAI batch's error file: one for each question that failed."""
    for one in row.answers:
        if isinstance(one.outcome, Failure):
            error = {"code": one.outcome.code.value, "message": one.outcome.message}
            yield {**_openai_line(row, one), "response": None, "error": error}


def _openai_line(row: AnsweredRow, one: Answered) -> dict[str, Any]:
    """The ids of a line. A row with several questions has a line for each, with the question's id in it."""
    custom_id = row.id if len(row.answers) == 1 else f"{row.id}/{one.question}"
    name = f"{row.position}\0{custom_id}".encode("utf-8", "surrogatepass")
    return {"id": f"batch_req_{hashlib.sha256(name).hexdigest()[:24]}", "custom_id": custom_id}


def _completion(answer: Answer, completion_id: str, model: str) -> dict[str, Any]:
    generated: tuple[Generated, ...] = (answer, *answer.alternatives)
    completion_tokens = sum(one.completion_tokens for one in generated)
    return {
        "id": completion_id,
        "object": "chat.completion",
        # No time, so that the same run gives the same file.
        "created": 0,
        "model": model,
        "choices": [
            {
                "index": index,
                "message": {"role": "assistant", "content": one.text},
                "logprobs": None,
                "finish_reason": one.finish_reason,
            }
            for index, one in enumerate(generated)
        ],
        "usage": {
            "prompt_tokens": answer.prompt_tokens,
            "completion_tokens": completion_tokens,
            "total_tokens": answer.prompt_tokens + completion_tokens,
        },
    }
