"""Options that change scores before a token is chosen, as transformers 5.23 does in its LogitsProcessors.

Knows token ids and scores; does not know how a token is then chosen.
"""

import numpy as np
import numpy.typing as npt

from contract.failure import FailureCode, Refusal
from worker.engine.request import FloatArray, IntArray, Request


class Processors:
    """repetition_penalty, no_repeat_ngram_size and min_new_tokens of one request, in transformers' order."""

    def __init__(self, request: Request) -> None:
        self._parameters = request.parameters
        self._prompt = request.token_ids
        self._prompt_set = np.unique(request.token_ids)
        self._eos_token_ids = np.array(request.eos_token_ids, np.int64)

    @property
    def active(self) -> bool:
        """Whether any of the options changes anything."""
        parameters = self._parameters
        return (
            parameters.repetition_penalty != 1.0
            or parameters.no_repeat_ngram_size > 0
            or (parameters.min_new_tokens > 0 and len(self._eos_token_ids) > 0)
        )

    def process(self, scores: FloatArray, new_token_ids: IntArray) -> FloatArray:
        """scores (row, vocabulary) after new_token_ids (row, position) → the changed scores, a new array.

        `scores` are logits, or log-probabilities of beams. Banned tokens get minus infinity.
        """
        changed = scores.copy()
        parameters = self._parameters
        if parameters.repetition_penalty != 1.0:
            self._penalise_repetition(changed, new_token_ids)
        if parameters.no_repeat_ngram_size > 0:
            self._ban_repeated_ngrams(changed, new_token_ids)
        if new_token_ids.shape[1] < parameters.min_new_tokens:
            changed[:, _within(self._eos_token_ids, changed)] = -np.inf
        return changed

    def nothing_left(self, length_tokens: int) -> Refusal:
        """The Refusal of a request whose tokens are all banned after `length_tokens` new ones."""
        parameters = self._parameters
        return Refusal(
            FailureCode.INVALID_JOB,
            f"After {length_tokens} new tokens no_repeat_ngram_size {parameters.no_repeat_ngram_size} and "
            f"min_new_tokens {parameters.min_new_tokens} leave no token to go on with.",
        )

    def _penalise_repetition(self, scores: FloatArray, new_token_ids: IntArray) -> None:
        """Make the tokens of the prompt and the new ones less likely, in place, each of them once."""
        penalty = np.float32(self._parameters.repetition_penalty)
        prompt_set = _within(self._prompt_set, scores)
        for row, new in zip(scores, new_token_ids, strict=True):
            seen = np.concatenate([prompt_set, new])
            of_seen = row[seen]
            row[seen] = np.where(of_seen < 0, of_seen * penalty, of_seen / penalty)

    def _ban_repeated_ngrams(self, scores: FloatArray, new_token_ids: IntArray) -> None:
        """Ban, in place, every token that would complete an n-gram of the prompt and the new tokens."""
        size = self._parameters.no_repeat_ngram_size
        for row, new in zip(scores, new_token_ids, strict=True):
            row[_within(_completions(np.concatenate([self._prompt, new]), size), scores)] = -np.inf


def _completions(token_ids: IntArray, size: int) -> IntArray:
    """token_ids (position,) → tokens (token,), in any order, that earlier followed its last size - 1."""
    starts = len(token_ids) - size + 1
    if starts <= 0:
        return token_ids[:0]
    matches: npt.NDArray[np.bool_] = np.ones(starts, np.bool_)
    for offset in range(size - 1):
        matches &= token_ids[offset : offset + starts] == token_ids[starts + offset]
    completions: IntArray = token_ids[size - 1 :][matches]
    return completions


def _within(token_ids: IntArray, scores: FloatArray) -> IntArray:
    """The tokens that have a score: a prompt may hold tokens that the model cannot generate."""
    within: IntArray = token_ids[token_ids < scores.shape[1]]
    return within
