"""A runner on a torch language model: the reference that tests compare other runners with.

Knows no OpenVINO and no search.
"""

from collections.abc import Sequence
from copy import deepcopy
from itertools import count
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from transformers import DynamicCache, LlavaNextForConditionalGeneration

from worker.engine.request import FloatArray, IntArray
from worker.engine.runner import SequenceId, SequenceInput


class TorchRunner:
    """worker.engine.runner.Runner on a language model of transformers, in f32, a sequence at a time."""

    shares_prefixes = False
    mixes_steps = True

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self._ids = count()
        self.caches: dict[SequenceId, DynamicCache] = {}

    @classmethod
    def load(cls, checkpoint: Path) -> Self:
        """The language model of a LLaVA-NeXT checkpoint."""
        return cls(LlavaNextForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32))

    def bytes_for(self, positions: int) -> int:
        return positions

    def begin(self, max_positions: int) -> SequenceId:  # noqa: ARG002 - it sets nothing aside
        return self._named(DynamicCache())

    def can_fork(self, sequence: SequenceId, max_positions: int, positions: int) -> bool:  # noqa: ARG002
        return True

    def fork(self, sequence: SequenceId, max_positions: int, positions: int | None = None) -> SequenceId:  # noqa: ARG002
        cache = deepcopy(self.caches[sequence])
        if positions is not None and positions < cache.get_seq_length():
            cache.crop(positions - cache.get_seq_length())
        return self._named(cache)

    def step(self, inputs: Sequence[SequenceInput]) -> FloatArray:
        return np.stack([self._forward(one) for one in inputs])

    def release(self, sequence: SequenceId) -> None:
        del self.caches[sequence]

    def embed(self, token_ids: IntArray) -> FloatArray:
        """(row, position) int64 → (row, position, hidden) float32."""
        with torch.no_grad():
            embeds: FloatArray = self.model.get_input_embeddings()(torch.from_numpy(token_ids)).numpy()
        return embeds

    def _named(self, cache: DynamicCache) -> SequenceId:
        sequence = SequenceId(next(self._ids))
        self.caches[sequence] = cache
        return sequence

    def _forward(self, one: SequenceInput) -> FloatArray:
        with torch.no_grad():
            output = self.model(
                inputs_embeds=torch.from_numpy(np.ascontiguousarray(one.inputs_embeds))[None],
                past_key_values=self.caches[one.sequence],
                logits_to_keep=1,
            )
        logits: FloatArray = output.logits[0, -1].numpy()
        return logits
