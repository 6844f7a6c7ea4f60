"""What the engine is asked and what it gives back; knows no model and no thread."""

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
    """How a prompt begins, which others may share: equal keys mean equal first `tokens` positions."""

    key: bytes
    tokens: int


@dataclass(frozen=True, eq=False, kw_only=True)
class Request:
    """One prompt and how to continue it.

    `inputs_embeds` is (position, hidden) float32 and `token_ids` (position,) int64 what it was made of, for
    the options that look at the prompt; neither is copied: the caller leaves them alone. `choices` lists
    token ids: the request then scores these continuations instead of generating. `stops` says of new token
    ids whether they hold a stop text, asked after each token. `positions` (position,) int64 are the prompt's,
    as the model takes them, if they are not counted from 0; those of new tokens count on from the last.
    `on_tokens` is called in the engine's thread with the tokens of each step; only a request of one row has
    it. `stop_asked` is asked there before each step, of one row of no choices again: once it says so the
    request ends with the tokens that it has. `deadline` is in seconds of the monotonic clock. One that
    `has_priority` is served before those that have none.
    That prompt and new tokens fit the model's context is the caller's to check.

    Raises Refusal for a length penalty that no score can be divided by, ValueError for anything else amiss.
    """

    inputs_embeds: FloatArray
    token_ids: IntArray
    eos_token_ids: tuple[int, ...]
    parameters: GenerationParameters = DEFAULTS
    prefix: Prefix | None = None
    positions: IntArray | None = None
    choices: tuple[tuple[int, ...], ...] = ()
    stops: Callable[[Sequence[int]], bool] | None = None
    on_tokens: Callable[[Sequence[int]], None] | None = None
    stop_asked: Callable[[], bool] | None = None
    deadline: float | None = None
    has_priority: bool = False

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
        """The most rows it takes at once."""
        if self.choices:
            return len(self.choices)
        return max(self.parameters.num_beams, self.parameters.num_return_sequences)

    @property
    def max_new_tokens(self) -> int:
        """The most tokens it adds to a row."""
        if self.choices:
            return max(len(choice) for choice in self.choices)
        return self.parameters.max_new_tokens

    @property
    def max_tokens(self) -> int:
        """The most positions that a row of it takes."""
        return len(self.inputs_embeds) + self.max_new_tokens


@dataclass(frozen=True)
class Generation:
    """One continuation found for a request.

    `token_ids` holds the new tokens only, the end-of-sequence token included when it was reached (finish
    reason "stop"); of a request that was asked to stop those that it had, which may be none. `score`
    is the sum of their log-probabilities / len(token_ids) ** length_penalty, in beam search of those left by
    the logits processors; `mean_log_prob` is of the model's own.
    """

    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    score: float
    mean_log_prob: float


Generations = tuple[Generation, ...]
"""What a request ends in: of beams the best first, of samples as drawn, of choices in their order."""


def _fits_float32(length_tokens: int, length_penalty: float) -> bool:
    """Whether length_tokens ** length_penalty is a normal float32 number."""
    limits = np.finfo(np.float32)
    magnitude = math.log(length_tokens) * length_penalty
    return math.log(float(limits.tiny)) <= magnitude <= math.log(float(limits.max))
