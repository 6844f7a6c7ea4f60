"""A LLaVA model as a worker sees it: image and question in, embeddings out; knows no engine."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from contract.failure import FailureCode, Refusal
from contract.job import Detail, Question
from contract.model_folder import TEXT_XML
from worker.device_scheduler import DeviceScheduler
from worker.lane import Lane
from worker.llava.arrays import FloatArray, IntArray
from worker.llava.folder import ModelFolder, Part, compile_part, read_folder
from worker.llava.image_encoder import ImageEncoder, ImageFeatures, joined
from worker.llava.image_observer import ImageObserver
from worker.llava.image_run import place_runs
from worker.llava.places import places_of
from worker.llava.prompt import PromptWriter
from worker.look import Look


@dataclass(frozen=True)
class Prompt:
    """One question, ready for the language model."""

    token_ids: IntArray
    """(position,) int64, with one image token for each of the images' embeddings"""
    inputs_embeds: FloatArray
    """(position, hidden)"""
    image_tokens: int
    prefix_tokens: int = 0
    """number of positions, up to the last image's end, that other questions about the images may share"""
    prefix_key: bytes | None = None
    """equal for equal prefixes; None without image, or if nothing follows it"""
    positions: IntArray | None = None
    """(position,) int64 position ids; None if they count from 0"""


CLOSE_LOOK: Final = Look()


class LlavaModel:
    """A loaded model folder without its language model. Any thread may call its methods."""

    def __init__(
        self, folder: ModelFolder, encoder: ImageEncoder, writer: PromptWriter, embeddings: Part
    ) -> None:
        self._folder = folder
        self._encoder = encoder
        self._writer = writer
        self._embeddings = embeddings

    @classmethod
    def load(
        cls,
        folder: Path,
        device_name: str,
        properties: Mapping[str, str],
        image_cache_bytes: int = 0,
        device: DeviceScheduler | None = None,
    ) -> "LlavaModel":
        """Read `folder` and compile vision and embeddings for `device_name`. Raises ModelFolderError.

        Features of up to `image_cache_bytes` are kept. `device` says when the vision model may compute.
        """
        described = read_folder(folder)
        writer = PromptWriter.load(folder, described.image_token_id, described.marks)
        run = writer.image_run(described)
        device = device or DeviceScheduler()
        return cls(
            described,
            ImageEncoder.load(described, run, device_name, properties, device, image_cache_bytes),
            writer,
            compile_part(folder, TEXT_XML, device_name, properties),
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
        """Report every image to `observer` from now on."""
        self._encoder.observer = observer

    def features(
        self,
        content: bytes,
        decode: Callable[[], Image.Image],
        look: Look = CLOSE_LOOK,
        lane: Lane = Lane.BULK,
    ) -> ImageFeatures:
        """The features of the image file `content`, of which `decode` makes an RGB image.

        An image is decoded and encoded only if its features are not kept, and once for threads that ask at
        the same time. An interactive job goes before others that wait for the device, and waits for no
        other's encoding. Raises what `decode` raises.
        """
        return self._encoder(content, decode, look, lane)

    def encode_image(
        self,
        image: Image.Image,
        detail: Detail = "high",
        *,
        visual_tokens: int | None = None,
        alone: bool = True,
    ) -> ImageFeatures:
        """As features(), for an RGB image that comes from no file."""
        content = f"{image.height} {image.width} ".encode() + image.tobytes()
        return self.features(content, lambda: image, Look(detail, visual_tokens, alone))

    def joined(self, several: Sequence[ImageFeatures]) -> ImageFeatures:
        """The features of several images in one question, in their order."""
        return joined(several)

    def prompt(self, question: Question, features: ImageFeatures | None) -> Prompt:
        """The question through the checkpoint's chat template, with the images' features in their places.

        Without features the question must place no image. Raises Refusal(QUESTION_REFUSED or
        QUESTION_TOO_LONG).
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
        behind = len(token_ids) - 1 - int(np.flatnonzero(token_ids == image_token)[-1])
        token_ids = place_runs(token_ids, image_token, features.runs)
        positions = self._positions(token_ids, features, behind)
        image_tokens = sum(map(len, features.runs))
        if not features.keeps_all:
            # Tokens that are kept have the positions that they have among all.
            kept = np.ones(len(token_ids), dtype=np.bool_)
            kept[token_ids == image_token] = np.concatenate(features.kept)
            image_tokens -= int(np.count_nonzero(~kept))
            positions = (np.arange(len(token_ids)) if positions is None else positions)[kept]
            token_ids = token_ids[kept]
        places = token_ids == image_token
        # The image token may lie beyond the embeddings of a checkpoint that never looks it up.
        inputs_embeds = self.embed(np.where(places, 0, token_ids)[None])[0]
        inputs_embeds[places] = features.packed
        prefix_tokens = len(token_ids) - behind
        if not behind:
            return Prompt(token_ids, inputs_embeds, image_tokens, positions=positions)
        prefix_key = hashlib.sha256(features.key + token_ids[:prefix_tokens].tobytes()).digest()
        return Prompt(token_ids, inputs_embeds, image_tokens, prefix_tokens, prefix_key, positions)

    def _positions(self, token_ids: IntArray, features: ImageFeatures, behind: int) -> IntArray | None:
        """Position ids (position,) of a prompt with all image tokens; None if they count from 0.

        `behind` is the number of tokens after the last image. Raises Refusal(QUESTION_REFUSED).
        """
        if self._folder.packing != "grid":
            return None
        if not behind:
            raise Refusal(
                FailureCode.QUESTION_REFUSED,
                "The question cannot be asked: with this model some text must follow the last image.",
            )
        return places_of(token_ids, self._folder.image_token_id, features.grids)

    def choice_ids(self, question: Question, features: ImageFeatures | None) -> tuple[tuple[int, ...], ...]:
        """Token ids of each of the question's choices after its prompt, with the end of the sequence.

        Raises Refusal(QUESTION_REFUSED) for choices that the model cannot generate or cannot tell apart.
        """
        images = 0 if features is None else len(features.runs)
        return self._writer.choice_ids(
            question, self.eos_token_ids, with_image=features is not None, images=images
        )

    def embed(self, token_ids: IntArray) -> FloatArray:
        """token_ids (row, position) → inputs_embeds (row, position, hidden)."""
        return self._embeddings(token_ids)

    def stops(self, texts: Sequence[str]) -> Callable[[Sequence[int]], bool]:
        """A function that says whether the last of new token ids completes one of `texts`."""
        return self._writer.stop_texts(texts)

    def decode(self, token_ids: Sequence[int], stop: Sequence[str] = ()) -> str:
        """The text of an answer up to the first of the texts `stop`, stripped and without special tokens."""
        return self._writer.decode(token_ids, stop)

    def decode_so_far(self, token_ids: Sequence[int], stop: Sequence[str] = ()) -> str:
        """The beginning of decode()'s text that further tokens cannot change."""
        return self._writer.decode_so_far(token_ids, stop)
