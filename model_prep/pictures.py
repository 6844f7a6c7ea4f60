"""Drawn pictures to compare models on: wide, tall and square; knows no model."""

from typing import Final

import numpy as np
from PIL import Image

from model_prep.calibration import Sample

SIZES_PX: Final = ((480, 640), (640, 360), (500, 500))
"""(height, width) in pixels."""
TEXT: Final = "What is shown in this image?"
BOXES: Final = 6


def drawn_samples() -> tuple[Sample, ...]:
    """Pictures of gradients under boxes of one colour, the same in every call."""
    return tuple(Sample(_draw(size, seed), TEXT) for seed, size in enumerate(SIZES_PX))


def _draw(size_px: tuple[int, int], seed: int) -> Image.Image:
    random = np.random.default_rng(seed)
    height, width = size_px
    down, across = np.mgrid[0 : 1 : complex(height), 0 : 1 : complex(width)]
    picture = (
        down[..., None] * random.uniform(0, 255, 3) / 2 + across[..., None] * random.uniform(0, 255, 3) / 2
    )
    for _ in range(BOXES):
        top, left = random.integers(0, height * 3 // 4), random.integers(0, width * 3 // 4)
        picture[top : top + height // 5, left : left + width // 5] = random.uniform(0, 255, 3)
    return Image.fromarray(picture.astype(np.uint8))
