"""What the engine is asked and what it returns; knows no model and no thread."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from contract.answer import FinishReason
from contract.failure import FailureCode, Refusal
from contract.job import GenerationParameters

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[np.int64]

DEFAULTS = GenerationParameters()


@dataclass(frozen=True)
class Prefix:
    """The beginning of a prompt, which others may share: equal keys mean equal first `tokens` positions."""

    key: bytes
    tokens: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """One prompt and how to continue it. The caller checks that both fit the model's context.

    Raises Refusal for a length penalty that no score can be divided by, ValueError for any other bad field.
    """

    inputs_embeds: FloatArray
    """(position, hidden) float32; not copied, so the caller must not change it"""
    token_ids: IntArray
    """(position,) int64 that inputs_embeds was made of, for options that look at the prompt; not copied"""
    eos_token_ids: tuple[int, ...]
    parameters: GenerationParameters = DEFAULTS
    prefix: Prefix | None = None
    positions: IntArray | None = None
    """(position,) int64 position ids, from whose last new tokens count on; None if they count from 0"""
    choices: tuple[tuple[int, ...], ...] = ()
    """token ids of continuations, which are scored instead of generating"""
    stops: Callable[[Sequence[int]], bool] | None = None
    """whether new token ids hold a stop text; asked after each token"""
    on_tokens: Callable[[Sequence[int]], None] | None = None
    """called in the engine's thread with each step's tokens; for a request of one row alone"""
    stop_asked: Callable[[], bool] | None = None
    """asked in the engine's thread before each step; True ends a request of one row without choices as is"""
    deadline: float | None = None
    """monotonic seconds"""
    has_priority: bool = False
    """whether it is served before requests that have none"""

    def __post_init__(self) -> None:
        embeds = self.inputs_embeds
        if embeds.ndim != 2 or 0 in embeds.shape or embeds.dtype != np.float32:
            raise ValueError(
                "inputs_embeds must be (position, hidden) float32 and not empty, "
                f"not {embeds.shape} {embeds.dtype}"
            )
        if self.token_ids.shape != embeds.shape[:1]:
            raise ValueError(f"token_ids {self.token_ids.shape} must name each position of {embeds.shape}")
        if self.prefix is not None and not 0 < self.prefix.tokens < len(embeds):
            raise ValueError(f"a prefix of {self.prefix.tokens} leaves nothing of {len(embeds)} positions")
        if any(not choice for choice in self.choices):
            raise ValueError("a choice has no tokens")
        if self.on_tokens is not None and self.rows > 1:
            raise ValueError("only a request of one row can be followed token by token")
        if self.stop_asked is not None and (self.rows > 1 or self.choices):
            raise ValueError("only a request of one row and no choices can end before its end")
        if not _fits_float32(self.max_new_tokens, self.parameters.length_penalty):
            raise Refusal(
                FailureCode.INVALID_JOB,
                f"length_penalty {self.parameters.length_penalty} is out of range: {self.max_new_tokens} "
                "tokens raised to it is no number that a score can be divided by.",
            )

    @property
    def rows(self) -> int:
        """Most rows that it takes at once."""
        if self.choices:
            return len(self.choices)
        return max(self.parameters.num_beams, self.parameters.num_return_sequences)

    @property
    def max_new_tokens(self) -> int:
        """Most tokens that it adds to a row."""
        if self.choices:
            return max(len(choice) for choice in self.choices)
        return self.parameters.max_new_tokens

    @property
    def max_tokens(self) -> int:
        """Most positions that one of its rows takes."""
        return len(self.inputs_embeds) + self.max_new_tokens


@dataclass(frozen=True)
class Generation:
    """One continuation found for a request."""

    token_ids: tuple[int, ...]
    """new tokens, with the end-of-sequence token if it was reached; may be empty for a stopped request"""
    finish_reason: FinishReason
    score: float
    """sum of log-probabilities / len(token_ids) ** length_penalty; in beam search as processors left them"""
    mean_log_prob: float
    """mean of the model's own log-probabilities"""


Generations = tuple[Generation, ...]
"""Outcome of a request: beams best first, samples as drawn, choices in their order."""


def _fits_float32(length_tokens: int, length_penalty: float) -> bool:
    """Whether length_tokens ** length_penalty is a normal float32 number."""
    limits = np.finfo(np.float32)
    magnitude = math.log(length_tokens) * length_penalty
    return math.log(float(limits.tiny)) <= magnitude <= math.log(float(limits.max))
