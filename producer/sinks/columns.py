"""Determines the columns of a table of answered rows, and their types; knows no table format."""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from contract.quoting import spelled
from producer.rows import AnsweredRow

_FORMULAS: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""First characters of formulas, also in full width."""
_PASSED_OVER: Final = "\t\r\n \xa0\u3000\ufeff\0"
"""Characters that some spreadsheets ignore before a formula."""
_CONTROLS: Final = ("\t", "\r", "\n", "\0")
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
Kind = Literal["bool", "int", "float", "text", "json"]
"""Kind of a column's values; json: they are of several kinds or have parts, and are written as JSON text."""


@dataclass
class Columns:
    """Question ids, and carried columns with their kinds, in order of appearance."""

    questions: dict[str, None] = field(default_factory=dict)
    carried: dict[str, Kind | None] = field(default_factory=dict)
    """Name → kind; None if every value so far is null."""

    def add(self, row: AnsweredRow) -> bool:
        """Add the row's questions and columns. Whether any of them is new."""
        before = len(self.questions) + len(self.carried)
        self.questions.update(dict.fromkeys(one.question for one in row.answers))
        for name, value in row.columns.items():
            self.carried[name] = _merged(self.carried.get(name), _kind(value))
        return len(self.questions) + len(self.carried) > before

    @classmethod
    def of(cls, rows: Iterable[AnsweredRow]) -> "Columns":
        columns = cls()
        for row in rows:
            columns.add(row)
        return columns

    def names(self, own: Collection[str]) -> tuple[dict[str, str], dict[str, str]]:
        """Column names of questions and of carried columns; a name that is taken gets a prefix."""
        taken = set(own)
        return _distinct(self.questions, taken, "answer_"), _distinct(self.carried, taken, "source_")


def _distinct(names: Iterable[str], taken: set[str], prefix: str) -> dict[str, str]:
    chosen = {}
    for name in names:
        column = printable(name)
        while column in taken:
            column = prefix + column
        taken.add(column)
        chosen[name] = column
    return chosen


def carried_value(value: Any, kind: Kind | None) -> Any:
    """A carried value in its column's kind."""
    if value is None:
        return None
    if kind == "json":
        return json_text(value)
    if kind == "float":
        return float(value)
    return printable(value) if isinstance(value, str) else value


def cell(value: Any) -> str:
    """A carried value as a text cell."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) else json_text(value)


def no_formula(text: str) -> str:
    """The cell, with an apostrophe before a text that a spreadsheet might run as a formula."""
    is_formula = text.lstrip(_PASSED_OVER)[:1] in _FORMULAS and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula or text[:1] in _CONTROLS else text


def printable(text: str) -> str:
    """The text, with escapes for bytes that are not UTF-8 and for halves of characters."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return spelled(text)
    return text


def json_text(value: Any) -> str:
    return printable(json.dumps(value, ensure_ascii=False))


def _kind(value: Any) -> Kind | None:
    if value is None:
        return None
    if isinstance(value, bool):
        return "bool"
    if isinstance(value, int):
        return "int" if -(2**63) <= value < 2**63 else "json"
    if isinstance(value, float):
        return "float"
    return "text" if isinstance(value, str) else "json"


def _merged(one: Kind | None, other: Kind | None) -> Kind | None:
    if one is None or other is None or one == other:
        return one or other
    return "float" if {one, other} == {"int", "float"} else "json"
