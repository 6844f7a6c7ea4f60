"""Cuts an image into the tiles that the vision model reads; knows no model and no features."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from PIL import Image
from transformers import AutoImageProcessor
from transformers.image_processing_utils import select_best_resolution
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import get_optimal_tiled_canvas

from contract.failure import FailureCode, Refusal
from contract.job import Detail
from contract.model_folder import MOST_PLACES, Packing
from worker.llava.arrays import FloatArray
from worker.llava.folder import ModelFolderError

NO_GRID: Final = (0, 0)
"""The grid of an image that has the base tile alone."""


@dataclass(frozen=True)
class Tiles:
    """An image as the vision model sees it: the base tile, a view of the whole, and the grid's tiles in rows.

    The base tile is the first one; with the packing "tiles" it is the last.
    """

    pixel_values: FloatArray
    """(tile, 3, height, width)"""
    grid: tuple[int, int]
    """(height, width) in tiles, the base tile not counted"""
    image_size: tuple[int, int]
    """(height, width) of the image in px"""


class Tiler(Protocol):
    """Cuts images with the checkpoint's image processor, which is transformers' own."""

    @property
    def tile_px(self) -> tuple[int, int] | None:
        """(height, width) of every tile in px; None where tiles have the image's shape."""
        ...

    def key(self, detail: Detail, alone: bool) -> str:
        """Equal for details that cut every image into the same tiles."""
        ...

    def __call__(self, image: Image.Image, detail: Detail = "high", alone: bool = True) -> Tiles:
        """Resize, pad or crop, cut and normalise an RGB image. One that is not `alone` is one of several."""
        ...


def at_own_size(detail: Detail, image: Image.Image, tile_px: tuple[int, int]) -> Detail:
    """`auto` as a number of tiles, those that the image fills or begins to fill; low if it is one."""
    if detail != "auto":
        return detail
    height, width = _size(image)
    covered = -(-height // tile_px[0]) * -(-width // tile_px[1])
    return "low" if covered == 1 else covered


class AnyresTiler:
    """The base tile, and a grid in the pinpoint that suits the image's shape."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    @property
    def tile_px(self) -> tuple[int, int]:
        size = self._processor.crop_size or self._processor.size
        side = size.get("shortest_edge")
        return size.get("height", side), size.get("width", side)

    def key(self, detail: Detail, alone: bool) -> str:  # noqa: ARG002 - as if alone
        return "auto" if detail == "auto" else str(self.pinpoints(detail))

    def pinpoints(self, detail: Detail) -> list[list[int]]:
        """The (height, width) in px of the grids that `detail` allows; none leaves the base tile alone.

        `auto` has become a number.
        """
        every = [list(pinpoint) for pinpoint in self._processor.image_grid_pinpoints]
        if detail == "high":
            return every
        assert detail != "auto", detail
        most_tiles = 0 if detail == "low" else detail
        return [pinpoint for pinpoint in every if np.prod(self._grid(pinpoint)) <= most_tiles]

    def __call__(self, image: Image.Image, detail: Detail = "high", alone: bool = True) -> Tiles:  # noqa: ARG002
        image_size = _size(image)
        pinpoints = self.pinpoints(at_own_size(detail, image, self.tile_px))
        # The processor always cuts a grid, of which the smallest wastes least.
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


class AnyresMaxTiler(AnyresTiler):
    """The same for an image alone. One of several images has a base tile alone, padded to a square."""

    def key(self, detail: Detail, alone: bool) -> str:
        return super().key(detail, alone) if alone else "padded"

    def __call__(self, image: Image.Image, detail: Detail = "high", alone: bool = True) -> Tiles:
        if alone:
            return super().__call__(image, detail)
        side = max(image.size)
        grey = tuple(int(255 * mean) for mean in self._processor.image_mean)
        square = Image.new("RGB", (side, side), grey)
        square.paste(image, ((side - image.width) // 2, (side - image.height) // 2))
        return super().__call__(square, "low")


class RowTiler:
    """One tile in the image's own shape, whatever the detail: shrunk to fit, its sides whole patches."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    @property
    def tile_px(self) -> tuple[int, int] | None:
        return None

    def key(self, detail: Detail, alone: bool) -> str:  # noqa: ARG002 - one tile for every detail
        return ""

    def __call__(self, image: Image.Image, detail: Detail = "high", alone: bool = True) -> Tiles:  # noqa: ARG002
        features = self._processor.preprocess(image, return_tensors="np")
        return Tiles(np.asarray(features["pixel_values"], dtype=np.float32), NO_GRID, _size(image))


class ViewTiler(RowTiler):
    """One tile, whatever the detail: resized, and cropped or padded as the checkpoint says."""

    @property
    def tile_px(self) -> tuple[int, int]:
        size = self._processor.crop_size if self._processor.do_center_crop else self._processor.size
        return size["height"], size["width"]


class CanvasTiler:
    """A grid of the shape nearest the image's, which is stretched over it, and the base tile."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    @property
    def tile_px(self) -> tuple[int, int]:
        return self._processor.size["height"], self._processor.size["width"]

    def key(self, detail: Detail, alone: bool) -> str:  # noqa: ARG002 - as if alone
        return "auto" if detail == "auto" else str(self.most_tiles(detail))

    def most_tiles(self, detail: Detail) -> int:
        """Most tiles of a grid; 1 stands for the base tile alone. `auto` has become a number."""
        assert detail != "auto", detail
        most: int = self._processor.max_patches
        return most if detail == "high" else 1 if detail == "low" else min(detail, most)

    def __call__(self, image: Image.Image, detail: Detail = "high", alone: bool = True) -> Tiles:  # noqa: ARG002
        most = self.most_tiles(at_own_size(detail, image, self.tile_px))
        features = self._processor.preprocess(
            image, crop_to_patches=True, max_patches=most, return_tensors="np"
        )
        pixel_values = np.asarray(features["pixel_values"], dtype=np.float32)
        image_size = _size(image)
        if len(pixel_values) == 1:
            return Tiles(pixel_values, NO_GRID, image_size)
        width, height = get_optimal_tiled_canvas(image_size, self.tile_px, self._processor.min_patches, most)
        return Tiles(pixel_values, (height, width), image_size)


class SplitTiler:
    """The image resized and split, and the base tile; the base tile alone if the image fits into it."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor

    @property
    def tile_px(self) -> tuple[int, int]:
        side = self._processor.max_image_size["longest_edge"]
        return side, side

    def key(self, detail: Detail, alone: bool) -> str:  # noqa: ARG002 - as if alone
        return str(detail)

    def __call__(self, image: Image.Image, detail: Detail = "high", alone: bool = True) -> Tiles:  # noqa: ARG002
        longest_px, (side, _) = self._processor.size["longest_edge"], self.tile_px
        if detail == "auto" and max(image.size) > side:
            return self._cut(image, min(longest_px, -(-max(image.size) // side) * side))
        if detail == "high":
            return self._cut(image, longest_px)
        if isinstance(detail, int):
            for smaller_px in range(longest_px, side, -side):
                tiles = self._cut(image, smaller_px)
                if np.prod(tiles.grid) <= detail:
                    return tiles
        return self._cut(image, longest_px, splits=False)

    def _cut(self, image: Image.Image, longest_px: int, *, splits: bool = True) -> Tiles:
        features = self._processor.preprocess(
            image,
            size={"longest_edge": longest_px},
            do_image_splitting=splits,
            return_row_col_info=True,
            return_tensors="np",
        )
        pixel_values = np.asarray(features["pixel_values"][0], dtype=np.float32)
        grid = features["rows"][0][0], features["cols"][0][0]
        return Tiles(pixel_values, grid, _size(image))


class GridTiler(RowTiler):
    """One tile in the image's own shape, whatever the detail, put together from the processor's patches.

    Raises Refusal for an image with more rows or columns than position ids can tell apart.
    """

    def __call__(self, image: Image.Image, detail: Detail = "high", alone: bool = True) -> Tiles:  # noqa: ARG002
        features = self._processor.preprocess(image, return_tensors="np")
        _, height, width = features["image_grid_thw"][0].tolist()
        patch, merge = self._processor.patch_size, self._processor.merge_size
        if max(height, width) // merge > MOST_PLACES:
            raise Refusal(
                FailureCode.IMAGE_TOO_LARGE,
                f"The model would see the image as {height // merge} rows and {width // merge} columns; "
                f"{MOST_PLACES} of each are the most. Shrink the image.",
            )
        cells = np.asarray(features["pixel_values"], dtype=np.float32).reshape(
            height // merge,
            width // merge,
            merge,
            merge,
            3,
            self._processor.temporal_patch_size,
            patch,
            patch,
        )[:, :, :, :, :, 0]
        pixel_values = cells.transpose(4, 0, 2, 5, 1, 3, 6).reshape(1, 3, height * patch, width * patch)
        return Tiles(np.ascontiguousarray(pixel_values), NO_GRID, _size(image))


def load_tiler(folder: Path, packing: Packing) -> Tiler:
    """The tiler for the image processor in `folder`, on numpy and Pillow. Raises ModelFolderError."""
    try:
        processor = AutoImageProcessor.from_pretrained(folder, backend="pil", trust_remote_code=False)
    except (OSError, ValueError) as error:
        raise ModelFolderError(f"The image processor of {folder} cannot be read: {error}") from error
    cuts = next((field for field in CUTTING if hasattr(processor, field)), None)
    tiler = TILERS[packing].get(cuts)
    if tiler is None:
        wanted = "leaves images whole" if None in TILERS[packing] else "cuts images into tiles"
        raise ModelFolderError(
            f"{folder} does not fit together: its model needs an image processor that {wanted}, "
            f"and its own is a {type(processor).__name__}."
        )
    return tiler(processor)


CUTTING: Final = ("image_grid_pinpoints", "crop_to_patches", "do_image_splitting", "merge_size")
"""Fields by which an image processor is known to cut images, each in its own way."""
TILERS: Final[dict[Packing, dict[str | None, Callable[[Any], Tiler]]]] = {
    "view": {None: ViewTiler},
    "rows": {None: RowTiler},
    "anyres": {"image_grid_pinpoints": AnyresTiler},
    "anyres_max": {"image_grid_pinpoints": AnyresMaxTiler},
    "grid": {"merge_size": GridTiler},
    "tiles": {"crop_to_patches": CanvasTiler, "do_image_splitting": SplitTiler},
}
"""Packing → field of CUTTING that the image processor has → its tiler."""


def _size(image: Image.Image) -> tuple[int, int]:
    """(height, width) in px. PIL's size is (width, height): turned round here and nowhere else."""
    return image.height, image.width
