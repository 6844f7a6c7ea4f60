"""What a row is asked, with which parameters and in which order; knows no ledger and no queue."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

from pydantic import ValidationError

from contract.answer import Answer
from contract.failure import Failure, FailureCode
from contract.job import Detail, GenerationParameters, ImagePath, Job, Question
from producer.keys import effective
from producer.questions import Prompt, render
from producer.rows import Row
from producer.sources import SourceError, shown

REFUSED_ID: Final = "q1"
"""Question id of a row that cannot be asked anything."""
ANY_IMAGE: Final = ImagePath(path="image")
ANY_TEXT: Final = "answer"


class Flagged(StrEnum):
    """Flags of an answer that another one to the same question may be without."""

    TRUNCATED = "truncated"
    REPETITION = "repetition"
    EMPTY = "empty"


@dataclass(frozen=True)
class Wish:
    """A question to ask now, or the failure it ends in without being asked."""

    number: int
    id: str
    prompt: Any
    """Its messages as JSON."""
    asked: Question | Failure
    parameters: GenerationParameters


class Asking:
    """The run's prompts and parameters, applied to rows."""

    def __init__(
        self,
        prompts: Sequence[Prompt],
        parameters: GenerationParameters,
        detail: Detail,
        overrides: Mapping[str, Any] | None = None,
        on_flag: Mapping[Flagged, Mapping[str, Any]] | None = None,
    ) -> None:
        """`overrides` are fields of GenerationParameters that go before all others; `on_flag` has such for
        questions that are asked once more."""
        self._prompts = tuple(prompts)
        self._parameters = parameters
        self._detail = detail
        self._overrides = dict(overrides or {})
        self._on_flag = on_flag or {}
        self._merged: dict[str, GenerationParameters] = {}

    def detail(self, row: Row) -> Detail:
        return self._detail if row.detail is None else row.detail

    def check(self, row: Row) -> int:
        """The number of the row's questions. Raises SourceError where one could not be a job's."""
        if row.refusal is not None:
            return 1
        answered = {prompt.id: ANY_TEXT for prompt in self._prompts}
        wishes = list(self._wishes(row, answered))
        if not wishes:
            raise SourceError(f'The row "{shown(row.id)}" has no question, and no --question was given.')
        count = len(wishes)
        for changes in self._on_flag.values():
            again = dict.fromkeys(range(len(wishes)), changes)
            plain = {wish.number: wish.parameters for wish in wishes[:count]}
            wishes += [
                one
                for one in self._wishes(row, answered, again=again)
                if _is_open(one) and one.parameters != plain[one.number]
            ]
        questions = [wish.asked for wish in wishes if isinstance(wish.asked, Question)]
        if all(question.choices is not None for question in questions) and any(
            wish.parameters != effective(wish.parameters, choices=True) for wish in wishes
        ):
            raise SourceError(
                f'The row "{shown(row.id)}": where every question has choices, no parameter but '
                "length_penalty decides."
            )
        try:
            for parameters, group in by_parameters(wishes).items():
                asked = tuple(wish.asked for wish in group if isinstance(wish.asked, Question))
                if row.image is not None and not all(one.uses_image(with_image=True) for one in asked):
                    raise SourceError(
                        f'The row "{shown(row.id)}" has an image, but its conversation places none; the '
                        'first user turn needs {"type": "image"}.'
                    )
                Job(
                    run="run",
                    index=0,
                    image=None if row.image is None else ANY_IMAGE,
                    questions=asked,
                    parameters=parameters,
                    detail=self.detail(row),
                )
        except ValidationError as invalid:
            raise SourceError(f'The row "{shown(row.id)}": {first_complaint(invalid)}') from None
        return count

    def ready(
        self,
        row: Row,
        outcomes: Mapping[str, Answer | Failure | None],
        again: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> list[Wish]:
        """What can be asked now: not in `outcomes` yet, and all that it builds on has an outcome there.

        `again` has the changed parameters of questions that are asked again, by number.
        """
        if row.refusal is not None:
            return [Wish(0, REFUSED_ID, "", row.refusal, self._parameters)] if not outcomes else []
        failed = {one for one, outcome in outcomes.items() if isinstance(outcome, Failure)}
        texts = {one: outcome.text for one, outcome in outcomes.items() if isinstance(outcome, Answer)}
        return [wish for wish in self._wishes(row, texts, failed, again) if wish.id not in outcomes]

    def _wishes(
        self,
        row: Row,
        answers: Mapping[str, str],
        failed: frozenset[str] | set[str] = frozenset(),
        again: Mapping[int, Mapping[str, Any]] | None = None,
    ) -> list[Wish]:
        changes = again or {}
        if row.questions:
            return [
                self._wish(number, row, one, {}, changes.get(number, {}))
                for number, one in enumerate(row.questions)
            ]
        wishes = []
        for number, prompt in enumerate(self._prompts):
            lost = [one for one in prompt.answers if one in failed]
            if lost:
                failure = Failure(
                    code=FailureCode.DEPENDENCY_FAILED,
                    message=f'Question "{lost[0]}", whose answer this one builds on, has none.',
                )
                wishes.append(Wish(number, prompt.id, prompt.text, failure, self._parameters))
            elif all(one in answers for one in prompt.answers):
                question = render(prompt, row, answers)
                wishes.append(self._wish(number, row, question, prompt.parameters, changes.get(number, {})))
        return wishes

    def _wish(
        self, number: int, row: Row, question: Question, own: Mapping[str, Any], again: Mapping[str, Any]
    ) -> Wish:
        prompt = question.model_dump(mode="json")["messages"]
        return Wish(number, question.id, prompt, question, self._with(row, own, again))

    def _with(self, row: Row, own: Mapping[str, Any], again: Mapping[str, Any]) -> GenerationParameters:
        """The run's parameters, over them the prompt's, the row's, and what is changed for another try."""
        changes = {**own, **row.parameters, **self._overrides, **again}
        if not changes:
            return self._parameters
        key = repr(sorted(changes.items()))
        if key not in self._merged:
            if len(self._merged) > 1000:
                self._merged.clear()
            fields = self._parameters.model_dump(exclude_defaults=True) | changes
            try:
                self._merged[key] = GenerationParameters.model_validate(fields)
            except ValidationError as invalid:
                raise SourceError(f'The row "{shown(row.id)}": {first_complaint(invalid)}') from None
        return self._merged[key]


def _is_open(wish: Wish) -> bool:
    """Whether the answer is generated: one that is chosen has no flag."""
    return isinstance(wish.asked, Question) and wish.asked.choices is None


def by_parameters(wishes: Sequence[Wish]) -> dict[GenerationParameters, list[Wish]]:
    """Questions that can be one job. Those with choices go with others of the same length penalty."""
    groups: dict[GenerationParameters, list[Wish]] = {}
    scored = []
    for wish in wishes:
        if isinstance(wish.asked, Question) and wish.asked.choices is not None:
            scored.append(wish)
        else:
            groups.setdefault(wish.parameters, []).append(wish)
    for wish in scored:
        penalty = wish.parameters.length_penalty
        fitting = next((one for one in groups if one.length_penalty == penalty), None)
        if fitting is None:
            fitting = GenerationParameters(length_penalty=penalty)
        groups.setdefault(fitting, []).append(wish)
    return groups


def first_complaint(invalid: ValidationError) -> str:
    """One sentence of the first of pydantic's errors, without the value that was given."""
    error = invalid.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in error["loc"])
    return f"{place + ': ' if place else ''}{error['msg'].removeprefix('Value error, ')}."
