"""Scores the choices of a request: a walk down the tree of their tokens, with one row for each prefix.

Knows logits and token ids; knows neither where the logits come from nor the choices' texts.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from worker.engine.log_probs import log_normalisers
from worker.engine.request import FloatArray, Generations, Request
from worker.engine.steps import NextRows, scored


@dataclass
class _Node:
    """A prefix of choices: its sum of log-probabilities, and what may follow it by token id."""

    log_prob: float = 0.0
    children: dict[int, "_Node"] = field(default_factory=dict)


class ChoiceSearch:
    """Reads off the log-probability of each token of each choice, given the tokens before it.

    The rows of a step are the prefixes of one length that some choice continues. So a choice needs no row for
    its last token, and choices with a common prefix share a row.
    """

    def __init__(self, request: Request) -> None:
        self._choices = request.choices
        self._length_penalty = request.parameters.length_penalty
        root = _Node()
        self._ends = [_plant(root, choice) for choice in request.choices]
        self._rows = [root]

    def advance(self, logits: FloatArray) -> NextRows | Generations:
        """logits (prefix, vocabulary) → the prefixes one token longer, or each choice's Generation."""
        assert len(logits) == len(self._rows), "logits are those of the rows asked for last"
        normalisers = log_normalisers(logits)
        token_ids: list[int] = []
        beam_idx: list[int] = []
        longer: list[_Node] = []
        for row, node in enumerate(self._rows):
            for token_id, child in node.children.items():
                child.log_prob = node.log_prob + float(logits[row, token_id] - normalisers[row])
                if child.children:
                    longer.append(child)
                    token_ids.append(token_id)
                    beam_idx.append(row)
        self._rows = longer
        if longer:
            return NextRows(np.array(token_ids, np.int64), np.array(beam_idx, np.int64))
        return tuple(
            scored(choice, "stop", end.log_prob, self._length_penalty)
            for choice, end in zip(self._choices, self._ends, strict=True)
        )


def choice_probabilities(scores: Sequence[float]) -> tuple[float, ...]:
    """Softmax of the scores: the probability of each choice, if it must be one of them."""
    highest = max(scores)
    weights = [math.exp(score - highest) for score in scores]
    return tuple(weight / math.fsum(weights) for weight in weights)


def _plant(root: _Node, choice: Sequence[int]) -> _Node:
    """Add the missing nodes of `choice` below `root` → its last node."""
    node = root
    for token_id in choice:
        node = node.children.setdefault(token_id, _Node())
    return node
