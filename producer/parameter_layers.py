"""Merges a question's generation parameters from all that give some; knows no ledger and no queue."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final, NamedTuple

from pydantic import ValidationError

from contract.job import SAMPLING, GenerationParameters
from contract.quoting import quoted
from producer.rows import Row
from producer.sources import SourceError

_MOST_MERGED: Final = 1000
"""Number of merged sets that are kept."""


class Merged(NamedTuple):
    """The merged parameters, and which layers had an effect."""

    parameters: GenerationParameters
    run: frozenset[str]
    """Fields of the run that have an effect, or that another layer replaced."""
    offered: frozenset[str]
    """Fields that columns offered and that have an effect."""


class ParameterLayers:
    """Merges the run's, the prompt's and the row's parameters, and changes for a retry; later ones win."""

    def __init__(self, parameters: GenerationParameters, overrides: Mapping[str, Any]) -> None:
        """`overrides` are fields of GenerationParameters that go before the row's."""
        self.given = parameters.model_dump(exclude_defaults=True)
        """The run's parameters that differ from the defaults."""
        self._overrides = dict(overrides)
        self._kept: dict[str, Merged] = {}

    def merged(self, row: Row, own: Mapping[str, Any], again: Mapping[str, Any]) -> Merged:
        """`own` are the prompt's parameters, `again` the changes for another try. Raises SourceError."""
        layers = (own, row.offered, row.parameters, again)
        key = repr([sorted(one.items()) for one in layers])
        if key not in self._kept:
            if len(self._kept) > _MOST_MERGED:
                self._kept.clear()
            try:
                self._kept[key] = self._merge(own, row, again)
            except ValidationError as invalid:
                raise SourceError(f'The row "{quoted(row.id)}": {first_complaint(invalid)}') from None
        return self._kept[key]

    def _merge(self, own: Mapping[str, Any], row: Row, again: Mapping[str, Any]) -> Merged:
        above = layered(row.parameters, self._overrides, again)
        fields = layered(self.given, own, row.offered, above)
        offered = frozenset(name for name in row.offered if name in fields and name not in above)
        for name in offered:
            if _decides_nothing(name, fields):
                del fields[name]
        try:
            parameters = GenerationParameters.model_validate(fields)
        except ValidationError:
            if not offered:
                raise
            # Columns that contradict each other or the rest are not meant as parameters.
            return self._merge(own, replace(row, offered={}), again)
        return Merged(parameters, frozenset(self.given.keys() & fields.keys()), offered & fields.keys())


def layered(*layers: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of GenerationParameters: later layers replace earlier ones; fields made idle are left out."""
    fields: dict[str, Any] = {}
    for upper in layers:
        samples, beams = upper.get("do_sample"), upper.get("num_beams")
        idle: set[str] = set()
        if samples:
            idle |= {"num_beams", "early_stopping"}
        elif samples is False or (beams is not None and beams > 1):
            idle |= {"do_sample", *SAMPLING}
        if beams == 1:
            idle |= {"early_stopping"}
        fields = {name: value for name, value in fields.items() if name not in idle} | dict(upper)
    return fields


def _decides_nothing(name: str, fields: Mapping[str, Any]) -> bool:
    if name in SAMPLING:
        return not fields.get("do_sample")
    return name == "early_stopping" and fields.get("num_beams", 1) == 1


def first_complaint(invalid: ValidationError) -> str:
    """The first of pydantic's errors as a sentence, without the given value."""
    error = invalid.errors(include_input=False, include_url=False)[0]
    place = ".".join(str(part) for part in error["loc"])
    return f"{place + ': ' if place else ''}{error['msg'].removeprefix('Value error, ')}."
