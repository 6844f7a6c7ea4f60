"""What the engine asks of whatever computes logits: rows of one batch with a cache behind them.

It does not know why rows fork or end, nor what a token means.
"""

from typing import Protocol

from worker.engine.request import FloatArray, IntArray


class Runner(Protocol):
    """A language model with a cache of one batch of rows, all of the same length.

    Calls come from one thread. Arrays given are not kept or changed; arrays returned are the caller's.
    """

    def prefill(self, inputs_embeds: FloatArray) -> FloatArray:
        """Start the rows afresh with their prompts.

        inputs_embeds (row, position, hidden) float32 → logits (row, vocabulary) float32 of the last position.
        Rows of an earlier prefill must have been released.
        """
        ...

    def decode(self, inputs_embeds: FloatArray, beam_idx: IntArray) -> FloatArray:
        """Append one token to each row of a new batch, made from the last call's batch by `beam_idx`.

        inputs_embeds (row, 1, hidden) float32; beam_idx (row,) int64, for each new row the row of the last
        batch whose cache it continues: one index many times forks a row, a missing index drops one, so the
        number of rows may grow and shrink. → logits (row, vocabulary) float32.
        """
        ...

    def release(self) -> None:
        """Drop all rows and their cache, also after a call that failed; without rows it does nothing."""
        ...
