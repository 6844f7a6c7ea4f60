"""Decides which questions of a row are asked now, and makes their jobs; reads and writes nothing."""

from collections.abc import Mapping, Sequence
from typing import Final, NamedTuple

from contract.failure import Failure, FailureCode
from contract.job import ImageStored, Job, Question
from producer.keys import effective, question_key
from producer.ledger import AskState, FedRow, LedgerQuestion, NewJob, NextRow
from producer.question_planner import PlannedQuestion, QuestionPlanner, by_parameters
from producer.references import Resolved, digest_of

ASKED_AGAIN: Final = frozenset(
    {
        FailureCode.WRONG_MODEL,
        FailureCode.UNSUPPORTED_VERSION,
        FailureCode.IMAGE_NOT_ALLOWED,
        FailureCode.IMAGE_NOT_FOUND,
        FailureCode.IMAGE_UNREADABLE,
        FailureCode.URL_NOT_ALLOWED,
    }
)
"""Failures whose cause was the workers at that time; a later submission asks these questions again."""


class KeyedQuestion(NamedTuple):
    """A question that can be asked now, and its content key."""

    planned: PlannedQuestion
    key: bytes
    refusal: Failure | None
    """The failure that it ends in unasked; None if it can be asked."""


class RowJobs:
    """Applies the run's planner, id and model to one row at a time."""

    def __init__(self, question_planner: QuestionPlanner, *, run: str, model: str | None) -> None:
        """`model` is the model id that must answer, and whose answers of earlier submissions count."""
        self._planner = question_planner
        self._run = run
        self._model = model

    def questions(self, row: NextRow, images: Sequence[Resolved]) -> list[KeyedQuestion]:
        """Questions that can be asked now: they were not fed before, and the answers they need are there."""
        refusal = next((image.refusal for image in images if image.refusal is not None), None)
        digest, detail = digest_of(images), self._planner.detail(row.row)
        found = []
        for planned in self._planner.ready(row.row, row.outcomes, row.changes):
            asked = refusal or planned.asked
            if isinstance(asked, Failure):
                key = b"refused" + row.position.to_bytes(5, "big") + planned.number.to_bytes(4, "big")
                found.append(KeyedQuestion(planned, key, asked))
            else:
                key = question_key(digest, asked, planned.parameters, detail)
                found.append(KeyedQuestion(planned, key, None))
        return found

    def decide(
        self,
        row: NextRow,
        images: Sequence[Resolved],
        questions: Sequence[KeyedQuestion],
        known: Mapping[bytes, AskState],
        next_index: int,
    ) -> FedRow:
        """The row's questions, and jobs for those that `known` does not answer, from `next_index` on."""
        missing: dict[bytes, PlannedQuestion] = {}
        waiting = 0
        for planned, key, refusal in questions:
            if refusal is not None:
                continue
            state = known.get(key)
            if state is None or self._must_ask_again(state):
                missing.setdefault(key, planned)
                waiting += 1
            else:
                waiting += not state.has_outcome
        return FedRow(
            position=row.position,
            questions=[LedgerQuestion(one.number, one.id, one.prompt, key) for one, key, _ in questions],
            refused={key: refusal for _, key, refusal in questions if refusal is not None},
            jobs=self._jobs(row, images, missing, next_index),
            waiting=waiting,
        )

    def _must_ask_again(self, state: AskState) -> bool:
        """Whether the outcome comes from another model, or from workers that could not answer."""
        is_other_model = None not in (state.model, self._model) and state.model != self._model
        return state.has_outcome and (state.code in ASKED_AGAIN or is_other_model)

    def _jobs(
        self,
        row: NextRow,
        images: Sequence[Resolved],
        missing: Mapping[bytes, PlannedQuestion],
        next_index: int,
    ) -> list[NewJob]:
        """One job for each group of questions with the same parameters."""
        references = [image.reference for image in images]
        uploads = [one.sha256 for one in references if isinstance(one, ImageStored)]
        keys = {planned.number: key for key, planned in missing.items()}
        jobs = []
        groups = by_parameters(list(missing.values())).items()
        for index, (parameters, group) in enumerate(groups, start=next_index):
            questions = tuple(one.asked for one in group if isinstance(one.asked, Question))
            job = Job(
                run=self._run,
                index=index,
                image=references[0] if references else None,
                more_images=tuple(references[1:]),
                questions=questions,
                parameters=effective(parameters, choices=all(one.choices is not None for one in questions)),
                detail=self._planner.detail(row.row),
                model=self._model,
            )
            asks = {keys[one.number]: one.id for one in group}
            jobs.append(NewJob(index, job.model_dump_json(), uploads, asks))
        return jobs
