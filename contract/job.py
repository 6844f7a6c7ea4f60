"""The job: one image, the questions about it and how to generate, as data."""

import hashlib
import os
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

from pydantic import Field, model_validator

from contract.base import Contract, Text

JOB_VERSION: Final = 1

RunId = Annotated[str, Field(pattern=r"^[A-Za-z0-9._-]{1,200}$")]
JobIndex = Annotated[int, Field(ge=0, lt=2**32, description="position in the run; a bit in the done bitmap")]


class TextPart(Contract):
    """A piece of text in a turn."""

    type: Literal["text"] = "text"
    text: Text


class ImagePart(Contract):
    """The place of the job's image in a turn."""

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
    """A conversation that ends in a user turn, with the job's image in its first user turn or no image.

    A plain string is the short form: one user turn, the image before the text.
    """

    id: Text = Field(min_length=1)
    messages: tuple[Turn, ...] | Text

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
        if sum(images) > 1 or sum(images) != images[roles.index("user")]:
            raise ValueError("a conversation holds at most one image, in its first user turn")
        return self

    def turns(self, *, with_image: bool) -> tuple[Turn, ...]:
        """The conversation in full; the short form takes the image's place from `with_image`."""
        if not isinstance(self.messages, str):
            return self.messages
        text = TextPart(text=self.messages)
        return (Turn(role="user", content=(ImagePart(), text) if with_image else (text,)),)

    def uses_image(self, *, with_image: bool) -> bool:
        return any(turn.image_count for turn in self.turns(with_image=with_image))


class ImagePath(Contract):
    """An image file that the worker can open: absolute, or relative to one of the worker's image roots.

    A file name is bytes and need not be UTF-8; such a name travels as Latin-1, which holds every byte.
    """

    kind: Literal["path"] = "path"
    path: Text = Field(min_length=1)
    encoding: Literal["utf-8", "latin-1"] = "utf-8"

    @classmethod
    def of(cls, path: str | os.PathLike[str]) -> Self:
        raw = os.fsencode(path)
        try:
            return cls(path=raw.decode("utf-8"))
        except UnicodeDecodeError:
            return cls(path=raw.decode("latin-1"), encoding="latin-1")

    def to_path(self) -> Path:
        """The file name as this system writes it; other bytes than UTF-8 become surrogates, as in `os`."""
        return Path(os.fsdecode(self.path.encode(self.encoding)))


ImageReference = ImagePath


class GenerationParameters(Contract):
    """How to generate, in transformers' names and with their meaning there."""

    max_new_tokens: int = Field(default=128, ge=1)
    num_beams: int = Field(default=1, ge=1, le=64)
    length_penalty: float = Field(default=1.0, allow_inf_nan=False)
    early_stopping: bool | Literal["never"] = False


class Job(Contract):
    """One image and its questions: what travels through the queue."""

    version: Literal[1] = JOB_VERSION
    run: RunId
    index: JobIndex
    image: ImageReference | None = None
    questions: tuple[Question, ...] = Field(min_length=1)
    parameters: GenerationParameters = GenerationParameters()
    deadline: float | None = Field(
        default=None, allow_inf_nan=False, description="Unix time in seconds; None is no deadline"
    )

    @model_validator(mode="after")
    def _whole(self) -> Self:
        ids = [question.id for question in self.questions]
        if len(set(ids)) != len(ids):
            raise ValueError("question ids must differ within a job")
        if self.image is None and any(question.uses_image(with_image=False) for question in self.questions):
            raise ValueError("a question places an image, but the job has none")
        return self

    @property
    def key(self) -> str:
        """Content key: the same image reference, questions and parameters give the same 64 hex digits."""
        content = self.model_dump_json(include={"image", "questions", "parameters"})
        return hashlib.sha256(content.encode()).hexdigest()

    def to_message(self) -> dict[str, Any]:
        """The JSON-ready form that goes through the broker."""
        return self.model_dump(mode="json")
