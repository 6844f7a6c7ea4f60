"""Decides what a row is asked, with which parameters and in which order; knows no ledger and no queue."""

from collections.abc import Mapping, Sequence, Set
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from contract.answer import Answer
from contract.failure import Failure, FailureCode, Refusal
from contract.job import (
    CHOOSING,
    IDLE_BESIDE_CHOICES,
    Detail,
    GenerationParameters,
    ImagePath,
    Job,
    Question,
    choosing,
)
from contract.quoting import quoted
from producer.parameter_layers import ParameterLayers, first_complaint
from producer.questions import Prompt, render
from producer.rows import Row
from producer.sources import SourceError

REFUSED_ID: Final = "q1"
"""Question id of a row that cannot be asked anything."""
ANY_IMAGE: Final = ImagePath(path="image")
ANY_TEXT: Final = "answer"
_DEFAULTS: Final = GenerationParameters().model_dump()


class Flagged(StrEnum):
    """Flags of an answer that a second answer to the same question may not have."""

    TRUNCATED = "truncated"
    REPETITION = "repetition"
    EMPTY = "empty"


@dataclass(frozen=True)
class PlannedQuestion:
    """A question that can be asked now, or the failure that it ends in unasked."""

    number: int
    id: str
    prompt: Any
    """Its messages, JSON-ready."""
    asked: Question | Failure
    parameters: GenerationParameters


class Checked(NamedTuple):
    """What a check found in a row."""

    questions: int
    """Number of its questions."""
    decided_by: tuple[str, ...]
    """Columns named like parameters that decide how it is answered."""


class QuestionPlanner:
    """The run's prompts and parameters, applied to rows."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        parameters: GenerationParameters,
        detail: Detail,
        overrides: Mapping[str, Any] | None = None,
        on_flag: Mapping[Flagged, Mapping[str, Any]] | None = None,
    ) -> None:
        """`overrides` are fields of GenerationParameters that go before the row's.

        `on_flag`: flag of an answer → changed parameters with which its question is asked once more.
        """
        self._prompts = tuple(prompts)
        self._parameters = parameters
        self._layers = ParameterLayers(parameters, overrides or {})
        self._detail = detail
        self._used: set[str] = set()
        """Parameters of the run that had an effect in the checked rows."""
        self._fitting: set[str] = set()
        """Ids of prompts that fit a row."""
        self._unfit: dict[str, Failure] = {}
        """Prompt id → why the prompt did not fit the first such row."""
        self._on_flag = on_flag or {}

    def detail(self, row: Row) -> Detail:
        return self._detail if row.detail is None else row.detail

    def check(self, row: Row) -> Checked:
        """Raises SourceError if one of the row's questions cannot be put into a job."""
        if row.refusal is not None:
            return Checked(1, ())
        answered = {prompt.id: ANY_TEXT for prompt in self._prompts}
        planned = list(self._planned(row, answered))
        if not planned:
            raise SourceError(f'The row "{quoted(row.id)}" has no question, and no --question was given.')
        self._refuse_idle_of_row(row, planned)
        self._note_fitting(row, planned)
        try:
            again = self._tried_again(row, planned, answered)
            for parameters, group in by_parameters([*planned, *again]).items():
                self._check_job(row, parameters, group)
        except ValidationError as invalid:
            raise SourceError(f'The row "{quoted(row.id)}": {first_complaint(invalid)}') from None
        return Checked(len(planned), self._note_used(row, planned))

    def _tried_again(
        self, row: Row, planned: Sequence[PlannedQuestion], answered: Mapping[str, str]
    ) -> list[PlannedQuestion]:
        """Questions that would be asked once more if every answer had every flag of `on_flag`."""
        plain = {one.number: one.parameters for one in planned}
        return [
            one
            for changes in self._on_flag.values()
            for one in self._planned(row, answered, again=dict.fromkeys(range(len(planned)), changes))
            if _is_open(one) and one.parameters != plain[one.number]
        ]

    def refuse_idle(self) -> None:
        """After the last row: raises SourceError for an option that had no effect in any row."""
        idle = [f"--{name.replace('_', '-')}" for name in self._layers.given if name not in self._used]
        if idle:
            raise SourceError(
                f"{', '.join(idle)} decides nothing in this run: {IDLE_BESIDE_CHOICES}, without "
                "image visual_tokens decides nothing, and a row's own values go before the run's "
                "(--parameters none leaves columns out)."
            )

    def refuse_unfit(self) -> None:
        """After the last row: raises SourceError for a prompt that places images and fits no row."""
        for prompt_id, failure in self._unfit.items():
            if prompt_id not in self._fitting:
                raise SourceError(f"Question {prompt_id} fits no row. Of the first: {failure.message}")

    def _check_job(
        self, row: Row, parameters: GenerationParameters, planned: Sequence[PlannedQuestion]
    ) -> None:
        asked = tuple(one.asked for one in planned if isinstance(one.asked, Question))
        if not asked:
            return
        if row.image is not None and not all(one.uses_image(with_image=True) for one in asked):
            raise SourceError(
                f'The row "{quoted(row.id)}" has an image, but its conversation places none; the '
                'first user turn needs {"type": "image"}.'
            )
        Job(
            run="run",
            index=0,
            image=None if row.image is None else ANY_IMAGE,
            more_images=(ANY_IMAGE,) * len(row.more_images),
            questions=asked,
            parameters=parameters,
            detail=self.detail(row),
        )

    def _refuse_idle_of_row(self, row: Row, planned: Sequence[PlannedQuestion]) -> None:
        """Raises SourceError for own parameters that can have no effect: without image, or beside choices."""
        if row.image is None and row.parameters.get("visual_tokens") is not None:
            raise SourceError(f'The row "{quoted(row.id)}": without an image, visual_tokens decides nothing.')
        if not all(_is_scored(one) for one in planned):
            return
        prompts = () if row.questions else self._prompts
        for one in (*(prompt.parameters for prompt in prompts), row.parameters):
            if any(name not in CHOOSING and value != _DEFAULTS[name] for name, value in one.items()):
                raise SourceError(f'The row "{quoted(row.id)}": {IDLE_BESIDE_CHOICES}.')

    def _note_fitting(self, row: Row, planned: Sequence[PlannedQuestion]) -> None:
        for one in () if row.questions else planned:
            if isinstance(one.asked, Failure):
                self._unfit.setdefault(one.id, one.asked)
            else:
                self._fitting.add(one.id)

    def _note_used(self, row: Row, planned: Sequence[PlannedQuestion]) -> tuple[str, ...]:
        """Note parameters that have an effect. Returns the columns that decide how the row is answered."""
        found = {*row.parameters, *({"detail"} if row.detail is not None else ())}
        own = {} if row.questions else {prompt.id: prompt.parameters for prompt in self._prompts}
        for one in planned:
            merged = self._layers.merged(row, own.get(one.id, {}), {})
            decides = CHOOSING if _is_scored(one) else frozenset(_DEFAULTS)
            if row.image is None:
                decides = decides - {"visual_tokens"}
            self._used |= merged.run & decides
            found |= merged.offered & decides
        if "do_sample" in found and "do_sample" not in row.columns:
            found.add("temperature")  # a temperature of 0 is read as do_sample=False
        return tuple(sorted(found & row.columns.keys()))

    def ready(
        self,
        row: Row,
        outcomes: Mapping[str, Answer | Failure | None],
        again: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> list[PlannedQuestion]:
        """Questions that can be asked now: not in `outcomes`, and `outcomes` has all that they build on.

        `again`: number of a question that is asked again → its changed parameters.
        """
        if row.refusal is not None:
            return [PlannedQuestion(0, REFUSED_ID, "", row.refusal, self._parameters)] if not outcomes else []
        failed = {one for one, outcome in outcomes.items() if isinstance(outcome, Failure)}
        texts = {one: outcome.text for one, outcome in outcomes.items() if isinstance(outcome, Answer)}
        return [one for one in self._planned(row, texts, failed, again) if one.id not in outcomes]

    def _planned(
        self,
        row: Row,
        answers: Mapping[str, str],
        failed: Set[str] = frozenset(),
        again: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> list[PlannedQuestion]:
        changes = again or {}
        if row.questions:
            return [self._question(number, row, one, {}, changes) for number, one in enumerate(row.questions)]
        planned = []
        for number, prompt in enumerate(self._prompts):
            asked = _asked(prompt, row, answers, failed)
            if isinstance(asked, Question):
                planned.append(self._question(number, row, asked, prompt.parameters, changes))
            elif asked is not None:
                planned.append(PlannedQuestion(number, prompt.id, prompt.text, asked, self._parameters))
        return planned

    def _question(
        self,
        number: int,
        row: Row,
        question: Question,
        own: Mapping[str, Any],
        changes: Mapping[int, Mapping[str, Any]],
    ) -> PlannedQuestion:
        prompt = question.model_dump(mode="json")["messages"]
        parameters = self._layers.merged(row, own, changes.get(number, {})).parameters
        return PlannedQuestion(number, question.id, prompt, question, parameters)


def _asked(
    prompt: Prompt, row: Row, answers: Mapping[str, str], failed: Set[str]
) -> Question | Failure | None:
    """The prompt's question, or why it fails unasked; None while an answer that it builds on is missing."""
    lost = next((one for one in prompt.answers if one in failed), None)
    if lost is not None:
        return Failure(
            code=FailureCode.DEPENDENCY_FAILED,
            message=f'Question "{lost}", whose answer this one builds on, has none.',
        )
    if not answers.keys() >= set(prompt.answers):
        return None
    try:
        return render(prompt, row, answers)
    except Refusal as refusal:
        return refusal.failure


def _is_scored(one: PlannedQuestion) -> bool:
    return isinstance(one.asked, Question) and one.asked.choices is not None


def _is_open(one: PlannedQuestion) -> bool:
    """Whether the answer is generated, not chosen: only generated ones have flags."""
    return isinstance(one.asked, Question) and one.asked.choices is None


def by_parameters(planned: Sequence[PlannedQuestion]) -> dict[GenerationParameters, list[PlannedQuestion]]:
    """Groups of questions for one job each. Those with choices join others that they fit."""
    groups: dict[GenerationParameters, list[PlannedQuestion]] = {}
    scored = []
    for one in planned:
        if _is_scored(one):
            scored.append(one)
        else:
            groups.setdefault(one.parameters, []).append(one)
    for one in scored:
        wanted = choosing(one.parameters)
        fitting = next((group for group in groups if choosing(group) == wanted), wanted)
        groups.setdefault(fitting, []).append(one)
    return groups
