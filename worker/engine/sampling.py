"""Greedy search and sampling, step for step as GenerationMixin._sample of transformers 5.23.

Knows logits and token ids; does not know where the logits come from.
"""

from dataclasses import dataclass, field

import numpy as np

from worker.engine.log_probs import log_normalisers
from worker.engine.processors import Processors
from worker.engine.request import FloatArray, Generation, Generations, Request
from worker.engine.sample_token import sample_token
from worker.engine.steps import NextRows, finish_reason, scored


@dataclass
class _Row:
    """One sequence: its random generator, its new tokens and the sum of their log-probabilities."""

    random: np.random.Generator
    token_ids: list[int] = field(default_factory=list)
    log_prob: float = 0.0
    ended: Generation | None = None


class RowSearch:
    """`num_return_sequences` rows, each continued by its most probable token or by a sampled one.

    Each row has its own generator, seeded with `seed` and the row's number, so no other row changes its
    tokens. Of two equally probable tokens the greedy choice is the one with the lower id.
    """

    def __init__(self, request: Request) -> None:
        self._request = request
        self._processors = Processors(request)
        seed = request.parameters.seed
        numbers = range(request.parameters.num_return_sequences)
        self._rows = [_Row(np.random.Generator(np.random.PCG64((seed, number)))) for number in numbers]

    def advance(self, logits: FloatArray) -> NextRows | Generations:
        """logits (running row, vocabulary), (1, vocabulary) after the prefill → next rows, or Generations."""
        running = [row for row in self._rows if row.ended is None]
        is_first = not running[0].token_ids
        assert len(logits) == (1 if is_first else len(running)), "logits are those of the rows asked for last"

        normalisers = log_normalisers(logits)
        scores = self._process(logits, running)
        # After the prefill all rows continue from the same logits.
        sources = [0] * len(running) if is_first else list(range(len(running)))
        for row, source in zip(running, sources, strict=True):
            token_id = self._choose(scores[source], row)
            row.token_ids.append(token_id)
            row.log_prob += float(logits[source, token_id] - normalisers[source])
            reason = finish_reason(row.token_ids, self._request)
            if reason is not None:
                length_penalty = self._request.parameters.length_penalty
                row.ended = scored(row.token_ids, reason, row.log_prob, length_penalty)

        if all(row.ended is not None for row in running):
            return tuple(row.ended for row in self._rows if row.ended is not None)
        going_on = [(row, source) for row, source in zip(running, sources, strict=True) if row.ended is None]
        return NextRows(
            token_ids=np.array([row.token_ids[-1] for row, _ in going_on], np.int64),
            beam_idx=np.array([source for _, source in going_on], np.int64),
        )

    def cut_short(self) -> Generations:
        """All rows with the tokens that they have, as if they had ended there; the search is then over."""
        length_penalty = self._request.parameters.length_penalty
        return tuple(
            row.ended or scored(row.token_ids, "stop", row.log_prob, length_penalty) for row in self._rows
        )

    def _process(self, logits: FloatArray, running: list[_Row]) -> FloatArray:
        if not self._processors.active:
            return logits
        new_token_ids = np.array([row.token_ids for row in running[: len(logits)]], np.int64)
        return self._processors.process(logits, new_token_ids)

    def _choose(self, scores: FloatArray, row: _Row) -> int:
        """scores (vocabulary,) → the token that continues `row`."""
        best = int(scores.argmax())
        if np.isneginf(scores[best]):
            raise self._processors.nothing_left(len(row.token_ids))
        if not self._request.parameters.do_sample:
            return best
        return sample_token(scores, self._request.parameters, row.random.random())
