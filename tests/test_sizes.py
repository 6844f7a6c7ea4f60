"""Functions that fit a screen, and classes of one noun; ruff checks how complex a function is."""

import ast
from collections.abc import Iterator

from tests.test_imports import ROOT, sources

LONGEST_FUNCTION = 60
"""Lines of a function's body, docstring included, declarations of arguments not."""
LONGEST_CLASS = 200
DECLARATIONS = {"worker/settings.py: Settings"}
"""Classes whose lines are the declarations of their fields."""
BROAD = ("Exception", "BaseException")
MOST_BROAD_EXCEPTS = 8
Definition = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef


def lengths(*kinds: type[Definition]) -> Iterator[tuple[str, int]]:
    """Of each definition in the product's code: its file and name, and its lines without its head."""
    for path, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, kinds):
                assert node.end_lineno is not None
                yield f"{path}: {node.name}", node.end_lineno - node.body[0].lineno + 1


def test_a_function_fits_a_screen() -> None:
    found = lengths(ast.FunctionDef, ast.AsyncFunctionDef)
    assert {name: lines for name, lines in found if lines > LONGEST_FUNCTION} == {}


def test_a_class_is_one_noun() -> None:
    longer = {name: lines for name, lines in lengths(ast.ClassDef) if lines > LONGEST_CLASS}
    assert longer.keys() == DECLARATIONS, longer


def test_the_worker_has_few_broad_excepts_and_each_says_why() -> None:
    found = {
        (path, handler.lineno)
        for path, tree in sources()
        if path.startswith("worker/")
        for handler in ast.walk(tree)
        if isinstance(handler, ast.ExceptHandler)
        and (handler.type is None or ast.unparse(handler.type) in BROAD)
    }
    assert len(found) <= MOST_BROAD_EXCEPTS, found
    for path, line in found:
        # Beside it, or in the line below.
        assert "#" in "".join((ROOT / path).read_text().splitlines()[line - 1 : line + 1]), (path, line)
