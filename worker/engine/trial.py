"""A few positions by which two runners are compared; knows no backend.

The last position of each sequence is faint: its logits come from what attention reads and hardly from itself.
So one position read too many or too few changes them more than a low precision does.
"""

from typing import Final

import numpy as np

from worker.engine.request import FloatArray
from worker.engine.runner import Runner, SequenceInput

WHOLE_BLOCKS: Final = 32
"""A number of positions that fills blocks of 16 and of 32."""
MAX_POSITIONS: Final = 2 * WHOLE_BLOCKS
FAINT: Final = 0.01


class Trial:
    """Four sequences of embeddings (position, hidden), computed in two ways."""

    def __init__(self, hidden: int) -> None:
        rng = np.random.default_rng(0)
        self._prompt, self._other, self._suffix, token = (
            rng.standard_normal((positions, hidden), np.float32)
            for positions in (WHOLE_BLOCKS + 8, WHOLE_BLOCKS + 3, 4, 1)
        )
        self._cut = WHOLE_BLOCKS + 5
        self._token, self._faint = token, FAINT * token

    def in_one(self, runner: Runner) -> FloatArray:
        """Logits (sequence, vocabulary), each sequence computed from scratch in a step of its own."""
        histories = (
            [self._prompt, self._token],
            [self._prompt[: self._cut], self._suffix],
            [self._prompt[:WHOLE_BLOCKS], self._token],
            [self._other],
        )
        logits: list[FloatArray] = []
        for history in histories:
            sequence = runner.begin(MAX_POSITIONS)
            logits += list(runner.step([SequenceInput(sequence, np.concatenate([*history, self._faint]))]))
            runner.release(sequence)
        return np.stack(logits)

    def in_parts(self, runner: Runner) -> FloatArray:
        """The same logits by forks, at the end, within a block and between blocks, and by common steps."""
        first = runner.begin(MAX_POSITIONS)
        runner.step([SequenceInput(first, self._prompt)])
        whole = runner.fork(first, MAX_POSITIONS)
        within = runner.fork(first, MAX_POSITIONS, self._cut)
        between = runner.fork(first, MAX_POSITIONS, WHOLE_BLOCKS)
        runner.step(
            [
                SequenceInput(first, -self._token),
                SequenceInput(whole, self._token),
                SequenceInput(within, self._suffix),
            ],
        )
        runner.release(first)
        other = runner.begin(MAX_POSITIONS)
        logits = runner.step(
            [
                SequenceInput(whole, self._faint),
                SequenceInput(within, self._faint),
                SequenceInput(between, np.concatenate([self._token, self._faint])),
                SequenceInput(other, np.concatenate([self._other, self._faint])),
            ]
        )
        for sequence in (whole, within, between, other):
            runner.release(sequence)
        return logits


def distance(logits: FloatArray, expected: FloatArray) -> float:
    """Largest distance of a row (row, vocabulary), in units of the spread of `expected`; NaN for NaN."""
    spread = expected - expected.mean(axis=1, keepdims=True)
    rows = np.linalg.norm(logits - expected, axis=1) / np.linalg.norm(spread, axis=1)
    return float(rows.max())
