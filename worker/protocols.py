"""Protocols of model, engine, images and streams, as the service uses them; knows no implementation."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from PIL import Image

from contract.job import Job, Question
from worker.engine.request import FloatArray, Generations, IntArray, Request
from worker.lane import Lane
from worker.look import Look

FeaturesT = TypeVar("FeaturesT")


class Prompt(Protocol):
    """A question and its images as embeddings for the language model."""

    @property
    def token_ids(self) -> IntArray:
        """(position,) int64, every image with all of its tokens."""
        ...

    @property
    def inputs_embeds(self) -> FloatArray:
        """(position, hidden) float32."""
        ...

    @property
    def image_tokens(self) -> int: ...
    @property
    def prefix_tokens(self) -> int:
        """Number of positions at the beginning that other questions about the images may share."""
        ...

    @property
    def prefix_key(self) -> bytes | None:
        """Equal for prompts with equal prefixes; None for a prompt that shares none."""
        ...

    @property
    def positions(self) -> IntArray | None:
        """(position,) int64 position ids; None if they count from 0."""
        ...


class Model(Protocol[FeaturesT]):
    """worker.llava's model, as the service uses it; methods are thread-safe and may raise Refusal."""

    @property
    def model_id(self) -> str: ...
    @property
    def context_tokens(self) -> int: ...
    @property
    def eos_token_ids(self) -> tuple[int, ...]: ...
    def features(
        self,
        content: bytes,
        decode: Callable[[], Image.Image],
        look: Look,
        lane: Lane,
    ) -> FeaturesT:
        """The features of the image file `content`, kept ones or those encoded from decode()'s image."""
        ...

    def joined(self, several: Sequence[FeaturesT]) -> FeaturesT:
        """The features of several images in one question, in their order."""
        ...

    def encode_image(self, image: Image.Image) -> FeaturesT: ...
    def prompt(self, question: Question, features: FeaturesT | None) -> Prompt: ...
    def choice_ids(self, question: Question, features: FeaturesT | None) -> tuple[tuple[int, ...], ...]: ...
    def stops(self, texts: Sequence[str]) -> Callable[[Sequence[int]], bool]: ...
    def decode(self, token_ids: Sequence[int], stop: Sequence[str]) -> str:
        """The text up to the first of the texts `stop`."""
        ...

    def decode_so_far(self, token_ids: Sequence[int], stop: Sequence[str]) -> str:
        """The beginning of decode()'s text that further tokens cannot change."""
        ...


class Engine(Protocol):
    """worker.engine's loop, as the service uses it."""

    def submit(self, request: Request) -> Future[Generations]: ...
    def close(self) -> None: ...


Fetch = Callable[[Job], bytes]
"""Function that returns the image file of a job that has one: ImageFetch. Raises Refusal or Requeue."""


class Decode(Protocol):
    """Function that decodes an image file: worker.images.decoder's Decoder."""

    def __call__(self, content: bytes, lane: Lane) -> Image.Image:
        """The image in RGB and upright; a suspect's is decoded outside this process. Raises Refusal."""
        ...


class Stream(Protocol):
    """One answer on its way to a reader. As a context manager it ends with its block."""

    def __enter__(self) -> "Stream": ...
    def __exit__(self, *_: object) -> None:
        """End without an answer, unless end() or leave() was called."""
        ...

    def take(self, token_ids: Sequence[int]) -> None:
        """Append the next tokens. The engine's thread calls it, so it returns at once."""
        ...

    def stop_asked(self) -> bool: ...
    def end(self, text: str | None) -> None:
        """Publish the rest of the whole text; None if there is no answer."""
        ...

    def leave(self) -> None:
        """Publish no more, as another worker goes on."""
        ...


class Streams(Protocol):
    """Opens the streams of answers: worker.delivery.streaming's TokenStreams."""

    def open(self, run: str, index: int, decode_so_far: Callable[[Sequence[int]], str]) -> Stream: ...
