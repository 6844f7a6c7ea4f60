"""A runner on a torch language model, for the tests: the reference that other runners are held to.

Knows no OpenVINO and no search.
"""

from pathlib import Path
from typing import Any, Self

import torch
from transformers import DynamicCache, LlavaNextForConditionalGeneration

from worker.engine.request import FloatArray, IntArray


class TorchRunner:
    """worker.engine.runner.Runner on a causal language model of transformers, in f32."""

    def __init__(self, model: Any) -> None:
        self.model = model.eval()
        self._cache: DynamicCache | None = None

    @classmethod
    def load(cls, checkpoint: Path) -> Self:
        """The language model of a LLaVA-NeXT checkpoint."""
        model = LlavaNextForConditionalGeneration.from_pretrained(checkpoint, dtype=torch.float32)
        return cls(model)

    def prefill(self, inputs_embeds: FloatArray) -> FloatArray:
        assert self._cache is None, "rows of an earlier prefill were not released"
        self._cache = DynamicCache()
        return self._forward(inputs_embeds)

    def decode(self, inputs_embeds: FloatArray, beam_idx: IntArray) -> FloatArray:
        assert self._cache is not None
        self._cache.reorder_cache(torch.from_numpy(beam_idx))
        return self._forward(inputs_embeds)

    def release(self) -> None:
        self._cache = None

    def embed(self, token_ids: IntArray) -> FloatArray:
        """(row, position) int64 → (row, position, hidden) float32."""
        with torch.no_grad():
            embeds: FloatArray = self.model.get_input_embeddings()(torch.from_numpy(token_ids)).numpy()
        return embeds

    def _forward(self, inputs_embeds: FloatArray) -> FloatArray:
        with torch.no_grad():
            output = self.model(
                inputs_embeds=torch.from_numpy(inputs_embeds), past_key_values=self._cache, logits_to_keep=1
            )
        logits: FloatArray = output.logits[:, -1].numpy()
        return logits
