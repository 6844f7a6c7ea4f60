"""Which columns a table of answered rows has, and of which types; knows no table format."""

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from typing import Any, Final, Literal

from contract.quoting import spelled
from producer.rows import AnsweredRow

_FORMULAS: Final = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
"""What formulas begin with, and the same in full width."""
_PASSED_OVER: Final = "\t\r\n \xa0\u3000\ufeff\0"
"""What some spreadsheets leave out before them."""
_CONTROLS: Final = ("\t", "\r", "\n", "\0")
_NUMBER: Final = re.compile(r"[+-]?\d+(\.\d*)?([eE][+-]?\d+)?")
Kind = Literal["bool", "int", "float", "text", "json"]
"""Of a column's values; json: they are of several kinds or have parts, and are written as JSON text."""


@dataclass
class Columns:
    """Ids of questions and carried columns with their kinds, in order of appearance."""

    questions: dict[str, None] = field(default_factory=dict)
    carried: dict[str, Kind | None] = field(default_factory=dict)
    """None: every value so far is null."""

    def add(self, row: AnsweredRow) -> bool:
        """Make room for the row; returns whether it brought a question or a column that was not there."""
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
        """Column names of questions and of carried columns; one that is taken already gets a prefix."""
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
    """A carried column's value as its column holds it."""
    if value is None:
        return None
    if kind == "json":
        return json_text(value)
    if kind == "float":
        return float(value)
    return printable(value) if isinstance(value, str) else value


def cell(value: Any) -> str:
    """A carried column's value as a cell of text."""
    if value is None:
        return ""
    return printable(value) if isinstance(value, str) else json_text(value)


def no_formula(text: str) -> str:
    """The cell, with an apostrophe before what a spreadsheet might take for a formula, and run."""
    is_formula = text.lstrip(_PASSED_OVER)[:1] in _FORMULAS and not _NUMBER.fullmatch(text)
    return f"'{text}" if is_formula or text[:1] in _CONTROLS else text


def printable(text: str) -> str:
    """Bytes of a file name that are not UTF-8, and halves of characters, are written as escapes."""
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
