"""A row of a source, and the same row with its answers: what sources make and sinks write."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pydantic import Field

from contract.answer import Answer
from contract.base import Contract
from contract.failure import Failure
from contract.job import Detail, ImageMember, ImagePath, ImageUrl, Question


class Embedded(Contract):
    """An image within the source itself: its `read` gives the bytes for `place`."""

    kind: Literal["embedded"] = "embedded"
    place: int = Field(ge=0)


NamedImage = ImagePath | ImageMember | ImageUrl
RowImage = NamedImage | Embedded


@dataclass(frozen=True, kw_only=True)
class Row:
    """One row of a source: an image, several or none, and what is asked about them."""

    id: str
    """Unique in its source."""
    name: str | None
    """The image's, for people and sinks: a path relative to the source's folder, a member or a URL."""
    image: RowImage | None
    more_images: tuple[NamedImage, ...] = ()
    """Those after the first, in the order in which the questions place them."""
    questions: tuple[Question, ...] = ()
    """Its own; a row without any is asked the run's."""
    parameters: Mapping[str, Any] = field(default_factory=dict)
    """Fields of GenerationParameters that are the row's own."""
    offered: Mapping[str, Any] = field(default_factory=dict)
    """The same from columns that may mean something else; they decide where they can."""
    detail: Detail | None = None
    columns: Mapping[str, Any] = field(default_factory=dict)
    """What else the source says of it, JSON-ready: for templates and for sinks that carry columns over."""
    refusal: Failure | None = None
    """Why its questions cannot even be asked; they then end in this failure."""
    text_only: bool = False
    """Whether it may be asked without an image though other rows have one."""
    ignored: tuple[str, ...] = ()
    """What it says that changes no answer, for people; the ledger does without."""
    has_own_id: bool = True
    """False where the id is its number in the source; not kept in the ledger."""
    where: str = ""
    """Its place in its source, such as `rows.csv, line 7`, for sentences; not kept in the ledger."""

    @property
    def images(self) -> tuple[RowImage, ...]:
        return () if self.image is None else (self.image, *self.more_images)


@dataclass(frozen=True)
class Answered:
    """One question of a row and what came of it."""

    question: str
    """The question's id."""
    prompt: str | tuple[dict[str, Any], ...]
    """As it was asked: a text, or turns as in contract.job.Turn."""
    outcome: Answer | Failure


@dataclass(frozen=True, kw_only=True)
class AnsweredRow:
    """A row all of whose questions have an outcome."""

    position: int
    """Of the row in its source, from 0."""
    id: str
    name: str | None
    image: RowImage | None
    more_images: tuple[NamedImage, ...] = ()
    columns: Mapping[str, Any]
    model: str | None
    """Model id of the answers; None if no worker saw the row."""
    answers: tuple[Answered, ...]


ReadImage = Callable[[AnsweredRow], bytes | None]
"""The row's image as it is in the source; None if there is none or it cannot be read."""
