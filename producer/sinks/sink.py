"""What every sink is and what it may be told; knows no form of output."""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, Self

from producer.errors import ProducerError
from producer.rows import AnsweredRow

if TYPE_CHECKING:
    from producer.sinks.output_record import OutputFile

Rows = Callable[[], Iterator[AnsweredRow]]
"""Every answered row of the run in the source's order; each call begins anew."""

SidecarPolicy = Literal["skip", "overwrite", "append", "prepend"]
SidecarName = Literal["stem", "full"]
"""Of a.jpg: a.txt or a.jpg.txt."""


NOT_WRITTEN: Final = "not_written"
"""The code of an output that is not on disk, beside those of contract.failure."""


class SinkError(ProducerError, ValueError):
    """The output cannot be written as it was asked for; the message says why and what to do."""


class Unwritten(NamedTuple):
    """An output of a row that was asked for, has its answers, and is not on disk."""

    position: int
    """The row's."""
    reason: str


class LeftAlone(Counter[str]):
    """How many outputs were rightly not written, by reason, with one example of each.

    Rightly: there is no answer, or a person's text is in the place. What should have been written is apart.
    """

    def __init__(self, counts: Mapping[str, int] | None = None) -> None:
        super().__init__(counts or {})
        self.examples: dict[str, str] = {}
        self.unwritten: list[Unwritten] = []
        """Until somebody takes them: the ledger keeps them, as they may be as many as the rows."""

    def note(self, reason: str, example: str) -> None:
        self[reason] += 1
        self.examples.setdefault(reason, example)

    def miss(self, row: AnsweredRow, reason: str) -> None:
        """The row's answers should have been written, and are not."""
        self.unwritten.append(Unwritten(row.position, reason))

    def take_unwritten(self) -> list[Unwritten]:
        taken, self.unwritten = self.unwritten, []
        return taken

    def to_place(self) -> dict[str, Any]:
        return {reason: [count, self.examples.get(reason, "")] for reason, count in self.items()}

    @classmethod
    def from_place(cls, place: Mapping[str, Any] | None) -> Self:
        """What `to_place` gave; None is the state of a sink that has written nothing."""
        told = {} if place is None else place["left_alone"]
        left = cls({reason: count for reason, (count, _) in told.items()})
        left.examples = {reason: example for reason, (_, example) in told.items()}
        return left


class Sink:
    """Writes answered rows.

    `place` is the sink's durable state, JSON-ready, which the ledger keeps. After a crash at any moment,
    `resume` with the last place that was returned, then the same further rows, give the same output as a run
    that nothing disturbed.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        """Unique in a run: its kind, with its path where one was given."""
        self.left_alone = LeftAlone()
        """Outputs that are not written: those that need not be, and those that `write` or `finish` missed."""

    def files(self) -> "Sequence[OutputFile]":
        """Files that it replaces or continues, to be checked for changes before."""
        return ()

    def resume(self, place: dict[str, Any] | None) -> None:
        """Start anew and replace earlier output (None), or cut the output back to `place` and go on there.

        Raises SinkError if somebody else changed or removed the output, OSError if it cannot be opened.
        """

    def write(self, rows: Sequence[AnsweredRow]) -> dict[str, Any]:
        """Write rows, in their order of completion, to the disk; returns the place after them.

        An OSError (a full disk) leaves an output from which `resume` goes on.
        """
        raise NotImplementedError

    def finish(self, rows: Rows) -> None:
        """After the last row; may be repeated. What is written as a whole is written here.

        An OSError or a SinkError says that none of it is.
        """

    def close(self) -> None:
        """Let go of files. A second call does nothing."""


@dataclass(frozen=True, kw_only=True)
class SinkOptions:
    """What the run's sinks may be told; each of them reads what concerns it."""

    question: str | None = None
    """Id of the question whose answer is the caption; None joins all answers."""
    separator: str = "\n"
    """Between the answers of a caption, and between it and the text of another's that it joins."""
    prefix: str = ""
    suffix: str = ""
    caption_extension: str = ".txt"
    sidecar_name: SidecarName = "stem"
    final_newline: bool = True
    """Whether a sidecar of the run's own text ends in a newline."""
    sidecar_policy: SidecarPolicy = "skip"
    """What becomes of a sidecar that the run did not write."""
    long_table: bool = False
    """csv, tsv: one line per question rather than per row."""
    raw_cells: bool = False
    """csv, tsv: cells that a spreadsheet would take for formulas are written as they are."""
    text_column: str = "text"
    """hf: the caption's column."""
    vqa_columns: bool = False
    """hf: columns `question` and `answer`, for rows with one question."""
    samples_per_shard: int = 1000
    image_prefix: str = ""
    """label-studio: before an image's name, e.g. /data/local-files/?d=; empty gives its full path or URL."""

    def __post_init__(self) -> None:
        extension = self.caption_extension
        if not extension.startswith(".") or "/" in extension or "\0" in extension or extension == ".":
            raise SinkError(f'The caption extension "{extension}" must be like ".txt".')
        if self.samples_per_shard < 1:
            raise SinkError("A shard needs at least one sample.")
        if not self.text_column or self.text_column == "file_name":
            raise SinkError('The text column needs a name other than "file_name".')
