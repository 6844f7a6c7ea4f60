"""Packs the features of an image's tiles into its run of image tokens; knows no model and no pixels.

The layouts are those of transformers. Anyres: the base tile, then the grid's patches row by row without their
padding, with an image newline after each row. A family without image newline has a single tile.
"""

from dataclasses import dataclass
from math import isqrt, sqrt
from typing import Final

import numpy as np

from worker.llava.arrays import FloatArray, IntArray
from worker.llava.interpolate import resize_bilinear

ROUNDING_DIGITS = 7
"""Decimals to which transformers rounds the unpadded side before truncating; else a row or column differs."""
SHRINKS_ABOVE = 1.1
"""Ratio of a plane's side to the allowed side above which transformers shrinks the plane."""
NO_ROWS: Final = np.empty((0, 2), dtype=np.int64)
NO_GRID_TOKENS: Final = slice(0, 0)


@dataclass(frozen=True)
class Packed:
    """An image's run of image tokens."""

    features: FloatArray
    """(image token, hidden)"""
    rows: IntArray
    """(row, 2) where each row that ends in an image newline begins, and where its newline is"""
    grid: slice
    """the grid's tokens; the others are the base tile's"""


def pack_features(
    features: FloatArray,
    grid: tuple[int, int],
    image_size: tuple[int, int],
    image_newline: FloatArray | None,
    most_plane_tiles: int | None = None,
) -> Packed:
    """features (tile, patch, hidden), base tile first → the image's tokens.

    `grid` is (height, width) in tiles, `image_size` (height, width) in px, image_newline (hidden,). Without a
    grid there is the base tile alone, with an image newline after it if there is one. The grid's patches are
    shrunk to about as many as `most_plane_tiles` tiles have.
    """
    tiles, patches, hidden = features.shape
    assert tiles == 1 + grid[0] * grid[1], (features.shape, grid)
    if image_newline is None:
        assert tiles == 1, features.shape
        return Packed(features.reshape(patches, hidden), NO_ROWS, NO_GRID_TOKENS)
    if tiles == 1:
        return Packed(
            np.concatenate([features[0], image_newline[None]]), np.array([[0, patches]]), NO_GRID_TOKENS
        )
    side = isqrt(patches)
    assert side * side == patches, features.shape
    plane = features[1:].reshape(*grid, side, side, hidden).transpose(0, 2, 1, 3, 4)
    plane = unpad(plane.reshape(grid[0] * side, grid[1] * side, hidden), image_size)
    if most_plane_tiles is not None:
        plane = shrink(plane, most_plane_tiles * patches)
    newlines = np.broadcast_to(image_newline, (plane.shape[0], 1, hidden))
    lines = np.concatenate([plane, newlines], axis=1)
    begins = patches + lines.shape[1] * np.arange(len(lines))
    return Packed(
        np.concatenate([features[0], lines.reshape(-1, hidden)]),
        np.stack([begins, begins + lines.shape[1] - 1], axis=1),
        slice(patches, None),
    )


def unpad(plane: FloatArray, image_size: tuple[int, int]) -> FloatArray:
    """plane (height, width, hidden) → its part that shows an image of `image_size` (height, width) in px."""
    height, width = plane.shape[:2]
    image_height, image_width = image_size
    if image_width / image_height > width / height:
        shown = int(round(image_height * (width / image_width), ROUNDING_DIGITS))
        padding = (height - shown) // 2
        return plane[padding : height - padding]
    shown = int(round(image_width * (height / image_height), ROUNDING_DIGITS))
    padding = (width - shown) // 2
    return plane[:, padding : width - padding]


def shrink(plane: FloatArray, most_patches: int) -> FloatArray:
    """plane (height, width, hidden) → one of about `most_patches` and like sides, if it has clearly more."""
    height, width = plane.shape[:2]
    ratio = sqrt(height * width / most_patches)
    if ratio <= SHRINKS_ABOVE:
        return plane
    return resize_bilinear(plane, (int(height // ratio), int(width // ratio)))
