"""Beam search over one request, step for step as GenerationMixin._beam_search of transformers 5.23.

Knows logits and token ids; does not know where the logits come from. The docstrings name the source's steps.
Only the order of candidates with equal scores is our own, as torch.topk leaves it open: the one of the better
beam comes first, then the one with the lower token id.
"""

from dataclasses import dataclass, replace

import numpy as np

from contract.answer import FinishReason
from contract.failure import FailureCode, Refusal
from worker.engine.log_probs import log_softmax
from worker.engine.processors import Processors
from worker.engine.request import FloatArray, Generation, Generations, IntArray, Request
from worker.engine.steps import NextRows, finish_reason

NEVER = np.float32(-1e9)
"""Score of what must not be chosen; transformers' value, so that equal inputs give equal sums."""


@dataclass(frozen=True, eq=False)
class _Sequences:
    """Sequences of equal length: token_ids (sequence, length), and two sums of log-probabilities (sequence,).

    `scores` sums what the processors left, and orders the sequences; `log_probs` sums the model's own.
    """

    token_ids: IntArray
    scores: FloatArray
    log_probs: FloatArray

    def __getitem__(self, kept: IntArray) -> "_Sequences":
        return _Sequences(self.token_ids[kept], self.scores[kept], self.log_probs[kept])


class BeamSearch:
    """Keeps `num_beams` running sequences and the best `num_beams` finished ones, each sorted best first."""

    def __init__(self, request: Request) -> None:
        self._request = request
        self._parameters = request.parameters
        self._processors = Processors(request)
        self._beams = beams = request.parameters.num_beams
        # Each beam can offer each end-of-sequence token once, so num_beams of these candidates go on.
        self._candidates = max(2, 1 + len(request.eos_token_ids)) * beams
        # One beam, the prompt: transformers starts with num_beams of it, of which only the first counts.
        self._running = _Sequences(
            np.empty((1, 0), np.int64), np.zeros(1, np.float32), np.zeros(1, np.float32)
        )
        # Best first; None in unused places, which score NEVER or less.
        self._finished: list[Generation | None] = [None] * beams
        self._finished_scores = np.full(beams, NEVER)

    def advance(self, logits: FloatArray) -> NextRows | Generations:
        """logits (beam, vocabulary), (1, vocabulary) after the prefill → next beams, or Generations."""
        assert len(logits) == len(self._running.scores), "logits are those of the rows asked for last"

        candidates, parents = self._continue(log_softmax(logits))
        reasons = [finish_reason(token_ids, self._request) for token_ids in candidates.token_ids.tolist()]
        ends = np.array([reason is not None for reason in reasons])

        running_scores = candidates.scores + np.where(ends, NEVER, np.float32(0.0))
        kept = top_k(running_scores, min(self._beams, len(running_scores)))
        self._running = replace(candidates, scores=running_scores)[kept]
        self._keep_finished(candidates, reasons)

        # The first condition implies the second, but the search must end whatever the scores are.
        if ends.all() or self._is_settled():
            return self._best()
        return NextRows(token_ids=self._running.token_ids[:, -1], beam_idx=parents[kept])

    def _continue(self, log_probs: FloatArray) -> tuple[_Sequences, IntArray]:
        """log_probs (beam, vocabulary) → best candidates, best first, and the beam of each (candidate,).

        (_get_top_k_continuations)
        """
        running, scores = self._running, log_probs
        if self._processors.active:
            scores = self._processors.process(log_probs, running.token_ids)
        accumulated = (scores + running.scores[:, None]).reshape(-1)
        best = top_k(accumulated, min(self._candidates, len(accumulated)))
        parents, token_ids = np.divmod(best, log_probs.shape[1])
        candidates = _Sequences(
            np.concatenate([running.token_ids[parents], token_ids[:, None]], axis=1),
            accumulated[best],
            running.log_probs[parents] + log_probs[parents, token_ids],
        )
        return candidates, parents

    def _keep_finished(self, candidates: _Sequences, reasons: list[FinishReason | None]) -> None:
        """Merge the candidates that have a reason to end into the finished ones. (_update_finished_beams)"""
        length = candidates.token_ids.shape[1]
        penalised = candidates.scores / float(length**self._parameters.length_penalty)
        # Only the best num_beams candidates may finish; the others keep the search going. Continuations of a
        # sequence that has ended stay excluded, which transformers leaves to their low score.
        ended: list[Generation | None] = [
            Generation(
                tuple(candidates.token_ids[place].tolist()),
                reason,
                float(penalised[place]),
                float(candidates.log_probs[place]) / length,
            )
            if reason is not None and place < self._beams and candidates.scores[place] > NEVER
            else None
            for place, reason in enumerate(reasons)
        ]
        penalised += np.where([sequence is None for sequence in ended], NEVER, np.float32(0.0))
        merged_scores = np.concatenate([self._finished_scores, penalised])
        merged = self._finished + ended
        kept = top_k(merged_scores, self._beams)
        self._finished = [merged[index] for index in kept]
        self._finished_scores = merged_scores[kept]

    def _is_settled(self) -> bool:
        """Whether no running beam can beat the finished ones.

        (_check_early_stop_heuristic and _beam_search_has_unfinished_sequences)
        """
        early_stopping, length_penalty = self._parameters.early_stopping, self._parameters.length_penalty
        if early_stopping is True and None not in self._finished:
            return True
        length = self._running.token_ids.shape[1]
        if early_stopping == "never" and length_penalty > 0.0:
            length = self._request.max_new_tokens
        best_possible = self._running.scores[0] / length**length_penalty
        return not best_possible > self._finished_scores.min()

    def _best(self) -> Generations:
        found = tuple(
            sequence
            for sequence in self._finished[: self._parameters.num_return_sequences]
            if sequence is not None
        )
        if len(found) < self._parameters.num_return_sequences:
            raise Refusal(
                FailureCode.INVALID_JOB,
                f"Beam search found {len(found)} of {self._parameters.num_return_sequences} sequences: "
                "no_repeat_ngram_size and min_new_tokens ban the others, or length_penalty and "
                f"repetition_penalty push their scores below {NEVER:g}, where it cannot tell them apart.",
            )
        return found


def top_k(scores: FloatArray, k: int) -> IntArray:
    """scores (candidate,) → indices (k,) of the highest, highest first; of equals the lower index first."""
    assert k <= len(scores)
    threshold = np.partition(scores, len(scores) - k)[len(scores) - k]
    contenders = np.flatnonzero(scores >= threshold)
    return contenders[np.argsort(-scores[contenders], kind="stable")][:k]
