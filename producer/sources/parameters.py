"""Generation parameters that a row or a prompt brings along, by the fields' names; knows no file."""

import json
from collections.abc import Mapping
from typing import Annotated, Any, Final

from pydantic import TypeAdapter, ValidationError

from contract.job import Detail, GenerationParameters
from producer.sources.refusal import SourceError

_FIELDS: Final[dict[str, TypeAdapter[Any]]] = {
    name: TypeAdapter(Annotated[field.annotation, field])  # type: ignore[arg-type]
    for name, field in GenerationParameters.model_fields.items()
}
_DETAIL: Final[TypeAdapter[Any]] = TypeAdapter(Detail)
PARAMETER_COLUMNS: Final = (*_FIELDS, "detail", "parameters")
"""Columns of these names are never anything else."""


def parameters_of(record: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters in columns of their names and in an object `parameters`; null is not given.

    Texts, as in CSV, are read as the values they stand for. Raises SourceError for a value out of its range;
    whether the parameters go together is seen where they meet those of the run.
    """
    given = {name: record[name] for name in _FIELDS if record.get(name) is not None}
    grouped = record.get("parameters")
    if grouped is not None:
        if not isinstance(grouped, Mapping):
            raise SourceError('"parameters" must be an object')
        for name, value in grouped.items():
            if name not in _FIELDS:
                raise SourceError(f'"{name}" in "parameters" is not one of {", ".join(_FIELDS)}')
            if name in given:
                raise SourceError(f'"{name}" stands in "parameters" and beside it')
            if value is not None:
                given[name] = value
    return {name: _read(_FIELDS[name], name, value) for name, value in given.items()}


def detail_of(record: Mapping[str, Any]) -> Detail | None:
    value = record.get("detail")
    detail: Detail | None = None if value is None else _read(_DETAIL, "detail", value)
    return detail


def listed_texts(cell: str) -> Any:
    """A list in a cell of text: JSON if it begins so, else texts between `|`."""
    if cell.lstrip().startswith("["):
        return parsed(cell)
    return [text.strip() for text in cell.split("|")]


def parsed(cell: str) -> Any:
    """What a cell of text says in JSON."""
    try:
        return json.loads(cell)
    except (ValueError, RecursionError):
        raise SourceError(f"{cell[:40]!r} is not JSON") from None


def _read(adapter: TypeAdapter[Any], name: str, value: Any) -> Any:
    if name == "stop" and isinstance(value, str):
        value = parsed(value) if value.lstrip().startswith("[") else [value]
    try:
        if isinstance(value, str):
            return adapter.validate_strings(value)
        return adapter.validate_python(value)
    except ValidationError as invalid:
        reason = invalid.errors(include_url=False)[-1]["msg"].removeprefix("Value error, ")
        raise SourceError(f"{name}: {reason}") from None
