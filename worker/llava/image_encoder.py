"""Encodes image files to the features that stand for them in a prompt; knows no question."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from contract.model_folder import VISION_XML
from worker.device_scheduler import DeviceScheduler
from worker.lane import Lane
from worker.llava.arrays import BoolArray, FloatArray, IntArray
from worker.llava.feature_cache import FeatureCache
from worker.llava.folder import ModelFolder, ModelFolderError, Part, compile_part
from worker.llava.image_observer import ImageObserver
from worker.llava.image_run import ImageRun
from worker.llava.pack import NO_ROWS, Packed, pack_features
from worker.llava.tiles import Tiler, Tiles, load_tiler
from worker.llava.visual_tokens import kept_tokens
from worker.look import Look


@dataclass(frozen=True)
class ImageFeatures:
    """An image, encoded once for all questions about it; or several that one question asks about."""

    packed: FloatArray
    """(kept image token, hidden), read-only"""
    key: bytes
    """equal for equal images in the same order, with the same detail, kept tokens and model"""
    runs: tuple[IntArray, ...]
    """(position,) token ids of each image in a prompt: an image token for each feature, and marks"""
    grids: tuple[tuple[int, int], ...]
    """(height, width) of each image in tiles, or in features where an image is read in its own shape"""
    kept: tuple[BoolArray, ...]
    """(image token,) of each image: whether `packed` has its features"""

    @property
    def keeps_all(self) -> bool:
        return len(self.packed) == sum(map(len, self.kept))

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + sum(array.nbytes for array in (*self.runs, *self.kept))

    def setflags(self, *, write: bool) -> None:
        """As an array's setflags(): set whether the arrays may be changed."""
        self.packed.setflags(write=write)
        for array in (*self.runs, *self.kept):
            array.setflags(write=write)


class ImageEncoder:
    """Tiles, vision model and packing of one model folder. Any thread may call it."""

    def __init__(
        self,
        folder: ModelFolder,
        tiler: Tiler,
        vision: Part,
        run: ImageRun,
        device: DeviceScheduler,
        cache_bytes: int,
    ) -> None:
        """Features of up to `cache_bytes` are kept."""
        self._folder = folder
        self._tiler = tiler
        self._vision = vision
        self._run = run
        self._device = device
        self._kept = FeatureCache[ImageFeatures](cache_bytes)
        self.observer: ImageObserver | None = None

    @classmethod
    def load(
        cls,
        folder: ModelFolder,
        run: ImageRun,
        device_name: str,
        properties: Mapping[str, str],
        device: DeviceScheduler,
        cache_bytes: int,
    ) -> "ImageEncoder":
        """Compile the vision model for `device_name`. Raises ModelFolderError."""
        tiler = load_tiler(folder.path, folder.packing)
        if tiler.tile_px is not None and tiler.tile_px != (folder.tile_px, folder.tile_px):
            raise ModelFolderError(
                f"{folder.path} does not fit together: its tiles are {tiler.tile_px} px and its vision "
                f"model reads {folder.tile_px} px."
            )
        vision = compile_part(folder.path, VISION_XML, device_name, properties)
        return cls(folder, tiler, vision, run, device, cache_bytes)

    def __call__(
        self,
        content: bytes,
        decode: Callable[[], Image.Image],
        look: Look,
        lane: Lane,
    ) -> ImageFeatures:
        """As LlavaModel.features()."""
        # Not the detail itself, as two details may give the same tiles.
        tiling = f"{self._folder.model_id} {self._tiler.key(look.detail, look.alone)} ".encode()
        key = hashlib.sha256(tiling + hashlib.sha256(content).digest()).digest()
        wanted = hashlib.sha256(key + f"{look.visual_tokens}".encode()).digest()
        kept = True

        def encode() -> ImageFeatures:
            nonlocal kept
            kept = False
            with self._device.image_turn(lane):
                begun = time.perf_counter()
                image = decode()
                if self.observer is not None:
                    self.observer.decoded(time.perf_counter() - begun)
                tiles = self._tiler(image, look.detail, look.alone)
            return self._encode(tiles, key, look.visual_tokens, lane)

        features = self._kept.get(wanted, encode, share=lane is not Lane.INTERACTIVE)
        if self.observer is not None:
            self.observer.served(kept=kept)
        return features

    def _encode(self, tiles: Tiles, key: bytes, visual_tokens: int | None, lane: Lane) -> ImageFeatures:
        """The features of an image's tiles, packed; at most `visual_tokens` of them."""
        with self._device.vision_turn(lane):
            begun = time.perf_counter()
            features = self._vision(tiles.pixel_values)
            if self.observer is not None:
                self.observer.encoded(time.perf_counter() - begun)
        packed, grid = self._packed(features, tiles)
        kept = kept_tokens(packed, visual_tokens or len(packed.features))
        run = self._run(len(kept), grid)
        if kept.all():
            return ImageFeatures(packed.features, key, (run,), (grid,), (kept,))
        key = hashlib.sha256(key + kept.tobytes()).digest()
        return ImageFeatures(packed.features[kept], key, (run,), (grid,), (kept,))

    def _packed(self, features: FloatArray, tiles: Tiles) -> tuple[Packed, tuple[int, int]]:
        """features (tile, patch, hidden), or of an image in its own shape → its tokens, and its grid."""
        grid = tiles.grid
        if self._folder.packing in ("rows", "grid"):
            patch_px = self._folder.patch_px
            height, width = tiles.pixel_values.shape[-2:]
            grid = (height // patch_px, width // patch_px)
        if self._folder.packing in ("rows", "tiles", "grid"):
            packed = features.reshape(-1, self._folder.hidden)
            # Only tiles have a view of the whole, which is the last one.
            base = features.shape[1] if self._folder.packing == "tiles" else 0
            return Packed(packed, NO_ROWS, slice(0, len(packed) - base)), grid
        newline, most_tiles = self._folder.image_newline, self._folder.most_plane_tiles
        return pack_features(features, grid, tiles.image_size, newline, most_tiles), grid


def joined(several: Sequence[ImageFeatures]) -> ImageFeatures:
    """The features of several images in one question, in their order."""
    if len(several) == 1:
        return several[0]
    return ImageFeatures(
        np.concatenate([one.packed for one in several]),
        hashlib.sha256(b"".join(one.key for one in several)).digest(),
        tuple(run for one in several for run in one.runs),
        tuple(grid for one in several for grid in one.grids),
        tuple(kept for one in several for kept in one.kept),
    )
