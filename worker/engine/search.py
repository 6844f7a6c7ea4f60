"""The one question asked at each step, which token continues which row, and greedy search's answer to it.

Knows logits and token ids; does not know where the logits come from.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from contract.answer import FinishReason
from worker.engine.request import FloatArray, Generation, IntArray, Request


@dataclass(frozen=True, eq=False)
class NextRows:
    """The rows to decode next: token_ids (row,) int64, beam_idx (row,) int64 into the last batch's rows."""

    token_ids: IntArray
    beam_idx: IntArray


class Search(Protocol):
    """One request's search, fed with logits step by step until it returns its Generation."""

    def advance(self, logits: FloatArray) -> NextRows | Generation:
        """Take the logits (row, vocabulary) of the rows asked for last (one row after the prefill)."""
        ...


class GreedySearch:
    """The most probable token at each step, the lower id of two equal ones."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._token_ids: list[int] = []
        self._log_prob = 0.0

    def advance(self, logits: FloatArray) -> NextRows | Generation:
        """logits (1, vocabulary) → the one next row, or the Generation."""
        token_id = int(logits[0].argmax())
        self._token_ids.append(token_id)
        self._log_prob += float(log_softmax(logits)[0, token_id])
        reason = finish_reason(token_id, len(self._token_ids), self._request)
        if reason is None:
            return NextRows(token_ids=np.array([token_id]), beam_idx=np.zeros(1, np.int64))
        length = len(self._token_ids)
        return Generation(
            tuple(self._token_ids), reason, float(self._log_prob / length**self._request.length_penalty)
        )


def finish_reason(last_token_id: int, length_tokens: int, request: Request) -> FinishReason | None:
    """Why a sequence of `length_tokens` new tokens ends here; None if it goes on."""
    if last_token_id in request.eos_token_ids:
        return "stop"
    return "length" if length_tokens >= request.max_new_tokens else None


def log_softmax(logits: FloatArray) -> FloatArray:
    """(row, vocabulary) float32 logits → log-probabilities of the same shape, in float32 like torch.

    Raises FloatingPointError if a row is not finite: a model that overflowed must not be answered from.
    """
    with np.errstate(invalid="ignore"):
        shifted = logits - logits.max(axis=-1, keepdims=True)
        normaliser = np.log(np.exp(shifted).sum(axis=-1, keepdims=True))
    if not np.isfinite(normaliser).all():
        raise FloatingPointError("the language model returned logits that are not numbers")
    log_probs: FloatArray = shifted - normaliser
    return log_probs
