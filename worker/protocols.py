"""What the service asks of model, engine, images and streams: protocols, and nothing that does anything."""

from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Protocol, TypeVar

from PIL import Image

from contract.job import Detail, Job, Question
from worker.engine.request import FloatArray, Generations, IntArray, Request
from worker.lane import Lane

FeaturesT = TypeVar("FeaturesT")


class Prompt(Protocol):
    """What the model makes of a question and its image: one array of embeddings."""

    @property
    def token_ids(self) -> IntArray:
        """(position,) int64, image tokens in their full number."""
        ...

    @property
    def inputs_embeds(self) -> FloatArray:
        """(position, hidden) float32."""
        ...

    @property
    def image_tokens(self) -> int: ...
    @property
    def prefix_tokens(self) -> int:
        """Number of positions that other questions about the image begin with too."""
        ...

    @property
    def prefix_key(self) -> bytes | None:
        """Equal for equal beginnings; None for a prompt that shares none."""
        ...

    @property
    def positions(self) -> IntArray | None:
        """(position,) int64, where they are not counted from 0."""
        ...


class Model(Protocol[FeaturesT]):
    """What the service asks of worker.llava's model; every method may raise Refusal and is thread-safe."""

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
        detail: Detail,
        lane: Lane,
        *,
        alone: bool = True,
    ) -> FeaturesT:
        """Of the image file that holds `content`; kept ones, or `decode` is called.

        An image that is not `alone` is one of several in a question.
        """
        ...

    def joined(self, several: Sequence[FeaturesT]) -> FeaturesT:
        """The features of several images in one question, in their order."""
        ...

    def encode_image(self, image: Image.Image) -> FeaturesT: ...
    def prompt(self, question: Question, features: FeaturesT | None) -> Prompt: ...
    def choice_ids(self, question: Question, features: FeaturesT | None) -> tuple[tuple[int, ...], ...]: ...
    def stops(self, texts: Sequence[str]) -> Callable[[Sequence[int]], bool]: ...
    def decode(self, token_ids: Sequence[int], stop: Sequence[str]) -> str:
        """The text before the first of the texts `stop`."""
        ...

    def decode_so_far(self, token_ids: Sequence[int], stop: Sequence[str]) -> str:
        """What decode() begins with for these tokens, whichever follow."""
        ...


class Engine(Protocol):
    """What the service asks of worker.engine's loop."""

    def submit(self, request: Request) -> Future[Generations]: ...
    def close(self) -> None: ...


Fetch = Callable[[Job], bytes]
"""The image file of a job that has one: worker.images.fetch's ImageFetch. Raises Refusal or Requeue."""


class Decode(Protocol):
    """What makes a picture of an image file: worker.images.decoder's Decoder."""

    def __call__(self, content: bytes, lane: Lane) -> Image.Image:
        """RGB and upright; a suspect's is decoded outside this process. Raises Refusal."""
        ...


class Stream(Protocol):
    """One answer on its way to somebody who reads along. As a context manager it ends with its block."""

    def __enter__(self) -> "Stream": ...
    def __exit__(self, *_: object) -> None:
        """End without an answer, unless it has ended or was left."""
        ...

    def take(self, token_ids: Sequence[int]) -> None:
        """The next tokens; called in the engine's thread, returns at once."""
        ...

    def stop_asked(self) -> bool: ...
    def end(self, text: str | None) -> None:
        """The whole text, of which the rest is published, or None if there is no answer."""
        ...

    def leave(self) -> None:
        """Publish no more: another worker goes on."""
        ...


class Streams(Protocol):
    """Where answers are read along: worker.delivery.streaming's TokenStreams."""

    def open(self, run: str, index: int, decode_so_far: Callable[[Sequence[int]], str]) -> Stream: ...
