"""The job as data: its images, the questions about them and the generation parameters."""

import base64
import binascii
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, field_validator, model_validator

from contract.base import Contract, Text

JOB_VERSION: Final = 1

INLINE_MAX_BYTES: Final = 32 * 1024
"""Size of the largest image that travels inside its job; a larger one goes into the store."""

MOST_IMAGES: Final = 32
"""Images of a job; the context of most models holds fewer."""

RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")]
MOST_JOBS: Final = 2**28
"""Jobs of a run. The server keeps one bit for each, so the last index may cost it 32 MiB."""
JobIndex = Annotated[
    int, Field(ge=0, lt=MOST_JOBS, description="position in the run; a bit in the done bitmap")
]


class TextPart(Contract):
    """A piece of text in a turn."""

    type: Literal["text"] = "text"
    text: Text


class ImagePart(Contract):
    """The place of the job's next image in a turn."""

    type: Literal["image"] = "image"


Part = Annotated[TextPart | ImagePart, Field(discriminator="type")]


class Turn(Contract):
    """One turn of a conversation, in the chat format of OpenAI and Hugging Face."""

    role: Literal["system", "user", "assistant"]
    content: Text | tuple[Part, ...]

    @property
    def image_count(self) -> int:
        return 0 if isinstance(self.content, str) else sum(isinstance(p, ImagePart) for p in self.content)


class Question(Contract):
    """A conversation that ends with a user turn. Its first user turn holds all images of the job, or none.

    A plain string is the short form: one user turn, with the images before the text.
    """

    id: Text = Field(min_length=1)
    messages: tuple[Turn, ...] | Text
    choices: tuple[Annotated[Text, Field(min_length=1)], ...] | None = Field(
        default=None,
        min_length=2,
        max_length=64,
        description="allowed answers; the most probable one is the answer",
    )

    @model_validator(mode="after")
    def _different_choices(self) -> Self:
        texts = [choice.strip() for choice in self.choices or ()]
        if not all(texts) or len(set(texts)) != len(texts):
            raise ValueError("choices must differ, and none may be blank")
        return self

    @model_validator(mode="after")
    def _conversation(self) -> Self:
        if isinstance(self.messages, str):
            if not self.messages.strip():
                raise ValueError("a question must not be empty")
            return self
        roles = [turn.role for turn in self.messages]
        spoken = roles[1:] if roles[:1] == ["system"] else roles
        if not spoken or spoken != ["user", "assistant"] * (len(spoken) // 2) + ["user"]:
            raise ValueError(
                "a conversation is an optional system turn, then user and assistant turns in alternation, "
                "the last one a user turn"
            )
        images = [turn.image_count for turn in self.messages]
        if sum(images) > MOST_IMAGES or sum(images) != images[roles.index("user")]:
            raise ValueError(f"a conversation holds at most {MOST_IMAGES} images, in its first user turn")
        return self

    def turns(self, *, with_image: bool, images: int = 1) -> tuple[Turn, ...]:
        """The conversation in its long form; a short form gets `images` image parts if `with_image`."""
        if not isinstance(self.messages, str):
            return self.messages
        text = TextPart(text=self.messages)
        return (Turn(role="user", content=(*([ImagePart()] * images if with_image else []), text)),)

    def uses_image(self, *, with_image: bool) -> bool:
        return any(turn.image_count for turn in self.turns(with_image=with_image))


class _File(Contract):
    """A file that the worker can open: absolute, or relative to one of the worker's image roots.

    A file name that is not UTF-8 travels as Latin-1, which can hold every byte.
    """

    path: Text = Field(min_length=1)
    encoding: Literal["utf-8", "latin-1"] = "utf-8"

    @model_validator(mode="after")
    def _whole_name(self) -> Self:
        try:
            self.path.encode(self.encoding)
        except UnicodeEncodeError:
            raise ValueError(f"the path cannot be written in {self.encoding}") from None
        return self

    def to_path(self) -> Path:
        """The file name as Python has it, with surrogates for bytes that are not UTF-8."""
        return Path(os.fsdecode(self.path.encode(self.encoding)))


def _as_text(path: str | os.PathLike[str]) -> tuple[str, Literal["utf-8", "latin-1"]]:
    raw = os.fsencode(path)
    try:
        return raw.decode("utf-8"), "utf-8"
    except UnicodeDecodeError:
        return raw.decode("latin-1"), "latin-1"


class ImagePath(_File):
    """An image file that the worker can open."""

    kind: Literal["path"] = "path"

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Self:
        text, encoding = _as_text(path)
        return cls(path=text, encoding=encoding)


class ImageMember(_File):
    """An image inside an uncompressed tar shard that the worker can open: `size_bytes` from `offset` on."""

    kind: Literal["member"] = "member"
    offset: int = Field(ge=0)
    size_bytes: int = Field(ge=1)
    name: Text = Field(description="name of the tar member, for people")

    @classmethod
    def of(cls, path: str | os.PathLike[str], offset: int, size_bytes: int, name: str) -> Self:
        text, encoding = _as_text(path)
        return cls(path=text, encoding=encoding, offset=offset, size_bytes=size_bytes, name=name)


class ImageUrl(Contract):
    """An image that the worker downloads by http, https or another scheme that its operator allows."""

    kind: Literal["url"] = "url"
    url: Text = Field(pattern=r"^[A-Za-z][A-Za-z0-9+.-]*://.+", repr=False)


class ImageInline(Contract):
    """A small image inside the job."""

    kind: Literal["inline"] = "inline"
    base64: str = Field(repr=False, max_length=(INLINE_MAX_BYTES + 2) // 3 * 4)

    @field_validator("base64")
    @classmethod
    def _decodes(cls, text: str) -> str:
        try:
            base64.b64decode(text, validate=True)
        except (binascii.Error, ValueError):
            raise ValueError("an inline image must be base64") from None
        return text

    @classmethod
    def of(cls, content: bytes) -> Self:
        return cls(base64=base64.b64encode(content).decode())

    def content(self) -> bytes:
        return base64.b64decode(self.base64)


class ImageStored(Contract):
    """An image that the producer has put into the result store under its hash."""

    kind: Literal["stored"] = "stored"
    sha256: str = Field(pattern="^[0-9a-f]{64}$")


ImageReference = Annotated[
    ImagePath | ImageMember | ImageUrl | ImageInline | ImageStored, Field(discriminator="kind")
]

Detail = Literal["low", "high", "auto"] | Annotated[int, Field(ge=1, le=1024, strict=True)]
"""How closely to look: the base tile only, every tile, at most as many tiles as the image fills or begins to
fill, or at most N tiles beside the base tile."""


class GenerationParameters(Contract):
    """How to generate, with transformers' names and their meaning there.

    `num_beams` of 1 is greedy search, or sampling with `do_sample`; beams and sampling cannot be combined. An
    option that would have no effect is refused. `visual_tokens` is not one of transformers'; without an image
    it has no effect.
    """

    max_new_tokens: int = Field(default=128, ge=1)
    min_new_tokens: int = Field(default=0, ge=0, description="tokens before which an answer cannot end")
    num_beams: int = Field(default=1, ge=1, le=64)
    num_return_sequences: int = Field(
        default=1, ge=1, le=64, description="above 1, the answer has alternatives"
    )
    length_penalty: float = Field(
        default=1.0, allow_inf_nan=False, description="exponent of completion_tokens in a beam's score"
    )
    early_stopping: bool | Literal["never"] = False
    do_sample: bool = False
    temperature: float = Field(default=1.0, ge=1e-6, le=1e6)
    top_k: int = Field(default=50, ge=0, description="0 keeps every token")
    top_p: float = Field(default=1.0, gt=0, le=1)
    min_p: float = Field(default=0.0, ge=0, le=1)
    seed: int = Field(default=0, ge=0, lt=2**63)
    repetition_penalty: float = Field(
        default=1.0, ge=1e-6, le=1e6, description="applies to the prompt's tokens too, as in transformers"
    )
    no_repeat_ngram_size: int = Field(default=0, ge=0, description="0 forbids nothing")
    stop: tuple[Annotated[Text, Field(min_length=1)], ...] = Field(
        default=(), max_length=16, description="texts that end an answer and are not part of it"
    )
    visual_tokens: int | None = Field(
        default=None, ge=2, description="most image tokens kept of each image; None keeps all"
    )

    @model_validator(mode="before")
    @classmethod
    def _greedy_at_zero(cls, fields: Any) -> Any:
        return greedy_at_zero(fields) if isinstance(fields, Mapping) else fields

    @model_validator(mode="after")
    def _nothing_ignored(self) -> Self:
        if self.min_new_tokens > self.max_new_tokens:
            raise ValueError("min_new_tokens is above max_new_tokens")
        if self.do_sample and self.num_beams > 1:
            raise ValueError("do_sample draws tokens and num_beams searches for them: choose one")
        if not self.do_sample and any(getattr(self, name) != default for name, default in SAMPLING.items()):
            raise ValueError(f"{', '.join(SAMPLING)} decide nothing without do_sample")
        if self.num_beams == 1 and self.early_stopping is not False:
            raise ValueError("early_stopping decides nothing without num_beams")
        if not self.do_sample and self.num_return_sequences > self.num_beams:
            raise ValueError("num_return_sequences needs as many num_beams, or do_sample")
        return self


SAMPLING: Final = {
    name: GenerationParameters.model_fields[name].default
    for name in ("temperature", "top_k", "top_p", "min_p", "seed")
}
"""Parameters that only sampling uses, with their defaults."""
CHOOSING: Final = frozenset({"length_penalty", "visual_tokens"})
"""Parameters that have an effect where a question has choices."""
IDLE_BESIDE_CHOICES: Final = (
    "where every question has choices, no parameter but length_penalty and visual_tokens decides"
)


def greedy_at_zero(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of GenerationParameters, with a temperature of 0 turned into greedy search."""
    temperature = fields.get("temperature")
    if isinstance(temperature, bool) or temperature != 0:
        return dict(fields)
    return {name: value for name, value in fields.items() if name not in SAMPLING} | {"do_sample": False}


def choosing(parameters: GenerationParameters) -> GenerationParameters:
    """The parameters that have an effect where a question has choices; defaults in place of the others."""
    return GenerationParameters.model_validate(parameters.model_dump(include=set(CHOOSING)))


class Job(Contract):
    """One or several images and the questions about them, as they travel through the queue."""

    version: Literal[1] = JOB_VERSION
    run: RunId
    index: JobIndex
    image: ImageReference | None = None
    more_images: tuple[ImageReference, ...] = Field(
        default=(),
        max_length=MOST_IMAGES - 1,
        description="the images after the first, in the order of the questions' image parts",
    )
    questions: tuple[Question, ...] = Field(min_length=1)
    parameters: GenerationParameters = GenerationParameters()
    detail: Detail = "high"
    deadline: float | None = Field(
        default=None, allow_inf_nan=False, description="Unix time in seconds; None is no deadline"
    )
    model: Text | None = Field(default=None, description="id of the model that must answer; None is any")
    stream: bool = Field(default=False, description="text is published as it is made (contract.store)")

    @model_validator(mode="after")
    def _whole(self) -> Self:
        ids = [question.id for question in self.questions]
        if len(set(ids)) != len(ids):
            raise ValueError("question ids must differ within a job")
        if self.image is None and any(question.uses_image(with_image=False) for question in self.questions):
            raise ValueError("a question places an image, but the job has none")
        if self.image is None and self.more_images:
            raise ValueError("more_images are those after image")
        for question in self.questions:
            placed = sum(turn.image_count for turn in question.turns(with_image=False))
            if placed not in (0, self.image_count):
                raise ValueError(f"a question places {placed} images, and the job has {self.image_count}")
        if self.stream and (len(self.questions) > 1 or self.questions[0].choices is not None):
            raise ValueError("stream is for one question without choices")
        if self.stream and max(self.parameters.num_beams, self.parameters.num_return_sequences) > 1:
            raise ValueError("stream is for one row: num_beams and num_return_sequences of 1")
        if all(question.choices for question in self.questions) and self.parameters != choosing(
            self.parameters
        ):
            raise ValueError(IDLE_BESIDE_CHOICES)
        return self

    @property
    def image_count(self) -> int:
        return 0 if self.image is None else 1 + len(self.more_images)

    def each_image(self) -> Iterator["Job"]:
        """The job once for each of its images, as images are fetched one by one."""
        for image in (self.image, *self.more_images):
            yield self.model_copy(update={"image": image, "more_images": ()})

    def to_message(self) -> dict[str, Any]:
        """The job as JSON-compatible data, for the broker."""
        return self.model_dump(mode="json")
