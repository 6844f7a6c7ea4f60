"""The base class of sinks, and their options; knows no output format."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

from producer.errors import ProducerError
from producer.rows import AnsweredRow

if TYPE_CHECKING:
    from producer.sinks.output_record import OutputFile

Rows = Callable[[], Iterator[AnsweredRow]]
"""Gives all answered rows of the run in the source's order, from the beginning at each call."""

SidecarPolicy = Literal["skip", "overwrite", "append", "prepend"]
SidecarName = Literal["stem", "full"]
"""The sidecar of a.jpg is a.txt or a.jpg.txt."""


NOT_WRITTEN: Final = "not_written"
"""The code of an output that is not on disk, in addition to those of contract.failure."""


class SinkError(ProducerError, ValueError):
    """The output cannot be written as asked; the message says why and what to do."""


class Unwritten(NamedTuple):
    """An answered row's output that is not on disk."""

    position: int
    """Position of the row."""
    reason: str


class LeftAlone(Counter[str]):
    """Reason → number of outputs that were rightly not written, with one example of each.

    Rightly, because there is no answer, or a person's text is there. Missing outputs are in `unwritten`.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(counts or {})
        self.examples: dict[str, str] = {}
        self.unwritten: list[Unwritten] = []
        """Outputs that should have been written, until the ledger takes them: every row may be one."""

    def note(self, reason: str, example: str) -> None:
        self[reason] += 1
        self.examples.setdefault(reason, example)

    def miss(self, row: AnsweredRow, reason: str) -> None:
        """Note that the row's output should have been written."""
        self.unwritten.append(Unwritten(row.position, reason))

    def take_unwritten(self) -> list[Unwritten]:
        taken, self.unwritten = self.unwritten, []
        return taken

    def to_place(self) -> dict[str, Any]:
        return {reason: [count, self.examples.get(reason, "")] for reason, count in self.items()}

    @classmethod
    def from_place(cls, place: Mapping[str, Any] | None) -> Self:
        """The counts from `to_place`; None is the state of a sink that has written nothing."""
        counts = {} if place is None else place["left_alone"]
        left = cls({reason: count for reason, (count, _) in counts.items()})
        left.examples = {reason: example for reason, (_, example) in counts.items()}
        return left


class Sink:
    """Writes answered rows.

    `place` is the sink's durable state, JSON-ready, which the ledger keeps. After a crash at any moment,
    `resume` with the last place and `write` with the following rows give the same output as without the
    crash.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        """Unique in a run: the sink's kind, and its path if one was given."""
        self.left_alone = LeftAlone()
        """Outputs that were not written, rightly or not."""

    def files(self) -> "Sequence[OutputFile]":
        """Files that the sink replaces or continues. They are checked for changes before."""
        return ()

    def resume(self, place: dict[str, Any] | None) -> None:
        """Cut the output back to `place` and go on there; None begins anew and replaces earlier output.

        Raises SinkError if the output was changed or removed, OSError if it cannot be opened.
        """

    def write(self, rows: Sequence[AnsweredRow]) -> dict[str, Any]:
        """Write rows durably, in their order of completion. Returns the place after them.

        After an OSError (a full disk), `resume` can go on.
        """
        raise NotImplementedError

    def finish(self, rows: Rows) -> None:
        """Called after the last row; may be repeated. Writes outputs that are written as a whole.

        Raises OSError or SinkError if none of it was written.
        """

    def close(self) -> None:
        """Close files. A second call does nothing."""


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """Options of the run's sinks; each sink reads those that concern it."""

    question: str | None = None
    """Id of the question whose answer is the caption; None joins all answers."""
    separator: str = "\n"
    """Text between the answers of a caption, and between a caption and a person's text."""
    prefix: str = ""
    suffix: str = ""
    caption_extension: str = ".txt"
    sidecar_name: SidecarName = "stem"
    final_newline: bool = True
    """Whether sidecars end in a newline."""
    sidecar_policy: SidecarPolicy = "skip"
    """What to do with a sidecar that the run did not write."""
    long_table: bool = False
    """csv, tsv: one line per question instead of one per row."""
    raw_cells: bool = False
    """csv, tsv: no protection against cells that a spreadsheet would run as formulas."""
    text_column: str = "text"
    """hf: name of the caption's column."""
    vqa_columns: bool = False
    """hf: columns `question` and `answer`, for rows with a single question."""
    samples_per_shard: int = 1000
    image_prefix: str = ""
    """label-studio: text before an image's name, as /data/local-files/?d=; "" gives the full path or URL."""

    def __post_init__(self) -> None:
        extension = self.caption_extension
        if not extension.startswith(".") or "/" in extension or "\0" in extension or extension == ".":
            raise SinkError(f'The caption extension "{extension}" must be like ".txt".')
        if self.samples_per_shard < 1:
            raise SinkError("A shard needs at least one sample.")
        if not self.text_column or self.text_column == "file_name":
            raise SinkError('The text column needs a name other than "file_name".')
