"""The run of tokens that stands for an image in a prompt; knows no features.

For most models it is the image token once for each feature. Where images are read row by row, a break token
follows each row of patches and an end token the last. Where they are read tile by tile, texts of the
checkpoint stand between the tiles.
"""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from contract.model_folder import TileMarks
from worker.llava.arrays import IntArray
from worker.llava.folder import ModelFolderError

PROCESSOR_CONFIG_JSON = "processor_config.json"
BREAK_TOKEN = "[IMG_BREAK]"
END_TOKEN = "[IMG_END]"
"""What the marks are called where processor_config.json does not say."""


class ImageRun(Protocol):
    """What writes an image's run."""

    def __call__(self, features: int, grid: tuple[int, int]) -> IntArray:
        """token ids (position,) of an image of so many features and of `grid` (height, width)."""
        ...


@dataclass(frozen=True)
class PlainRun:
    """The image token and nothing else."""

    image_token_id: int

    def __call__(self, features: int, grid: tuple[int, int]) -> IntArray:  # noqa: ARG002 - as every run
        return np.full(features, self.image_token_id, dtype=np.int64)


@dataclass(frozen=True)
class RowRun:
    """Rows of patches, of which `grid` has so many by so many, each with a token after it."""

    image_token_id: int
    break_id: int
    end_id: int

    @classmethod
    def load(cls, folder: Path, tokenizer: Any, image_token_id: int) -> "RowRun":
        """As the folder's processor names the marks. Raises ModelFolderError if there are no such tokens."""
        path = folder / PROCESSOR_CONFIG_JSON
        named = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        tokens = [named.get("image_break_token", BREAK_TOKEN), named.get("image_end_token", END_TOKEN)]
        vocabulary = tokenizer.get_vocab()
        for token in tokens:
            if token not in vocabulary:
                raise ModelFolderError(f"{folder} has no token {token}, which ends the rows of an image.")
        return cls(image_token_id, *(vocabulary[token] for token in tokens))

    def __call__(self, features: int, grid: tuple[int, int]) -> IntArray:
        height, width = grid
        assert features == height * width, (features, grid)
        rows = np.full((height, width + 1), self.image_token_id, dtype=np.int64)
        rows[:, -1] = self.break_id
        rows[-1, -1] = self.end_id
        return rows.reshape(-1)


@dataclass(frozen=True)
class TileRun:
    """The tiles of `grid` and the base tile, with marks between; `encode` makes tokens of a text."""

    marks: TileMarks
    image_token: str
    image_token_id: int
    encode: Callable[[str], Sequence[int]]

    def __call__(self, features: int, grid: tuple[int, int]) -> IntArray:
        tiles = 1 + grid[0] * grid[1]
        assert features % tiles == 0, (features, grid)
        token_ids = np.asarray(self.encode(self.marks.text(grid, self.image_token)), dtype=np.int64)
        tile = np.full(features // tiles, self.image_token_id, dtype=np.int64)
        return place_runs(token_ids, self.image_token_id, [tile] * tiles)


def place_runs(token_ids: IntArray, image_token_id: int, runs: Sequence[IntArray]) -> IntArray:
    """token_ids (position,) with each of `runs` in the place of an image token, in their order."""
    first, *others = np.split(token_ids, np.flatnonzero(token_ids == image_token_id))
    placed = [np.concatenate([run, piece[1:]]) for run, piece in zip(runs, others, strict=True)]
    return np.concatenate([first, *placed])
