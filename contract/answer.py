"""What a job ends in: for each of its questions one answer or one failure."""

from typing import Annotated, Final, Literal

from pydantic import Field

from contract.base import Contract, Text
from contract.failure import Failure
from contract.job import JobIndex, RunId

FinishReason = Literal["stop", "length"]


Flag = Literal["truncated", "repetition", "empty", "incomplete_image"]
"""truncated: ended by max_new_tokens; repetition: its end goes round in a circle; empty: no text;
incomplete_image: the image's file lacks its end, though no pixel."""


class Generated(Contract):
    """One text that was generated, and how sure of it the model was."""

    text: Text
    finish_reason: FinishReason
    completion_tokens: int = Field(ge=0, description="end-of-sequence token included")
    score: float = Field(
        allow_inf_nan=False,
        description="sum of token log-probabilities / completion_tokens ** length_penalty; with num_beams "
        "those that penalties and bans left, as transformers' sequences_scores",
    )
    mean_log_prob: float = Field(
        allow_inf_nan=False, description="mean of the model's own log-probabilities of the tokens"
    )


class ChoiceProbability(Contract):
    """One of a question's allowed answers; the probabilities of all add up to 1."""

    text: Text
    probability: float = Field(ge=0, le=1)
    score: float = Field(allow_inf_nan=False, description="as an answer's score, end-of-sequence included")


class Answer(Generated):
    """The text generated for one question, or the allowed answer that was the most probable."""

    kind: Literal["answer"] = "answer"
    prompt_tokens: int = Field(ge=0, description="image tokens included")
    flags: tuple[Flag, ...] = ()
    alternatives: tuple[Generated, ...] = Field(
        default=(), description="the other num_return_sequences: of beams the next best, of samples as drawn"
    )
    choices: tuple[ChoiceProbability, ...] = Field(default=(), description="in the question's order")


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
