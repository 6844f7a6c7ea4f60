"""Reads the run's questions, and fills their templates from a row's columns; knows no source."""

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from string import Formatter
from typing import Any, Final

from contract.job import Question
from contract.quoting import quoted
from producer.rows import Row
from producer.sources.conversation import choices_of, marked, question, without_marks
from producer.sources.delimited import Delimited
from producer.sources.files import reading
from producer.sources.jsonl import JsonLines, JsonList
from producer.sources.parameters import GROUP, PARAMETER_COLUMNS, parameters_of
from producer.sources.records import BadRecord, Records
from producer.sources.refusal import SourceError, listed, naming, shown
from producer.sources.source import SourceOptions

PROMPT_KEYS: Final = ("id", "text", "choices")
ROW_FIELDS: Final = ("id", "name")
"""Fields of a row that a template may name besides columns; a column of the same name goes first."""
_PARAMETERS: Final = (*(name for name in PARAMETER_COLUMNS if name != "detail"), GROUP)


@dataclass(frozen=True)
class Prompt:
    """One question of the run, as a template.

    `{column}` stands for the row's value in that column, `{id}` and `{name}` for its id and name,
    `{answer:ID}` for its answer to the prompt ID; `{{` and `}}` are braces.
    """

    id: str
    text: str
    choices: tuple[str, ...] | None = None
    parameters: Mapping[str, Any] = field(default_factory=dict)

    @property
    def columns(self) -> tuple[str, ...]:
        """Columns that it needs, in order, each once."""
        return tuple(dict.fromkeys(piece.column for piece in _pieces(self.text) if piece.column is not None))

    @property
    def answers(self) -> tuple[str, ...]:
        """Ids of the prompts whose answers it needs, in order, each once."""
        return tuple(dict.fromkeys(piece.answer for piece in _pieces(self.text) if piece.answer is not None))


DEFAULT_QUESTION: Final = Prompt("q1", "Describe the image.")
"""Asked if neither the run nor a row has a question."""


@dataclass(frozen=True)
class _Piece:
    """Text of a template and the placeholder after it, if any."""

    text: str
    column: str | None = None
    answer: str | None = None


def read_prompts(
    questions: Sequence[str],
    more: Path | Sequence[Mapping[str, Any]] | None,
    choices: Sequence[str] | None,
) -> tuple[Prompt, ...]:
    """The prompts of the command line, with `choices` for each, and `more`, each after those it needs.

    `more` are tables of `id`, `text`, `choices` and generation parameters, or a file of them: JSONL, CSV, or
    JSON with a list. Ids are q1, q2, … if none is given. Raises SourceError for invalid questions.
    """
    if choices and not questions:
        raise SourceError("--choice needs --question; a manifest has choices of its own.")
    prompts = []
    for number, text in enumerate(questions, start=1):
        with naming(f"--question {number}"):
            prompts.append(_prompt(f"q{number}", text, choices or None))
    if isinstance(more, Path):
        prompts += _read_file(more, first=len(prompts) + 1)
    elif more is not None:
        prompts += [read_prompt(table, f"q{number}") for number, table in enumerate(more, len(prompts) + 1)]
    ids = [prompt.id for prompt in prompts]
    doubled = [one for place, one in enumerate(ids) if one in ids[:place]]
    if doubled:
        raise SourceError(f"Two questions have the id {listed(doubled[:1])}.")
    return tuple(_in_order(prompts))


def check(prompts: Iterable[Prompt], columns: tuple[str, ...] | None) -> None:
    """Raises SourceError for a placeholder that no row can fill; `columns` is None if they are not known."""
    if columns is None:
        return
    there = (*columns, *(name for name in ROW_FIELDS if name not in columns))
    for prompt in prompts:
        for column in prompt.columns:
            if column not in there:
                raise SourceError(
                    f'Question {prompt.id}: there is no column "{column}"; there are {listed(there)}.'
                )


def render(prompt: Prompt, row: Row, answers: Mapping[str, str]) -> Question:
    """The prompt's question for `row`; `answers` holds the answers that the prompt needs.

    Raises SourceError for an empty placeholder or an invalid question, and Refusal if the question does not
    place the row's images.
    """
    with naming(f"Row {quoted(row.id)}, question {prompt.id}"):
        text = "".join(piece.text + _value(piece, row, answers) for piece in _pieces(prompt.text))
        return question(prompt.id, marked(text, len(row.images)), prompt.choices)


def _value(piece: _Piece, row: Row, answers: Mapping[str, str]) -> str:
    if piece.answer is not None:
        return without_marks(answers[piece.answer])  # marks in an answer place no image
    if piece.column is None:
        return ""
    fields = {"id": row.id, "name": row.name, **row.columns}
    if piece.column not in fields:
        raise SourceError(f'there is no column "{piece.column}" to fill in; there are {listed(list(fields))}')
    value = fields[piece.column]
    if value is None:
        raise SourceError(f'the column "{piece.column}" is empty')
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def _pieces(template: str) -> Iterator[_Piece]:
    try:
        for text, name, form, conversion in Formatter().parse(template):
            if name is None:
                yield _Piece(text)
            elif name == "answer" and form and conversion is None and not set(form) & set("{}"):
                yield _Piece(text, answer=form)
            elif not name or form or conversion is not None or set(name) & set(".[]"):
                raise SourceError("a placeholder is {column} or {answer:ID}, and braces are {{ and }}")
            else:
                yield _Piece(text, column=name)
    except ValueError as error:
        if isinstance(error, SourceError):
            raise
        raise SourceError(f"{str(error).lower()}: braces are written {{{{ and }}}}") from None


def _prompt(prompt_id: str, text: Any, choices: Any, parameters: Mapping[str, Any] | None = None) -> Prompt:
    """A prompt, with everything checked that does not depend on a row. Raises SourceError."""
    valid = question(prompt_id, text, choices)
    if not isinstance(valid.messages, str):
        raise SourceError("a question's text must be a string")
    list(_pieces(valid.messages))
    return Prompt(prompt_id, valid.messages, valid.choices, parameters or {})


def _read_file(file: Path, first: int) -> list[Prompt]:
    name = os.fspath(file)
    if not file.is_file():
        raise SourceError(f"There is no file {shown(name)} of questions.")
    prompts: list[Prompt] = []
    with reading(name):
        records = _records(name)
        for record in records.records():
            if isinstance(record, SourceError):
                raise SourceError(f"{shown(name)}, {record}.") from None
            with naming(f"{shown(name)}, {records.unit} {record.number}"):
                if isinstance(record, BadRecord):
                    raise SourceError(record.reason)
                prompts.append(read_prompt(record.fields, f"q{first + len(prompts)}"))
    if not prompts:
        raise SourceError(f"{shown(name)} has no questions.")
    return prompts


def _records(name: str) -> Records:
    suffix = os.path.splitext(name)[1].lower()
    if suffix in (".csv", ".tsv"):
        return Delimited(name, "csv" if suffix == ".csv" else "tsv", SourceOptions())
    if suffix in (".jsonl", ".ndjson"):
        return JsonLines(name)
    if suffix == ".json":
        return JsonList(name)
    raise SourceError(f"{shown(name)} is no file of questions (.jsonl, .json, .csv, .tsv).")


def read_prompt(fields: Mapping[str, Any], number: str) -> Prompt:
    """A prompt from a table; `number` is the id if the table has none. Raises SourceError."""
    known = (*PROMPT_KEYS, *_PARAMETERS)
    unknown = [name for name in fields if name not in known]
    if unknown:
        raise SourceError(f"{listed(unknown[:1])} is not one of {', '.join(known)}")
    if fields.get("text") is None:
        raise SourceError('there is no "text"')
    prompt_id = fields.get("id")
    if prompt_id in (None, ""):
        prompt_id = number
    if isinstance(prompt_id, bool) or not isinstance(prompt_id, str | int):
        raise SourceError('"id" must be a string or a number')
    return _prompt(str(prompt_id), fields["text"], choices_of(fields.get("choices")), parameters_of(fields))


def _in_order(prompts: Sequence[Prompt]) -> Iterator[Prompt]:
    """The prompts in the given order, but each after those whose answers it needs. Raises SourceError."""
    ids = [prompt.id for prompt in prompts]
    for prompt in prompts:
        for needed in prompt.answers:
            if needed not in ids:
                raise SourceError(
                    f"Question {prompt.id} builds on the answer to {listed([needed])}, which is no question; "
                    f"there are {listed(ids)}."
                )
    done: set[str] = set()
    waiting = list(prompts)
    while waiting:
        ready = next((prompt for prompt in waiting if done.issuperset(prompt.answers)), None)
        if ready is None:
            circle = listed([prompt.id for prompt in waiting])
            raise SourceError(
                "Questions that build on each other's answers in a circle, or on questions that do: "
                f"{circle}."
            )
        waiting.remove(ready)
        done.add(ready.id)
        yield ready
