"""Generation parameters that a row or a prompt brings along, by the fields' names; knows no file."""

import ast
import re
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Annotated, Any, Final

from pydantic import TypeAdapter, ValidationError

from contract.job import Detail, GenerationParameters, greedy_at_zero
from contract.quoting import quoted
from producer.sources.json_text import parsed_json
from producer.sources.refusal import SourceError, listed

_FIELDS: Final[dict[str, TypeAdapter[Any]]] = {
    name: TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
    for name, field in GenerationParameters.model_fields.items()
}
_DETAIL: Final[TypeAdapter[Any]] = TypeAdapter(Detail)
PARAMETER_COLUMNS: Final = (*_FIELDS, "detail")
"""Columns that decide how their rows are answered, where they may and their values fit."""
GROUP: Final = "parameters"
"""A column with an object of such."""
_QUOTED_TEXT: Final = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ARRAY: Final = re.compile(rf"\[\s*(?:(?:{_QUOTED_TEXT})\s*)+\]", re.DOTALL)
"""As NumPy prints an array of texts, without commas."""


@dataclass(frozen=True)
class Brought:
    """What a row says of how it is answered."""

    parameters: dict[str, Any] = field(default_factory=dict)
    """What nobody can take for anything else."""
    offered: dict[str, Any] = field(default_factory=dict)
    """From columns of the parameters' names, as far as the values fit; they decide where they can."""
    detail: Detail | None = None


def brought(record: Mapping[str, Any], wanted: Collection[str] | None) -> Brought:
    """What the row brings; `wanted` are the columns that must fit, and None takes those that do.

    Raises SourceError for a value out of its range where it can only be a parameter; whether the parameters
    go together is seen where they meet those of the run.
    """
    grouped = record.get(GROUP)
    # A column of this name is often something else.
    is_group = isinstance(grouped, Mapping) and not grouped.keys().isdisjoint(_FIELDS)
    is_wanted = GROUP in wanted if wanted is not None else is_group
    parameters = parameters_of({GROUP: grouped}) if is_wanted else {}
    if wanted is not None:
        named = {name: record.get(name) for name in wanted if name != GROUP}
        detail = named.pop("detail", None)
        return Brought(
            parameters | parameters_of(named), {}, None if detail is None else _read_detail(detail)
        )
    offered = {}
    for name in _FIELDS:
        value = record.get(name)
        if value is not None and name not in parameters:
            try:
                offered[name] = _read(_FIELDS[name], name, value)
            except SourceError:
                continue
    detail = None
    with suppress(SourceError):
        detail = None if record.get("detail") is None else _read_detail(record["detail"])
    return Brought(parameters, greedy_at_zero(offered), detail)


def parameters_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters under their names and in an object `parameters`; null is not given.

    Texts, as in CSV, are read as the values they stand for. Raises SourceError for a value out of its range.
    """
    given = {name: record[name] for name in _FIELDS if record.get(name) is not None}
    grouped = record.get(GROUP)
    if grouped is not None:
        if not isinstance(grouped, Mapping):
            raise SourceError('"parameters" must be an object')
        for name, value in grouped.items():
            if name not in _FIELDS:
                raise SourceError(f'"{quoted(name)}" in "parameters" is not one of {", ".join(_FIELDS)}')
            if name in given:
                raise SourceError(f'"{name}" stands in "parameters" and beside it')
            if value is not None:
                given[name] = value
    return greedy_at_zero({name: _read(_FIELDS[name], name, value) for name, value in given.items()})


def parameter_columns(text: str) -> tuple[str, ...] | None:
    """The columns that `none`, `all` or a list of names stands for. Raises SourceError."""
    if text in ("none", "all"):
        return (*PARAMETER_COLUMNS, GROUP) if text == "all" else ()
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in (*PARAMETER_COLUMNS, GROUP)]
    if unknown or not names:
        raise SourceError(f"{listed(unknown) or 'nothing'} is no parameter: {', '.join(PARAMETER_COLUMNS)}")
    return names


def listed_texts(cell: str) -> Any:
    """A list in a cell: as JSON, Python or NumPy spell it, else texts between `|`; None for a blank."""
    if not cell.strip():
        return None
    if cell.lstrip().startswith("["):
        items = listed_in(cell)
        return parsed(cell) if items is None else items
    return [text.strip() for text in cell.split("|") if text.strip()]


def listed_in(text: str) -> list[Any] | None:
    """The list that a text spells in JSON, or as Python or NumPy print it; None where it spells none."""
    plain = text.strip()
    if not (plain.startswith("[") and plain.endswith("]")):
        return None
    if _ARRAY.fullmatch(plain):
        return [ast.literal_eval(one) for one in re.findall(_QUOTED_TEXT, plain, re.DOTALL)]
    try:
        items = parsed(plain)
    except SourceError:
        try:
            items = ast.literal_eval(plain)
        except (ValueError, SyntaxError, RecursionError, MemoryError):
            return None
    return items if isinstance(items, list) else None


def parsed(cell: str) -> Any:
    """What a cell of text says in JSON."""
    try:
        return parsed_json(cell)
    except SourceError:
        raise SourceError(f"{quoted(cell[:40])!r} is not JSON") from None


def _read_detail(value: Any) -> Detail:
    detail: Detail = _read(_DETAIL, "detail", value)
    return detail


def _read(adapter: TypeAdapter[Any], name: str, value: Any) -> Any:
    if name == "stop" and isinstance(value, str):
        value = parsed(value) if value.lstrip().startswith("[") else [value]
    if name == "temperature" and not isinstance(value, bool) and value in (0, "0", "0.0"):
        return 0.0  # which stands for greedy
    try:
        if isinstance(value, str):
            return adapter.validate_strings(value)
        return adapter.validate_python(value)
    except ValidationError as invalid:
        reason = invalid.errors(include_url=False)[-1]["msg"].removeprefix("Value error, ")
        raise SourceError(f"{name}: {quoted(reason)}") from None
