"""Draws training scenes into files of tiles, dense labels and packing orders, in parallel; knows no model.

A tile is one vision-encoder input; view 0 of a scene is its base tile, the rest its grid in row order.
"""

from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Any, Final

import numpy as np
from PIL import Image, ImageDraw
from rich.progress import Progress
from transformers.image_processing_utils import select_best_resolution

from demo.scenes import COLOURS, KINDS, RADIUS, Scene, draw, make_scene, outline
from demo.training.shape import PATCH_PX, PATCHES, PINPOINTS, TILE_PX

Array = np.ndarray[Any, np.dtype[Any]]
NOTHING: Final = 255
"""Label of a patch that is left out of the loss."""
SIDE: Final = TILE_PX // PATCH_PX
COVERED: Final = 0.12
"""Share of a patch that a shape must cover to be its label."""
LABELS: Final = ("kind", "colour", "size", "kind_at", "colour_at", "size_at", "digit_1", "digit_2")
"""Labels of a patch: the shape that covers most of it, and the shape and number centred in it.

A label is 0 for none, otherwise 1 + index.
"""
CLASSES: Final = (9, 11, 3, 9, 11, 3, 11, 11)
NEWLINE: Final = -1


@dataclass(frozen=True)
class Fit:
    """How a picture fits into its grid; all pairs are (height, width) in pixels."""

    picture: tuple[int, int]
    grid: tuple[int, int]
    resized: tuple[int, int]
    offset: tuple[int, int]

    @classmethod
    def of(cls, picture: tuple[int, int]) -> "Fit":
        grid = tuple(select_best_resolution(picture, PINPOINTS))
        by_height, by_width = grid[0] / picture[0], grid[1] / picture[1]
        if by_width < by_height:
            resized = (min(-int(-picture[0] * by_width // 1), grid[0]), grid[1])
        else:
            resized = (grid[0], min(-int(-picture[1] * by_height // 1), grid[1]))
        offset = ((grid[0] - resized[0]) // 2, (grid[1] - resized[1]) // 2)
        return cls(picture, grid, resized, offset)

    def tiles(self, image: Image.Image, resample: Image.Resampling) -> Array:
        """(tile, height, width[, channel]) u8, the base tile first."""
        laid = Image.new(image.mode, self.grid[::-1])
        laid.paste(image.resize(self.resized[::-1], resample), self.offset[::-1])
        rows, columns = self.grid[0] // TILE_PX, self.grid[1] // TILE_PX
        pixels = np.asarray(laid)
        grid = pixels.reshape(rows, TILE_PX, columns, TILE_PX, *pixels.shape[2:]).swapaxes(1, 2)
        base = np.asarray(image.resize((TILE_PX, TILE_PX), resample))
        return np.concatenate([base[None], grid.reshape(-1, *base.shape)])

    def patch_of(self, point: tuple[float, float]) -> list[tuple[int, int]]:
        """Base patch and grid patch, each (tile, patch), at a point (y, x) in shares of the picture."""
        base = [min(int(point[axis] * SIDE), SIDE - 1) for axis in (0, 1)]
        laid = [point[axis] * self.resized[axis] + self.offset[axis] for axis in (0, 1)]
        cell = [min(int(laid[axis] / PATCH_PX), self.grid[axis] // PATCH_PX - 1) for axis in (0, 1)]
        columns = self.grid[1] // TILE_PX
        tile = 1 + cell[0] // SIDE * columns + cell[1] // SIDE
        return [(0, base[0] * SIDE + base[1]), (tile, cell[0] % SIDE * SIDE + cell[1] % SIDE)]

    def packing(self) -> Array:
        """Index of each image token's feature in (tile x patch), or NEWLINE: (image token,) i32."""
        rows, columns = self.grid[0] // TILE_PX, self.grid[1] // TILE_PX
        cells: Array = np.arange(rows * columns * PATCHES).reshape(rows, columns, SIDE, SIDE)
        cells = cells.transpose(0, 2, 1, 3).reshape(rows * SIDE, columns * SIDE) + PATCHES
        height, width = self.picture
        if width / height > cells.shape[1] / cells.shape[0]:
            kept = int(round(height * (cells.shape[1] / width), 7))
            cut = (cells.shape[0] - kept) // 2
            cells = cells[cut : cells.shape[0] - cut]
        else:
            kept = int(round(width * (cells.shape[0] / height), 7))
            cut = (cells.shape[1] - kept) // 2
            cells = cells[:, cut : cells.shape[1] - cut]
        lines = np.concatenate([cells, np.full((len(cells), 1), NEWLINE)], axis=1)
        return np.concatenate([np.arange(PATCHES), lines.reshape(-1)]).astype(np.int32)


def dense_labels(scene: Scene, fit: Fit) -> Array:
    """(tile, patch, label) u8 in the order of LABELS."""
    zoom = 2
    mask = Image.new("L", (scene.canvas[1] * zoom, scene.canvas[0] * zoom))
    pen = ImageDraw.Draw(mask)
    for index, shape in enumerate(scene.shapes, 1):
        body, *holes = ([(x * zoom, y * zoom) for x, y in polygon] for polygon in outline(shape))
        pen.polygon(body, fill=index)
        for hole in holes:
            pen.polygon(hole, fill=0)
    tiles = fit.tiles(mask, Image.Resampling.NEAREST)
    patches = (
        tiles.reshape(-1, SIDE, PATCH_PX, SIDE, PATCH_PX).swapaxes(2, 3).reshape(len(tiles), PATCHES, -1)
    )
    shares = np.stack([(patches == index).mean(-1) for index in range(1, len(scene.shapes) + 1)], axis=-1)
    owner = np.where(shares.max(-1) >= COVERED, shares.argmax(-1) + 1, 0)
    of_shape = np.array(
        [(0, 0, 0)]
        + [
            (
                1 + KINDS.index(shape.kind),
                1 + list(COLOURS).index(shape.colour),
                1 + list(RADIUS).index(shape.size),
            )
            for shape in scene.shapes
        ],
        np.uint8,
    )
    labels = np.zeros((len(tiles), PATCHES, len(LABELS)), np.uint8)
    labels[:, :, :3] = of_shape[owner]
    for index, shape in enumerate(scene.shapes, 1):
        for place in fit.patch_of((shape.centre[0] / scene.canvas[0], shape.centre[1] / scene.canvas[1])):
            labels[place][3:6] = of_shape[index]
    labels[0, :, 6:] = NOTHING  # the number need not be readable in the base tile
    plate = (scene.plate[0] / scene.canvas[0], scene.plate[1] / scene.canvas[1])
    labels[fit.patch_of(plate)[1]][6:] = [1 + int(digit) for digit in scene.number]
    return labels


def _draw_shard(task: tuple[Path, int, int]) -> None:
    path, first_seed, count = task
    if path.exists():
        return
    tiles, labels, views, packings = [], [], [], []
    for seed in range(first_seed, first_seed + count):
        scene = make_scene(seed)
        image = draw(scene)
        fit = Fit.of((image.height, image.width))
        tiles.append(fit.tiles(image, Image.Resampling.BICUBIC))
        labels.append(dense_labels(scene, fit))
        views.append(len(tiles[-1]))
        packings.append(fit.packing())
    whole = {
        "tiles": np.concatenate(tiles),
        "labels": np.concatenate(labels),
        "views": np.array(views, np.int32),
        "packing": np.concatenate(packings),
        "image_tokens": np.array([len(packing) for packing in packings], np.int32),
    }
    partial = path.with_suffix(".partial")
    partial.mkdir(parents=True, exist_ok=True)
    for name, array in whole.items():
        np.save(partial / f"{name}.npy", array)
    partial.rename(path)


class SceneStore:
    """Scenes of consecutive seeds, drawn and labelled, in memory-mapped shards."""

    SHARD: Final = 2000

    def __init__(self, folder: Path, first_seed: int, count: int) -> None:
        tasks = [
            (folder / f"scenes-{seed:09d}", seed, self.SHARD)
            for seed in range(first_seed, first_seed + count, self.SHARD)
        ]
        missing = [task for task in tasks if not task[0].exists()]
        if missing:
            with get_context("spawn").Pool() as pool, Progress() as progress:
                bar = progress.add_task("drawing scenes", total=len(missing) * self.SHARD)
                for _ in pool.imap_unordered(_draw_shard, missing):
                    progress.advance(bar, self.SHARD)
        self.first_seed = first_seed
        self.count = len(tasks) * self.SHARD
        self._shards = [_Shard(path) for path, _, _ in tasks]

    def tiles(self, index: int) -> tuple[Array, Array]:
        """Tiles (tile, height, width, channel) u8 and dense labels (tile, patch, label) u8 of a scene."""
        return self._shards[index // self.SHARD].tiles(index % self.SHARD)

    def packing(self, index: int) -> Array:
        """Packing order (image token,) i32 of a scene."""
        return self._shards[index // self.SHARD].packing(index % self.SHARD)


class _Shard:
    def __init__(self, path: Path) -> None:
        self._tiles = np.load(path / "tiles.npy", mmap_mode="r")
        self._labels = np.load(path / "labels.npy")
        self._packing = np.load(path / "packing.npy")
        self._views = np.concatenate([[0], np.cumsum(np.load(path / "views.npy"))])
        self._tokens = np.concatenate([[0], np.cumsum(np.load(path / "image_tokens.npy"))])

    def tiles(self, index: int) -> tuple[Array, Array]:
        cut = slice(self._views[index], self._views[index + 1])
        return self._tiles[cut], self._labels[cut]

    def packing(self, index: int) -> Array:
        order: Array = self._packing[self._tokens[index] : self._tokens[index + 1]]
        return order
