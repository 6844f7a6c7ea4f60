"""What the engine asks of whatever computes logits: sequences that begin, fork, append and end.

It knows neither why sequences fork or end nor what a token means. How keys and values are kept is each
runner's own choice.
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
    """(position,) int64 position ids; None if they count on from the sequence's length"""


class Runner(Protocol):
    """A language model with a cache of many sequences of unequal lengths.

    Calls come from one thread. Given arrays are neither kept nor changed; returned arrays are the caller's.
    """

    @property
    def shares_prefixes(self) -> bool:
        """Whether forks share what they have in common instead of copying it."""
        ...

    @property
    def mixes_steps(self) -> bool:
        """Whether computing prompts and single tokens in one step saves time."""
        ...

    def bytes_for(self, positions: int) -> int:
        """The most bytes that `positions` positions of one sequence ever take, growth included."""
        ...

    def begin(self, max_positions: int) -> SequenceId:
        """A new, empty sequence that will never hold more than `max_positions`."""
        ...

    def can_fork(self, sequence: SequenceId, max_positions: int, positions: int) -> bool:
        """Whether fork() with these arguments stays within the bytes reserved for the sequences."""
        ...

    def fork(self, sequence: SequenceId, max_positions: int, positions: int | None = None) -> SequenceId:
        """A new sequence with the first `positions` of `sequence`; None stands for all of them.

        The two go on independently; either may be released first.
        """
        ...

    def step(self, inputs: Sequence[SequenceInput]) -> FloatArray:
        """Append to sequences, each named at most once: a prompt, the rest of one after a fork, or a token.

        → logits (input, vocabulary) float32 of each input's last position. After an error the named sequences
        can only be released; the others are unchanged.
        """
        ...

    def release(self, sequence: SequenceId) -> None:
        """Drop a sequence and its cache, also after a step that failed."""
        ...
