"""One step of a search: which token continues which row, and why a sequence ends; knows no logits."""

from collections.abc import Sequence
from dataclasses import dataclass

from contract.answer import FinishReason
from worker.engine.request import Generation, IntArray, Request


@dataclass(frozen=True, eq=False)
class NextRows:
    """The rows to decode next: token_ids (row,) int64, beam_idx (row,) int64 into the last step's rows."""

    token_ids: IntArray
    beam_idx: IntArray


def finish_reason(token_ids: Sequence[int], request: Request) -> FinishReason | None:
    """Why a sequence of these new tokens ends here; None if it continues. Asked after each token."""
    if token_ids[-1] in request.eos_token_ids:
        return "stop"
    if request.stops is not None and request.stops(token_ids):
        return "stop"
    return "length" if len(token_ids) >= request.max_new_tokens else None


def scored(
    token_ids: Sequence[int], reason: FinishReason, log_prob: float, length_penalty: float
) -> Generation:
    """A Generation with its score; `log_prob` is the sum of the model's own log-probabilities."""
    length = len(token_ids)
    if not length:
        return Generation((), reason, 0.0, 0.0)
    return Generation(tuple(token_ids), reason, log_prob / length**length_penalty, log_prob / length)
