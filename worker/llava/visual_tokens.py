"""Chooses the image tokens that a prompt keeps of an image; knows no model and no question.

The choice is that of CDPruner (Zhang et al. 2025, arXiv 2506.10967) with equal relevance for all tokens, so
it is the same for all questions about an image. It keeps the tokens that differ most from each other, by
greedy inference of a determinantal point process (Chen et al. 2018, arXiv 1709.05135). Base tile and grid
show the same, so each has a choice of its own.
"""

from typing import Final

import numpy as np

from worker.llava.arrays import BoolArray, FloatArray, IntArray
from worker.llava.pack import Packed

LEAST_GAIN: Final = 1e-6
"""Squared distance to the span of the chosen tokens below which rounding hides a token's direction."""
NO_NEWLINE: Final = -1


def kept_tokens(packed: Packed, most: int) -> BoolArray:
    """(image token,) whether a prompt keeps each of the image's tokens: some, and at most `most` (2 or more).

    Half of them at most are the base tile's, unless the grid has too few. Image newlines are not chosen: each
    stays while a token of its row does, and counts.
    """
    tokens = len(packed.features)
    kept = np.ones(tokens, dtype=np.bool_)
    if most >= tokens:
        return kept
    kept[packed.rows[:, 1]] = False
    choosable = np.flatnonzero(kept)
    in_grid = np.zeros(tokens, dtype=np.bool_)
    in_grid[packed.grid] = True
    grid_tokens = int(in_grid.sum())
    # A very narrow image may leave nothing in the grid but newlines.
    grid_most = grid_tokens if in_grid[choosable].any() else 0
    base_most = min(tokens - grid_tokens, max(-(-most // 2), most - grid_most))
    kept[:] = False
    for view, count in ((~in_grid, base_most), (in_grid, most - base_most)):
        candidates = choosable[view[choosable]]
        order = candidates[diverse_order(packed.features[candidates], min(count, len(candidates)))]
        kept |= _within(order, packed.rows, tokens, count)
    return kept


def diverse_order(features: FloatArray, count: int) -> IntArray:
    """features (token, hidden) → (count,) the tokens that differ most from each other, in the order chosen.

    Greedy maximum a posteriori inference of a determinantal point process whose kernel is the tokens' cosine
    similarity: each step takes the token farthest from the span of those chosen before. float32; takes
    4 x token x (token + count + hidden) bytes for a moment.
    """
    norms = np.linalg.norm(features, axis=1, keepdims=True)
    unit = features / np.maximum(norms, np.finfo(np.float32).tiny)
    similar = unit @ unit.T
    # Exactly, so that rounding does not decide which of equals is first.
    gains = (norms[:, 0] > 0).astype(np.float32)
    residuals = np.zeros((count, len(unit)), dtype=np.float32)
    order = np.zeros(count, dtype=np.int64)
    for step in range(count):
        chosen = order[step] = int(np.argmax(gains))
        if gains[chosen] > LEAST_GAIN:
            known = residuals[:step, chosen] @ residuals[:step]
            residuals[step] = (similar[chosen] - known) / np.sqrt(gains[chosen])
            gains -= np.square(residuals[step])
        gains[chosen] = -np.inf
    return order


def _within(order: IntArray, rows: IntArray, tokens: int, most: int) -> BoolArray:
    """(image token,) the first tokens of `order` that fit, each row's with its newline, into `most`."""
    newline_of = np.full(tokens, NO_NEWLINE)
    for begin, newline in rows:
        newline_of[begin:newline] = newline
    # The first token of a row costs two, as it brings the row's newline along.
    found, firsts = np.unique(newline_of[order], return_index=True)
    cost = np.ones(len(order), dtype=np.int64)
    cost[firsts[found != NO_NEWLINE]] += 1
    order = order[np.cumsum(cost) <= most]
    kept = np.zeros(tokens, dtype=np.bool_)
    kept[order] = True
    newlines = rows[:, 1]
    kept[newlines] = np.isin(newlines, newline_of[order])
    return kept
