"""A conversation about at most one image, and what is asked in it next; knows no page and no worker."""

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
"""Failures that every further question about the image would end in."""


@dataclass(frozen=True)
class Exchange:
    """A question and its answer."""

    question: str
    answer: str


@dataclass(frozen=True)
class Conversation:
    """What was said since the image came. A model sees one image, so that another one begins anew."""

    image: Path | None = None
    exchanges: tuple[Exchange, ...] = ()

    def with_image(self, image: Path | None) -> "Conversation":
        """About `image`; None leaves it as it is."""
        return self if image is None else Conversation(image)

    def asking(self, question: str) -> tuple[Turn, ...]:
        """All turns, the last of them the question; the image is in the first."""
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
        """An answer of no text is no turn that a model could go on from: it is left out."""
        if not answer.strip():
            return self
        return Conversation(self.image, (*self.exchanges, Exchange(question, answer)))
