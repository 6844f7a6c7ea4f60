"""Compares packing with transformers over many image sizes, on made-up features; knows no model."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers.image_processing_utils import select_best_resolution
from transformers.models.llava_next.modeling_llava_next import LlavaNextModel
from transformers.models.llava_onevision.modeling_llava_onevision import LlavaOnevisionModel

from tests.support.checkpoints import GRID_PINPOINTS, PATCH_PX, TILE_PX
from worker.llava.pack import pack_features, unpad

SIDE = TILE_PX // PATCH_PX
HIDDEN = 3
REAL_PINPOINTS = [[336, 672], [672, 336], [672, 672], [1008, 336], [336, 1008]]
ONEVISION_PINPOINTS = [[384 * height, 384 * width] for height in range(1, 7) for width in range(1, 7)]
ONEVISION_TOLERANCE = 1e-5


def transformers_pack(
    features: np.ndarray,
    image_size: tuple[int, int],
    newline: np.ndarray,
    pinpoints: list[list[int]],
    tile_px: int,
) -> np.ndarray:
    """The result of LlavaNextModel.pack_image_features, which reads three numbers of its config."""
    side = int(features.shape[1] ** 0.5)
    vision = SimpleNamespace(image_size=tile_px, patch_size=tile_px // side)
    config = SimpleNamespace(vision_config=vision, image_grid_pinpoints=pinpoints)
    packed, _ = LlavaNextModel.pack_image_features(
        SimpleNamespace(config=config),
        [torch.from_numpy(features)],
        [image_size],
        "default",
        torch.from_numpy(newline),
    )
    result: np.ndarray = packed[0].numpy()
    return result


@pytest.mark.parametrize(
    ("pinpoints", "tile_px", "side"), [(GRID_PINPOINTS, TILE_PX, SIDE), (REAL_PINPOINTS, 336, 24)]
)
def test_packing_equals_transformers_at_every_size(
    pinpoints: list[list[int]], tile_px: int, side: int
) -> None:
    random = np.random.default_rng(0)
    sizes = random.integers(1, 1200, (300, 2)).tolist()
    sizes += [[1, 1], [1, 900], [900, 1], [480, 640], [640, 480], [720, 1280], [512, 512]]
    grids = set()
    for height, width in sizes:
        best = select_best_resolution((height, width), pinpoints)
        grid = (best[0] // tile_px, best[1] // tile_px)
        grids.add(grid)
        features = random.normal(size=(1 + grid[0] * grid[1], side * side, HIDDEN)).astype(np.float32)
        newline = random.normal(size=HIDDEN).astype(np.float32)
        packed = pack_features(features, grid, (height, width), newline).features
        expected = transformers_pack(features, (height, width), newline, pinpoints, tile_px)
        assert np.array_equal(packed, expected), (height, width)
    assert len(grids) == len(pinpoints)


def test_transformers_itself_cannot_pack_a_class_token() -> None:
    """Which is why model_prep refuses "full" of a tower that has one, but for LLaVA-1.5."""
    features = np.zeros((3, 1 + SIDE * SIDE, HIDDEN), dtype=np.float32)
    with pytest.raises(RuntimeError, match="invalid for input of size"):
        transformers_pack(features, (56, 112), np.zeros(HIDDEN, dtype=np.float32), GRID_PINPOINTS, TILE_PX)


@pytest.mark.parametrize("most_tiles", [9, 2])
def test_planes_of_onevision_equal_transformers_at_every_size(most_tiles: int) -> None:
    """transformers' own method again; the config has a tile of 384 px and patches of 14."""
    random = np.random.default_rng(1)
    sizes = np.exp(random.uniform(0, np.log(2500), (60, 2))).astype(int).tolist()
    sizes += [[1, 900], [900, 1], [2304, 2304], [1100, 1250], [384, 384]]
    vision = SimpleNamespace(image_size=384, patch_size=14)
    config = SimpleNamespace(vision_config=vision, image_grid_pinpoints=ONEVISION_PINPOINTS)
    shrunk = 0
    for height, width in sizes:
        best = select_best_resolution((height, width), ONEVISION_PINPOINTS)
        grid = (best[0] // 384, best[1] // 384)
        features = random.normal(size=(1 + grid[0] * grid[1], 27 * 27, HIDDEN)).astype(np.float32)
        newline = random.normal(size=HIDDEN).astype(np.float32)
        (expected,), _ = LlavaOnevisionModel.pack_image_features(
            SimpleNamespace(config=config),
            [torch.from_numpy(features)],
            [(height, width)],
            torch.from_numpy(newline),
            f"anyres_max_{most_tiles}",
        )
        packed = pack_features(features, grid, (height, width), newline, most_tiles).features
        assert packed.shape == tuple(expected.shape), (height, width)
        assert np.abs(packed - expected.numpy()).max() <= ONEVISION_TOLERANCE, (height, width)
        shrunk += len(packed) < len(pack_features(features, grid, (height, width), newline).features)
    assert 0 < shrunk < len(sizes)


def test_without_image_newline_the_one_tile_is_all() -> None:
    features = np.random.default_rng(0).normal(size=(1, 17, HIDDEN)).astype(np.float32)
    assert np.array_equal(pack_features(features, (0, 0), (30, 40), None).features, features[0])


@pytest.mark.parametrize(("image_size", "rows"), [((55, 176), 16), ((99, 176), 28), ((198, 352), 28)])
def test_a_height_that_is_whole_but_for_rounding_keeps_its_rows(
    image_size: tuple[int, int], rows: int
) -> None:
    """55 * (48 / 176) is 15 less 1e-15: cut off to 14 it would leave 14 rows, not 16."""
    assert unpad(np.zeros((48, 48, 1), dtype=np.float32), image_size).shape[0] == rows
