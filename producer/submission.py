"""A run's submission: sources, questions, parameters and outputs; knows no store and plans nothing."""

import dataclasses
import os
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, ConfigDict, ValidationError

from contract.job import Detail, GenerationParameters
from producer.database import LedgerDamagedError
from producer.ledger import LEDGER, LedgerError, LedgerReader
from producer.question_planner import Flagged
from producer.questions import Prompt
from producer.sinks.kinds import IMAGE_FOLDER_KIND, METADATA, beside_images
from producer.sinks.sink import SinkOptions
from producer.sources import (
    BadRowPolicy,
    Source,
    SourceOptions,
    open_sources,
    own_folders,
    place_of,
    shown,
    shown_sources,
)
from producer.uploads import BUDGET_BYTES

SUBMISSION: Final = "submission"
"""Name in the ledger's state."""


class Submission(BaseModel):
    """Everything that was asked for, so that the run can go on without it being given again."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    sources: tuple[str, ...]
    options: SourceOptions = SourceOptions()
    bad_rows: BadRowPolicy = "refuse"
    """What to do with rows that cannot be asked."""
    earlier_options: dict[str, SourceOptions] = {}
    """Options of sources that --add kept, if they differ from `options`."""
    prompts: tuple[Prompt, ...] = ()
    parameters: GenerationParameters = GenerationParameters()
    on_flag: dict[Flagged, dict[str, Any]] = {}
    """Flag of an answer → parameters with which its question is asked once more."""
    detail: Detail = "high"
    model: str | None = None
    """The model id that must answer; None takes the live workers' model."""
    local_model: str | None = None
    """Model folder, checkpoint folder or hub id for workers that a command without a server starts."""
    ship: bool = False
    """Whether image files are sent through the store."""
    upload_budget_bytes: int = BUDGET_BYTES
    sinks: tuple[str, ...] = ("jsonl",)
    sink_options: SinkOptions = SinkOptions()
    skip_answered: tuple[str, ...] = ()
    """Files with answers, whose images are left out."""

    def at_home(self) -> Self:
        """The same with absolute paths, so that the run can go on from any folder. Raises SinkError."""
        options = self.options
        if options.image_root is not None:
            root = options.image_root
            root = root if "://" in root else os.path.abspath(root)
            options = dataclasses.replace(options, image_root=root)
        sinks = []
        for spec in self.sinks:
            kind, separator, path = spec.partition(":")
            sinks.append(f"{kind}{separator}{os.path.abspath(path)}" if path else spec)
        sources = tuple(dict.fromkeys(map(place_of, self.sources)))
        answered = tuple(map(os.path.abspath, self.skip_answered))
        changes = {"sources": sources, "options": options, "sinks": tuple(sinks), "skip_answered": answered}
        return self.model_copy(update=changes)

    def beside_images(self, source: Source) -> Self:
        """The same with absolute paths, also for sinks that write beside the images. Raises SinkError."""
        sinks = beside_images(self.sinks, source.images_folder, shown_sources(self.sources))
        return self.model_copy(update={"sinks": sinks}).at_home()

    def open(self) -> Source:
        """Open the sources. Raises SourceError."""
        unread = self._own_metadata()
        return open_sources(
            [(one, dataclasses.replace(self.options_of(one), unread=unread)) for one in self.sources]
        )

    def _own_metadata(self) -> tuple[str, ...]:
        """Output files of the run that look like a source's metadata."""
        kinds = (spec.partition(":") for spec in self.sinks)
        paths = [path for kind, _, path in kinds if kind == IMAGE_FOLDER_KIND]
        beside = [os.path.join(place_of(one), METADATA) for one in self.sources]
        return tuple(os.path.abspath(path) for path in paths if path) + tuple(beside if "" in paths else ())

    def own_folders(self) -> tuple[Path, ...]:
        """The sources' local folders."""
        every = (own_folders(one, self.options_of(one)) for one in self.sources)
        return tuple(dict.fromkeys(folder for folders in every for folder in folders))

    def options_of(self, source: str) -> SourceOptions:
        return self.earlier_options.get(source, self.options)

    def joined(self, out: Path, *, add: bool) -> Self:
        """The submission; with `add`, also the sources of the run in `out`, if there is one.

        Without `add`, raises LedgerError if that run has other sources: the outputs would lose their answers.
        """
        submission = self.at_home()
        earlier = submitted(out)
        kept = () if earlier is None else earlier.sources
        if earlier is None or set(kept) <= set(submission.sources):
            return submission
        if not add:
            raise LedgerError(
                f"{shown(out)} holds answers about {shown_sources(kept)}, which this command does not name: "
                "--add keeps them and answers both, and another --out begins a run of its own."
            )
        own = {one: earlier.options_of(one) for one in kept if one not in submission.sources}
        return submission.model_copy(
            update={
                "sources": tuple(dict.fromkeys((*kept, *submission.sources))),
                "earlier_options": {
                    one: options for one, options in own.items() if options != submission.options
                },
            }
        )


def submitted(out: Path) -> Submission | None:
    """The submission in a folder; None if there is none. Raises LedgerError."""
    if not (out / LEDGER).exists():
        return None
    with LedgerReader(out, read_only=True) as ledger:
        kept = ledger.state.get(SUBMISSION)
    return None if kept is None else read_submission(out, kept)


def read_submission(path: Path, kept: Any) -> Submission:
    try:
        return Submission.model_validate(kept)
    except ValidationError as invalid:
        raise LedgerDamagedError(path, "its submission is invalid") from invalid
