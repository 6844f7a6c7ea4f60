"""A conversation about at most one image, and the turns of its next question; knows no page and no worker."""

from dataclasses import dataclass
from pathlib import Path

from contract.failure import FailureCode
from contract.job import ImagePart, TextPart, Turn

IMAGE_REFUSED = {
    FailureCode.IMAGE_NOT_FOUND,
    FailureCode.IMAGE_NOT_ALLOWED,
    FailureCode.IMAGE_UNREADABLE,
    FailureCode.IMAGE_TOO_LARGE,
    FailureCode.IMAGE_ASPECT,
    FailureCode.NOT_AN_IMAGE,
    FailureCode.IMAGE_BROKEN,
    FailureCode.URL_OPTED_OUT,
}
"""Failures that every further question about the image would have."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """The exchanges about an image. A new image begins a new conversation, as a model sees one image."""

    image: Path | None = None
    exchanges: tuple[Exchange, ...] = ()

    def with_image(self, image: Path | None) -> "Conversation":
        """A conversation about `image`; None keeps this one."""
        return self if image is None else Conversation(image)

    def asking(self, question: str) -> tuple[Turn, ...]:
        """All turns; the last is the question, and the first has the image."""
        turns = []
        for one in self.exchanges:
            turns += [("user", one.question), ("assistant", one.answer)]
        turns.append(("user", question))
        image = () if self.image is None else (ImagePart(),)
        return tuple(
            Turn.model_validate(
                {"role": role, "content": (*(image if number == 0 else ()), TextPart(text=text))}
            )
            for number, (role, text) in enumerate(turns)
        )

    def answered(self, question: str, answer: str) -> "Conversation":
        """The conversation with this exchange. An empty answer is left out, as no model can continue it."""
        if not answer.strip():
            return self
        return Conversation(self.image, (*self.exchanges, Exchange(question, answer)))
