"""Replaces a damaged ledger: rows from the source, answers from what can be read; asks nothing."""

import json
import os
import shutil
from collections.abc import Mapping
from contextlib import closing, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from pydantic import ValidationError

from contract.answer import Answer
from contract.failure import Failure
from contract.job import Question
from producer.database import LedgerDamagedError
from producer.keys import question_key
from producer.ledger import LEDGER, Ledger, LedgerError
from producer.planner import Planner, as_asked
from producer.question_planner import PlannedQuestion, QuestionPlanner
from producer.references import Resolver, digest_of
from producer.rows import Row
from producer.run_folder import (
    MODEL,
    OVERRIDES,
    RUN,
    SUBMISSION_FILE,
    RunFolder,
    held,
    new_run_id,
    note_left_run,
)
from producer.salvage import AnswerFiles, DamagedLedger, Known
from producer.sinks.files import sync_folder
from producer.sinks.kinds import answer_paths
from producer.sources import BadRows, Source, shown
from producer.submission import SUBMISSION, Submission

WORKSHOP: Final = "ledger.repair"
DAMAGED: Final = "ledger.damaged.sqlite"
COMPANIONS: Final = ("", "-wal", "-shm")
"""Suffixes of a ledger's files: the database, and what SQLite keeps beside it."""
CHUNK: Final = 1000
"""Number of rows in one transaction."""


@dataclass(frozen=True)
class Repaired:
    """The new ledger's contents."""

    rows: int
    from_ledger: int
    """Number of outcomes from the damaged ledger."""
    from_files: int
    """Number of outcomes from the answers on disk."""
    kept: Path
    """Path of the damaged ledger now."""
    unknown_outputs: tuple[Path, ...] = ()
    """Output files that the new ledger has no record of; a person may have changed them."""


def repair(path: Path) -> Repaired | None:
    """Replace a damaged ledger, which is kept under another name. None if the ledger is not damaged.

    Raises LedgerError, SourceError and SinkError; the folder is then unchanged.
    """
    if not any((path / name).exists() for name in (LEDGER, DAMAGED, SUBMISSION_FILE)):
        raise LedgerError(f"{shown(path)} holds no run.")
    with held(path, "feeder"), held(path, "collector"):
        if _is_whole(path):
            return None
        # An interrupted repair may have moved the old ledger away already.
        old = DamagedLedger(path / (LEDGER if (path / LEDGER).exists() else DAMAGED))
        submission = _submission(path, old)
        workshop = path / WORKSHOP
        shutil.rmtree(workshop, ignore_errors=True)
        try:
            made = _made(path, old, submission, workshop)
            _put_in_place(path, workshop)
        finally:
            shutil.rmtree(workshop, ignore_errors=True)
        return made


def _is_whole(path: Path) -> bool:
    if not (path / LEDGER).exists():
        return False
    try:
        with closing(RunFolder(path)) as found:
            found.ledger.check_everything()
            found.submission  # noqa: B018 - it is read
    except LedgerDamagedError:
        return False
    return True


def _submission(path: Path, old: DamagedLedger) -> Submission:
    copy: Any = None
    with suppress(OSError, ValueError):
        copy = json.loads((path / SUBMISSION_FILE).read_bytes())
    for fields in (copy, old.state(SUBMISSION)):
        with suppress(ValidationError):
            return Submission.model_validate(fields)
    raise LedgerError(
        f"{shown(path)} has lost what it was asked. Its answers stay as they are; ask again with captionmill "
        "run and another --out."
    )


def _made(path: Path, old: DamagedLedger, submission: Submission, workshop: Path) -> Repaired:
    source = submission.open()
    with closing(RunFolder(path, create=True, staging=workshop)) as new:
        ledger = new.ledger
        with ledger.transaction():
            for name, known_output in old.outputs():
                ledger.keep_output(name, known_output)
        # "leave": what the old ledger knew of output files still holds.
        rows = Planner(new, submission, source).plan("leave").rows
        overrides = old.state(OVERRIDES)
        with ledger.transaction():
            ledger.state.set(RUN, new_run_id(path))
            if (model := old.state(MODEL)) is not None:
                ledger.state.set(MODEL, model)
            if isinstance(overrides, dict):
                ledger.state.set(OVERRIDES, overrides)
            if isinstance(run := old.state(RUN), str):
                note_left_run(ledger, run)
        from_ledger = _take_asks(ledger, old)
        question_planner = QuestionPlanner(
            submission.prompts, submission.parameters, submission.detail, ledger.state.get(OVERRIDES)
        )
        with closing(AnswerFiles(answer_paths(submission.sinks, path))) as files:
            from_files = _take_answers(ledger, source, question_planner, files)
        unknown = [file.path for file in new.output_files(new.submission) if not file.is_as_written()]
    return Repaired(rows, from_ledger, from_files, path / DAMAGED, tuple(unknown))


def _take_asks(ledger: Ledger, old: DamagedLedger) -> int:
    count = 0
    with ledger.transaction():
        for key, known in old.asks():
            ledger.asks.settle(key, known.outcome, known.model)
            count += 1
    return count


def _take_answers(
    ledger: Ledger, source: Source, question_planner: QuestionPlanner, files: AnswerFiles
) -> int:
    """Take outcomes from answer files, over those from the damaged ledger. Returns their number."""
    resolver = Resolver(source.read, ship=False)
    count = 0
    bad = BadRows("skip")
    rows = (row for one in source.rows(bad) for row, _ in as_asked(one, question_planner, bad))
    while chunk := [row for row, _ in zip(rows, range(CHUNK), strict=False)]:
        with ledger.transaction():
            for row in chunk:
                answers = files.answers(row.id)
                if answers and row.refusal is None:
                    for key, known in _of_row(row, answers, question_planner, resolver):
                        ledger.asks.settle(key, known.outcome, known.model)
                        count += 1
    return count


def _of_row(
    row: Row, answers: Mapping[tuple[str, str], Known], question_planner: QuestionPlanner, resolver: Resolver
) -> list[tuple[bytes, Known]]:
    """(content key, outcome) of a row's questions, also of those that build on other answers."""
    digest = digest_of([resolver.resolve(image, None)[0] for image in row.images])
    detail = question_planner.detail(row)
    outcomes: dict[str, Answer | Failure | None] = {}
    found: list[tuple[bytes, Known]] = []

    def answered(one: PlannedQuestion) -> Known | None:
        return answers.get((one.id, json.dumps(one.prompt)))

    while planned := [one for one in question_planner.ready(row, outcomes) if answered(one) is not None]:
        for one in planned:
            known = answered(one)
            assert known is not None, "those without are left out"
            outcomes[one.id] = known.outcome
            if isinstance(one.asked, Question):
                found.append((question_key(digest, one.asked, one.parameters, detail), known))
    return found


def _put_in_place(path: Path, workshop: Path) -> None:
    if (path / LEDGER).exists():
        for companion in COMPANIONS:
            beside = path / (LEDGER + companion)
            if beside.exists():
                os.replace(beside, path / (DAMAGED + companion))
    for name in (LEDGER, SUBMISSION_FILE):
        os.replace(workshop / name, path / name)
    sync_folder(path)
