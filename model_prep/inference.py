"""Runs parts of a model folder on the CPU, one sequence at a time; knows no torch."""

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import openvino
from numpy.typing import NDArray
from openvino import Model

from contract.model_folder import ATTENTION_MASK, BEAM_IDX, INPUTS_EMBEDS, POSITION_IDS
from model_prep.reference import FloatArray, IntArray

EXACT: Final = {
    "INFERENCE_PRECISION_HINT": "f32",
    "KV_CACHE_PRECISION": "f32",
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": "0",
}
TIMED_CALLS: Final = 2
"""Calls of which the fastest counts."""


class PromptAndAnswer(NamedTuple):
    """Embeddings of a prompt and of its answer."""

    prompt: FloatArray
    """(position, hidden)."""
    following: FloatArray
    """(token, hidden), the answer's tokens without the last one."""


@dataclass(frozen=True)
class Cost:
    """Seconds to load a language model, and to compute one position of a prompt."""

    loading_s: float
    position_s: float


def compile_part(
    xml: Path | Model, properties: Mapping[str, str] = EXACT
) -> Callable[[NDArray[Any]], FloatArray]:
    """A compiled part with one input and one output, as a function."""
    request = request_of(xml, properties)

    def compute(values: NDArray[Any]) -> FloatArray:
        outputs: FloatArray = request.infer([values])[0]
        return outputs

    return compute


class Language:
    """A stateful language model with one row."""

    def __init__(self, xml: Path | Model, layers: int, properties: Mapping[str, str] = EXACT) -> None:
        self._layers = layers
        self._request = request_of(xml, properties)

    def cost(self, prompt: FloatArray) -> Cost:
        """The cost measured on prompt (position, hidden); loading is free, as the model is in memory."""
        prefill(self._request, prompt[:1])  # the first call arranges the weights
        return Cost(0.0, timed_s(lambda: prefill(self._request, prompt)) / len(prompt))

    def logits(self, asked: Sequence[PromptAndAnswer], on_layers: Callable[[int], None]) -> list[FloatArray]:
        """For each of `asked`, logits (1 + token, vocabulary) after the prompt and after each token.

        `on_layers` gets the number of layers that a prompt has passed.
        """
        found = []
        for prompt, following in asked:
            rows = [prefill(self._request, prompt)]
            rows += [
                append(self._request, embed[None], len(prompt) + index)
                for index, embed in enumerate(following)
            ]
            found.append(np.concatenate(rows))
            on_layers(self._layers)
        return found

    def greedy(
        self, prompt: FloatArray, embed: Callable[[IntArray], FloatArray], new_tokens: int
    ) -> tuple[list[int], FloatArray]:
        """Greedy tokens after prompt (position, hidden), and their logits (new token, vocabulary)."""
        logits = [prefill(self._request, prompt)]
        token_ids = [int(logits[-1].argmax())]
        while len(token_ids) < new_tokens:
            embeds = embed(np.array([token_ids[-1:]], dtype=np.int64))[0]
            logits.append(append(self._request, embeds, len(prompt) + len(token_ids) - 1))
            token_ids.append(int(logits[-1].argmax()))
        return token_ids, np.concatenate(logits)


def request_of(xml: Path | Model, properties: Mapping[str, str]) -> openvino.InferRequest:
    """An inference request of a model compiled for the CPU."""
    return openvino.Core().compile_model(xml, "CPU", dict(properties)).create_infer_request()


def append(request: openvino.InferRequest, embeds: FloatArray, past: int) -> FloatArray:
    """Append embeds (position, hidden) after `past` positions → output (position, width).

    A whole language model returns only the last position.
    """
    total = past + len(embeds)
    inputs = {
        INPUTS_EMBEDS: embeds[None],
        ATTENTION_MASK: np.ones((1, total), dtype=np.int64),
        POSITION_IDS: np.arange(past, total, dtype=np.int64)[None],
        BEAM_IDX: np.zeros(1, dtype=np.int32),
    }
    return np.array(request.infer(inputs)[0][0], dtype=np.float32)


def prefill(request: openvino.InferRequest, embeds: FloatArray) -> FloatArray:
    """`append` to an empty state."""
    request.reset_state()
    return append(request, embeds, 0)


def each_alone(request: openvino.InferRequest, embeds: FloatArray) -> FloatArray:
    """Each of embeds (position, hidden) as a sequence of its own → output (position, width)."""
    rows = len(embeds)
    inputs = {
        INPUTS_EMBEDS: embeds[:, None],
        ATTENTION_MASK: np.ones((rows, 1), dtype=np.int64),
        POSITION_IDS: np.zeros((rows, 1), dtype=np.int64),
        BEAM_IDX: np.arange(rows, dtype=np.int32),
    }
    request.reset_state()
    return np.array(request.infer(inputs)[0][:, 0], dtype=np.float32)


def timed_s(compute: Callable[[], object]) -> float:
    """Seconds of one call."""
    begun = time.perf_counter()
    compute()
    return time.perf_counter() - begun


def best_s(compute: Callable[[], object]) -> float:
    """Seconds of the fastest of TIMED_CALLS calls, after one that does not count."""
    return min([timed_s(compute) for _ in range(1 + TIMED_CALLS)][1:])
