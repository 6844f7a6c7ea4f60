"""Reads all rows of a submission's sources into the ledger of a run folder; sends nothing."""

import os
from collections.abc import Iterator, Mapping
from contextlib import closing
from dataclasses import dataclass, field
from typing import Literal

from contract.job import ImagePath
from producer.answered_already import AnsweredAlready
from producer.caption_question import CaptionQuestion
from producer.image_folders import ImageFolders
from producer.ledger import LedgerError, NewRows
from producer.outputs import adopt_changed, refuse_changed
from producer.plan_notes import BARE, PlanNotes
from producer.question_planner import Checked, QuestionPlanner
from producer.questions import check
from producer.rows import Row
from producer.run_folder import (
    ANSWERED_ALREADY,
    FINISHED,
    IMAGE_FOLDERS,
    OVERRIDES,
    SKIPPED,
    WITHOUT_IMAGE,
    RunFolder,
    refuse_overwritten,
)
from producer.sources import BadRows, Skipped, Source, SourceError, shown_sources
from producer.submission import SUBMISSION, Submission

Changed = Literal["refuse", "adopt", "leave"]
"""What to do with changed output files: refuse the run, adopt them as its own, or leave them alone."""


@dataclass
class Planned:
    """Facts about a run before anything is sent."""

    skipped: Skipped
    rows: int = 0
    asked_by_run: int = 0
    """Number of rows without a question of their own."""
    source_notes: tuple[str, ...] = ()
    """Sentences on how the sources are read, where that may be unexpected."""
    gone: int = 0
    """Number of rows that the same sources had at the last planning and have no more."""
    notes: PlanNotes = field(default_factory=PlanNotes)
    answered: Mapping[str, int] = field(default_factory=dict)
    """Where an answer is already → number of images that are left out."""


class Planner:
    """Checks every row before it changes the ledger; after an error the ledger is unchanged."""

    def __init__(self, folder: RunFolder, submission: Submission, source: Source) -> None:
        """Raises SinkError, and SourceError for prompts that name columns the source does not have."""
        self._folder = folder
        self._ledger = folder.ledger
        self._source = source
        self._submission = submission = submission.beside_images(source)
        check(submission.prompts, source.columns)
        self._question_planner = QuestionPlanner(
            submission.prompts, submission.parameters, submission.detail, on_flag=submission.on_flag
        )
        self._files = folder.output_files(submission)
        self._written = {os.path.realpath(file.path) for file in self._files}
        self._image_folders = ImageFolders()
        self._captions = CaptionQuestion(submission.sink_options.question, submission.prompts)
        self._bad = BadRows(submission.bad_rows)
        self._planned = Planned(skipped=source.skipped)

    def plan(self, changed: Changed = "refuse", *, sampled: bool = False) -> Planned:
        """Replace the ledger's rows by those of the source. Raises SourceError and SinkError.

        If the source is only `sampled`, options without effect are allowed: other rows may need them.
        """
        if changed == "refuse":
            refuse_changed(self._files)
        submission = self._submission
        for place in submission.sources:
            refuse_overwritten(place, self._written)
        known = AnsweredAlready(
            submission.sinks,
            submission.sink_options,
            submission.skip_answered,
            self._folder.path,
            questions=[one.id for one in submission.prompts],
            image_root=submission.options.image_root,
        )
        with closing(known), self._ledger.new_rows(self._bad.instead) as rows:
            try:
                self._read(known, rows)
            except LedgerError as error:
                raise SourceError(str(error)) from None
            self._bad.require_none()
            self._planned.answered = dict(known.counts)
            if not rows.count and not known.counts:
                raise SourceError(f"{shown_sources(submission.sources)} has no rows.")
            self._refuse(rows, sampled=sampled)
            self._note(rows)
            if changed == "adopt":
                adopt_changed(self._files)
        self._folder.keep_copy(submission)
        return self._planned

    def _read(self, known: AnsweredAlready, rows: NewRows) -> None:
        for row in self._source.rows(self._bad):
            if known.has(row):
                continue
            for image in row.images:
                if isinstance(image, ImagePath):
                    refuse_overwritten(image.to_path(), self._written)
                self._image_folders.add(image)
            for one, checked in as_asked(row, self._question_planner, self._bad):
                rows.add(one, checked.questions)
                self._planned.notes.add(one, checked.decided_by)
                self._captions.note(one)
                self._planned.asked_by_run += not one.questions and one.refusal is None
        rows.flush()

    def _refuse(self, rows: NewRows, *, sampled: bool) -> None:
        """Checks of all rows together, after the last one. Raises SourceError, or makes rows failures."""
        notes = self._planned.notes
        if notes.must_refuse_bare:
            rows.refuse_bare(BARE)
            notes.note_bare_refused()
        if rows.count:
            notes.refuse_without_any()
        if rows.count and not sampled:
            notes.refuse_undecided(self._submission.options.parameters)
            self._question_planner.refuse_idle()
            self._captions.require()
            self._question_planner.refuse_unfit()

    def _note(self, rows: NewRows) -> None:
        planned, source, state = self._planned, self._source, self._ledger.state
        planned.rows, planned.skipped = rows.count, source.skipped
        planned.source_notes = (*source.notes, *self._bad.notes)
        before = state.get(SUBMISSION)
        if before is not None and set(before["sources"]) == set(self._submission.sources):
            planned.gone = rows.gone()
        for name, value in (
            (SUBMISSION, self._submission.model_dump(mode="json")),
            (OVERRIDES, {}),
            (FINISHED, False),
            (IMAGE_FOLDERS, self._image_folders.roots()),
            (SKIPPED, source.skipped.fields()),
            (WITHOUT_IMAGE, planned.notes.without_image),
            (ANSWERED_ALREADY, planned.answered),
        ):
            state.set(name, value)


def as_asked(row: Row, question_planner: QuestionPlanner, bad: BadRows) -> Iterator[tuple[Row, Checked]]:
    """The row with what was checked; the row with a refusal, or nothing, if it cannot be asked."""
    try:
        checked = question_planner.check(row)
    except SourceError as error:
        for refused in bad.instead(row.id, row.where, str(error)):
            yield refused, question_planner.check(refused)
    else:
        yield row, checked
