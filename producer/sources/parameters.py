"""Reads the generation parameters of a row or a prompt, by the fields' names; knows no file."""

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
"""Columns that set how their rows are answered, if their values fit."""
GROUP: Final = "parameters"
"""A column with an object of parameters."""
_QUOTED_TEXT: Final = r"'(?:[^'\\]|\\.)*'|\"(?:[^\"\\]|\\.)*\""
_ARRAY: Final = re.compile(rf"\[\s*(?:(?:{_QUOTED_TEXT})\s*)+\]", re.DOTALL)
"""An array of texts as NumPy prints it, without commas."""


@dataclass(frozen=True)
class RowParameters:
    """A row's own parameters."""

    parameters: dict[str, Any] = field(default_factory=dict)
    """Values that can mean nothing else."""
    offered: dict[str, Any] = field(default_factory=dict)
    """Fitting values from columns named like parameters; used if they fit the others."""
    detail: Detail | None = None


def row_parameters(record: Mapping[str, Any], wanted: Collection[str] | None) -> RowParameters:
    """The row's parameters. `wanted` are columns that must fit; None takes all that fit.

    Raises SourceError for a value out of range that can only be a parameter. Whether the parameters
    contradict each other is checked with the run's.
    """
    grouped = record.get(GROUP)
    # A column of this name often means something else.
    is_group = isinstance(grouped, Mapping) and not grouped.keys().isdisjoint(_FIELDS)
    is_wanted = GROUP in wanted if wanted is not None else is_group
    parameters = parameters_of({GROUP: grouped}) if is_wanted else {}
    if wanted is not None:
        named = {name: record.get(name) for name in wanted if name != GROUP}
        value = named.pop("detail", None)
        detail = None if value is None else _read(_DETAIL, "detail", value)
        return RowParameters(parameters | parameters_of(named), {}, detail)
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
        detail = None if record.get("detail") is None else _read(_DETAIL, "detail", record["detail"])
    return RowParameters(parameters, greedy_at_zero(offered), detail)


def parameters_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in fields of their names and in an object `parameters`; a null is not given.

    Texts, as in CSV, are parsed. Raises SourceError for a value out of range.
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
    """The columns for `none`, `all` or a list of names. Raises SourceError."""
    if text in ("none", "all"):
        return (*PARAMETER_COLUMNS, GROUP) if text == "all" else ()
    names = tuple(name.strip() for name in text.split(",") if name.strip())
    unknown = [name for name in names if name not in (*PARAMETER_COLUMNS, GROUP)]
    if unknown or not names:
        raise SourceError(f"{listed(unknown) or 'nothing'} is no parameter: {', '.join(PARAMETER_COLUMNS)}")
    return names


def listed_texts(cell: str) -> Any:
    """The list in a cell, in the spelling of JSON, Python or NumPy, or split at `|`; None if it is blank."""
    if not cell.strip():
        return None
    if cell.lstrip().startswith("["):
        items = listed_in(cell)
        return parsed(cell) if items is None else items
    return [text.strip() for text in cell.split("|") if text.strip()]


def listed_in(text: str) -> list[Any] | None:
    """The list in a text, in the spelling of JSON, Python or NumPy; None if it is no list."""
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
    """Parse a cell as JSON. Raises SourceError."""
    try:
        return parsed_json(cell)
    except SourceError:
        raise SourceError(f"{quoted(cell[:40])!r} is not JSON") from None


def _read(adapter: TypeAdapter[Any], name: str, value: Any) -> Any:
    if name == "stop" and isinstance(value, str):
        value = parsed(value) if value.lstrip().startswith("[") else [value]
    if name == "temperature" and not isinstance(value, bool) and value in (0, "0", "0.0"):
        return 0.0  # stands for greedy
    try:
        if isinstance(value, str):
            return adapter.validate_strings(value)
        return adapter.validate_python(value)
    except ValidationError as invalid:
        reason = invalid.errors(include_url=False)[-1]["msg"].removeprefix("Value error, ")
        raise SourceError(f"{name}: {quoted(reason)}") from None
