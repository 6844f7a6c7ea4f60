"""Decides which questions of a row are asked now, and makes their jobs; reads and writes nothing."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Final

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


@dataclass(frozen=True)
class RowJobs:
    """Applies the run's planner, id and model to one row at a time."""

    planner: QuestionPlanner
    run: str
    model: str | None
    """The model id that must answer, and whose answers of earlier submissions count."""

    def questions(self, row: NextRow, images: Sequence[Resolved]) -> dict[bytes, list[PlannedQuestion]]:
        """Content key → questions that can be asked now.

        They were not fed before, and the answers they need are there. Each ends in an image's refusal, if an
        image has one.
        """
        refusal = next((image.refusal for image in images if image.refusal is not None), None)
        digest, detail = digest_of(images), self.planner.detail(row.row)
        found: dict[bytes, list[PlannedQuestion]] = {}
        for planned in self.planner.ready(row.row, row.outcomes, row.changes):
            if refusal is not None:
                planned = replace(planned, asked=refusal)
            if isinstance(planned.asked, Failure):
                key = b"refused" + row.position.to_bytes(5, "big") + planned.number.to_bytes(4, "big")
            else:
                key = question_key(digest, planned.asked, planned.parameters, detail)
            found.setdefault(key, []).append(planned)
        return found

    def decide(
        self,
        row: NextRow,
        images: Sequence[Resolved],
        questions: Mapping[bytes, Sequence[PlannedQuestion]],
        known: Mapping[bytes, AskState],
        next_index: int,
    ) -> FedRow:
        """The row's questions, and jobs for those that `known` does not answer, from `next_index` on."""
        refused: dict[bytes, Failure] = {}
        missing: dict[bytes, PlannedQuestion] = {}
        waiting = 0
        for key, group in questions.items():
            asked, state = group[0].asked, known.get(key)
            if isinstance(asked, Failure):
                refused[key] = asked
            elif state is None or self._must_ask_again(state):
                missing[key] = group[0]
                waiting += len(group)
            elif not state.has_outcome:
                waiting += len(group)
        return FedRow(
            position=row.position,
            questions=[
                LedgerQuestion(one.number, one.id, one.prompt, key)
                for key, group in questions.items()
                for one in group
            ],
            refused=refused,
            jobs=self._jobs(row, images, missing, next_index),
            waiting=waiting,
        )

    def _must_ask_again(self, state: AskState) -> bool:
        """Whether the outcome comes from another model, or from workers that could not answer."""
        is_other_model = None not in (state.model, self.model) and state.model != self.model
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
                run=self.run,
                index=index,
                image=references[0] if references else None,
                more_images=tuple(references[1:]),
                questions=questions,
                parameters=effective(parameters, choices=all(one.choices is not None for one in questions)),
                detail=self.planner.detail(row.row),
                model=self.model,
            )
            asks = {keys[one.number]: one.id for one in group}
            jobs.append(NewJob(index, job.model_dump_json(), uploads, asks))
        return jobs
