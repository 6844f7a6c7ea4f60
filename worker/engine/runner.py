"""What the engine asks of whatever computes logits: sequences that begin, fork, go on and end.

It does not know why sequences fork or end, nor what a token means; how their keys and values are kept is the
runner's own.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NewType, Protocol

from worker.engine.request import FloatArray, IntArray

SequenceId = NewType("SequenceId", int)


@dataclass(frozen=True, eq=False)
class SequenceInput:
    """What one step appends to one sequence: inputs_embeds (position, hidden) float32, not empty."""

    sequence: SequenceId
    inputs_embeds: FloatArray
    positions: IntArray | None = None
    """(position,) int64 as the model takes them; None where they go on counting from the sequence's length"""


class Runner(Protocol):
    """A language model with a cache of many sequences of unequal lengths.

    Calls come from one thread. Arrays given are not kept or changed; arrays returned are the caller's.
    """

    @property
    def shares_prefixes(self) -> bool:
        """Whether forks keep what they have in common once, and not a copy each."""
        ...

    @property
    def mixes_steps(self) -> bool:
        """Whether prompts and single tokens gain by going through one step together."""
        ...

    def bytes_for(self, positions: int) -> int:
        """The most bytes that `positions` positions of one sequence ever take, growth included."""
        ...

    def begin(self, max_positions: int) -> SequenceId:
        """A new, empty sequence that will never hold more than `max_positions`."""
        ...

    def can_fork(self, sequence: SequenceId, max_positions: int, positions: int) -> bool:
        """Whether fork() with these arguments is to be had within the bytes set aside for the sequences."""
        ...

    def fork(self, sequence: SequenceId, max_positions: int, positions: int | None = None) -> SequenceId:
        """A new sequence that begins with the first `positions` of `sequence`, None for all of them.

        The two go on independently; either may be released first.
        """
        ...

    def step(self, inputs: Sequence[SequenceInput]) -> FloatArray:
        """Append to sequences, each named at most once: a prompt, the rest of one after a fork, or a token.

        → logits (input, vocabulary) float32 of each input's last position. After an error the sequences named
        are good for release() only; the others are as they were.
        """
        ...

    def release(self, sequence: SequenceId) -> None:
        """Drop a sequence and its cache, also after a step that failed."""
        ...
