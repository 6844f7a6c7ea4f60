"""The runner on paged attention: keys and values in blocks that forks share, all sequences in one call.

Knows which blocks a sequence has; does not know requests, beams or tokens.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import numpy.typing as npt
import openvino as ov

from contract.model_folder import INPUTS_EMBEDS, LOGITS, POSITION_IDS
from worker.engine.blocks import BlockPool, BlockTable
from worker.engine.openvino_error import reason
from worker.engine.paged_graph import (
    BLOCK_INDICES,
    BLOCK_INDICES_BEGINS,
    LOGIT_ROWS,
    MAX_CONTEXT_LEN,
    PAST_LENS,
    SUBSEQUENCE_BEGINS,
    cache_ports,
    to_paged,
)
from worker.engine.request import FloatArray
from worker.engine.runner import SequenceId, SequenceInput
from worker.engine.stateful import StatefulRunner
from worker.engine.trial import Trial, distance

AGREEMENT: Final = 0.2
"""Largest distance of a trial's logits from the stateful model's, in units of their spread.

Measured on models of random weights and a trained one: at most 0.06 with bfloat16, an 8-bit cache and weights
of 8 or 4 bits; at least 0.3 with one position too many or too few.
"""
TRIAL_BLOCKS: Final = 32
"""Fewest blocks of a budget: a trial takes up to 20 at once, where a block holds 16 positions."""
POSITION_AXIS: Final = 1
"""Axis of a value cache's block (head, position, …). A key cache has rows of scales on it too."""


@dataclass(frozen=True)
class Cache:
    """A key or value cache of one layer: port, type, and shape without the number of blocks."""

    port: str
    type: ov.Type
    block_shape: tuple[int, ...]

    @property
    def block_bytes(self) -> int:
        bits: int = math.prod(self.block_shape) * self.type.bitwidth
        return bits // 8


class PagedRunner:
    """A runner with paged attention; worker.engine.runner.Runner describes the calls.

    The caches are as large as the budget from the start, but use memory only as blocks are used.
    """

    def __init__(self, compiled: ov.CompiledModel, caches: Sequence[Cache], blocks: int) -> None:
        self._request = compiled.create_infer_request()
        self._block_bytes = _block_bytes(caches)
        values = next(cache for cache in caches if cache.port.startswith("value"))
        self.pool = BlockPool(blocks, values.block_shape[POSITION_AXIS])
        # (block, byte) of each cache, whatever its type and layout
        self._memory: list[npt.NDArray[np.uint8]] = []
        for cache in caches:
            memory = np.zeros((blocks, cache.block_bytes), np.uint8)
            self._request.set_tensor(cache.port, ov.Tensor(memory, [blocks, *cache.block_shape], cache.type))
            self._memory.append(memory)
        self._tables: dict[SequenceId, BlockTable] = {}
        self._ids = count()

    @classmethod
    def load(
        cls, language_xml: Path, device: str, properties: Mapping[str, str], kv_cache_bytes: int
    ) -> Self:
        """Compile the language model for `device` with OpenVINO `properties`, with as many blocks as fit.

        Its logits of a few positions are compared with the stateful model's, which is compiled for a moment.
        Raises ValueError with one sentence if the file is not a stateful language model, if OpenVINO refuses
        device or properties, if release, model or device do not go with paged attention, or if the budget
        does not hold those few positions.
        """
        stateful = StatefulRunner.load(language_xml, device, properties)
        core = ov.Core()
        model = core.read_model(language_xml)
        trial = Trial(model.input(INPUTS_EMBEDS).partial_shape[-1].get_length())
        expected = trial.in_one(stateful)
        # Two compiled models at once would hold the weights twice.
        del stateful

        layers = to_paged(model)
        where = f"on device {device} with properties {dict(properties)}"
        try:
            compiled = core.compile_model(model, device, dict(properties))
            caches = _caches(compiled, layers)
            blocks = _blocks(caches, kv_cache_bytes)
            runner = cls(compiled, caches, blocks)
            off = distance(trial.in_parts(runner), expected)
        except RuntimeError as error:
            raise ValueError(
                f"{language_xml.name} does not run with paged attention {where}: {reason(error)}"
            ) from error
        # Written so that NaN is refused.
        if not off <= AGREEMENT:
            raise ValueError(
                f"{language_xml.name} gives other answers with paged attention {where}: "
                f"its logits are off by {off:.2g} of their spread."
            )
        return runner

    @property
    def shares_prefixes(self) -> bool:
        return True

    @property
    def mixes_steps(self) -> bool:
        return True

    def bytes_for(self, positions: int) -> int:
        """One block more than the positions fill, as they may begin and end within blocks."""
        return (self.pool.blocks_for(positions) + 1) * self._block_bytes

    def begin(self, max_positions: int) -> SequenceId:
        return self._named(self.pool.begin(max_positions))

    def can_fork(self, sequence: SequenceId, max_positions: int, positions: int) -> bool:  # noqa: ARG002
        """Always: a fork takes no block, and its growth is within bytes_for()."""
        return True

    def fork(self, sequence: SequenceId, max_positions: int, positions: int | None = None) -> SequenceId:
        table = self._tables[sequence]
        kept = table.positions if positions is None else positions
        return self._named(self.pool.fork(table, max_positions, kept))

    def step(self, inputs: Sequence[SequenceInput]) -> FloatArray:
        tables = [self._tables[one.sequence] for one in inputs]
        assert len({one.sequence for one in inputs}) == len(inputs), "a step names a sequence once"
        lengths = [len(one.inputs_embeds) for one in inputs]
        past_lens = np.array([table.positions for table in tables], np.int32)
        for table, length in zip(tables, lengths, strict=True):
            if copy := self.pool.extend(table, length):
                for memory in self._memory:
                    memory[copy.target] = memory[copy.source]
        begins = _begins(lengths)
        position_ids = np.arange(begins[-1], dtype=np.int64) + np.repeat(past_lens - begins[:-1], lengths)
        for one, start in zip(inputs, begins, strict=False):
            if one.positions is not None:
                position_ids[start : start + len(one.positions)] = one.positions
        tensors: dict[str, Any] = {
            INPUTS_EMBEDS: np.concatenate([one.inputs_embeds for one in inputs]),
            POSITION_IDS: position_ids,
            PAST_LENS: past_lens,
            SUBSEQUENCE_BEGINS: begins,
            BLOCK_INDICES: np.concatenate([table.blocks for table in tables]),
            BLOCK_INDICES_BEGINS: _begins([len(table.blocks) for table in tables]),
            MAX_CONTEXT_LEN: np.array(max(table.positions for table in tables), np.int32),
            LOGIT_ROWS: begins[1:] - 1,
        }
        self._request.infer(tensors, share_inputs=True, share_outputs=True)
        # Copied, as the next infer overwrites the tensor.
        return np.array(self._request.get_tensor(LOGITS).data[:, 0, :], dtype=np.float32, copy=True)

    def release(self, sequence: SequenceId) -> None:
        self.pool.release(self._tables.pop(sequence))

    def _named(self, table: BlockTable) -> SequenceId:
        sequence = SequenceId(next(self._ids))
        self._tables[sequence] = table
        return sequence


def _begins(lengths: Sequence[int]) -> npt.NDArray[np.int32]:
    """lengths (n,) → (n + 1,): where each begins when they lie end to end, and where the last ends."""
    begins = np.zeros(len(lengths) + 1, np.int32)
    np.cumsum(lengths, out=begins[1:])
    return begins


def _block_bytes(caches: Sequence[Cache]) -> int:
    """Bytes of one block in the caches of all layers."""
    return sum(cache.block_bytes for cache in caches)


def _blocks(caches: Sequence[Cache], kv_cache_bytes: int) -> int:
    """Number of blocks that fit. Raises ValueError if they are too few for a trial, and so for any use."""
    block_bytes = _block_bytes(caches)
    blocks = kv_cache_bytes // block_bytes
    if blocks < TRIAL_BLOCKS:
        raise ValueError(
            f"The KV cache of {kv_cache_bytes} bytes is too small for paged attention: "
            f"it needs {TRIAL_BLOCKS * block_bytes} at least."
        )
    return blocks


def _caches(compiled: ov.CompiledModel, layers: int) -> list[Cache]:
    """The caches with the device's shapes and types, which only the compiled model tells."""
    caches: list[Cache] = []
    for name in cache_ports(layers):
        port = compiled.input(name)
        _blocks, *block_shape = port.partial_shape
        caches.append(Cache(name, port.element_type, tuple(size.get_length() for size in block_shape)))
    return caches
