"""Counts what a person may not expect in the rows of a run, and says it; reads no source."""

from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Final

from contract.counting import counted
from contract.failure import Failure, FailureCode
from contract.quoting import quoted
from producer.rows import Row
from producer.sources import SourceError
from producer.sources.parameters import GROUP, PARAMETER_COLUMNS

MOST_NAMED: Final = 12
"""Number of columns in a message."""
BARE: Final = Failure(
    code=FailureCode.NO_IMAGE,
    message="The row has no image, and other rows of the run have one: name its image, or ask it without one "
    "with --text-only.",
)
"""The failure of rows that may have lost their image."""


@dataclass
class PlanNotes:
    """Counts over all rows of a run."""

    rows: int = 0
    with_image: int = 0
    without_image: int = 0
    """Rows that are asked without an image."""
    no_image: int = 0
    """Rows that fail because they have no image."""
    first_missing: str | None = None
    """What is wrong with the first of them."""
    deciding: Counter[str] = field(default_factory=Counter)
    """Column that decides how rows are answered → number of rows."""
    idle: Counter[str] = field(default_factory=Counter)
    """Column named like a parameter that has no effect → number of rows."""
    ignored: Counter[str] = field(default_factory=Counter)
    _bare: int = 0
    """Rows without an image and without --text-only."""

    def add(self, row: Row, decided_by: tuple[str, ...]) -> None:
        self.rows += 1
        self.ignored.update(row.ignored)
        self.deciding.update(decided_by)
        self.idle.update(
            name
            for name in PARAMETER_COLUMNS
            if name not in decided_by and row.columns.get(name) not in (None, "") and row.refusal is None
        )
        if row.columns.get(GROUP) and not row.parameters:
            self.idle[GROUP] += row.refusal is None
        if row.refusal is not None:
            if row.refusal.code is FailureCode.NO_IMAGE:
                self.no_image += 1
                missing = f'Of the first, "{quoted(row.id)}": {row.refusal.message}'
                self.first_missing = self.first_missing or missing
        elif row.image is not None:
            self.with_image += 1
        else:
            self.without_image += 1
            self._bare += not row.text_only

    @property
    def must_refuse_bare(self) -> bool:
        """Whether rows without an image fail because others have one. Known after the last row."""
        return self._bare > 0 and self.with_image > 0

    def note_bare_refused(self) -> None:
        self.without_image -= self._bare
        self.no_image += self._bare
        self._bare = 0

    def refuse_without_any(self) -> None:
        """Raises SourceError if every row fails without an image: the source was misread."""
        if self.no_image == self.rows:
            these = "The only row" if self.rows == 1 else f"Each of the {counted(self.rows, 'row')}"
            raise SourceError(f"{these} would fail without an image. {self.first_missing}")

    def refuse_undecided(self, named: tuple[str, ...] | None) -> None:
        """Raises SourceError for a column that was named as a parameter and has a value in no row."""
        idle = [name for name in named or () if name not in self.deciding and name != GROUP]
        if idle and set(named or ()) < set(PARAMETER_COLUMNS):
            raise SourceError(f"--parameters {','.join(idle)} decides nothing: no row has a value there.")

    def fields(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "without_image": self.without_image,
            "no_image": self.no_image,
            "deciding_columns": dict(self.deciding),
            "idle_columns": dict(self.idle),
            "ignored": dict(self.ignored),
        }

    def told(self) -> list[str]:
        """Sentences for a person to read before anything is sent."""
        notes = []
        if self.without_image:
            notes.append(f"Asked without an image: {counted(self.without_image, 'row')} of {self.rows}.")
        if self.no_image:
            reason = "" if self.first_missing is None else f" {self.first_missing}"
            notes.append(f"Fail because they have no image: {counted(self.no_image, 'row')}.{reason}")
        if self.deciding:
            notes.append(
                f"Columns that decide how their rows are answered: {_named(self.deciding)} "
                "(--parameters none leaves them out)."
            )
        if self.idle:
            notes.append(f"Columns of parameters' names that decide nothing: {_named(self.idle)}.")
        if self.ignored:
            notes.append(f"Values in rows that change no answer: {_named(self.ignored)}.")
        return notes


def _named(counts: Counter[str]) -> str:
    named = [f"{name} in {counted(count, 'row')}" for name, count in counts.most_common(MOST_NAMED)]
    more = len(counts) - MOST_NAMED
    return ", ".join(named) + (f" and {more} more" if more > 0 else "")
