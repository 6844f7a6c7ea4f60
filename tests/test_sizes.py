"""Functions that fit a screen, and classes of one noun; ruff checks how complex a function is."""

import ast
from collections.abc import Iterator

from tests.test_imports import sources

LONGEST_FUNCTION = 60
"""Lines of a function's body, docstring included, declarations of arguments not."""
LONGEST_CLASS = 200
DECLARATIONS = {"worker/settings.py: Settings"}
"""Classes whose lines are the declarations of their fields."""
STILL_LONG = {
    "worker/llava/model.py: LlavaModel": 217,
    "worker/service.py: Service": 284,
}
"""Classes that hold several nouns yet; they may only get shorter."""

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
    found = {name: lines for name, lines in lengths(ast.ClassDef) if lines > LONGEST_CLASS}
    longer = {name: lines for name, lines in found.items() if lines > STILL_LONG.get(name, LONGEST_CLASS)}
    assert longer.keys() == DECLARATIONS, longer
