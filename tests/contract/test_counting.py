"""What is said of a number fits one as well as many, everywhere that people are told a count."""

import ast
import re
from collections.abc import Iterator
from itertools import pairwise

import pytest

from contract.counting import counted
from tests.support.processes import ROOT

SAID_TO_PEOPLE = ("captionmill", "producer")
NOUNS = "image|photo|question|answer|row|job|file|folder|link|token|worker|slot|core|model|shard|tile|failure"
PLURAL = re.compile(rf"^ (?:(?:failed|sample|image|hidden|new|other) )?(?:{NOUNS})s\b(?!/)")


@pytest.mark.parametrize(
    ("number", "words", "said"),
    [
        (0, ("row",), "0 rows"),
        (1, ("row",), "1 row"),
        (2, ("row",), "2 rows"),
        (1, ("job is", "jobs are"), "1 job is"),
        (0, ("job is", "jobs are"), "0 jobs are"),
        (11, ("image file",), "11 image files"),
    ],
)
def test_one_and_many(number: int, words: tuple[str, ...], said: str) -> None:
    assert counted(number, *words) == said


def plurals() -> Iterator[str]:
    """Places where a number is put before a noun that is always of many; constants and shares apart."""
    for path in (path for package in SAID_TO_PEOPLE for path in sorted((ROOT / package).rglob("*.py"))):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.JoinedStr):
                for number, text in pairwise(node.values):
                    if _is_count(number) and isinstance(text, ast.Constant) and PLURAL.match(str(text.value)):
                        yield f"{path.relative_to(ROOT)}:{number.lineno}"


def _is_count(value: ast.expr) -> bool:
    if not isinstance(value, ast.FormattedValue) or value.format_spec is not None:
        return False
    return not (isinstance(value.value, ast.Name) and value.value.id.isupper())


def test_no_number_stands_before_a_plural() -> None:
    assert list(plurals()) == []
