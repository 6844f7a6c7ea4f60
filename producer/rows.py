"""Rows of a source without and with their answers, which sources make and sinks write; knows neither."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from contract.answer import Answer
from contract.base import Contract
from contract.failure import Failure
from contract.job import Detail, ImageMember, ImagePath, ImageUrl, Question


class Embedded(Contract):
    """An image within the source itself; the source's `read` gives the bytes for `place`."""

    kind: Literal["embedded"] = "embedded"
    place: int = Field(ge=0)


NamedImage = ImagePath | ImageMember | ImageUrl
RowImage = NamedImage | Embedded


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a source: its images, if any, and its questions."""

    id: str
    """Unique in its source."""
    name: str | None
    """Name of the image, for people and sinks: a path below the source's folder, a member or a URL."""
    image: RowImage | None
    more_images: tuple[NamedImage, ...] = ()
    """Images after the first, in the order in which the questions place them."""
    questions: tuple[Question, ...] = ()
    """The row's own questions; without any, it gets the run's."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """The row's own fields of GenerationParameters."""
    offered: Mapping[str, Any] = field(default_factory=dict)
    """The same from columns that may mean something else; used where they fit."""
    detail: Detail | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """The row's other values, JSON-ready: for templates, and for sinks that carry columns over."""
    refusal: Failure | None = None
    """Why its questions cannot be asked; they end in this failure."""
    text_only: bool = False
    """Whether it may be asked without an image although other rows have one."""
    ignored: tuple[str, ...] = ()
    """Names of values that change no answer, for messages; not kept in the ledger."""
    has_own_id: bool = True
    """False if the id is the row's number in the source; not kept in the ledger."""
    where: str = ""
    """Place in the source, such as `rows.csv, line 7`, for messages; not kept in the ledger."""

    @property
    def images(self) -> tuple[RowImage, ...]:
        return () if self.image is None else (self.image, *self.more_images)


@dataclass(frozen=True)
class Answered:
    """One question of a row and its outcome."""

    question: str
    """The question's id."""
    prompt: str | tuple[dict[str, Any], ...]
    """The rendered question: a text, or turns as in contract.job.Turn."""
    outcome: Answer | Failure


@dataclass(frozen=True, kw_only=True)
class AnsweredRow:
    """A row all of whose questions have an outcome."""

    position: int
    """Number of the row in its source, from 0."""
    id: str
    name: str | None
    image: RowImage | None
    more_images: tuple[NamedImage, ...] = ()
    columns: Mapping[str, Any]
    model: str | None
    """Model id of the answers; None if no worker had the row."""
    answers: tuple[Answered, ...]


ReadImage = Callable[[AnsweredRow], bytes | None]
"""Gives the bytes of the row's image; None if it has none or it cannot be read."""
