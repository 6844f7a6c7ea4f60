"""Cuts an image into the tiles that the vision model reads; knows no model and no features."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_processing_utils import select_best_resolution

from contract.job import Detail
from contract.model_folder import Packing
from worker.llava.arrays import FloatArray
from worker.llava.folder import ModelFolderError

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


class Tiler(Protocol):
    """The checkpoint's image processor, which is transformers' own."""

    @property
    def tile_px(self) -> tuple[int, int] | None:
        """(height, width) of every tile; None where it is the image's."""
        ...

    def pinpoints(self, detail: Detail) -> list[list[int]]:
        """The (height, width) in px of the grids that `detail` allows; none leaves the base tile alone."""
        ...

    def __call__(self, image: Image.Image, detail: Detail = "high") -> Tiles:
        """Resize, pad or crop, cut and normalise an RGB image."""
        ...


class AnyresTiler:
    """A view of the whole image, and a grid in the pinpoint that suits its shape."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    @property
    def tile_px(self) -> tuple[int, int]:
        size = self._processor.crop_size or self._processor.size
        side = size.get("shortest_edge")
        return size.get("height", side), size.get("width", side)

    def pinpoints(self, detail: Detail) -> list[list[int]]:
        every = [list(pinpoint) for pinpoint in self._processor.image_grid_pinpoints]
        if detail == "high":
            return every
        most_tiles = 0 if detail == "low" else detail
        return [pinpoint for pinpoint in every if np.prod(self._grid(pinpoint)) <= most_tiles]

    def __call__(self, image: Image.Image, detail: Detail = "high") -> Tiles:
        image_size = _size(image)
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


class ViewTiler:
    """One view of the image, whatever the detail: resized, and cropped or padded as the checkpoint says."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    @property
    def tile_px(self) -> tuple[int, int]:
        size = self._processor.crop_size if self._processor.do_center_crop else self._processor.size
        return size["height"], size["width"]

    def pinpoints(self, detail: Detail) -> list[list[int]]:  # noqa: ARG002 - one view for every detail
        return []

    def __call__(self, image: Image.Image, detail: Detail = "high") -> Tiles:  # noqa: ARG002
        features = self._processor.preprocess(image, return_tensors="np")
        return Tiles(np.asarray(features["pixel_values"], dtype=np.float32), NO_GRID, _size(image))


class RowTiler:
    """One view of the image in its own shape, whatever the detail: shrunk to fit, its sides whole patches."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    @property
    def tile_px(self) -> None:
        return None

    def pinpoints(self, detail: Detail) -> list[list[int]]:  # noqa: ARG002 - one view for every detail
        return []

    def __call__(self, image: Image.Image, detail: Detail = "high") -> Tiles:  # noqa: ARG002
        features = self._processor.preprocess(image, return_tensors="np")
        return Tiles(np.asarray(features["pixel_values"], dtype=np.float32), NO_GRID, _size(image))


def load_tiler(folder: Path, packing: Packing) -> Tiler:
    """The image processor that `folder` names, on numpy and Pillow. Raises ModelFolderError."""
    try:
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"The image processor of {folder} cannot be read: {error}") from error
    anyres = packing in ("anyres", "anyres_max")
    if hasattr(processor, "image_grid_pinpoints") != anyres:
        wanted = "cuts images into tiles" if anyres else "leaves images whole"
        raise ModelFolderError(
            f"{folder} does not fit together: its model needs an image processor that {wanted}, "
            f"and its own is a {type(processor).__name__}."
        )
    if packing == "rows":
        return RowTiler(processor)
    return AnyresTiler(processor) if anyres else ViewTiler(processor)


def _size(image: Image.Image) -> tuple[int, int]:
    """(height, width) in px. PIL's size is (width, height): turned round here and nowhere else."""
    return image.height, image.width
