"""LLaVA-NeXT as a worker sees it: image and question in, embeddings out; knows no engine."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from PIL import Image

from contract.job import Question
from contract.model_folder import TEXT_XML, VISION_XML
from worker.llava.arrays import FloatArray, IntArray
from worker.llava.folder import ModelFolder, ModelFolderError, Part, compile_part, read_folder
from worker.llava.pack import pack_features
from worker.llava.prompt import PromptWriter, expand_image_token
from worker.llava.tiles import Tiler


@dataclass(frozen=True)
class ImageFeatures:
    """One image, encoded once for all questions about it."""

    packed: FloatArray
    """(image token, hidden)"""


@dataclass(frozen=True)
class Prompt:
    """One question, ready for the language model."""

    token_ids: IntArray
    """(position,), the image token once for each of the image's embeddings"""
    inputs_embeds: FloatArray
    """(position, hidden)"""
    image_tokens: int


class LlavaModel:
    """A loaded model folder without its language model. Every method may be called from many threads."""

    def __init__(
        self, folder: ModelFolder, tiler: Tiler, writer: PromptWriter, vision: Part, embeddings: Part
    ) -> None:
        self._folder = folder
        self._tiler = tiler
        self._writer = writer
        self._vision = vision
        self._embeddings = embeddings

    @classmethod
    def load(cls, folder: Path, device: str, properties: Mapping[str, str]) -> "LlavaModel":
        """Read `folder` and compile vision and embeddings for `device`. Raises ModelFolderError."""
        described = read_folder(folder)
        tiler = Tiler.load(folder)
        side = described.config.vision_config.image_size
        if tiler.tile_px != (side, side):
            raise ModelFolderError(
                f"{folder} does not fit together: its tiles are {tiler.tile_px} px and its vision "
                f"model reads {side} px."
            )
        writer = PromptWriter.load(folder, described.config.image_token_index)
        return cls(
            described,
            tiler,
            writer,
            vision=compile_part(folder, VISION_XML, device, properties),
            embeddings=compile_part(folder, TEXT_XML, device, properties),
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
        tokens: int = self._folder.config.text_config.max_position_embeddings
        return tokens

    @property
    def language_xml(self) -> Path:
        return self._folder.language_xml

    def encode_image(self, image: Image.Image) -> ImageFeatures:
        """Tiles, vision model and packing for an RGB image."""
        tiles = self._tiler(image)
        features = self._vision(tiles.pixel_values)
        return ImageFeatures(
            pack_features(features, tiles.grid, tiles.image_size, self._folder.image_newline)
        )

    def prompt(self, question: Question, features: ImageFeatures | None) -> Prompt:
        """The conversation through the checkpoint's chat template, the image's features in their place.

        Without features the question must place no image. Raises Refusal(QUESTION_REFUSED).
        """
        token_ids = self._writer.token_ids(question, with_image=features is not None)
        places = token_ids == self._folder.config.image_token_index
        if features is None or not places.any():
            assert not places.any(), "a question that places an image needs its features"
            return Prompt(token_ids, self.embed(token_ids[None])[0], image_tokens=0)
        image_tokens = len(features.packed)
        token_ids = expand_image_token(token_ids, self._folder.config.image_token_index, image_tokens)
        inputs_embeds = self.embed(token_ids[None])[0]
        inputs_embeds[token_ids == self._folder.config.image_token_index] = features.packed
        return Prompt(token_ids, inputs_embeds, image_tokens)

    def embed(self, token_ids: IntArray) -> FloatArray:
        """token_ids (row, position) → inputs_embeds (row, position, hidden)."""
        return self._embeddings(token_ids)

    def decode(self, token_ids: Sequence[int]) -> str:
        """The text of an answer: special tokens left out, no white space around it."""
        return self._writer.decode(list(token_ids))
