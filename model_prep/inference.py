"""Runs the parts of a model folder on the CPU, one sequence at a time, to compare them; knows no torch."""

import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import Model

from contract.model_folder import ATTENTION_MASK, BEAM_IDX, INPUTS_EMBEDS, LOGITS, POSITION_IDS
from model_prep.reference import FloatArray, IntArray

EXACT: Final = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
TIMED_CALLS: Final = 3


def compile_part(xml: Path, properties: Mapping[str, str] = EXACT) -> Callable[[NDArray[Any]], FloatArray]:
    """A part of one input and one output."""
    request = openvino.Core().compile_model(xml, "CPU", dict(properties)).create_infer_request()

    def compute(values: NDArray[Any]) -> FloatArray:
        outputs: FloatArray = request.infer([values])[0]
        return outputs

    return compute


class Language:
    """A stateful language model with one row."""

    def __init__(self, xml: Path | Model, properties: Mapping[str, str] = EXACT) -> None:
        self._request = openvino.Core().compile_model(xml, "CPU", dict(properties)).create_infer_request()

    def logits(self, prompt: FloatArray, following: FloatArray) -> FloatArray:
        """prompt (position, hidden), following (token, hidden) → logits (1 + token, vocabulary).

        Those after the prompt, and after each of the tokens that follow it.
        """
        self._request.reset_state()
        found = [self._append(prompt, 0)]
        for index, embed in enumerate(following):
            found.append(self._append(embed[None], len(prompt) + index))
        return np.stack(found)

    def greedy(
        self, prompt: FloatArray, embed: Callable[[IntArray], FloatArray], new_tokens: int
    ) -> tuple[list[int], FloatArray]:
        """The most probable tokens after prompt (position, hidden), and logits (new token, vocabulary)."""
        self._request.reset_state()
        logits = [self._append(prompt, 0)]
        token_ids = [int(logits[-1].argmax())]
        while len(token_ids) < new_tokens:
            embeds = embed(np.array([token_ids[-1:]], dtype=np.int64))[0]
            logits.append(self._append(embeds, len(prompt) + len(token_ids) - 1))
            token_ids.append(int(logits[-1].argmax()))
        return token_ids, np.stack(logits)

    def prefill(self, prompt: FloatArray) -> FloatArray:
        """prompt (position, hidden) → logits (vocabulary,) of its last position."""
        self._request.reset_state()
        return self._append(prompt, 0)

    def _append(self, embeds: FloatArray, past: int) -> FloatArray:
        """Logits (vocabulary,) of the last position."""
        total = past + len(embeds)
        inputs = {
            INPUTS_EMBEDS: embeds[None],
            ATTENTION_MASK: np.ones((1, total), dtype=np.int64),
            POSITION_IDS: np.arange(past, total, dtype=np.int64)[None],
            BEAM_IDX: np.zeros(1, dtype=np.int32),
        }
        logits: FloatArray = np.array(self._request.infer(inputs)[LOGITS][0, -1], dtype=np.float32)
        return logits


def best_s(compute: Callable[[], object]) -> float:
    """How long it takes when nothing else is in the way; the first call is not counted."""
    times = []
    for _ in range(1 + TIMED_CALLS):
        begun = time.perf_counter()
        compute()
        times.append(time.perf_counter() - begun)
    return min(times[1:])
