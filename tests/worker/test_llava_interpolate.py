"""Compares resizing with torch's bilinear interpolation; knows no model."""

import numpy as np
import pytest
import torch

from worker.llava.interpolate import resize_bilinear

TOLERANCE = 1e-5
HIDDEN = 3


@pytest.mark.parametrize("seed", range(60))
def test_resizing_equals_torch(seed: int) -> None:
    """Smaller and larger, each axis by another factor; 1 among the sizes."""
    random = np.random.default_rng(seed)
    height, width, *size = random.integers(1, 90, 4).tolist()
    plane = random.normal(size=(height, width, HIDDEN)).astype(np.float32)
    channels_first = torch.from_numpy(plane).permute(2, 0, 1)[None]
    expected = torch.nn.functional.interpolate(channels_first, size, mode="bilinear", align_corners=False)
    found = resize_bilinear(plane, (size[0], size[1]))
    assert found.dtype == np.float32
    assert found.shape == (*size, HIDDEN)
    assert np.abs(found - expected[0].permute(1, 2, 0).numpy()).max() <= TOLERANCE


def test_an_unchanged_size_changes_nothing() -> None:
    plane = np.random.default_rng(0).normal(size=(5, 7, HIDDEN)).astype(np.float32)
    assert np.array_equal(resize_bilinear(plane, (5, 7)), plane)
