"""What the engine is asked and what it gives back; knows no model and no thread."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from contract.answer import FinishReason
from contract.failure import FailureCode, Refusal

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

EarlyStopping = bool | Literal["never"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """One prompt and how to continue it, in transformers' names and with their meaning there.

    `inputs_embeds` is (position, hidden) float32 and is not copied: the caller leaves it alone. `num_beams`
    of 1 is greedy search: `early_stopping` decides nothing there and `length_penalty` only scales the score.
    `deadline` is in seconds of the monotonic clock. That prompt and new tokens fit the model's context is the
    caller's to check.

    Raises Refusal for a length penalty that no score can be divided by, ValueError for anything else amiss.
    """

    inputs_embeds: FloatArray
    max_new_tokens: int
    eos_token_ids: tuple[int, ...]
    num_beams: int = 1
    length_penalty: float = 1.0
    early_stopping: EarlyStopping = False
    deadline: float | None = None

    def __post_init__(self) -> None:
        if (
            self.inputs_embeds.ndim != 2
            or 0 in self.inputs_embeds.shape
            or self.inputs_embeds.dtype != np.float32
        ):
            raise ValueError(
                "inputs_embeds must be (position, hidden) float32 and not empty, "
                f"not {self.inputs_embeds.shape} {self.inputs_embeds.dtype}"
            )
        if self.max_new_tokens < 1 or self.num_beams < 1:
            raise ValueError(
                f"max_new_tokens={self.max_new_tokens} and num_beams={self.num_beams} must be at least 1"
            )
        if not _fits_float32(self.max_new_tokens, self.length_penalty):
            raise Refusal(
                FailureCode.INVALID_JOB,
                f"length_penalty {self.length_penalty} is out of range: {self.max_new_tokens} tokens raised "
                "to it is no number that a score can be divided by.",
            )


@dataclass(frozen=True)
class Generation:
    """The continuation found for a request.

    `token_ids` holds the new tokens only, the end-of-sequence token included when it was reached (finish
    reason "stop"). `score` is the sum of their log-probabilities / len(token_ids) ** length_penalty.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    score: float


def _fits_float32(length_tokens: int, length_penalty: float) -> bool:
    """Whether length_tokens ** length_penalty is a normal float32 number."""
    limits = np.finfo(np.float32)
    if not math.isfinite(length_penalty):
        return False
    magnitude = math.log(length_tokens) * length_penalty
    return math.log(float(limits.tiny)) <= magnitude <= math.log(float(limits.max))
