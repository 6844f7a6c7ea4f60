"""Checks that some row has the question that --caption-question names; sends and writes nothing."""

from collections.abc import Sequence
from typing import Final

from producer.questions import Prompt
from producer.rows import Row
from producer.sources.refusal import SourceError, listed

MOST_NAMED: Final = 8
"""Number of ids in a message."""


class CaptionQuestion:
    """The question whose answer is the caption."""

    def __init__(self, wanted: str | None, prompts: Sequence[Prompt]) -> None:
        """`wanted` is its id; None joins all answers."""
        self._wanted = wanted
        self._prompts = tuple(prompt.id for prompt in prompts)
        self._others: dict[str, None] = {}
        self._found = wanted is None

    def note(self, row: Row) -> None:
        if self._found:
            return
        ids = tuple(question.id for question in row.questions) or self._prompts
        self._found = self._wanted in ids
        for one in ids[: MOST_NAMED - len(self._others)]:
            self._others[one] = None

    def require(self) -> None:
        """Raises SourceError if no noted row has the question."""
        if not self._found:
            raise SourceError(
                f'--caption-question: no image is asked a question with the id "{self._wanted}"; there are '
                f"{listed(list(self._others))}."
            )
