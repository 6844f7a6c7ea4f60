"""Beam search over one request, step for step what transformers 5.23 does in GenerationMixin._beam_search.

Knows logits and token ids; does not know where the logits come from. The docstrings name the source's steps.
Only the order of candidates with exactly equal scores is our own: torch.topk leaves it open, here the one of
the better beam, then the one of the lower token id, comes first.
"""

import numpy as np
import numpy.typing as npt

from contract.failure import FailureCode, Refusal
from worker.engine.request import FloatArray, Generation, IntArray, Request
from worker.engine.search import NextRows, finish_reason, log_softmax

BoolArray = npt.NDArray[np.bool_]

NEVER = np.float32(-1e9)
"""The score of what must not be chosen; transformers' value, so that equal inputs give equal sums."""


class BeamSearch:
    """Keeps `num_beams` running sequences and the best `num_beams` finished ones, each sorted best first."""

    def __init__(self, request: Request) -> None:
        self._request = request
        beams = request.num_beams
        # Each beam can offer each end-of-sequence token once: of this many, num_beams candidates go on.
        self._candidates = max(2, 1 + len(request.eos_token_ids)) * beams
        # Running: token_ids (beam, length), summed log-probabilities (beam,). All beams start as the prompt;
        # the low scores let only the first one's candidates through.
        self._running = np.empty((beams, 0), np.int64)
        self._running_scores = np.full(beams, NEVER)
        self._running_scores[0] = 0.0
        # Finished: best first; the unused places score NEVER or less.
        self._finished: list[tuple[int, ...]] = [()] * beams
        self._finished_scores = np.full(beams, NEVER)
        self._is_finished = np.zeros(beams, np.bool_)

    def advance(self, logits: FloatArray) -> NextRows | Generation:
        """logits (beam, vocabulary), (1, vocabulary) after the prefill → next beams, or the Generation."""
        beams = self._request.num_beams
        is_first = self._running.shape[1] == 0
        assert len(logits) == (1 if is_first else beams), "logits are those of the rows asked for last"

        accumulated = log_softmax(logits) + self._running_scores[:, None]
        parents, token_ids, scores = _top_continuations(accumulated, self._candidates)
        sequences = np.concatenate([self._running[parents], token_ids[:, None]], axis=1)
        length = sequences.shape[1]
        ends = np.array([finish_reason(int(t), length, self._request) is not None for t in token_ids])

        running_scores = scores + np.where(ends, NEVER, np.float32(0.0))
        kept = top_k(running_scores, beams)
        self._running, self._running_scores = sequences[kept], running_scores[kept]
        # Only the best num_beams candidates may finish; the others are there to keep the search going.
        ends_well = ends & (np.arange(self._candidates) < beams)
        self._keep_finished(sequences, scores, ends_well)

        # The first condition implies the second, but that the search ends must not hang on scores.
        if ends.all() or self._is_settled(length):
            return self._best()
        beam_idx = np.zeros(beams, np.int64) if is_first else parents[kept]
        return NextRows(token_ids=self._running[:, -1], beam_idx=beam_idx)

    def _keep_finished(self, sequences: IntArray, scores: FloatArray, ends_well: BoolArray) -> None:
        """Merge the candidates (candidate, length) that end well into the finished ones.

        (_update_finished_beams)
        """
        penalised = scores / float(sequences.shape[1] ** self._request.length_penalty)
        penalised += np.where(ends_well, np.float32(0.0), NEVER)
        merged_scores = np.concatenate([self._finished_scores, penalised])
        merged_is_finished = np.concatenate([self._is_finished, ends_well])
        merged = [*self._finished, *(tuple(row) for row in sequences.tolist())]
        kept = top_k(merged_scores, self._request.num_beams)
        self._finished = [merged[index] for index in kept]
        self._finished_scores, self._is_finished = merged_scores[kept], merged_is_finished[kept]

    def _is_settled(self, length: int) -> bool:
        """Whether no running beam of `length` new tokens can better the finished ones.

        (_check_early_stop_heuristic and _beam_search_has_unfinished_sequences)
        """
        early_stopping, length_penalty = self._request.early_stopping, self._request.length_penalty
        if early_stopping is True and self._is_finished.all():
            return True
        if early_stopping == "never" and length_penalty > 0.0:
            length = self._request.max_new_tokens
        best_possible = self._running_scores[0] / length**length_penalty
        return not best_possible > self._finished_scores.min()

    def _best(self) -> Generation:
        if not self._is_finished[0]:
            raise Refusal(
                FailureCode.INVALID_JOB,
                f"length_penalty {self._request.length_penalty} pushes the score of every sequence below "
                f"{NEVER:g}, where beam search cannot tell them apart.",
            )
        token_ids = self._finished[0]
        reason = finish_reason(token_ids[-1], len(token_ids), self._request)
        assert reason is not None, "only sequences that ended are kept as finished"
        return Generation(token_ids, reason, float(self._finished_scores[0]))


def _top_continuations(accumulated: FloatArray, count: int) -> tuple[IntArray, IntArray, FloatArray]:
    """(beam, vocabulary) → parents, token_ids, scores of the best `count`: (candidate,), best first."""
    flat = accumulated.reshape(-1)
    indices = top_k(flat, count)
    parents, token_ids = np.divmod(indices, accumulated.shape[1])
    return parents, token_ids, flat[indices]


def top_k(scores: FloatArray, k: int) -> IntArray:
    """(candidate,) → indices (k,) of the highest scores, highest first; of equals the lower index first."""
    assert k <= len(scores)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    contenders = np.flatnonzero(scores >= threshold)
    return contenders[np.argsort(-scores[contenders], kind="stable")][:k]
