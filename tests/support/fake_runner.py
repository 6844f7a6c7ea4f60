"""A Runner without a model: a sequence's next token depends on its own tokens alone, never on its neighbours.

It checks that its caller obeys the protocol and the limits; it does not know when requests end.
"""

import threading
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import count
from typing import Any

import numpy as np

from contract.job import GenerationParameters
from worker.engine.admission import Limits
from worker.engine.request import FloatArray, IntArray, Prefix, Request
from worker.engine.runner import SequenceId, SequenceInput

VOCABULARY = 16
EOS = 0
POISON = 1000
"""A token after which logits are not numbers."""
PLENTY = Limits(kv_bytes=10**6, rows=64, step_tokens=10**4)


def by_content(tokens: Sequence[int]) -> FloatArray:
    """(vocabulary,) float32 noise, seeded with the tokens."""
    seed = zlib.crc32(np.array(tokens, np.int64).tobytes())
    return np.random.default_rng(seed).normal(scale=2.0, size=VOCABULARY).astype(np.float32)


def counting(tokens: Sequence[int]) -> FloatArray:
    """(vocabulary,) float32: after token t, t + 1 is the most probable."""
    logits = np.zeros(VOCABULARY, np.float32)
    logits[(tokens[-1] + 1) % VOCABULARY] = 5.0
    return logits


@dataclass(eq=False)
class FakeSequence:
    """`blocks` hold its tokens, a fixed number each; other sequences may share full blocks."""

    max_positions: int
    tokens: list[int]
    blocks: list[object]


class FakeRunner:
    """An embedding is its token. A position takes a byte, in a cache of blocks of `block_positions`.

    `limits` are those that its caller promised to keep. can_fork() returns `may_fork`. `on_step` is called in
    each step before anything is appended; its exception fails the step.
    """

    def __init__(
        self,
        logits: Callable[[Sequence[int]], FloatArray] = by_content,
        *,
        limits: Limits = PLENTY,
        shares_prefixes: bool = False,
        mixes_steps: bool = False,
        block_positions: int = 1,
        may_fork: Callable[[], bool] = lambda: True,
        on_step: Callable[[], None] = lambda: None,
    ) -> None:
        self._logits = logits
        self._limits = limits
        self.shares_prefixes = shares_prefixes
        self.mixes_steps = mixes_steps
        self._block_positions = block_positions
        self._may_fork = may_fork
        self.on_step = on_step
        self.sequences: dict[SequenceId, FakeSequence] = {}
        self.steps: list[list[list[int]]] = []
        """of each step, failed ones too, the tokens that its inputs appended"""
        self.most_bytes = self.most_rows = self.most_step_tokens = 0
        self.threads: set[threading.Thread] = set()
        self._broken: set[SequenceId] = set()
        self._ids = count()

    def count_of(self, token: int) -> int:
        """How often a token went through a step."""
        return sum(piece.count(token) for step in self.steps for piece in step)

    def bytes_for(self, positions: int) -> int:
        """Of any stretch of so many: it may touch a block more than it fills."""
        return (positions + 2 * self._block_positions - 2) // self._block_positions * self._block_positions

    def begin(self, max_positions: int) -> SequenceId:
        assert max_positions > 0
        return self._named(FakeSequence(max_positions, [], []))

    def can_fork(self, sequence: SequenceId, max_positions: int, positions: int) -> bool:
        self._check_fork(sequence, max_positions, positions)
        return self._may_fork()

    def fork(self, sequence: SequenceId, max_positions: int, positions: int | None = None) -> SequenceId:
        source = self.sequences[sequence]
        length = len(source.tokens) if positions is None else positions
        self._check_fork(sequence, max_positions, length)
        shared, rest = divmod(length, self._block_positions)
        blocks = source.blocks[:shared] + ([object()] if rest else [])
        return self._named(FakeSequence(max_positions, source.tokens[:length], blocks))

    def step(self, inputs: Sequence[SequenceInput]) -> FloatArray:
        self.threads.add(threading.current_thread())
        named = {one.sequence for one in inputs}
        assert inputs, "a step appends something"
        assert len(named) == len(inputs), "a sequence is named once a step"
        assert named <= self.sequences.keys() - self._broken, "a sequence is alive and whole"
        appended = [one.inputs_embeds[:, 0].astype(int).tolist() for one in inputs]
        assert all(appended), "an input is not empty"
        self.steps.append(appended)
        self.most_rows = max(self.most_rows, len(self.sequences))
        self.most_step_tokens = max(self.most_step_tokens, sum(map(len, appended)))
        assert self.most_rows <= self._limits.rows + self._limits.priority_rows, "rows keep to the limit"
        assert self.most_step_tokens <= self._limits.step_tokens, "a step keeps to the limit"
        self._broken |= named
        self.on_step()
        self._broken -= named
        return np.stack(
            [self._append(p.sequence, tokens) for p, tokens in zip(inputs, appended, strict=True)]
        )

    def release(self, sequence: SequenceId) -> None:
        self.threads.add(threading.current_thread())
        assert sequence in self.sequences, "a sequence is released once"
        del self.sequences[sequence]
        self._broken.discard(sequence)

    def _append(self, sequence: SequenceId, tokens: list[int]) -> FloatArray:
        own = self.sequences[sequence]
        own.tokens = own.tokens + tokens
        assert len(own.tokens) <= own.max_positions, "a sequence keeps to its max_positions"
        own.blocks += [object() for _ in range(self._blocks(len(own.tokens)) - len(own.blocks))]
        if POISON in own.tokens:
            return np.full(VOCABULARY, np.nan, np.float32)
        return self._logits(own.tokens)

    def _named(self, sequence: FakeSequence) -> SequenceId:
        self.threads.add(threading.current_thread())
        name = SequenceId(next(self._ids))
        self.sequences[name] = sequence
        self.most_bytes = max(self.most_bytes, self._bytes())
        assert self.most_bytes <= self._limits.kv_bytes, "the cache keeps to the limit"
        return name

    def _check_fork(self, sequence: SequenceId, max_positions: int, positions: int) -> None:
        assert sequence in self.sequences.keys() - self._broken, "what is forked is alive and whole"
        length = len(self.sequences[sequence].tokens)
        assert 0 < positions <= min(length, max_positions), "a fork begins with what is there"

    def _blocks(self, positions: int) -> int:
        return -(-positions // self._block_positions)

    def _bytes(self) -> int:
        """What the sequences hold and may still grow by; shared blocks count once if forks share."""
        living = self.sequences.values()
        if not self.shares_prefixes:
            return sum(self.bytes_for(sequence.max_positions) for sequence in living)
        held = {id(block) for sequence in living for block in sequence.blocks}
        growth = sum(self._blocks(sequence.max_positions) - len(sequence.blocks) for sequence in living)
        return (len(held) + growth) * self._block_positions


def embed(token_ids: IntArray) -> FloatArray:
    """(row, position) int64 → (row, position, 1) float32."""
    return token_ids[:, :, None].astype(np.float32)


def make_request(
    tokens: Sequence[int],
    *,
    shared: int = 0,
    eos_token_ids: tuple[int, ...] = (EOS,),
    choices: tuple[tuple[int, ...], ...] = (),
    on_tokens: Callable[[Sequence[int]], None] | None = None,
    stop_asked: Callable[[], bool] | None = None,
    deadline: float | None = None,
    has_priority: bool = False,
    max_new_tokens: int = 20,
    **parameters: Any,
) -> Request:
    """A request with these tokens, the first `shared` of which are a prefix that other requests may have."""
    token_ids = np.array(tokens, np.int64)
    return Request(
        inputs_embeds=embed(token_ids[None])[0],
        token_ids=token_ids,
        eos_token_ids=eos_token_ids,
        parameters=GenerationParameters(max_new_tokens=max_new_tokens, **parameters),
        prefix=Prefix(token_ids[:shared].tobytes(), shared) if shared else None,
        choices=choices,
        on_tokens=on_tokens,
        stop_asked=stop_asked,
        deadline=deadline,
        has_priority=has_priority,
    )
