"""Answered rows for tests of sinks and the contact sheet."""

from pathlib import Path
from typing import Any

from contract.answer import Answer
from contract.failure import Failure, FailureCode
from contract.job import ImagePath
from producer.ledger import Ledger
from producer.rows import Answered, AnsweredRow
from producer.sinks.output_record import OutputRecord


def record_in(folder: Path) -> OutputRecord:
    """Record rows in a ledger of its own."""
    return OutputRecord(Ledger(folder, create=True), folder)


def answer(text: str = "A dog.", **fields: Any) -> Answer:
    told: dict[str, Any] = {
        "finish_reason": "stop",
        "completion_tokens": 4,
        "prompt_tokens": 20,
        "score": -0.125,
        "mean_log_prob": -0.25,
    }
    return Answer(text=text, **{**told, **fields})


def failure(message: str = "The image is broken.") -> Failure:
    return Failure(code=FailureCode.IMAGE_BROKEN, message=message)


def answered_row(position: int = 0, *outcomes: Answer | Failure | str, **fields: Any) -> AnsweredRow:
    """Its questions are q1, q2, …, in the order of `outcomes`; `image` may be a path."""
    answers = []
    for number, outcome in enumerate(outcomes or ("A dog.",), start=1):
        outcome = answer(outcome) if isinstance(outcome, str) else outcome
        answers.append(Answered(f"q{number}", f"What {number}?", outcome))
    image = fields.pop("image", None)
    told: dict[str, Any] = {
        "id": str(position),
        "name": None,
        "columns": {},
        "model": "demo",
        "answers": tuple(answers),
        "image": ImagePath.of(image) if isinstance(image, Path) else image,
    }
    return AnsweredRow(position=position, **{**told, **fields})


def read_path(row: AnsweredRow) -> bytes | None:
    try:
        return row.image.to_path().read_bytes() if isinstance(row.image, ImagePath) else None
    except OSError:
        return None
