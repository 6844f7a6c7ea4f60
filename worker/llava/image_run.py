"""Writes the run of tokens that stands for an image in a prompt; knows no features.

Most models have one image token for each feature. Models that read an image row by row have a break token
after each row of patches and an end token after the last. Models that read it tile by tile have texts of the
checkpoint between the tiles.
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
"""Names of the marks where processor_config.json does not give any."""


class ImageRun(Protocol):
    """Writes the run of an image."""

    def __call__(self, features: int, grid: tuple[int, int]) -> IntArray:
        """(position,) int64 token ids of an image with so many features and a `grid` (height, width)."""
        ...


@dataclass(frozen=True)
class PlainRun:
    """The image token for each feature and nothing else."""

    image_token_id: int

    def __call__(self, features: int, grid: tuple[int, int]) -> IntArray:  # noqa: ARG002 - as every run
        return np.full(features, self.image_token_id, dtype=np.int64)


@dataclass(frozen=True)
class RowRun:
    """Rows of patches with a token after each; `grid` is (height, width) in patches."""

    image_token_id: int
    break_id: int
    end_id: int

    @classmethod
    def load(cls, folder: Path, tokenizer: Any, image_token_id: int) -> "RowRun":
        """With the marks that the folder's processor names. Raises ModelFolderError if they are no tokens."""
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
    """The tiles of `grid` and the base tile, with marks between; `encode` makes token ids of a text."""

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
    """token_ids (position,) with one of `runs` in place of each image token, in their order → (position,)."""
    first, *others = np.split(token_ids, np.flatnonzero(token_ids == image_token_id))
    placed = [np.concatenate([run, piece[1:]]) for run, piece in zip(runs, others, strict=True)]
    return np.concatenate([first, *placed])
