"""Cuts an image into the tiles that the vision model reads; knows no model and no features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from contract.job import Detail
from worker.llava.arrays import FloatArray

NO_GRID: Final = (0, 0)
"""The grid of an image of which only the base tile is looked at."""


@dataclass(frozen=True)
class Tiles:
    """An image as the vision model sees it: the base tile, then the grid's tiles row by row."""

    pixel_values: FloatArray
    """(tile, 3, height, width)"""
    grid: tuple[int, int]
    """(height, width) in tiles, the base tile not counted"""
    image_size: tuple[int, int]
    """(height, width) of the image in px"""


class Tiler:
    """The checkpoint's image processor, which is transformers' own."""

    def __init__(self, processor: LlavaNextImageProcessorPil) -> None:
        self._processor = processor

    @classmethod
    def load(cls, folder: Path) -> "Tiler":
        return cls(LlavaNextImageProcessorPil.from_pretrained(folder))

    @property
    def tile_px(self) -> tuple[int, int]:
        """(height, width) of every tile."""
        size = self._processor.crop_size
        return size["height"], size["width"]

    def pinpoints(self, detail: Detail) -> list[list[int]]:
        """The checkpoint's (height, width) in px that `detail` allows; none leaves the base tile alone."""
        every = [list(pinpoint) for pinpoint in self._processor.image_grid_pinpoints]
        if detail == "high":
            return every
        most_tiles = 0 if detail == "low" else detail
        return [pinpoint for pinpoint in every if np.prod(self._grid(pinpoint)) <= most_tiles]

    def __call__(self, image: Image.Image, detail: Detail = "high") -> Tiles:
        """Resize, pad, cut and normalise an RGB image."""
        # PIL's size is (width, height): turned round here and nowhere else.
        image_size = (image.height, image.width)
        pinpoints = self.pinpoints(detail)
        # The processor always cuts a grid; the smallest one is the least to throw away.
        features = self._processor.preprocess(
            image, image_grid_pinpoints=pinpoints or [list(self.tile_px)], return_tensors="np"
        )
        pixel_values = np.asarray(features["pixel_values"][0], dtype=np.float32)
        if not pinpoints:
            return Tiles(pixel_values[:1], NO_GRID, image_size)
        grid = self._grid(select_best_resolution(image_size, pinpoints))
        assert len(pixel_values) == 1 + grid[0] * grid[1], (pixel_values.shape, grid)
        return Tiles(pixel_values, grid, image_size)

    def _grid(self, pinpoint: list[int] | tuple[int, int]) -> tuple[int, int]:
        tile_px = self.tile_px
        return pinpoint[0] // tile_px[0], pinpoint[1] // tile_px[1]
