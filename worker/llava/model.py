"""A LLaVA model as a worker sees it: image and question in, embeddings out; knows no engine."""

import hashlib
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from PIL import Image

from contract.failure import FailureCode, Refusal
from contract.job import Detail, Question
from contract.model_folder import TEXT_XML, VISION_XML
from worker.llava.arrays import FloatArray, IntArray
from worker.llava.feature_cache import FeatureCache
from worker.llava.folder import ModelFolder, ModelFolderError, Part, compile_part, read_folder
from worker.llava.image_run import ImageRun, place_runs
from worker.llava.pack import pack_features
from worker.llava.places import places_of
from worker.llava.prompt import PromptWriter
from worker.llava.tiles import Tiler, Tiles, load_tiler


@dataclass(frozen=True)
class ImageFeatures:
    """An image, encoded once for all questions about it; or several that are asked about together."""

    packed: FloatArray
    """(image token, hidden), read-only"""
    key: bytes
    """equal for equal images in the same order, detail and model"""
    runs: tuple[IntArray, ...]
    """(position,) of each image, the tokens that stand for it in a prompt: an image token for each feature,
    and marks"""
    grids: tuple[tuple[int, int], ...]
    """(height, width) of each image, in tiles or, where it is read in its own shape, in features"""

    @property
    def nbytes(self) -> int:
        return self.packed.nbytes + sum(run.nbytes for run in self.runs)

    def setflags(self, *, write: bool) -> None:
        """As an array's: whether it may be changed."""
        self.packed.setflags(write=write)
        for run in self.runs:
            run.setflags(write=write)


@dataclass(frozen=True)
class Prompt:
    """One question, ready for the language model."""

    token_ids: IntArray
    """(position,), the image token once for each of the images' embeddings"""
    inputs_embeds: FloatArray
    """(position, hidden)"""
    image_tokens: int
    prefix_tokens: int = 0
    """so many positions, up to the last image's last, other questions about the images may begin with too"""
    prefix_key: bytes | None = None
    """equal for equal beginnings; None where no image or nothing but the image is asked about"""
    positions: IntArray | None = None
    """(position,), where they are not counted from 0"""


class ImageObserver(Protocol):
    """Told of every image in the thread that asks for its features; calls must be quick and raise nothing."""

    def decoded(self, seconds: float) -> None:
        """An image file was made an RGB image in `seconds`."""
        ...

    def looked_at(self, *, kept: bool) -> None:
        """An image's features are there: `kept` from before, or encoded now."""
        ...


class LlavaModel:
    """A loaded model folder without its language model. Every method may be called from many threads."""

    def __init__(
        self,
        folder: ModelFolder,
        tiler: Tiler,
        writer: PromptWriter,
        vision: Part,
        embeddings: Part,
        image_cache_bytes: int,
        preparing: Callable[[], AbstractContextManager[object]],
        run: ImageRun,
    ) -> None:
        self._folder = folder
        self._tiler = tiler
        self._writer = writer
        self._vision = vision
        self._embeddings = embeddings
        self._features = FeatureCache[ImageFeatures](image_cache_bytes)
        self._preparing = preparing
        self._run = run
        self._observer: ImageObserver | None = None

    @classmethod
    def load(
        cls,
        folder: Path,
        device: str,
        properties: Mapping[str, str],
        image_cache_bytes: int = 0,
        computing: Callable[[bool], AbstractContextManager[object]] = nullcontext,
        preparing: Callable[[], AbstractContextManager[object]] = nullcontext,
    ) -> "LlavaModel":
        """Read `folder` and compile vision and embeddings for `device`. Raises ModelFolderError.

        Features of up to `image_cache_bytes` are kept. The vision model computes within
        `computing(urgent)`, which may keep others from the device meanwhile; images are decoded and cut into
        tiles within `preparing()`, urgent ones without it.
        """
        described = read_folder(folder)
        tiler = load_tiler(folder, described.packing)
        if tiler.tile_px is not None and tiler.tile_px != (described.tile_px, described.tile_px):
            raise ModelFolderError(
                f"{folder} does not fit together: its tiles are {tiler.tile_px} px and its vision "
                f"model reads {described.tile_px} px."
            )
        writer = PromptWriter.load(folder, described.image_token_id, described.marks)
        return cls(
            described,
            tiler,
            writer,
            vision=compile_part(folder, VISION_XML, device, properties, computing),
            embeddings=compile_part(folder, TEXT_XML, device, properties),
            image_cache_bytes=image_cache_bytes,
            preparing=preparing,
            run=writer.image_run(described),
        )

    @property
    def model_id(self) -> str:
        return self._folder.model_id

    @property
    def hidden(self) -> int:
        return self._folder.hidden

    @property
    def eos_token_ids(self) -> tuple[int, ...]:
        return self._folder.eos_token_ids

    @property
    def context_tokens(self) -> int:
        return self._folder.context_tokens

    @property
    def language_xml(self) -> Path:
        return self._folder.language_xml

    def observe(self, observer: ImageObserver) -> None:
        """Tell `observer` of every image from now on."""
        self._observer = observer

    def features(
        self,
        content: bytes,
        decode: Callable[[], Image.Image],
        detail: Detail = "high",
        urgent: bool = False,
        *,
        alone: bool = True,
    ) -> ImageFeatures:
        """The features of the image file that holds `content`, and of which `decode` makes an RGB image.

        Decoded and encoded only where they were not kept, and once for threads that ask at the same time;
        urgent ones before others that wait for the device, and without waiting for what another encodes.
        An image that is not `alone` is one of several in a question, which some models look at otherwise.
        Raises what `decode` raises.
        """
        # Not `detail` itself: two of them may stand for the same tiles.
        looked_at = f"{self.model_id} {self._tiler.key(detail, alone)} ".encode()
        key = hashlib.sha256(looked_at + hashlib.sha256(content).digest()).digest()
        kept = True

        def encode() -> ImageFeatures:
            nonlocal kept
            kept = False
            with nullcontext() if urgent else self._preparing():
                begun = time.perf_counter()
                image = decode()
                if self._observer is not None:
                    self._observer.decoded(time.perf_counter() - begun)
                tiles = self._tiler(image, detail, alone)
            return self._encode(tiles, key, urgent)

        features = self._features.get(key, encode, share=not urgent)
        if self._observer is not None:
            self._observer.looked_at(kept=kept)
        return features

    def encode_image(
        self, image: Image.Image, detail: Detail = "high", *, alone: bool = True
    ) -> ImageFeatures:
        """As features(), for an RGB image that comes from no file."""
        content = f"{image.height} {image.width} ".encode() + image.tobytes()
        return self.features(content, lambda: image, detail, alone=alone)

    def together(self, several: Sequence[ImageFeatures]) -> ImageFeatures:
        """Of images in one question, in their order."""
        if len(several) == 1:
            return several[0]
        return ImageFeatures(
            np.concatenate([one.packed for one in several]),
            hashlib.sha256(b"".join(one.key for one in several)).digest(),
            tuple(run for one in several for run in one.runs),
            tuple(grid for one in several for grid in one.grids),
        )

    def prompt(self, question: Question, features: ImageFeatures | None) -> Prompt:
        """The conversation through the checkpoint's chat template, the images' features in their places.

        Without features the question must place no image. Raises Refusal, of QUESTION_REFUSED or of
        QUESTION_TOO_LONG.
        """
        if (least := self._writer.least_tokens(question)) > self.context_tokens:
            raise Refusal(
                FailureCode.QUESTION_TOO_LONG,
                f"A text of the question has more than {least} tokens; the model's context is "
                f"{self.context_tokens} tokens.",
            )
        images = 0 if features is None else len(features.runs)
        token_ids = self._writer.token_ids(question, with_image=features is not None, images=images)
        image_token = self._folder.image_token_id
        if features is None or not (token_ids == image_token).any():
            assert not (token_ids == image_token).any(), "a question that places an image needs its features"
            return Prompt(token_ids, self.embed(token_ids[None])[0], image_tokens=0)
        image_tokens = sum(map(len, features.runs))
        behind = len(token_ids) - 1 - int(np.flatnonzero(token_ids == image_token)[-1])
        token_ids = place_runs(token_ids, image_token, features.runs)
        places = token_ids == image_token
        # The image token may lie beyond the embeddings of a checkpoint that never looks it up.
        inputs_embeds = self.embed(np.where(places, 0, token_ids)[None])[0]
        inputs_embeds[places] = features.packed
        positions = None
        if self._folder.packing == "grid":
            if not behind:
                raise Refusal(
                    FailureCode.QUESTION_REFUSED,
                    "The question cannot be asked: of this model no prompt may end with an image.",
                )
            positions = places_of(token_ids, image_token, features.grids)
        prefix_tokens = len(token_ids) - behind
        if not behind:
            return Prompt(token_ids, inputs_embeds, image_tokens)
        prefix_key = hashlib.sha256(features.key + token_ids[:prefix_tokens].tobytes()).digest()
        return Prompt(token_ids, inputs_embeds, image_tokens, prefix_tokens, prefix_key, positions)

    def choice_ids(self, question: Question, features: ImageFeatures | None) -> tuple[tuple[int, ...], ...]:
        """The tokens of each of the question's choices after its prompt, the end of the sequence included.

        Raises Refusal(QUESTION_REFUSED) for choices that the model cannot say or not tell apart.
        """
        images = 0 if features is None else len(features.runs)
        return self._writer.choice_ids(
            question, self.eos_token_ids, with_image=features is not None, images=images
        )

    def embed(self, token_ids: IntArray) -> FloatArray:
        """token_ids (row, position) → inputs_embeds (row, position, hidden)."""
        return self._embeddings(token_ids)

    def stops(self, texts: Sequence[str]) -> Callable[[Sequence[int]], bool]:
        """What says of new tokens whether the last of them completes one of `texts`."""
        return self._writer.stop_texts(texts)

    def decode(self, token_ids: Sequence[int], stop: Sequence[str] = ()) -> str:
        """The text of an answer up to the first of the texts `stop`, special tokens left out, stripped."""
        return self._writer.decode(token_ids, stop)

    def decode_so_far(self, token_ids: Sequence[int], stop: Sequence[str] = ()) -> str:
        """What decode() begins with for these tokens, whichever follow."""
        return self._writer.decode_so_far(token_ids, stop)

    def _encode(self, tiles: Tiles, key: bytes, urgent: bool) -> ImageFeatures:
        """Vision model and packing."""
        features = self._vision(tiles.pixel_values, urgent)
        grid = tiles.grid
        if self._folder.packing in ("rows", "grid"):
            patch_px = self._folder.patch_px
            height, width = tiles.pixel_values.shape[-2:]
            grid = (height // patch_px, width // patch_px)
        if self._folder.packing in ("rows", "tiles", "grid"):
            packed = features.reshape(-1, self.hidden)
        else:
            packed = pack_features(
                features, grid, tiles.image_size, self._folder.image_newline, self._folder.most_plane_tiles
            )
        return ImageFeatures(packed, key, (self._run(len(packed), grid),), (grid,))
