"""Samples one token by its probability from one random number, after the warpers of transformers 5.23.

Knows scores and the sampling parameters; knows no sequences and keeps no state.
"""

import numpy as np

from contract.job import GenerationParameters
from worker.engine.request import FloatArray, IntArray


def sample_token(scores: FloatArray, parameters: GenerationParameters, uniform: float) -> int:
    """scores (vocabulary,), a uniform number in [0, 1) → the id of the token that the number falls on.

    The tokens that warp() keeps lie side by side in the order of their ids, each as wide as it is probable.
    """
    token_ids, weights = warp(scores, parameters)
    edges = np.cumsum(weights, dtype=np.float64)
    return int(token_ids[np.searchsorted(edges, uniform * edges[-1], side="right")])


def warp(scores: FloatArray, parameters: GenerationParameters) -> tuple[IntArray, FloatArray]:
    """scores (vocabulary,), one of them finite → token_ids (kept,) ascending, their weights (kept,) float32.

    A weight is a probability divided by the highest one. temperature, top_k, top_p and min_p apply in
    transformers' order. Of equal scores top_k keeps all, as transformers does, and top_p those of the lower
    ids, where transformers leaves it open.
    """
    # The highest becomes 0, so that no temperature overflows.
    scaled = scores - scores.max()
    if parameters.temperature != 1.0:
        scaled /= np.float32(parameters.temperature)
    top_k = parameters.top_k
    if 0 < top_k < len(scaled):
        lowest = np.partition(scaled, len(scaled) - top_k)[len(scaled) - top_k]
        token_ids = np.flatnonzero(scaled >= lowest)
        scaled = scaled[token_ids]
    else:
        token_ids = np.arange(len(scaled))
    weights: FloatArray = np.exp(scaled)
    if parameters.top_p < 1.0:
        kept = _nucleus(weights, parameters.top_p)
        token_ids, weights = token_ids[kept], weights[kept]
    if parameters.min_p > 0.0:
        kept = np.flatnonzero(weights >= parameters.min_p)
        token_ids, weights = token_ids[kept], weights[kept]
    return token_ids, weights


def _nucleus(weights: FloatArray, top_p: float) -> IntArray:
    """weights (token,) → ascending indices of the fewest tokens that hold top_p of the sum."""
    total = float(weights.sum())
    # All weights below this average add up to less than what is left out, so they need no sorting.
    candidates = np.flatnonzero(weights >= (1.0 - top_p) * total / len(weights))
    # Sorting values is many times faster than sorting indices.
    descending = np.sort(weights[candidates])[::-1]
    held = np.cumsum(descending, dtype=np.float64)
    count = min(1 + int(np.searchsorted(held, top_p * total)), len(held))
    least = descending[count - 1]
    above = candidates[weights[candidates] > least]
    equal = candidates[weights[candidates] == least][: count - len(above)]
    return np.sort(np.concatenate([above, equal]))
