"""Resizes a plane of features as torch does with bilinear interpolation; knows not what the features mean."""

import numpy as np

from worker.llava.arrays import FloatArray


def resize_bilinear(plane: FloatArray, size: tuple[int, int]) -> FloatArray:
    """plane (height, width, hidden) → (*size, hidden), as interpolate(mode="bilinear", align_corners=False).

    Each output takes from its two neighbours on an axis, however much the plane shrinks.
    """
    for axis, length in enumerate(size):
        plane = _resize_axis(plane, axis, length)
    return plane


def _resize_axis(plane: FloatArray, axis: int, length: int) -> FloatArray:
    """Resize one axis to `length`. Coordinates are pixel centres; beyond the outermost its value holds."""
    last = plane.shape[axis] - 1
    # Rounded as in torch: a float32 scale, then one multiply-add. Otherwise places differ by 1e-5 px.
    scale = np.float64(np.float32(plane.shape[axis]) / np.float32(length))
    places = np.maximum(scale * (np.arange(length) + 0.5) - 0.5, 0).astype(np.float32)
    before = np.minimum(places.astype(np.int64), last)
    share = (places - before.astype(np.float32)).reshape([-1 if other == axis else 1 for other in range(3)])
    lower, upper = plane.take(before, axis), plane.take(np.minimum(before + 1, last), axis)
    resized: FloatArray = lower + (upper - lower) * share
    return resized
