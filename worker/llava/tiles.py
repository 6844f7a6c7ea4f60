"""Cuts an image into the tiles that the vision model reads; knows no model and no features."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.image_processing_pil_llava_next import LlavaNextImageProcessorPil

from worker.llava.arrays import FloatArray


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

    def __call__(self, image: Image.Image) -> Tiles:
        """Resize, pad, cut and normalise an RGB image."""
        # PIL's size is (width, height): turned round here and nowhere else.
        image_size = (image.height, image.width)
        features = self._processor.preprocess(image, return_tensors="np")
        best = select_best_resolution(image_size, self._processor.image_grid_pinpoints)
        tile_px = self.tile_px
        grid = (best[0] // tile_px[0], best[1] // tile_px[1])
        pixel_values = np.asarray(features["pixel_values"][0], dtype=np.float32)
        assert len(pixel_values) == 1 + grid[0] * grid[1], (pixel_values.shape, grid)
        return Tiles(pixel_values=pixel_values, grid=grid, image_size=image_size)
