"""What a job ends in: for each of its questions one answer or one failure."""

from typing import Annotated, Final, Literal

from pydantic import Field

from contract.base import Contract, Text
from contract.failure import Failure
from contract.job import JobIndex, RunId

FinishReason = Literal["stop", "length"]


class Answer(Contract):
    """The text generated for one question."""

    kind: Literal["answer"] = "answer"
    text: Text
    finish_reason: FinishReason
    prompt_tokens: int = Field(ge=0, description="image tokens included")
    completion_tokens: int = Field(ge=0, description="end-of-sequence token included")
    score: float = Field(
        allow_inf_nan=False,
        description="sum of token log-probabilities / completion_tokens ** length_penalty",
    )


Outcome = Annotated[Answer | Failure, Field(discriminator="kind")]


EVERY_QUESTION: Final = "*"
"""Question id of a record's only result when the message did not tell its questions' ids."""


class QuestionResult(Contract):
    """The outcome of one question of a job."""

    question: str = Field(description="the question's id")
    outcome: Outcome


class JobResult(Contract):
    """The one visible record a job ends in: the questions' outcomes in the job's order."""

    version: Literal[1] = 1
    run: RunId
    index: JobIndex
    worker: str = Field(description="host and process id")
    model: str = Field(description="model id from the folder's manifest")
    seconds: float = Field(ge=0, description="from taking the job to its last outcome")
    results: tuple[QuestionResult, ...]
