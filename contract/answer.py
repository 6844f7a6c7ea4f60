"""The result of a job: one answer or one failure for each question."""

from typing import Annotated, Final, Literal

from pydantic import Field

from contract.base import Contract, Text
from contract.failure import Failure
from contract.job import JobIndex, RunId

FinishReason = Literal["stop", "length"]


Flag = Literal["truncated", "repetition", "empty", "incomplete_image"]
"""truncated: it reached max_new_tokens; repetition: its end repeats itself; empty: it has no text;
incomplete_image: the end of the image file is missing, but every pixel is there."""


class Generated(Contract):
    """One generated text and its scores."""

    text: Text
    finish_reason: FinishReason
    completion_tokens: int = Field(ge=0, description="end-of-sequence token included")
    score: float = Field(
        allow_inf_nan=False,
        description="sum of token log-probabilities / completion_tokens ** length_penalty; with num_beams "
        "after penalties and bans, as transformers' sequences_scores",
    )
    mean_log_prob: float = Field(
        allow_inf_nan=False, description="mean of the model's own log-probabilities of the tokens"
    )


class ChoiceProbability(Contract):
    """One of a question's allowed answers; all probabilities add up to 1."""

    text: Text
    probability: float = Field(ge=0, le=1)
    score: float = Field(allow_inf_nan=False, description="as an answer's score, end-of-sequence included")


class Answer(Generated):
    """The text generated for one question, or the most probable of its allowed answers."""

    kind: Literal["answer"] = "answer"
    prompt_tokens: int = Field(ge=0, description="image tokens included")
    flags: tuple[Flag, ...] = ()
    alternatives: tuple[Generated, ...] = Field(
        default=(), description="the other num_return_sequences: beams by score, samples in the order drawn"
    )
    choices: tuple[ChoiceProbability, ...] = Field(default=(), description="in the question's order")


Outcome = Annotated[Answer | Failure, Field(discriminator="kind")]


EVERY_QUESTION: Final = "*"
"""Question id of a record's only result where the message gave no question ids."""


class QuestionResult(Contract):
    """The outcome of one question of a job."""

    question: str = Field(description="the question's id")
    outcome: Outcome


class JobResult(Contract):
    """The one record of a finished job: its questions' outcomes, in the job's order."""

    version: Literal[1] = 1
    run: RunId
    index: JobIndex
    worker: str = Field(description="host and process id")
    model: str = Field(description="model id from the folder's manifest")
    seconds: float = Field(ge=0, description="from taking the job to its last outcome")
    results: tuple[QuestionResult, ...]
